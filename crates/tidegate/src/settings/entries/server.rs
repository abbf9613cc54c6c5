//! Settings of the server, its listeners, transports and limits.

use super::{GIB, HOUR, KIB, MIB, PATH, fixed, live};
use crate::settings::table::{
    Initial::{Absent, Always, ByPreset},
    Kind::{Address, Choice, Count, Flag, List, Size, Text, Time},
    Setting,
};

/// This part of the table.
pub(super) const PART: &[Setting] = &[
    fixed(
        "listen",
        Address,
        Always("\"127.0.0.1:8080\""),
        "Main listener: Socket.IO, publish, health. Loopback unless told otherwise, so that nothing is exposed by accident; port 0 takes a free one.",
        "主监听地址：Socket.IO、发布、健康检查。默认只在回环上，避免意外暴露；端口 0 为任取空闲端口。",
    ),
    fixed(
        "preset",
        Choice(&["small", "medium", "large"]),
        Always("\"medium\""),
        "Size of the installation: below 100 users, up to 1,000, above. It sets the defaults marked so; what you write wins.",
        "规模：100 用户以下、1,000 以内、以上。它决定带标记的默认值；显式写出的优先。",
    ),
    fixed(
        "path",
        Text {
            bytes_max: 256,
            form: "a path that starts with / and ends with /",
        },
        Always("\"/socket.io/\""),
        "Path of the Socket.IO endpoint; clients must use the same.",
        "Socket.IO 端点路径；客户端须一致。",
    ),
    fixed(
        "shards",
        Count { min: 0, max: 64 },
        Always("0"),
        "Threads that own connections; 0 is one a core. More than cores costs context switches and gains nothing.",
        "持有连接的线程数；0 为每核一个。超过核数只增加切换。",
    ),
    fixed(
        "origins",
        List {
            items_max: 1_000,
            form: "\"same-origin\", \"*\", \"https://a.example\" or \"https://*.example\"",
        },
        Always("[\"same-origin\"]"),
        "Web pages that may connect from a browser. \"*\" lets any site use the cookies of your users.",
        "允许从浏览器连接的网页来源。\"*\" 会让任何网站都能利用用户的 cookie。",
    ),
    fixed(
        "trusted_proxies",
        List {
            items_max: 1_000,
            form: "a network such as \"10.0.0.0/8\"",
        },
        Always("[]"),
        "Networks of proxies whose X-Forwarded-For and X-User-Id are believed. Name only your own.",
        "其 X-Forwarded-For 与 X-User-Id 可信的代理网段。只写自己的代理。",
    ),
    fixed(
        "tls.cert",
        PATH,
        Absent("\"cert.pem\""),
        "Certificate chain, PEM. The file is read again on SIGHUP.",
        "证书链，PEM。SIGHUP 时重读。",
    ),
    fixed(
        "tls.key",
        PATH,
        Absent("\"key.pem\""),
        "Private key, PEM. The file is read again on SIGHUP.",
        "私钥，PEM。SIGHUP 时重读。",
    ),
    fixed(
        "admin.listen",
        Address,
        Absent("\"127.0.0.1:9090\""),
        "A listener of its own, in plain HTTP, for figures and administration; absent, they are on the main one. Role admin is required unless the listener is loopback and the caller sits on this machine.",
        "指标与管理的独立监听（明文 HTTP）；不写则在主监听上。除非监听在回环上且请求来自本机，否则需要 admin 角色。",
    ),
    fixed(
        "log.level",
        Choice(&["error", "warn", "info", "debug", "trace"]),
        Always("\"info\""),
        "Least serious entry that is written.",
        "写出的最低级别。",
    ),
    fixed(
        "log.format",
        Choice(&["auto", "text", "json"]),
        Always("\"auto\""),
        "auto: text on a terminal, otherwise one JSON object a line.",
        "auto：终端上为文本，否则每行一个 JSON。",
    ),
    fixed(
        "http.body_bytes_max",
        Size {
            min: KIB,
            max: 64 * MIB,
        },
        Always("\"1MiB\""),
        "Largest body of an API request; a larger one is refused with 413. Each request may hold that much memory.",
        "接口请求体上限；超出回 413。每个请求最多占用这么多内存。",
    ),
    fixed(
        "transport.websocket",
        Flag,
        Always("true"),
        "Accept WebSocket.",
        "接受 WebSocket。",
    ),
    fixed(
        "transport.polling",
        Flag,
        Always("true"),
        "Accept HTTP long-polling; without it, clients must set transports: [\"websocket\"].",
        "接受 HTTP 长轮询；关闭后客户端须设 transports: [\"websocket\"]。",
    ),
    fixed(
        "transport.ping_interval",
        Time {
            min_ms: 50,
            max_ms: HOUR,
        },
        Always("\"25s\""),
        "Time from a pong to the next ping. Shorter finds dead clients sooner and costs about a microsecond of CPU per connection and ping.",
        "收到 pong 到下次 ping 的间隔。越短越早发现死连接，每次约耗一微秒 CPU。",
    ),
    fixed(
        "transport.ping_timeout",
        Time {
            min_ms: 50,
            max_ms: HOUR,
        },
        Always("\"20s\""),
        "How long a pong may take before the connection is broken. Too short cuts clients on slow networks.",
        "pong 的最长等待。过短会误断慢网络的客户端。",
    ),
    fixed(
        "transport.connect_timeout",
        Time {
            min_ms: 10,
            max_ms: HOUR,
        },
        Always("\"45s\""),
        "How long a connection may live without a namespace.",
        "未加入命名空间的连接最长存活。",
    ),
    fixed(
        "transport.upgrade_timeout",
        Time {
            min_ms: 10,
            max_ms: HOUR,
        },
        Always("\"10s\""),
        "How long an upgrade from polling may take.",
        "从轮询升级的最长时间。",
    ),
    fixed(
        "transport.request_head_timeout",
        Time {
            min_ms: 10,
            max_ms: HOUR,
        },
        Always("\"10s\""),
        "How long a request head may take to arrive; stops slow senders.",
        "请求头到齐的最长时间；防慢速攻击。",
    ),
    fixed(
        "transport.payload_bytes_max",
        Size { min: KIB, max: GIB },
        Always("\"1MB\""),
        "Largest message from a client, after inflation (maxHttpBufferSize).",
        "来自客户端的最大消息（解压后，即 maxHttpBufferSize）。",
    ),
    live(
        "limits.connections",
        Count {
            min: 0,
            max: 10_000_000,
        },
        ByPreset(["100", "1000", "5000"]),
        "Connections of the server; more are refused with 503. 0: only the open-file limit counts.",
        "服务器连接数上限；超出回 503。0：仅受打开文件数限制。",
    ),
    live(
        "limits.sessions_per_user",
        Count {
            min: 0,
            max: 1_000_000,
        },
        Always("0"),
        "Sessions of one user. 0 is no limit.",
        "单用户会话数。0 不限。",
    ),
    live(
        "limits.connections_per_address",
        Count {
            min: 0,
            max: 10_000_000,
        },
        Always("0"),
        "Connections from one address. 0 is no limit; offices share addresses.",
        "单地址连接数。0 不限；办公室常共用地址。",
    ),
    live(
        "limits.accepts_per_second",
        Count {
            min: 0,
            max: 1_000_000,
        },
        Always("0"),
        "New connections a second. 0 is no limit; a limit spreads a reconnect storm over time.",
        "每秒新连接。0 不限；设限可摊平重连风暴。",
    ),
    live(
        "limits.namespaces_per_connection",
        Count { min: 1, max: 1_000 },
        Always("16"),
        "Namespaces one connection may join.",
        "单连接可加入的命名空间数。",
    ),
    live(
        "limits.rooms",
        Count {
            min: 1,
            max: 100_000_000,
        },
        Always("1000000"),
        "Rooms of one namespace, those that only keep messages included; a room costs about 200 bytes.",
        "单个命名空间的房间数，含仅保留消息的房间；每个约 200 字节。",
    ),
    live(
        "limits.rooms_per_session",
        Count { min: 1, max: 100_000 },
        Always("1000"),
        "Rooms one session may join; each membership costs about 50 bytes.",
        "单会话可加入的房间数；每个约 50 字节。",
    ),
    live(
        "limits.name_bytes_max",
        Count { min: 1, max: 4_096 },
        Always("256"),
        "Bytes of a room's or user's name.",
        "房间名或用户名的字节数。",
    ),
    live(
        "limits.events_per_second",
        Count {
            min: 0,
            max: 1_000_000,
        },
        Always("0"),
        "Events a second one session may send, with a burst of twice that. 0 is no limit.",
        "单会话每秒事件数，突发为其两倍。0 不限。",
    ),
    live(
        "limits.handlers_in_flight",
        Count { min: 1, max: 65_536 },
        Always("64"),
        "Events of one session in or before handlers; above it the server stops reading that client.",
        "单会话处理中及等待的事件；超出则暂停读取该客户端。",
    ),
    live(
        "limits.handler_bytes_in_flight",
        Size { min: KIB, max: GIB },
        Always("\"4MiB\""),
        "Bytes of those events.",
        "这些事件的字节数。",
    ),
    live(
        "limits.acks_in_flight",
        Count {
            min: 1,
            max: 1_000_000,
        },
        Always("10000"),
        "Acknowledgements one session may owe at once.",
        "单会话同时未答复的确认数。",
    ),
    fixed(
        "limits.inbox_commands_max",
        Count {
            min: 256,
            max: 16 * MIB,
        },
        Always("65536"),
        "Commands waiting for one shard; above it a publish is refused as overloaded.",
        "单分片等待的命令；超出则发布被拒（overloaded）。",
    ),
];
