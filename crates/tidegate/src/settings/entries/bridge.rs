//! Settings of the bridge: where Redis is, and which formats of publishers are heard there.

use super::{HOUR, KIB, MIB, NAME, fixed};
use crate::settings::table::{
    Initial::{Absent, Always},
    Kind::{Choices, Flag, List, Size, Text, Time},
    Setting,
};

/// This part of the table.
pub(super) const PART: &[Setting] = &[
    fixed(
        "bridge.url",
        Text {
            bytes_max: 4_096,
            form: "\"redis://host:6379/0\"",
        },
        Absent("\"redis://127.0.0.1:6379/0\""),
        "Redis or Valkey that the publishers use. Absent: nothing is heard from there.",
        "发布方使用的 Redis 或 Valkey。不写则不从那里接收。",
    ),
    fixed(
        "bridge.url_env",
        NAME,
        Absent("\"REDIS_URL\""),
        "Environment variable with that URL, so that the file holds no password.",
        "存放该 URL 的环境变量，文件中便没有密码。",
    ),
    fixed(
        "bridge.formats",
        Choices(&["classic", "sharded", "streams", "python"]),
        Always("[\"classic\", \"sharded\", \"streams\", \"python\"]"),
        "Which publishers are understood: @socket.io/redis-emitter, createShardedAdapter (Redis 7), @socket.io/redis-streams-emitter, python-socketio from 5.14.",
        "可识别的发布方：@socket.io/redis-emitter、createShardedAdapter（Redis 7）、@socket.io/redis-streams-emitter、python-socketio 5.14 及以上。",
    ),
    fixed(
        "bridge.key",
        Text {
            bytes_max: 256,
            form: "a prefix such as \"socket.io\"",
        },
        Always("\"socket.io\""),
        "Prefix of the classic channels: the emitter's option key.",
        "classic 频道的前缀，即 emitter 的 key 选项。",
    ),
    fixed(
        "bridge.channel_prefix",
        Text {
            bytes_max: 256,
            form: "a prefix such as \"socket.io\"",
        },
        Always("\"socket.io\""),
        "Prefix of the sharded channels: the adapter's option channelPrefix.",
        "sharded 频道的前缀，即适配器的 channelPrefix 选项。",
    ),
    fixed(
        "bridge.follow_rooms",
        Flag,
        Always("true"),
        "Hear the channel of each room that exists here, where the sharded adapter sends what is for one room unless its subscriptionMode is static.",
        "订阅本机现有各房间的频道；除 static 模式外，分片适配器把发往单个房间的消息发到那里。",
    ),
    fixed(
        "bridge.streams",
        List {
            items_max: 16,
            form: "the name of a stream",
        },
        Always("[\"socket.io\"]"),
        "Streams that are read: the emitter's option streamName; with streamCount n the names end in -0 to -(n-1).",
        "读取的流，即 emitter 的 streamName 选项；设了 streamCount n 时名称以 -0 至 -(n-1) 结尾。",
    ),
    fixed(
        "bridge.python_channels",
        List {
            items_max: 16,
            form: "the name of a channel",
        },
        Always("[\"socketio\", \"flask-socketio\"]"),
        "Channels of python-socketio's managers; Flask-SocketIO has another default.",
        "python-socketio 管理器的频道；Flask-SocketIO 的默认值不同。",
    ),
    fixed(
        "bridge.message_bytes_max",
        Size {
            min: KIB,
            max: 64 * MIB,
        },
        Always("\"8MiB\""),
        "Largest message that is read; a larger one is passed over and counted.",
        "读取的最大消息；更大的跳过并计数。",
    ),
    fixed(
        "bridge.wait",
        Time {
            min_ms: 0,
            max_ms: HOUR,
        },
        Always("\"200ms\""),
        "How long a message of a channel waits for a place in the gateway, while nothing more is read from Redis; then it is dropped and counted. An entry of a stream waits as long as it takes.",
        "频道消息等待网关腾出位置的时间，其间不再从 Redis 读取；之后丢弃并计数。流中的条目会一直等待。",
    ),
];
