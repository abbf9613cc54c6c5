//! Settings of what the server stays inside of: memory, requests at once, the cache.

use super::{GIB, HOUR, KIB, MIB, NAME, PATH, fixed, live};
use crate::settings::table::{
    Initial::{Absent, Always, ByPreset},
    Kind::{Count, Flag, Size, Text, Time},
    Setting,
};

const TIB: u64 = 1 << 40;
const PERCENT: super::Kind = Count { min: 5, max: 100 };

/// This part of the table.
pub(super) const PART: &[Setting] = &[
    live(
        "memory.budget",
        Size {
            min: 16 * MIB,
            max: 1 << 50,
        },
        Absent("\"2GiB\""),
        "Memory the server plans with; at most what the machine and its cgroup have. Absent: the lower of the cgroup limit and half of the host's memory.",
        "服务器规划使用的内存，不得超过主机与 cgroup 所有。不写则取 cgroup 限制与主机内存一半中的较小者。",
    ),
    live(
        "memory.critical",
        Count { min: 10, max: 100 },
        ByPreset(["70", "80", "85"]),
        "Percent at which the level is critical: the slowest readers are closed; of the budget, it is also where accounts are full: publishes and connections beyond it are refused as overloaded.",
        "达到该百分比即为危急级别：关闭最慢的读者；按预算计，也是记账满的界线：此后的发布与连接被拒（overloaded）。",
    ),
    live(
        "memory.high",
        PERCENT,
        Absent("72"),
        "Percent at which the level is high: no new connections, stale and idle ones are closed. Absent: 8 below critical.",
        "达到该百分比即为高级别：不再接受新连接，关闭陈旧与空闲连接。不写则比 critical 低 8。",
    ),
    live(
        "memory.moderate",
        PERCENT,
        Absent("60"),
        "Percent at which the level is moderate: caches, recovery rings and spare buffers shrink. Absent: 20 below critical.",
        "达到该百分比即为中级别：收缩缓存、恢复环与备用缓冲。不写则比 critical 低 20。",
    ),
    live(
        "memory.stalls",
        Flag,
        Always("true"),
        "Let the kernel's pressure stall information (PSI), where there is one, raise the level by one.",
        "允许内核的压力停顿信息（PSI，若有）将级别上调一级。",
    ),
    fixed(
        "memory.leaks",
        Flag,
        Always("true"),
        "Look for memory that grows without load. A suspicion turns heap sampling on, so that the alarm names the place.",
        "检测与负载无关的内存增长。一旦怀疑即开启堆采样，告警会指出位置。",
    ),
    live(
        "concurrency.enabled",
        Flag,
        Always("true"),
        "Adapt how many API requests and queries run at once to what the server and its database can do.",
        "按服务器与数据库的能力自动调整同时执行的 API 请求与查询数。",
    ),
    fixed(
        "concurrency.min",
        Count { min: 1, max: 10_000 },
        Always("8"),
        "Never fewer at once.",
        "同时执行数的下限。",
    ),
    fixed(
        "concurrency.max",
        Count { min: 1, max: 100_000 },
        Always("1000"),
        "Never more at once; what comes beyond the limit waits shortly or is told 503 with Retry-After.",
        "同时执行数的上限；超出者短暂等待，否则以 503 与 Retry-After 应答。",
    ),
    fixed(
        "concurrency.initial",
        Count { min: 1, max: 100_000 },
        Always("100"),
        "At the start, before anything is measured.",
        "启动时尚未测量之前的值。",
    ),
    fixed(
        "concurrency.queue_max",
        Count { min: 0, max: 100_000 },
        Always("100"),
        "How many may wait for their turn.",
        "可排队等待的数量。",
    ),
    fixed(
        "concurrency.wait_max",
        Time {
            min_ms: 0,
            max_ms: 60_000,
        },
        Always("\"100ms\""),
        "How long one may wait for its turn.",
        "排队等待的最长时间。",
    ),
    fixed(
        "cache.memory",
        Size { min: 0, max: TIB },
        Always("\"64MiB\""),
        "Bytes of query answers kept in memory; 0 turns the cache off. It shrinks under memory pressure and grows back.",
        "内存中保留的查询结果字节数；0 关闭缓存。内存紧张时收缩，之后恢复。",
    ),
    fixed(
        "cache.entries_max",
        Count {
            min: 1,
            max: 1_000_000_000,
        },
        Always("100000"),
        "Answers kept in memory at most.",
        "内存中保留的结果条数上限。",
    ),
    fixed(
        "cache.disk_dir",
        PATH,
        Absent("\"data/cache\""),
        "Folder of a second level on disk, which takes what memory drops. Losing it costs only misses. Absent: none.",
        "磁盘第二级缓存的目录，接收内存淘汰的条目，丢失只意味着未命中。不写则没有。",
    ),
    fixed(
        "cache.disk_bytes_max",
        Size {
            min: 4 * MIB,
            max: TIB,
        },
        Always("\"1GiB\""),
        "Most bytes of that level, oldest dropped first.",
        "该级的最大字节数，最旧者先丢弃。",
    ),
    fixed(
        "cache.redis_url",
        Text {
            bytes_max: 4_096,
            form: "\"redis://host:6379/0\"",
        },
        Absent("\"redis://127.0.0.1:6379/0\""),
        "Redis 6 or Valkey as a level shared by nodes; what one node invalidates, all drop. Absent: none.",
        "各节点共享的一级缓存（Redis 6 以上或 Valkey）；任一节点失效的内容，所有节点都会丢弃。不写则没有。",
    ),
    fixed(
        "cache.redis_url_env",
        NAME,
        Absent("\"REDIS_URL\""),
        "Environment variable with that URL, so that the file holds no password.",
        "存放该 URL 的环境变量，文件中便没有密码。",
    ),
    fixed(
        "cache.redis_stale_max",
        Time {
            min_ms: 100,
            max_ms: HOUR,
        },
        Always("\"5s\""),
        "While Redis is away answers may miss what other nodes invalidated, at most for so long.",
        "Redis 不可用期间，结果可能未反映其他节点的失效，最长不超过此时间。",
    ),
    fixed(
        "cache.value_bytes_max",
        Size { min: KIB, max: GIB },
        Always("\"1MiB\""),
        "A larger answer is not kept.",
        "更大的结果不缓存。",
    ),
];
