//! The table of settings: the one place where keys, ranges, defaults and reasons are written.

mod access;
mod app;
mod delivery;
mod feeds;
mod limits;
mod relay;
mod server;
mod store;

use super::table::{
    Group, Initial,
    Kind::{self, List, Text},
    Setting, Words,
};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const PATH: Kind = Text {
    bytes_max: 4_096,
    form: "the path of a file",
};
const NAME: Kind = Text {
    bytes_max: 256,
    form: "a name",
};
const ROLES: Kind = List {
    items_max: 64,
    form: "the name of a [roles.…] block",
};
const PATTERNS: Kind = List {
    items_max: 256,
    form: "a pattern such as \"ticks:*\" or \"user:{user}\"",
};

/// Taken by a running server on SIGHUP.
const fn live(
    key: &'static str,
    kind: Kind,
    initial: Initial,
    en: &'static str,
    zh: &'static str,
) -> Setting {
    Setting {
        key,
        kind,
        initial,
        reload: true,
        why: Words { en, zh },
    }
}

/// Taken by a new process only.
const fn fixed(
    key: &'static str,
    kind: Kind,
    initial: Initial,
    en: &'static str,
    zh: &'static str,
) -> Setting {
    Setting {
        key,
        kind,
        initial,
        reload: false,
        why: Words { en, zh },
    }
}

const fn group(name: &'static str, header: &'static str, en: &'static str, zh: &'static str) -> Group {
    Group {
        name,
        header,
        why: Words { en, zh },
    }
}

/// The sections, in the order of the sample file.
pub static GROUPS: &[Group] = &[
    group("", "", "The server as a whole.", "服务器整体。"),
    group(
        "tls",
        "[tls]",
        "HTTPS and WSS. Absent: plain TCP, for use behind a proxy that ends TLS.",
        "HTTPS 与 WSS。不写则为明文 TCP，适合放在终结 TLS 的代理之后。",
    ),
    group(
        "admin",
        "[admin]",
        "Figures, connections, rooms and metrics for the operator.",
        "给运维看的指标、连接、房间与度量。",
    ),
    group("log", "[log]", "The log on standard error.", "标准错误上的日志。"),
    group("http", "[http]", "The HTTP API.", "HTTP 接口。"),
    group(
        "transport",
        "[transport]",
        "How connections open and stay alive (Engine.IO).",
        "连接如何建立与保活（Engine.IO）。",
    ),
    group(
        "limits",
        "[limits]",
        "What one server, user, address or session may hold. 0 is no limit where it says so.",
        "单台服务器、用户、地址或会话的上限。注明之处 0 表示不限。",
    ),
    group(
        "outbox",
        "[outbox]",
        "Messages of one connection that are not written yet.",
        "单个连接尚未写出的消息。",
    ),
    group(
        "batch",
        "[batch]",
        "Batch events for clients that ask for them (auth: {batch: true}).",
        "为请求批量的客户端（auth: {batch: true}）合并事件。",
    ),
    group(
        "deflate",
        "[deflate]",
        "Compression of WebSocket messages (permessage-deflate).",
        "WebSocket 消息压缩（permessage-deflate）。",
    ),
    group(
        "recovery",
        "[recovery]",
        "Sessions that survive a lost connection.",
        "断线后仍可恢复的会话。",
    ),
    group(
        "sessions",
        "[sessions]",
        "When a session counts as idle or stale.",
        "会话何时算空闲或陈旧。",
    ),
    group(
        "builtins",
        "[builtins]",
        "Events the server answers itself.",
        "服务器自己应答的事件。",
    ),
    group(
        "publish",
        "[publish]",
        "Publications with an idempotency id.",
        "带幂等编号的发布。",
    ),
    group(
        "drain",
        "[drain]",
        "How connections are closed on SIGTERM.",
        "收到 SIGTERM 时如何关闭连接。",
    ),
    group(
        "memory",
        "[memory]",
        "How much memory the server may use, and the levels at which it gives some back.",
        "服务器可用的内存，以及开始让出内存的级别。",
    ),
    group(
        "concurrency",
        "[concurrency]",
        "API requests and declared queries at once. Roles may have a share of their own: roles.*.share.",
        "同时执行的 API 请求与声明式查询。角色可有自己的份额：roles.*.share。",
    ),
    group("auth", "[auth]", "Who may come in.", "谁可以进入。"),
    group(
        "auth.jwt",
        "[auth.jwt]",
        "JSON Web Tokens. Exactly one of secret_env, secret_file, public_key_file and jwks_file.",
        "JSON Web Token。secret_env、secret_file、public_key_file、jwks_file 四者取一。",
    ),
    group(
        "auth.api_keys.*",
        "[[auth.api_keys]]",
        "One block for each key of a backend. Exactly one of key_env and sha256.",
        "每个后端密钥一段。key_env 与 sha256 二者取一。",
    ),
    group(
        "roles.*",
        "[roles.trader]",
        "What a role may do; {user} and {claim:name} are filled from the token, taken literally.",
        "角色的权限；{user} 与 {claim:名} 由令牌按字面填入。",
    ),
    group(
        "rooms.*",
        "[rooms.\"ticks:*\"]",
        "Options of the rooms whose name matches; the first matching block counts.",
        "名称匹配的房间的选项；以第一个匹配的段为准。",
    ),
    group(
        "store",
        "[store]",
        "The database. It is opened only when a feed or a query is declared, or store.relay is on.",
        "数据库。只有声明了数据源或查询，或启用 store.relay 时才会打开。",
    ),
    group(
        "store.pool",
        "[store.pool]",
        "Connections to PostgreSQL. In the words of SQLAlchemy: pool_size = size, max_overflow = overflow, pool_pre_ping = pre_ping, pool_recycle = lifetime, pool_timeout = acquire_timeout.",
        "PostgreSQL 连接池。与 SQLAlchemy 对照：pool_size = size，max_overflow = overflow，pool_pre_ping = pre_ping，pool_recycle = lifetime，pool_timeout = acquire_timeout。",
    ),
    group(
        "store.pipeline",
        "[store.pipeline]",
        "Shared connections for short declared queries, many in flight on each.",
        "短查询共用的连接，每条连接上可同时在途多个语句。",
    ),
    group(
        "store.ingest",
        "[store.ingest]",
        "How rows are gathered and committed.",
        "数据行如何攒批与提交。",
    ),
    group(
        "store.spool",
        "[store.spool]",
        "Rows that wait on this node's disk while the database is away.",
        "数据库不可用时暂存在本机磁盘上的数据行。",
    ),
    group(
        "store.relay",
        "[store.relay]",
        "Publications that applications write by SQL (tidegate.publish, tidegate.watch); PostgreSQL only. See docs/operations.md.",
        "应用通过 SQL（tidegate.publish、tidegate.watch）写入的发布；仅限 PostgreSQL。见 docs/operations.zh-CN.md。",
    ),
    group(
        "cache",
        "[cache]",
        "Answers of the queries that have a cache of their own: queries.*.cache.",
        "为声明了缓存（queries.*.cache）的查询保留结果。",
    ),
    group(
        "feeds.*",
        "[feeds.ticks]",
        "A way of rows into one table: POST /api/ingest/ticks and the event ingest. Columns are \"type\" or \"type not null\".",
        "数据行写入一张表的途径：POST /api/ingest/ticks 与事件 ingest。列写作 \"类型\" 或 \"类型 not null\"。",
    ),
    group(
        "feeds.*.rollups.*",
        "[feeds.ticks.rollups.minute]",
        "A table of sums, kept in the transaction that stores the rows. A measure's column is named after it: volume_sum, price_max; the count is n_rows.",
        "汇总表，与数据行在同一事务内更新。度量列按其命名：volume_sum、price_max；行数为 n_rows。",
    ),
    group(
        "queries.*",
        "[queries.latest]",
        "A declared way of rows out: GET /api/query/latest and the event query. Parameters stand as :name in the text.",
        "读取数据行的途径：GET /api/query/latest 与事件 query。参数在语句中写作 :名称。",
    ),
    group(
        "app",
        "[app]",
        "The application behind the server, which is asked over HTTP about connects, events and disconnects; see docs/protocol.md. With it, built-in events are off unless listed here.",
        "服务器背后的应用：连接、事件与断开经 HTTP 询问它，见 docs/protocol.md。有应用时，未在此列出的内置事件关闭。",
    ),
    group(
        "app.spool",
        "[app.spool]",
        "Disconnects that the application has not been told yet.",
        "尚未告知应用的断开。",
    ),
];

const N_SETTINGS: usize = server::PART.len()
    + delivery::PART.len()
    + limits::PART.len()
    + access::PART.len()
    + store::PART.len()
    + relay::PART.len()
    + feeds::PART.len()
    + app::PART.len();

/// Every setting, in the order of the sample file.
pub static TABLE: &[Setting] = &joined([
    server::PART,
    delivery::PART,
    limits::PART,
    access::PART,
    store::PART,
    relay::PART,
    feeds::PART,
    app::PART,
]);

const fn joined(parts: [&[Setting]; 8]) -> [Setting; N_SETTINGS] {
    let mut all = [parts[0][0]; N_SETTINGS];
    let (mut part, mut from, mut to) = (0, 0, 0);
    while to < N_SETTINGS {
        if from == parts[part].len() {
            (part, from) = (part + 1, 0);
            continue;
        }
        all[to] = parts[part][from];
        (from, to) = (from + 1, to + 1);
    }
    all
}
