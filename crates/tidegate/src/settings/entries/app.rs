//! Settings of the application behind the server: where it is, what it is asked, what it may keep.

use super::{GIB, HOUR, KIB, MIB, NAME, PATH, fixed};
use crate::settings::table::{
    Initial::{Absent, Always},
    Kind::{Choices, Count, Flag, List, Size, Text, Time},
    Setting,
};

/// This part of the table.
pub(super) const PART: &[Setting] = &[
    fixed(
        "app.url",
        Text {
            bytes_max: 2_048,
            form: "\"http://host:port/path\" or \"https://…\"",
        },
        Absent("\"http://127.0.0.1:8000/tidegate\""),
        "Where connects, events and disconnects of clients are posted. Absent: there is no application, and clients have the built-in events alone.",
        "客户端的连接、事件与断开发往此处。不写则没有应用，客户端只有内置事件。",
    ),
    fixed(
        "app.secret_env",
        NAME,
        Absent("\"TIDEGATE_APP_SECRET\""),
        "Environment variable with the secret that signs each request, at least 32 bytes. Needed beside url; docs/protocol.md says how to verify.",
        "签名每个请求的密钥所在的环境变量，至少 32 字节。与 url 同时必填；验证方法见 docs/protocol.md。",
    ),
    fixed(
        "app.ca_file",
        PATH,
        Absent("\"app-ca.pem\""),
        "Certificates (PEM) that an https application is checked against. Absent: those that this machine trusts.",
        "校验 https 应用所用的证书（PEM）。不写则用本机信任的证书。",
    ),
    fixed(
        "app.namespaces",
        List {
            items_max: 64,
            form: "a name that begins with /",
        },
        Always("[\"/\"]"),
        "Namespaces whose clients the application answers; those besides / exist only by this.",
        "由应用应答的命名空间；除 / 外的命名空间仅由此声明。",
    ),
    fixed(
        "app.events",
        List {
            items_max: 256,
            form: "a pattern such as \"chat:*\"",
        },
        Always("[\"*\"]"),
        "Events that go to the application; others are answered with not_found. Connects and disconnects always go.",
        "发往应用的事件；其余以 not_found 应答。连接与断开总会发送。",
    ),
    fixed(
        "app.builtin",
        Choices(&["join", "leave", "publish", "presence", "auth", "ingest", "query"]),
        Always("[]"),
        "Built-in events that are answered here although there is an application; it replaces builtins.events.",
        "有应用时仍由服务器应答的内置事件；取代 builtins.events。",
    ),
    fixed(
        "app.builtin_prefix",
        Text {
            bytes_max: 64,
            form: "a short prefix",
        },
        Absent("\"tidegate:\""),
        "Put before their names, where the application has events of the same names. Absent: builtins.prefix.",
        "加在这些事件名前，避免与应用的同名事件冲突。不写则用 builtins.prefix。",
    ),
    fixed(
        "app.timeout",
        Time {
            min_ms: 10,
            max_ms: HOUR,
        },
        Always("\"5s\""),
        "Longest time from an event to its answer, the wait for a place included; then the client gets app_unavailable.",
        "从事件到应答的最长时间（含排队）；超时则客户端得到 app_unavailable。",
    ),
    fixed(
        "app.in_flight",
        Count { min: 1, max: 65_536 },
        Always("256"),
        "Requests that the application has not answered; one of each session at most. More wait.",
        "应用尚未应答的请求数上限，每个会话至多一个。其余等待。",
    ),
    fixed(
        "app.waiting_max",
        Count {
            min: 0,
            max: 1_000_000,
        },
        Always("10000"),
        "Requests that wait for a place, one of each session; more are refused as overloaded.",
        "等待名额的请求数上限，每个会话一个；超出以 overloaded 拒绝。",
    ),
    fixed(
        "app.answer_bytes_max",
        Size {
            min: KIB,
            max: 256 * MIB,
        },
        Always("\"1MiB\""),
        "Largest answer that is read; a larger one is no answer.",
        "读取的最大应答；超出视为无效。",
    ),
    fixed(
        "app.data_bytes_max",
        Size {
            min: 0,
            max: 16 * MIB,
        },
        Always("\"16KiB\""),
        "Most bytes that the application keeps with one session; they count against the memory budget.",
        "应用为单个会话保存的数据上限；计入内存预算。",
    ),
    fixed(
        "app.keep_alive",
        Time {
            min_ms: 0,
            max_ms: HOUR,
        },
        Always("\"4s\""),
        "How long an unused connection to the application is kept. Below the application's own limit (5 s for uvicorn and Node), so that no request meets a connection that closes.",
        "与应用的空闲连接保留时间。须小于应用自身的限制（uvicorn 与 Node 为 5 秒），避免请求遇上正在关闭的连接。",
    ),
    fixed(
        "app.breaker_failures",
        Count { min: 1, max: 10_000 },
        Always("10"),
        "Failures in a row (no connection, no answer in time, 502 to 504) after which the application counts as down and is not asked.",
        "连续失败（无法连接、超时、502 至 504）多少次后视应用为不可用并暂停请求。",
    ),
    fixed(
        "app.breaker_pause",
        Time {
            min_ms: 10,
            max_ms: HOUR,
        },
        Always("\"1s\""),
        "How long it is then left alone, less up to half by chance, before one request is tried again.",
        "之后停多久（随机缩短至多一半）再试一次请求。",
    ),
    fixed(
        "app.spool.enabled",
        Flag,
        Always("true"),
        "Keep disconnects on disk until the application was told. Off: they are kept in memory and lost with the process.",
        "断开通知写盘，直至应用得知。关闭则仅在内存中，随进程丢失。",
    ),
    fixed(
        "app.spool.dir",
        PATH,
        Absent("\"data/app\""),
        "Folder of that spool; absent: app in store.data_dir. tmpfs is refused: it does not survive a restart.",
        "该暂存区目录；不写则为 store.data_dir 下的 app。拒绝 tmpfs：重启即失。",
    ),
    fixed(
        "app.spool.bytes_max",
        Size {
            min: MIB,
            max: 64 * GIB,
        },
        Always("\"64MiB\""),
        "Most bytes on disk, about 300 a disconnect; then the newest are lost and counted.",
        "磁盘上的最大字节数，每次断开约 300 字节；之后丢弃最新的并计数。",
    ),
];
