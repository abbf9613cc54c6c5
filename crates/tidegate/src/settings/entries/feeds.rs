//! Settings of declared ways for rows in and out.

use super::{DAY, HOUR, KIB, MIB, live};
use crate::settings::table::{
    Field,
    Initial::{Absent, Always, Required},
    Kind::{self, Choice, Count, Either, Fields, Flag, List, Map, Scalar, Size, Text, Time},
    Setting,
};

/// Most columns of a table (PostgreSQL's own limit) that a feed or query may name.
const COLUMNS_MAX: usize = 1_600;

const NAME: Kind = Text {
    bytes_max: 63,
    form: "a name",
};
const TABLE: Kind = Text {
    bytes_max: 127,
    form: "a table such as \"ticks\" or \"market.ticks\"",
};
const TYPE: Kind = Text {
    bytes_max: 4_096,
    form: "a type such as \"int8\", \"text not null\", \"enum(buy,sell)\" or \"float8[]\"",
};
const TEMPLATE: Kind = Text {
    bytes_max: 1_024,
    form: "a text with columns in braces, such as \"ticks:{symbol}\"",
};
const COLUMNS: Kind = List {
    items_max: 64,
    form: "a column of the feed",
};
const SQL: Kind = Text {
    bytes_max: 65_536,
    form: "one SELECT with parameters as :name",
};
const SQL_BY_BACKEND: Kind = Fields(&[optional("postgres", SQL), optional("sqlite", SQL)]);
const PARAM: Kind = Fields(&[
    needed("type", TYPE),
    optional(
        "from",
        Text {
            bytes_max: 256,
            form: "\"claim:\" and the name of a claim",
        },
    ),
    optional("default", Scalar),
    optional("optional", Flag),
]);

const CACHE: Kind = Fields(&[
    needed("ttl", length(10, DAY)),
    optional(
        "tags",
        List {
            items_max: 16,
            form: "a text with parameters of the query in braces, such as \"ticks:{symbol}\"",
        },
    ),
    optional("stale", length(0, DAY)),
    optional("stale_on_error", length(0, DAY)),
    optional("empty_ttl", length(0, DAY)),
]);

const fn needed(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        required: true,
    }
}

const fn optional(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        required: false,
    }
}

const fn length(min_ms: u64, max_ms: u64) -> Kind {
    Time { min_ms, max_ms }
}

/// This part of the table.
pub(super) const PART: &[Setting] = &[
    live(
        "feeds.*.table",
        TABLE,
        Required("\"ticks\""),
        "The table that gets the rows.",
        "写入的表。",
    ),
    live(
        "feeds.*.columns",
        Map {
            items_max: COLUMNS_MAX,
            of: &TYPE,
        },
        Required(
            "{ trade_id = \"int8\", symbol = \"text\", ts = \"timestamptz\", price = \"float8\", volume = \"int8\" }",
        ),
        "Columns that rows may have, with their types.",
        "数据行可有的列及其类型。",
    ),
    live(
        "feeds.*.key",
        COLUMNS,
        Always("[]"),
        "Columns that name a row, a unique index of the table. None: rows are only added.",
        "标识一行的列，须为表的唯一索引。为空则只追加。",
    ),
    live(
        "feeds.*.on_conflict",
        Choice(&["error", "ignore", "update"]),
        Always("\"error\""),
        "When the key is there already: the row goes to the dead letter, is left out, or replaces the stored one.",
        "键已存在时：进入死信、忽略、或替换已存行。",
    ),
    live(
        "feeds.*.room",
        TEMPLATE,
        Absent("\"ticks:{symbol}\""),
        "Room that gets each stored row; absent: rows are not told to anybody. For updates and deletions it needs key columns only.",
        "推送每个已存行的房间；不写则不推送。更新与删除时只能用键列。",
    ),
    live(
        "feeds.*.event",
        Text {
            bytes_max: 256,
            form: "the name of an event",
        },
        Absent("\"price_update\""),
        "Event that carries the row; absent: the name of the feed.",
        "携带该行的事件；不写则为数据源名。",
    ),
    live(
        "feeds.*.conflate",
        TEMPLATE,
        Absent("\"{symbol}\""),
        "Key: while a row waits for a slow reader, a newer one of the same key takes its place.",
        "合并键：行在等待慢读者时，同键的新行取而代之。",
    ),
    live(
        "feeds.*.urgent",
        Flag,
        Always("false"),
        "Rows do not wait for the flush window.",
        "不等待刷新窗口。",
    ),
    live(
        "feeds.*.volatile",
        Flag,
        Always("false"),
        "Rows are dropped for readers whose socket is busy.",
        "对套接字繁忙的读者丢弃该行。",
    ),
    live(
        "feeds.*.tags",
        List {
            items_max: 16,
            form: "a text with columns in braces, such as \"ticks:{symbol}\"",
        },
        Always("[]"),
        "What a stored row invalidates in caches.",
        "已存行使哪些缓存失效。",
    ),
    live(
        "feeds.*.retain",
        length(HOUR, 36_500 * DAY),
        Absent("\"90d\""),
        "Older rows are removed, by the partition's column; of a managed table only.",
        "按分区列删除更旧的行；仅限托管的表。",
    ),
    live(
        "feeds.*.manage",
        Flag,
        Always("false"),
        "Let Tidegate create the table and add columns. Otherwise it is held against the declaration and never changed.",
        "允许建表与加列。否则只核对声明，绝不改动。",
    ),
    live(
        "feeds.*.partition",
        Fields(&[
            needed("column", NAME),
            needed("every", length(HOUR, 3_650 * DAY)),
            optional("timescale", Flag),
        ]),
        Absent("{ column = \"ts\", every = \"1d\" }"),
        "Range partitions of a managed table; a hypertable where TimescaleDB is present, unless timescale = false.",
        "托管表的范围分区；有 TimescaleDB 时为超表，除非 timescale = false。",
    ),
    live(
        "feeds.*.row_bytes_max",
        Size {
            min: 64,
            max: 16 * MIB,
        },
        Always("\"64KiB\""),
        "Largest row as JSON; a larger one is rejected, the others are stored.",
        "单行 JSON 的最大字节数；超出者被拒，其余照存。",
    ),
    live(
        "feeds.*.rows_per_second_max",
        Count {
            min: 0,
            max: 100_000_000,
        },
        Always("0"),
        "Rows a second of one producer; more are refused as rate_limited. 0 is no limit.",
        "单个生产者每秒行数；超出以 rate_limited 拒绝。0 不限。",
    ),
    live(
        "feeds.*.rollups.*.table",
        TABLE,
        Required("\"ticks_minute\""),
        "The table of sums.",
        "汇总表。",
    ),
    live(
        "feeds.*.rollups.*.group",
        COLUMNS,
        Always("[]"),
        "Columns it is grouped by.",
        "分组列。",
    ),
    live(
        "feeds.*.rollups.*.bucket",
        Fields(&[
            needed("column", NAME),
            needed("every", length(1_000, 3_650 * DAY)),
        ]),
        Absent("{ column = \"ts\", every = \"1m\" }"),
        "Grouping by time.",
        "按时间分组。",
    ),
    live(
        "feeds.*.rollups.*.count",
        Flag,
        Always("true"),
        "Keep the number of rows.",
        "记录行数。",
    ),
    live(
        "feeds.*.rollups.*.sum",
        COLUMNS,
        Always("[]"),
        "Columns whose sum is kept.",
        "记录其和的列。",
    ),
    live(
        "feeds.*.rollups.*.min",
        COLUMNS,
        Always("[]"),
        "Columns whose least value is kept.",
        "记录其最小值的列。",
    ),
    live(
        "feeds.*.rollups.*.max",
        COLUMNS,
        Always("[]"),
        "Columns whose greatest value is kept.",
        "记录其最大值的列。",
    ),
    live(
        "feeds.*.rollups.*.last",
        COLUMNS,
        Always("[]"),
        "Columns whose newest value, by the bucket's column, is kept.",
        "按时间桶列记录其最新值的列。",
    ),
    live(
        "queries.*.sql",
        Either(&SQL, &SQL_BY_BACKEND),
        Required("\"SELECT trade_id, ts, price, volume FROM ticks WHERE symbol = :symbol\""),
        "The statement, read-only; { postgres = \"…\", sqlite = \"…\" } where the two differ.",
        "只读语句；两种数据库不同时写作 { postgres = \"…\", sqlite = \"…\" }。",
    ),
    live(
        "queries.*.params",
        Map {
            items_max: 100,
            of: &Either(&TYPE, &PARAM),
        },
        Always("{}"),
        "Parameters, each \"type\" or { type, default, optional, from }. One with from = \"claim:tenant\" is filled from the token and never by the caller.",
        "参数，写作 \"类型\" 或 { type, default, optional, from }。带 from = \"claim:tenant\" 者取自令牌，调用方不能提供。",
    ),
    live(
        "queries.*.page",
        List {
            items_max: 16,
            form: "a column with or without desc, such as \"ts desc\"",
        },
        Always("[]"),
        "Order of the pages. With the columns bound by = it contains a unique key. None: one answer of at most rows_max.",
        "分页顺序。与用 = 绑定的列一起须含唯一键。为空则只有一个答案，最多 rows_max 行。",
    ),
    live(
        "queries.*.rows_max",
        Count { min: 1, max: 100_000 },
        Always("1000"),
        "Rows of a page at most.",
        "一页的最大行数。",
    ),
    live(
        "queries.*.bytes_max",
        Size {
            min: KIB,
            max: 64 * MIB,
        },
        Always("\"1MiB\""),
        "Bytes of a page at most; it ends earlier then.",
        "一页的最大字节数；达到则提前结束。",
    ),
    live(
        "queries.*.timeout",
        length(10, HOUR),
        Always("\"5s\""),
        "Longest time of the statement, waiting included.",
        "语句的最长时间，含等待。",
    ),
    live(
        "queries.*.returns",
        Map {
            items_max: COLUMNS_MAX,
            of: &TYPE,
        },
        Always("{}"),
        "Types of columns that SQLite cannot tell, such as sums.",
        "SQLite 无法判断的列的类型，如求和。",
    ),
    live(
        "queries.*.pipeline",
        Flag,
        Always("true"),
        "Run on the shared connections; statements that turn out slow leave them by themselves.",
        "在共用连接上执行；变慢的语句会自动移出。",
    ),
    live(
        "queries.*.replica",
        Flag,
        Always("false"),
        "Read from a replica, which may be behind.",
        "从副本读取，可能略有落后。",
    ),
    live(
        "queries.*.cache",
        CACHE,
        Absent("{ ttl = \"5s\", tags = [\"ticks\"] }"),
        "Keep answers for ttl; a feed that stores rows with one of the tags drops them at once. Tags name parameters of the query in braces. stale: answer with the old one that much longer while a new one is loaded; stale_on_error: as long when loading fails; empty_ttl: instead of ttl for answers without rows.",
        "结果保留 ttl；数据源写入带有其中某个标签的行时立即失效。标签用花括号引用查询的参数。stale：过期后在加载新结果期间仍可用旧结果的时间；stale_on_error：加载失败时的同样时间；empty_ttl：无行结果改用此保留时间。",
    ),
];
