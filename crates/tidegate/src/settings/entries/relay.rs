//! Settings of publications by SQL: whether and how the outbox is read, and its bounds.

use super::{DAY, KIB, MIB, NAME, fixed};
use crate::settings::table::{
    Initial::{Absent, Always},
    Kind::{Choice, Count, Flag, Size, Time},
    Setting,
};

const TIB: u64 = 1 << 40;

/// This part of the table.
pub(super) const PART: &[Setting] = &[
    fixed(
        "store.relay.enabled",
        Flag,
        Always("false"),
        "Read the table tidegate.outbox and publish what is in it. Every node with clients of its own reads all of it.",
        "读取表 tidegate.outbox 并发布其中内容。每个有客户端的节点都要读取全部内容。",
    ),
    fixed(
        "store.relay.node",
        NAME,
        Absent("\"gate-1\""),
        "Name under which this node keeps its position; no other node's. Absent: made once and kept in store.data_dir.",
        "本节点保存读取位置所用的名称，不得与其他节点相同。不写则生成一次并保存在 store.data_dir。",
    ),
    fixed(
        "store.relay.poll",
        Time {
            min_ms: 10,
            max_ms: 60_000,
        },
        Always("\"1s\""),
        "Longest time between two looks: what a lost notification costs, and the delay behind a pooler in transaction mode, where nothing is notified.",
        "两次查看之间的最长时间：即丢失通知时的延迟；在事务模式的连接池代理之后没有通知，延迟亦为此值。",
    ),
    fixed(
        "store.relay.batch_rows_max",
        Count { min: 1, max: 100_000 },
        Always("1000"),
        "Rows of one read.",
        "每次读取的行数上限。",
    ),
    fixed(
        "store.relay.batch_bytes_max",
        Size {
            min: KIB,
            max: 256 * MIB,
        },
        Always("\"4MiB\""),
        "Bytes of one read, which are in memory at once; a single row may be larger.",
        "每次读取的字节数上限，同时驻留内存；单行可更大。",
    ),
    fixed(
        "store.relay.row_bytes_max",
        Size {
            min: KIB,
            max: 64 * MIB,
        },
        Always("\"1MiB\""),
        "A larger publication is put aside in tidegate.outbox_dead; its tags count all the same.",
        "更大的发布移入 tidegate.outbox_dead；其标签仍然生效。",
    ),
    fixed(
        "store.relay.retain",
        Time {
            min_ms: 1_000,
            max_ms: 30 * DAY,
        },
        Always("\"1h\""),
        "Older publications are given up unread, counted, and every kept answer is void then.",
        "更早的发布不再送达并计数，同时使所有缓存结果失效。",
    ),
    fixed(
        "store.relay.rows_max",
        Count {
            min: 1_000,
            max: 1_000_000_000,
        },
        Always("1000000"),
        "Most rows in the outbox; beyond, the oldest are given up like those that are too old.",
        "发布表的最大行数；超出时放弃最旧的，与过旧的处理相同。",
    ),
    fixed(
        "store.relay.bytes_max",
        Size { min: MIB, max: TIB },
        Always("\"1GiB\""),
        "Bytes of the table's files at which tidegate.publish takes no more. It holds while no Tidegate runs.",
        "表文件达到此字节数后 tidegate.publish 不再接收。没有 Tidegate 运行时同样有效。",
    ),
    fixed(
        "store.relay.when_full",
        Choice(&["drop", "error"]),
        Always("\"drop\""),
        "What tidegate.publish does then: warn, count and go on, or fail, which fails the transaction of the application.",
        "此时 tidegate.publish 的行为：drop 告警、计数并继续；error 报错，应用的事务随之失败。",
    ),
    fixed(
        "store.relay.node_gone_after",
        Time {
            min_ms: 30_000,
            max_ms: 30 * DAY,
        },
        Always("\"10m\""),
        "A node that was not seen for so long holds no rows back for itself any more. A lone node finds its rows however long it was away, within retain.",
        "节点在此时间内未出现，则不再为其保留。单节点无论离开多久，在 retain 之内的都能取回。",
    ),
    fixed(
        "store.relay.alarm_rows",
        Count {
            min: 1,
            max: 1_000_000_000,
        },
        Always("10000"),
        "More rows that wait raise the alarm: store_relay_alarm, the log, `tidegate check`.",
        "等待行数超过此值即告警：store_relay_alarm、日志与 `tidegate check`。",
    ),
    fixed(
        "store.relay.alarm_age",
        Time {
            min_ms: 100,
            max_ms: DAY,
        },
        Always("\"30s\""),
        "So does a row that waits for longer, such as behind a transaction that is left open.",
        "某行等待超过此时间同样告警，例如有事务长期未结束。",
    ),
];
