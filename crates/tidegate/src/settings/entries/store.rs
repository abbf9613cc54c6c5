//! Settings of the database: where it is, its connections, how rows are stored.

use super::{DAY, GIB, HOUR, KIB, MIB, NAME, PATH, fixed};
use crate::settings::table::{
    Initial::{Absent, Always},
    Kind::{Count, Flag, List, Size, Text, Time},
    Setting,
};

const TIB: u64 = 1 << 40;

/// This part of the table.
pub(super) const PART: &[Setting] = &[
    fixed(
        "store.url",
        Text {
            bytes_max: 4_096,
            form: "\"postgres://user@host/database\" or \"sqlite:path/file.db\"",
        },
        Always("\"sqlite:data/tidegate.db\""),
        "The database. What SQLite cannot do is listed by `tidegate check`. A socket folder is written postgres://user@%2Fvar%2Frun%2Fpostgresql/database.",
        "数据库。SQLite 不支持的功能由 `tidegate check` 列出。套接字目录写作 postgres://user@%2Fvar%2Frun%2Fpostgresql/database。",
    ),
    fixed(
        "store.url_env",
        NAME,
        Absent("\"DATABASE_URL\""),
        "Environment variable with the URL, instead of url, so that the file holds no password.",
        "存放 URL 的环境变量，代替 url，文件中便没有密码。",
    ),
    fixed(
        "store.data_dir",
        PATH,
        Always("\"data\""),
        "Folder for what this node keeps: the spool and the key of the cursors. It must survive a restart.",
        "本节点保存内容的目录：暂存区与游标密钥。须能在重启后保留。",
    ),
    fixed(
        "store.statement_timeout",
        Time {
            min_ms: 10,
            max_ms: HOUR,
        },
        Always("\"30s\""),
        "Longest statement of our own writes and reads; a declared query has its own.",
        "自身读写语句的最长时间；声明的查询另有各自的限制。",
    ),
    fixed(
        "store.slow",
        Time {
            min_ms: 1,
            max_ms: HOUR,
        },
        Always("\"1s\""),
        "A statement that takes longer is reported as slow, within 100 ms of its end.",
        "超过此时间的语句报告为慢语句，结束后 100 毫秒内上报。",
    ),
    fixed(
        "store.critical",
        Time {
            min_ms: 1,
            max_ms: HOUR,
        },
        Always("\"5s\""),
        "A statement that takes longer is reported as critical.",
        "超过此时间的语句报告为严重。",
    ),
    fixed(
        "store.replicas",
        List {
            items_max: 16,
            form: "a URL as in url",
        },
        Always("[]"),
        "Read-only servers for queries with replica = true. Writes always go to the primary, which is found again by itself.",
        "供 replica = true 的查询使用的只读服务器。写入总在主库，主库变更会自动识别。",
    ),
    fixed(
        "store.replica_lag_max",
        Time {
            min_ms: 10,
            max_ms: HOUR,
        },
        Always("\"5s\""),
        "A replica further behind is not read from.",
        "落后更多的副本不参与读取。",
    ),
    fixed(
        "store.cursor_secret_env",
        NAME,
        Absent("\"TIDEGATE_CURSOR_SECRET\""),
        "Environment variable with the secret that signs cursors, at least 32 bytes; the same on every node. Absent: made once and kept in data_dir.",
        "签名游标的密钥所在的环境变量，至少 32 字节，各节点须一致。不写则生成一次并保存在 data_dir。",
    ),
    fixed(
        "store.pool.min",
        Count { min: 0, max: 1_000 },
        Always("5"),
        "Connections kept open when nothing happens.",
        "空闲时保持的连接数。",
    ),
    fixed(
        "store.pool.size",
        Count { min: 1, max: 1_000 },
        Always("20"),
        "Connections kept open at most. Their sum over all nodes must stay below the server's max_connections.",
        "保持的连接上限。各节点之和须小于服务器的 max_connections。",
    ),
    fixed(
        "store.pool.overflow",
        Count { min: 0, max: 1_000 },
        Always("40"),
        "Connections beyond size for a rush; they close again by themselves.",
        "高峰时 size 之外的连接；之后自动关闭。",
    ),
    fixed(
        "store.pool.acquire_timeout",
        Time {
            min_ms: 10,
            max_ms: HOUR,
        },
        Always("\"30s\""),
        "Longest wait for a connection; the error then names who holds them.",
        "等待连接的最长时间；超时的错误会指出谁占用着连接。",
    ),
    fixed(
        "store.pool.idle_timeout",
        Time {
            min_ms: 1_000,
            max_ms: DAY,
        },
        Always("\"5m\""),
        "A connection beyond min that nobody used for so long is closed.",
        "超出 min 的连接空闲多久后关闭。",
    ),
    fixed(
        "store.pool.lifetime",
        Time {
            min_ms: 10_000,
            max_ms: 30 * DAY,
        },
        Always("\"1h\""),
        "Age at which a connection is replaced, give or take a tenth; its successor is opened first.",
        "连接的更换年龄，上下浮动一成；先打开新连接再更换。",
    ),
    fixed(
        "store.pool.leak_after",
        Time {
            min_ms: 0,
            max_ms: DAY,
        },
        Always("\"1m\""),
        "A connection held longer is reported with the place that took it. \"0s\" is off.",
        "占用超过此时间的连接会连同取用位置一起上报。\"0s\" 关闭。",
    ),
    fixed(
        "store.pool.pre_ping",
        Flag,
        Always("true"),
        "Ask a connection whether it lives before it is given out, unless that was proven within the last second.",
        "借出前确认连接存活；一秒内已确认的不再确认。",
    ),
    fixed(
        "store.pipeline.connections",
        Count { min: 0, max: 16 },
        Always("4"),
        "Shared connections, besides the pool. 0 turns the pipeline off.",
        "共用连接数，不计入连接池。0 关闭。",
    ),
    fixed(
        "store.pipeline.in_flight",
        Count { min: 1, max: 1_000 },
        Always("64"),
        "Statements in flight on each of them; others wait.",
        "每条连接上在途语句数；其余等待。",
    ),
    fixed(
        "store.ingest.backlog_rows_max",
        Count {
            min: 1_000,
            max: 10_000_000,
        },
        Always("50000"),
        "Rows that may wait to be stored; more are refused as backlog_full. An alert begins at 80 %.",
        "等待入库的行数上限；超出以 backlog_full 拒绝。达到 80% 即告警。",
    ),
    fixed(
        "store.ingest.batch_rows_max",
        Count {
            min: 1_000,
            max: 50_000,
        },
        Always("20000"),
        "Rows of one commit at most; larger ones cost less a row and hold their locks longer.",
        "单次提交的最大行数；越大每行越省，持锁也越久。",
    ),
    fixed(
        "store.ingest.delay",
        Time {
            min_ms: 0,
            max_ms: 1_000,
        },
        Always("\"2ms\""),
        "How long rows may wait for others while the writers are busy; an idle writer takes them at once.",
        "写入者繁忙时数据行等待同伴的时间；空闲则立即写入。",
    ),
    fixed(
        "store.ingest.writers",
        Count { min: 1, max: 4 },
        Always("2"),
        "Writers of a feed without key and roll-up; others have one, for order.",
        "无键且无汇总的数据源的写入者数量；其余为一个，以保证顺序。",
    ),
    fixed(
        "store.ingest.patience",
        Time {
            min_ms: 0,
            max_ms: 300_000,
        },
        Always("\"2s\""),
        "How long a batch is tried while the database is away, before its rows go to the spool or, without one, are refused.",
        "数据库不可用时重试多久，之后数据行进入暂存区；没有暂存区则拒绝。",
    ),
    fixed(
        "store.ingest.claims_kept",
        Time {
            min_ms: HOUR,
            max_ms: 365 * DAY,
        },
        Always("\"7d\""),
        "How long an id is remembered: a request that is sent again within it is stored once.",
        "请求编号的保留时间：在此期间重发只存一次。",
    ),
    fixed(
        "store.spool.enabled",
        Flag,
        Always("true"),
        "Take rows while the database is away. Off: they are refused as unavailable.",
        "数据库不可用时仍接收数据行。关闭则以 unavailable 拒绝。",
    ),
    fixed(
        "store.spool.dir",
        PATH,
        Absent("\"data/spool\""),
        "Folder of the spool; absent: spool in data_dir. tmpfs is refused: it does not survive a restart.",
        "暂存区目录；不写则为 data_dir 下的 spool。拒绝 tmpfs：重启即失。",
    ),
    fixed(
        "store.spool.bytes_max",
        Size {
            min: 16 * MIB,
            max: TIB,
        },
        Always("\"1GiB\""),
        "Most bytes on disk; then producers are told spool_full.",
        "磁盘上的最大字节数；之后以 spool_full 拒绝。",
    ),
    fixed(
        "store.spool.segment_bytes",
        Size {
            min: 64 * KIB,
            max: GIB,
        },
        Always("\"16MiB\""),
        "Size of one file of the spool; it is allocated at once.",
        "暂存区单个文件的大小；一次分配。",
    ),
];
