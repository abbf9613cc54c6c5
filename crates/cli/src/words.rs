//! Everything the binary says to people, in English and Chinese.

use std::fmt::Display;

/// A language of the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Lang {
    /// English.
    En,
    /// Chinese.
    Zh,
}

impl Lang {
    /// The language of a locale such as `zh_CN.UTF-8`; English for all that is not Chinese.
    pub(crate) fn of_locale(locale: &str) -> Self {
        if locale.to_ascii_lowercase().starts_with("zh") {
            Self::Zh
        } else {
            Self::En
        }
    }
}

macro_rules! catalogue {
    ($($id:ident: $en:literal $zh:literal;)+) => {
        /// A message, with `{name}` where a value goes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Say { $($id,)+ }

        impl Say {
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$id,)+];

            const fn text(self, lang: Lang) -> &'static str {
                match (self, lang) {
                    $((Self::$id, Lang::En) => $en, (Self::$id, Lang::Zh) => $zh,)+
                }
            }
        }
    };
}

catalogue! {
    // Failures.
    CannotRead: "cannot read {file}: {cause}" "无法读取 {file}：{cause}";
    CannotListen: "cannot listen on {address}: {cause}. Choose another address with --listen, for example --listen 127.0.0.1:0 for a free port"
        "无法监听 {address}：{cause}。用 --listen 另选地址，例如 --listen 127.0.0.1:0 任取空闲端口";
    DemoNotLoopback: "demo lets anybody in without credentials, so it does not listen on {address}. Add --anyone if everybody who reaches that address may come in"
        "demo 不验证身份，因此不在 {address} 上监听。若能访问该地址的人都可进入，请加 --anyone";
    NotToml: "not valid TOML: {message}" "不是有效的 TOML：{message}";
    UnknownKey: "unknown setting {key}" "未知设置 {key}";
    UnknownKeyNear: "unknown setting {key}, did you mean {nearest}?" "未知设置 {key}，是否指 {nearest}？";
    BadValue: "{key} is {value}, allowed is {allowed}" "{key} 的值为 {value}，允许：{allowed}";
    MissingKey: "{key} is missing, allowed is {allowed}" "缺少 {key}，允许：{allowed}";
    NoVariable: "{key} names the environment variable {name}, which is not set" "{key} 所指的环境变量 {name} 未设置";
    NoFile: "{key} names the file {path}, which cannot be read" "{key} 所指的文件 {path} 无法读取";

    StoreAway: "{cause}. Start the database or correct store.url, then start this again; a supervisor of serve does that by itself. Only a server that runs keeps rows on disk while the database is away" "{cause}。请启动数据库或更正 store.url 后重新启动；serve 的进程管理器会自动重试。只有运行中的服务才会在数据库不可用期间把数据行暂存到磁盘";
    StoreFailed: "database: {cause}" "数据库：{cause}";
    NoStore: "no feed and no query is declared, so there is no database" "没有声明数据源或查询，因此没有数据库";
    NoSpool: "store.spool.enabled is false, so there is no spool" "store.spool.enabled 为 false，因此没有暂存区";

    // Migrate, spool, dead letter.
    MigrateStep: "  {outcome} {object}" "  {outcome} {object}";
    MigrateDone: "{created} created, {altered} altered, {existing} there already" "新建 {created}，变更 {altered}，已存在 {existing}";
    MigrateProblem: "feed {feed}: {problem}" "数据源 {feed}：{problem}";
    SpoolEmpty: "nothing waits in {dir}" "{dir} 中没有等待的行";
    SpoolLine: "{feed}: {rows} rows, {bytes} bytes, the oldest since {age} s" "{feed}：{rows} 行，{bytes} 字节，最旧已等 {age} 秒";
    DeadEmpty: "no refused rows" "没有被拒的行";
    DeadLine: "{id}  {at}  {feed}  {sqlstate}  {message}" "{id}  {at}  {feed}  {sqlstate}  {message}";
    DeadRetried: "{stored} stored, {refused} refused again, {kept} not sent" "已存 {stored}，再次被拒 {refused}，未发送 {kept}";

    // Running.
    NobodyGetsIn: "nobody can come in: set [auth.jwt], [[auth.api_keys]] or auth.anonymous" "无人可进入：请设置 [auth.jwt]、[[auth.api_keys]] 或 auth.anonymous";
    Draining: "draining, at most {seconds} s; a second signal ends at once" "正在排空连接，最多 {seconds} 秒；再次发送信号立即结束";
    ServeTry: "Figures and routes: {url}/api/docs" "指标与接口：{url}/api/docs";
    ServeAdmin: "Administration: http://{address}/api/docs" "管理接口：http://{address}/api/docs";

    // Demo.
    DemoTitle: "A simulated trading day: {symbols} symbols, {minutes} from open to close." "模拟交易日：{symbols} 只代码，{minutes} 走完开盘到收盘。";
    DemoDatabaseNamed: "Database: {target}, because DATABASE_URL names it; tables are in schema tidegate_demo." "数据库：{target}，由 DATABASE_URL 指定；表在 tidegate_demo 模式中。";
    DemoDatabaseNamedFile: "Database: {target}, because DATABASE_URL names it." "数据库：{target}，由 DATABASE_URL 指定。";
    DemoDatabasePrivate: "Database: a private PostgreSQL in {folder}, because DATABASE_URL is not set." "数据库：{folder} 中的私有 PostgreSQL，因为未设置 DATABASE_URL。";
    DemoDatabaseFile: "Database: SQLite in {file}, because DATABASE_URL is not set and PostgreSQL cannot be started: {cause}." "数据库：SQLite 文件 {file}，因为未设置 DATABASE_URL 且无法启动 PostgreSQL：{cause}。";
    DemoLoading: "Loading orders" "载入订单";
    DemoPage: "Open {url}/demo in a browser." "在浏览器打开 {url}/demo";
    DemoNode: "From Node (npm install socket.io-client):" "Node（npm install socket.io-client）：";
    DemoPython: "From Python (pip install \"python-socketio[client]\"):" "Python（pip install \"python-socketio[client]\"）：";
    DemoMore: "Also: rooms orders and chat, {url}/api/docs, {url}/metrics. Ctrl-C ends." "另有：房间 orders 与 chat，{url}/api/docs，{url}/metrics。Ctrl-C 结束。";
    Minutes: "{n} minutes" "{n} 分钟";
    Seconds: "{n} seconds" "{n} 秒";

    // Check.
    CheckFile: "Configuration: {file}, preset {preset}" "配置：{file}，规模 {preset}";
    CheckNoFile: "no file, defaults only" "无文件，仅默认值";
    CheckGood: "good" "正常";
    CheckNote: "note" "提示";
    CheckBad: "problem" "问题";
    CheckDone: "{problems} problems, {notes} notes" "{problems} 个问题，{notes} 条提示";
    SettingsGood: "all settings are in their ranges" "所有设置均在允许范围内";
    AccessGood: "roles, keys and tokens can be used" "角色、密钥与令牌规则可用";
    AccessNobody: "nobody can come in. Set [auth.jwt], [[auth.api_keys]] or auth.anonymous" "无人可进入。请设置 [auth.jwt]、[[auth.api_keys]] 或 auth.anonymous";
    AccessAnyone: "anybody can come in, and {address} is not loopback. Set auth.anonymous = false unless that is meant" "任何人可进入，且 {address} 不是回环地址。若非本意请设 auth.anonymous = false";
    OriginsAny: "origins has \"*\": pages of any site may connect, with the cookies of your users. Name the sites instead" "origins 含 \"*\"：任何网站的页面都可带用户 cookie 连接。请改为列出站点";
    PlainPublic: "{address} is not loopback and there is no [tls]: tokens travel in the clear unless a proxy in front ends TLS" "{address} 不是回环地址且没有 [tls]：除非前置代理终结 TLS，否则令牌明文传输";
    AdminPublic: "admin.listen {address} is not loopback and speaks plain HTTP. Put it on loopback or a private network" "admin.listen {address} 不是回环地址且为明文 HTTP。请放到回环或内网";
    TlsGood: "certificate and key can be read" "证书与私钥可读";
    TlsBad: "{file} cannot be read: {cause}" "{file} 无法读取：{cause}";
    ListenGood: "{address} is free" "{address} 可用";
    ListenBad: "{address} cannot be opened: {cause}. Another program, or this server already running, holds it" "{address} 无法打开：{cause}。可能被其他程序或已运行的本服务占用";
    FilesGood: "{limit} open files are enough for {connections} connections" "可打开文件 {limit}，足够 {connections} 个连接";
    FilesBad: "{limit} open files are too few for {connections} connections. Raise the hard limit: LimitNOFILE={wanted} in the unit, or ulimit -n" "可打开文件 {limit}，不足 {connections} 个连接。请提高硬限制：服务单元中 LimitNOFILE={wanted}，或 ulimit -n";
    FilesOnly: "connections are limited by {limit} open files only" "连接数仅受可打开文件 {limit} 限制";
    DataBad: "{cause}. Make the folder of store.data_dir writable" "{cause}。请使 store.data_dir 目录可写";
    DatabaseGood: "{kind} {version} at {target}" "{kind} {version}，位于 {target}";
    DatabaseBad: "{cause}. Look at store.url, and whether the database runs and lets this machine in" "{cause}。请检查 store.url，以及数据库是否运行并允许本机连接";
    IsReplica: "{target} is a replica and takes no rows. Name the primary in store.url" "{target} 是只读副本，不能写入。请在 store.url 写主库";
    ThroughPooler: "a pooler shares sessions between clients: prepared statements and the pipeline are off" "经由连接池代理：预备语句与共用连接已关闭";
    OnTmpfs: "the data of the database lies in memory and is gone after a restart" "数据库的数据在内存中，重启即失";
    CommitOff: "synchronous_commit is off: acknowledged rows can be lost. Turn it on for this role or database" "synchronous_commit 为 off：已确认的行可能丢失。请为该角色或数据库打开";
    FsyncOff: "fsync is off: acknowledged rows can be lost. Turn it on" "fsync 为 off：已确认的行可能丢失。请打开";
    NotSynchronous: "replication is not synchronous: rows acknowledged just before a promotion can be lost. Set synchronous_standby_names if that matters" "复制不是同步的：主备切换前刚确认的行可能丢失。若需避免请设 synchronous_standby_names";
    PoolGood: "{wanted} connections at most, the server allows {allowed}" "最多 {wanted} 个连接，服务器允许 {allowed}";
    PoolBad: "{wanted} connections at most, the server allows {allowed}. Lower store.pool.size or overflow, or raise max_connections; count every node" "最多 {wanted} 个连接，服务器允许 {allowed}。请降低 store.pool.size 或 overflow，或提高 max_connections；须计入每个节点";
    NeedsPostgres: "{what} needs PostgreSQL" "{what} 需要 PostgreSQL";
    SqliteLimits: "SQLite stores feeds, roll-ups and answers queries. For partitions, retention by partition, replicas, the pipeline, publications by SQL, TimescaleDB, index advice and several nodes use PostgreSQL" "SQLite 支持数据源、汇总与查询。分区、按分区保留、副本、共用连接、SQL 发布、TimescaleDB、索引建议与多节点需要 PostgreSQL";
    TablesBad: "{cause}" "{cause}";
    TableMissing: "feed {feed}: table {table} is missing. Create it, or set manage = true" "数据源 {feed}：缺少表 {table}。请建表或设 manage = true";
    TableDiffers: "feed {feed}, table {table}: {cause}" "数据源 {feed}，表 {table}：{cause}";
    TableGood: "feed {feed}: table {table} is as declared" "数据源 {feed}：表 {table} 与声明一致";
    NoPrivilege: "feed {feed}: no {privileges} on table {table}. Run {grant}" "数据源 {feed}：缺少对表 {table} 的 {privileges} 权限。请执行 {grant}";
    NoPrivilegeForChanges: "feed {feed}: no {privileges} on table {table}: requests that change or remove rows by key will fail. Run {grant} if there are some" "数据源 {feed}：缺少对表 {table} 的 {privileges} 权限：按键修改或删除的请求会失败。如有此类请求请执行 {grant}";
    ToMigrate: "{object} is not there yet; serve makes it at its start, or run tidegate migrate" "{object} 尚不存在；serve 启动时会创建，也可运行 tidegate migrate";
    QueriesBad: "{cause}" "{cause}";
    QueryFinding: "query {query}: {cause}" "查询 {query}：{cause}";
    QueriesGood: "all {n} queries run, and by an index where it matters" "{n} 个查询均可执行，需要之处都用到索引";
    SpoolBad: "{dir}: {cause}" "{dir}：{cause}";
    SpoolTmpfs: "{dir} lies in memory (tmpfs): spooled rows would not survive a restart. Set store.spool.dir to a folder on a disk" "{dir} 在内存中（tmpfs）：暂存的行重启即失。请将 store.spool.dir 设到磁盘上";
    SpoolOverlay: "{dir} lies in the container's own layer: spooled rows are gone with the container. Mount a volume there" "{dir} 在容器自身的层上：暂存的行随容器消失。请在此挂载卷";
    SpoolGood: "{dir} can be used" "{dir} 可用";
    SpoolWaiting: "{rows} rows ({bytes} bytes) of feed {feed} wait for the database, the oldest for {age}" "数据源 {feed} 有 {rows} 行（{bytes} 字节）在等待数据库，最旧已等 {age}";
    SpoolDamaged: "{n} records of feed {feed} were damaged by the disk; tidegate spool export shows what can be read" "数据源 {feed} 有 {n} 条记录被磁盘损坏；tidegate spool export 可显示可读部分";
    TagUndropped: "query {query} keeps answers under {tag}, which no feed has: they live as long as cache.ttl says, unless POST /api/cache/invalidate names the tag" "查询 {query} 的结果带标签 {tag}，但没有任何 feed 有此标签：除非 POST /api/cache/invalidate 指明该标签，结果将保留到 cache.ttl 为止";
    RelayGood: "{rows} publications by SQL wait, {n} nodes read the outbox" "有 {rows} 条 SQL 发布等待，{n} 个节点在读取";
    RelayWaiting: "{rows} publications by SQL wait in tidegate.outbox ({bytes} bytes), the oldest for {age}; {n} nodes read it. Look whether a server runs, whether its log says that the gateway is full, and whether a transaction was left open" "tidegate.outbox 中有 {rows} 条 SQL 发布等待（{bytes} 字节），最旧已等 {age}；{n} 个节点在读取。请检查服务是否运行、日志是否提示网关已满、是否有事务未结束";
    RelayHeld: "the oldest open transaction that writes, which holds back what was committed after it: {transaction}. End it with pg_terminate_backend if it is idle" "最早未结束的写事务会延后其后提交的发布：{transaction}。若其空闲可用 pg_terminate_backend 结束";
    RelayNodeAway: "node {node} was last seen {age} ago; its rows are kept until store.relay.node_gone_after" "节点 {node} 最后出现于 {age} 前；在 store.relay.node_gone_after 之前为其保留";
    RelayDead: "{n} publications by SQL were put aside, the newest because of {cause}. Look into tidegate.outbox_dead" "有 {n} 条 SQL 发布被搁置，最新一条的原因：{cause}。请查看 tidegate.outbox_dead";
    RelayOff: "{rows} publications by SQL wait, the oldest for {age}, and nobody here reads them. Set store.relay.enabled = true" "有 {rows} 条 SQL 发布等待，最旧已等 {age}，但此处没有读取。请设 store.relay.enabled = true";
    RelayBad: "the outbox cannot be read: {cause}. Let the role of store.url read and delete in tidegate.outbox; docs/operations.md has the grants" "无法读取发布表：{cause}。请授予 store.url 的角色读取与删除 tidegate.outbox 的权限；授权语句见 docs/operations.zh-CN.md";
    MemoryGood: "memory budget {budget}, accounts are full at {limit}" "内存预算 {budget}，记账上限 {limit}";
    MemoryMuch: "memory budget {budget} is above {host}, half of this machine's memory. Make sure that nothing else needs it" "内存预算 {budget} 超过本机内存的一半 {host}。请确认没有其他程序需要";
    MemoryBad: "memory.budget is {budget} bytes, above the {machine} bytes of {limited}. Lower it" "memory.budget 为 {budget} 字节，超过 {limited} 的 {machine} 字节。请降低";
    MemoryLevels: "memory levels cannot be used: {cause}. Move memory.moderate, memory.high and memory.critical apart" "内存级别不可用：{cause}。请拉开 memory.moderate、memory.high 与 memory.critical 的距离";
    CacheDirGood: "{dir} can be used" "{dir} 可用";
    CacheDirBad: "{dir} cannot be used: {cause}. Correct cache.disk_dir or make the folder writable" "{dir} 不可用：{cause}。请更正 cache.disk_dir 或使目录可写";
    CacheBad: "cache cannot be opened: {cause}. Correct cache.disk_dir or make the folder writable" "缓存无法打开：{cause}。请更正 cache.disk_dir 或使目录可写";
    RedisGood: "Redis answers" "Redis 有应答";
    RedisAway: "{cause}. The server starts without it and takes it into use when it is there; look at cache.redis_url if it should be" "{cause}。服务仍可启动，Redis 恢复后自动使用；若本应可用请检查 cache.redis_url";
}

impl Say {
    /// The text of what was found in the store, by its code.
    pub(crate) fn of_finding(code: &str) -> Option<Self> {
        Some(match code {
            "cache_dir_good" => Self::CacheDirGood,
            "cache_dir_bad" => Self::CacheDirBad,
            "redis_good" => Self::RedisGood,
            "redis_away" => Self::RedisAway,
            "data_bad" => Self::DataBad,
            "database_good" => Self::DatabaseGood,
            "database_bad" => Self::DatabaseBad,
            "is_replica" => Self::IsReplica,
            "through_pooler" => Self::ThroughPooler,
            "on_tmpfs" => Self::OnTmpfs,
            "commit_off" => Self::CommitOff,
            "fsync_off" => Self::FsyncOff,
            "not_synchronous" => Self::NotSynchronous,
            "pool_good" => Self::PoolGood,
            "pool_bad" => Self::PoolBad,
            "needs_postgres" => Self::NeedsPostgres,
            "sqlite_limits" => Self::SqliteLimits,
            "tables_bad" => Self::TablesBad,
            "table_missing" => Self::TableMissing,
            "table_differs" => Self::TableDiffers,
            "table_good" => Self::TableGood,
            "no_privilege" => Self::NoPrivilege,
            "no_privilege_for_changes" => Self::NoPrivilegeForChanges,
            "to_migrate" => Self::ToMigrate,
            "queries_bad" => Self::QueriesBad,
            "query_finding" => Self::QueryFinding,
            "queries_good" => Self::QueriesGood,
            "spool_bad" => Self::SpoolBad,
            "spool_tmpfs" => Self::SpoolTmpfs,
            "spool_overlay" => Self::SpoolOverlay,
            "spool_good" => Self::SpoolGood,
            "spool_waiting" => Self::SpoolWaiting,
            "spool_damaged" => Self::SpoolDamaged,
            "relay_good" => Self::RelayGood,
            "relay_waiting" => Self::RelayWaiting,
            "relay_held" => Self::RelayHeld,
            "relay_node_away" => Self::RelayNodeAway,
            "relay_dead" => Self::RelayDead,
            "relay_off" => Self::RelayOff,
            "relay_bad" => Self::RelayBad,
            _ => return None,
        })
    }
}

/// The message with its values.
pub(crate) fn say(lang: Lang, what: Say, values: &[(&str, &dyn Display)]) -> String {
    let mut text = what.text(lang).to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{name}}}"), &value.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn places(text: &str) -> BTreeSet<&str> {
        text.split('{')
            .skip(1)
            .filter_map(|rest| rest.split('}').next())
            .collect()
    }

    #[test]
    fn both_languages_have_the_same_places() {
        for what in Say::ALL {
            assert_eq!(
                places(what.text(Lang::En)),
                places(what.text(Lang::Zh)),
                "{what:?}"
            );
        }
    }

    #[test]
    fn locales_choose_the_language() {
        let check = |locale, lang| assert_eq!(Lang::of_locale(locale), lang, "{locale}");
        check("zh_CN.UTF-8", Lang::Zh);
        check("ZH", Lang::Zh);
        check("en_US.UTF-8", Lang::En);
        check("C", Lang::En);
        check("", Lang::En);
    }
}
