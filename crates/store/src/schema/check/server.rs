//! The server: version, role, durability, room for connections, standbys.

use crate::{
    database::ServerInfo,
    error::Result,
    kind::Kind,
    schema::{
        check::{Finding, Words},
        session::{Session, is_true},
    },
};

/// The oldest server that everything here is written and tested for.
const VERSION_MIN: u32 = 150_000;
/// A replica further behind than this misleads its readers.
const LAG_MS_MAX: u64 = 10_000;

/// What the server says of itself.
#[derive(Debug, Default)]
pub(super) struct Settings {
    role: String,
    is_superuser: bool,
    synchronous_commit: String,
    fsync: bool,
    full_page_writes: bool,
    synchronous_standbys: String,
    n_standbys: i64,
    max_connections: i64,
    reserved: i64,
    autovacuum: bool,
    pub(super) has_timescale: bool,
}

const SQL: &str = "SELECT current_user, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), \
     current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'), \
     current_setting('synchronous_standby_names'), (SELECT count(*) FROM pg_stat_replication), \
     current_setting('max_connections'), current_setting('superuser_reserved_connections')::int8 \
     + coalesce(current_setting('reserved_connections', true), '0')::int8, current_setting('autovacuum'), \
     EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')";

impl Settings {
    pub(super) async fn read(session: Session<'_>) -> Result<Self> {
        if session.kind() == Kind::Sqlite {
            return Ok(Self::default());
        }
        let rows = session.rows(SQL).await?;
        let Some(row) = rows.into_iter().next() else {
            return Ok(Self::default());
        };
        let text = |at: usize| row[at].clone().unwrap_or_default();
        let figure = |at: usize| text(at).parse().unwrap_or(0);
        Ok(Self {
            role: text(0),
            is_superuser: is_true(row[1].as_deref()),
            synchronous_commit: text(2),
            fsync: text(3) == "on",
            full_page_writes: text(4) == "on",
            synchronous_standbys: text(5),
            n_standbys: figure(6),
            max_connections: figure(7),
            reserved: figure(8),
            autovacuum: text(9) == "on",
            has_timescale: is_true(row[10].as_deref()),
        })
    }
}

/// `nodes`: how many, and the connections of each.
pub(super) fn check(info: &ServerInfo, settings: &Settings, nodes: (u32, u32)) -> Vec<Finding> {
    let mut findings = vec![version(info), role(settings), room(info, settings, nodes)];
    findings.extend(place(info));
    findings.extend(durability(info, settings));
    findings.extend(standbys(info, settings));
    if !settings.autovacuum {
        let what = Words::new("autovacuum is off", "autovacuum 已关闭");
        findings.push(Finding::error("autovacuum", &info.host, what).so(
            "Turn it on: without it tables swell, plans go wrong, and the server at last stops writing.",
            "请将其开启：否则表会膨胀、执行计划失准，最终服务器会停止写入。",
        ));
    }
    findings
}

fn version(info: &ServerInfo) -> Finding {
    let what = Words::new(
        format!("PostgreSQL {} answers", info.version),
        format!("PostgreSQL {} 应答正常", info.version),
    );
    match info.version_number >= VERSION_MIN {
        true => Finding::good("server_version", &info.host, what),
        false => {
            let what = Words::new(
                format!("PostgreSQL {} is too old", info.version),
                format!("PostgreSQL {} 版本过旧", info.version),
            );
            Finding::error("server_version", &info.host, what).so(
                "PostgreSQL 15 or later is needed.",
                "需要 PostgreSQL 15 或更高版本。",
            )
        }
    }
}

fn role(settings: &Settings) -> Finding {
    let role = &settings.role;
    match settings.is_superuser {
        false => Finding::good(
            "role",
            role,
            Words::new("connects as an ordinary role", "以普通角色连接"),
        ),
        true => Finding::note(
            "role",
            role,
            Words::new("connects as a superuser", "以超级用户身份连接"),
        )
        .so(
            "Use a role of its own that owns its tables: a superuser can do what no feed or query needs.",
            "建议使用独立角色并由其拥有相关表：超级用户的权限远超数据源与查询所需。",
        ),
    }
}

/// Whether all nodes' connections fit.
fn room(info: &ServerInfo, settings: &Settings, (nodes, each): (u32, u32)) -> Finding {
    let wanted = i64::from(nodes) * i64::from(each);
    let there = settings.max_connections - settings.reserved;
    let what = Words::new(
        format!("{nodes} nodes × {each} connections = {wanted}, the server has room for {there}"),
        format!("{nodes} 个节点 × {each} 个连接 = {wanted}，服务器可容纳 {there} 个"),
    );
    match (wanted <= there, info.through_pooler) {
        (_, true) => Finding::note("connections", &info.host, what).so(
            "A pooler stands between: its own limits (default_pool_size, max_client_conn) count.",
            "中间有连接池代理：以其自身限制（default_pool_size、max_client_conn）为准。",
        ),
        (true, false) => Finding::good("connections", &info.host, what),
        (false, false) => Finding::error("connections", &info.host, what).so(
            format!(
                "Under load connections will be refused (SQLSTATE 53300): lower pool size and overflow to {} a node, or \
                 raise max_connections.",
                there / i64::from(nodes)
            ),
            format!(
                "高负载下连接会被拒绝（SQLSTATE 53300）：请将每个节点的连接池大小加溢出降到 {}，或提高 max_connections。",
                there / i64::from(nodes)
            ),
        ),
    }
}

fn place(info: &ServerInfo) -> Vec<Finding> {
    let mut findings = Vec::new();
    if info.through_pooler {
        let what = Words::new(
            "a pooler in transaction mode stands between: the pipeline, prepared statements, session settings and session \
             locks are switched off",
            "中间有事务模式的连接池代理：管道、预备语句、会话设置与会话锁均已停用",
        );
        findings.push(Finding::note("pooler", &info.host, what).so(
            "Connect to the server itself for full speed; this pool does what the pooler does.",
            "直接连接服务器可获得全部性能；本程序的连接池已具备代理的功能。",
        ));
    }
    if info.is_replica {
        let what = Words::new("is a replica: nothing can be stored", "是只读副本：无法写入");
        findings.push(Finding::error("primary", &info.host, what).so(
            "Give the primary's address, or both.",
            "请填写主库地址，或同时填写两者。",
        ));
    }
    if info.is_on_tmpfs == Some(true) {
        let what = Words::new(
            "its data lies in memory (tmpfs): a restart of the machine loses every row",
            "数据目录位于内存（tmpfs）：机器重启后全部数据丢失",
        );
        findings.push(
            Finding::error("tmpfs", &info.host, what)
                .so("Move the data folder to a disk.", "请将数据目录移到磁盘上。"),
        );
    }
    findings
}

/// Whether `committed` means what it says.
fn durability(info: &ServerInfo, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let what =
        |name: &str, value: &str| Words::new(format!("{name} is {value}"), format!("{name} 为 {value}"));
    let mut lost = |name: &'static str, value: &str| {
        findings.push(Finding::error("durability", &info.host, what(name, value)).so(
            format!("Rows acknowledged as committed can be lost in a crash: set {name} to on."),
            format!("已确认提交的数据在崩溃时可能丢失：请将 {name} 设为 on。"),
        ));
    };
    if settings.synchronous_commit == "off" {
        lost("synchronous_commit", "off");
    }
    if !settings.fsync {
        lost("fsync", "off");
    }
    if !settings.full_page_writes {
        lost("full_page_writes", "off");
    }
    if findings.is_empty() {
        let value = &settings.synchronous_commit;
        findings.push(Finding::good(
            "durability",
            &info.host,
            what("synchronous_commit", value),
        ));
    }
    findings
}

/// Whether a promotion would lose what was acknowledged.
fn standbys(info: &ServerInfo, settings: &Settings) -> Vec<Finding> {
    if settings.n_standbys == 0 {
        return vec![];
    }
    let n = settings.n_standbys;
    let is_synchronous = !settings.synchronous_standbys.is_empty() && settings.synchronous_commit != "local";
    vec![match is_synchronous {
        true => Finding::good(
            "synchronous_replication",
            &info.host,
            Words::new(
                format!("{n} standbys, synchronous: {}", settings.synchronous_standbys),
                format!("{n} 个备库，同步复制：{}", settings.synchronous_standbys),
            ),
        ),
        false => Finding::warning(
            "synchronous_replication",
            &info.host,
            Words::new(
                format!("{n} standbys follow, none synchronously"),
                format!("有 {n} 个备库，均为异步复制"),
            ),
        )
        .so(
            "If one is promoted, rows acknowledged last are gone: set synchronous_standby_names if promotion must lose \
             nothing.",
            "若提升备库，最近确认的数据会丢失：如需零丢失，请设置 synchronous_standby_names。",
        ),
    }]
}

/// The servers that answer reads.
#[cfg(feature = "postgres")]
pub(super) fn replicas(replicas: &[crate::replica::Stats]) -> Vec<Finding> {
    let finding = |replica: &crate::replica::Stats| {
        let lag = replica.lag_ms;
        match (replica.healthy, lag > LAG_MS_MAX) {
            (true, false) => Finding::good(
                "replica",
                &replica.target,
                Words::new(format!("answers reads, {lag} ms behind"), format!("可用于读取，延迟 {lag} 毫秒")),
            ),
            (true, true) => Finding::warning(
                "replica",
                &replica.target,
                Words::new(format!("is {lag} ms behind"), format!("延迟达 {lag} 毫秒")),
            )
            .so(
                "Look for long statements on it and for its disk and network; reads beyond the bound go to the primary.",
                "请检查其上的长语句以及磁盘与网络；超出延迟上限的读取会转到主库。",
            ),
            (false, _) => {
                let reason = replica.reason.as_deref().unwrap_or("not asked yet");
                Finding::warning(
                    "replica",
                    &replica.target,
                    Words::new(format!("is not used: {reason}"), format!("未使用：{reason}")),
                )
                .so("Its reads go to the primary meanwhile.", "其读取请求暂由主库承担。")
            }
        }
    };
    replicas.iter().map(finding).collect()
}
