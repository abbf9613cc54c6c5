//! Settings of delivery, recovery and sessions.

use super::{DAY, GIB, HOUR, KIB, MIB, fixed};
use crate::settings::table::{
    Initial::{Always, ByPreset},
    Kind::{Choices, Count, Flag, Size, Text, Time},
    Setting,
};

/// This part of the table.
pub(super) const PART: &[Setting] = &[
    fixed(
        "outbox.soft_bytes",
        Size { min: KIB, max: GIB },
        Always("\"256KiB\""),
        "Above this the policy of each publication acts: drop the oldest, conflate, or wait. A slow client may hold that much memory.",
        "超过后按发布策略处理：丢最旧、合并或等待。每个慢客户端最多占这么多内存。",
    ),
    fixed(
        "outbox.hard_bytes",
        Size { min: KIB, max: GIB },
        Always("\"1MiB\""),
        "Above this the connection is closed as a slow consumer; it may recover. At least soft_bytes.",
        "超过后按慢消费者断开（可恢复）。不小于 soft_bytes。",
    ),
    fixed(
        "outbox.entries_max",
        Count {
            min: 16,
            max: 16 * MIB,
        },
        Always("65536"),
        "Messages waiting, whatever their size.",
        "等待的消息条数，不论大小。",
    ),
    fixed(
        "outbox.stall_timeout",
        Time {
            min_ms: 10,
            max_ms: HOUR,
        },
        Always("\"30s\""),
        "A socket that takes nothing for this long is closed.",
        "套接字这么久不收数据即断开。",
    ),
    fixed(
        "outbox.flush_window_max",
        Time {
            min_ms: 0,
            max_ms: 1_000,
        },
        Always("\"50ms\""),
        "Longest wait for more messages to share a write, on a shard above 60 % load; a lone message leaves at once. Longer saves CPU and adds latency under load.",
        "分片负载超过 60% 时为合并写出的最长等待；单条消息立即发出。越长越省 CPU、负载下延迟越高。",
    ),
    fixed(
        "batch.messages_max",
        Count { min: 1, max: 10_000 },
        ByPreset(["50", "100", "200"]),
        "Messages in one batch event.",
        "单个批量事件的消息数。",
    ),
    fixed(
        "batch.bytes_max",
        Size {
            min: 64,
            max: 16 * MIB,
        },
        Always("\"64KiB\""),
        "Bytes in one batch event.",
        "单个批量事件的字节数。",
    ),
    fixed(
        "batch.delay",
        Time {
            min_ms: 0,
            max_ms: 10_000,
        },
        ByPreset(["\"100ms\"", "\"50ms\"", "\"25ms\""]),
        "Longest a message waits for others; longer makes fuller batches and later messages.",
        "消息等待同伴的最长时间；越长批越满、消息越晚。",
    ),
    fixed(
        "deflate.enabled",
        Flag,
        Always("true"),
        "Offer compression. It is done once for all receivers of a broadcast.",
        "提供压缩。一次广播只压缩一次。",
    ),
    fixed(
        "deflate.threshold_bytes",
        Size { min: 0, max: GIB },
        Always("\"1KiB\""),
        "Smaller messages go plain: they hardly shrink.",
        "更小的消息不压缩：几乎不会变小。",
    ),
    fixed(
        "deflate.level",
        Count { min: 1, max: 9 },
        Always("3"),
        "zlib level; on small JSON 3 comes within a few percent of 6 at half its time.",
        "zlib 级别；小 JSON 上 3 与 6 相差百分之几，耗时减半。",
    ),
    fixed(
        "recovery.enabled",
        Flag,
        Always("true"),
        "Keep lost sessions and replay what they missed.",
        "保留断线会话并补发遗漏的消息。",
    ),
    fixed(
        "recovery.window",
        Time {
            min_ms: 1_000,
            max_ms: DAY,
        },
        Always("\"2m\""),
        "How long a lost session waits. Longer recovers more and keeps more sessions in memory.",
        "断线会话保留时间。越长恢复越多、占内存越多。",
    ),
    fixed(
        "recovery.ring_bytes_max",
        Size {
            min: 64 * KIB,
            max: 64 * GIB,
        },
        Always("\"32MiB\""),
        "Bytes of messages kept for replay in each namespace. It must hold what is published in the window.",
        "每个命名空间为补发保留的字节。须容纳窗口期内发布的消息。",
    ),
    fixed(
        "sessions.idle_after",
        Time {
            min_ms: 100,
            max_ms: DAY,
        },
        Always("\"60s\""),
        "No event for this long is idle.",
        "这么久无事件为空闲。",
    ),
    fixed(
        "sessions.stale_after",
        Time {
            min_ms: 100,
            max_ms: DAY,
        },
        Always("\"300s\""),
        "No event for this long is stale. At least idle_after.",
        "这么久无事件为陈旧。不小于 idle_after。",
    ),
    fixed(
        "sessions.close_stale",
        Flag,
        Always("false"),
        "Close stale sessions. Clients that only listen are stale too: leave it off for feeds.",
        "关闭陈旧会话。只接收的客户端也会变陈旧：行情推送请勿开启。",
    ),
    fixed(
        "sessions.sweep_every",
        Time {
            min_ms: 100,
            max_ms: HOUR,
        },
        ByPreset(["\"60s\"", "\"60s\"", "\"30s\""]),
        "How often all sessions are looked at.",
        "全部会话的巡检周期。",
    ),
    fixed(
        "builtins.events",
        Choices(&["join", "leave", "publish", "presence", "auth", "ingest", "query"]),
        Always("[\"join\", \"leave\", \"publish\", \"presence\", \"auth\", \"ingest\", \"query\"]"),
        "Built-in events that are answered; ingest and query only beside a feed or query, in the namespace /.",
        "会应答的内置事件；ingest 与 query 仅在声明了数据源或查询时有效，且只在命名空间 /。",
    ),
    fixed(
        "builtins.prefix",
        Text {
            bytes_max: 64,
            form: "a short prefix",
        },
        Always("\"\""),
        "Put before each name, for example \"tidegate:\", where an application has events of the same names.",
        "加在事件名前，如 \"tidegate:\"，用于与应用的同名事件区分。",
    ),
    fixed(
        "publish.ids_max",
        Count {
            min: 0,
            max: 10_000_000,
        },
        Always("10000"),
        "Idempotency ids remembered in each namespace; about 100 bytes each.",
        "每个命名空间记住的幂等编号；每个约 100 字节。",
    ),
    fixed(
        "publish.id_ttl",
        Time {
            min_ms: 1_000,
            max_ms: DAY,
        },
        Always("\"2m\""),
        "How long an id is remembered.",
        "编号记住多久。",
    ),
    fixed(
        "drain.closes_per_second",
        Count {
            min: 1,
            max: 1_000_000,
        },
        Always("2000"),
        "Connections closed a second, so that they do not all come back at once.",
        "每秒关闭的连接，避免同时重连。",
    ),
    fixed(
        "drain.timeout",
        Time {
            min_ms: 0,
            max_ms: HOUR,
        },
        Always("\"30s\""),
        "After this the rest is cut.",
        "超过后其余直接切断。",
    ),
];
