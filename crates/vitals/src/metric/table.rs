//! The table of all figures: one entry each, from which the ids are made.

use super::{Kind, Label, Metric, Unit};

/// Declares [`Id`] and [`TABLE`] together, so that an id without an entry cannot be written.
macro_rules! metrics {
    ($($id:ident: $kind:ident $unit:ident $name:literal [$($label:ident <= $max:literal),*] $en:literal $zh:literal;)*) => {
        /// Names a metric in code; a typo does not compile.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Id { $(#[doc = $en] $id,)* }

        /// Every figure of the process, in the order of [`Id`].
        pub static TABLE: &[Metric] = &[$(Metric {
            id: Id::$id,
            name: $name,
            unit: Unit::$unit,
            kind: Kind::$kind,
            labels: &[$(Label { name: stringify!($label), values_max: $max }),*],
            help_en: $en,
            help_zh: $zh,
        },)*];
    };
}

impl Id {
    /// The entry of this metric.
    pub fn metric(self) -> &'static Metric {
        &TABLE[self as usize]
    }

    /// All ids, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|metric| metric.id)
    }

    /// The id whose metric has this name.
    pub fn by_name(name: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|metric| metric.name == name)
            .map(|metric| metric.id)
    }
}

metrics! {
    // Connections, sessions, rooms.
    GatewayConnections: Gauge Count "gateway_connections" [state <= 8] "Connections by state" "各状态的连接数";
    GatewayConnectionsTransport: Gauge Count "gateway_transport_connections" [transport <= 4] "Connections by transport" "各传输方式的连接数";
    GatewaySessions: Gauge Count "gateway_sessions" [] "Socket.IO sessions alive or awaiting recovery" "存活或等待恢复的 Socket.IO 会话数";
    GatewayUsers: Gauge Count "gateway_users" [] "Distinct users with at least one session" "至少有一个会话的用户数";
    GatewayRooms: Gauge Count "gateway_rooms" [] "Rooms with at least one member" "至少有一个成员的房间数";
    GatewayPresenceMembers: Gauge Count "gateway_presence_members" [] "Members over all rooms with presence" "启用在线状态的房间成员总数";

    // Admission and the end of connections.
    GatewayAccepted: Counter Count "gateway_accepted" [] "Connections accepted" "已接受的连接数";
    GatewayRefused: Counter Count "gateway_refused" [reason <= 32] "Connections refused, by reason" "按原因统计的被拒绝连接数";
    GatewayClosed: Counter Count "gateway_closed" [reason <= 48] "Connections closed, by reason" "按原因统计的已关闭连接数";
    GatewayAdmission: Histogram Nanoseconds "gateway_admission_seconds" [] "Time from request to decision on a new connection" "新连接从请求到准入决定的时间";
    GatewayHandshakeErrors: Counter Count "gateway_handshake_errors" [] "Handshakes that failed" "失败的握手次数";
    GatewayTlsHandshakes: Counter Count "gateway_tls_handshakes" [] "TLS handshakes completed" "完成的 TLS 握手次数";
    GatewayTlsHandshakeErrors: Counter Count "gateway_tls_handshake_errors" [] "TLS handshakes that failed" "失败的 TLS 握手次数";
    GatewaySlowClosed: Counter Count "gateway_slow_closed" [] "Connections closed because they read too slowly" "因读取过慢而关闭的连接数";

    // Recovery.
    GatewayRecoverEligible: Counter Count "gateway_recover_eligible" [] "Reconnects that asked for recovery" "请求恢复的重连次数";
    GatewayRecovered: Counter Count "gateway_recovered" [] "Sessions recovered" "已恢复的会话数";
    GatewayRecoverMissed: Counter Count "gateway_recover_missed" [reason <= 16] "Recoveries that failed, by reason" "按原因统计的恢复失败次数";
    GatewayTakenOver: Counter Count "gateway_taken_over" [] "Sessions taken over from a half-open connection" "从半开连接接管的会话数";
    GatewayRingBytes: Gauge Bytes "gateway_ring_bytes" [] "Bytes held by the recovery rings" "恢复环缓冲占用的字节数";
    GatewayRingMessages: Gauge Count "gateway_ring_messages" [] "Messages held by the recovery rings" "恢复环缓冲中的消息数";

    // Traffic.
    GatewayMessagesIn: Counter Count "gateway_messages_in" [] "Packets received from clients" "从客户端收到的数据包数";
    GatewayMessagesOut: Counter Count "gateway_messages_out" [] "Packets written to clients" "写给客户端的数据包数";
    GatewayBytesIn: Counter Bytes "gateway_in_bytes" [] "Bytes received from clients" "从客户端收到的字节数";
    GatewayBytesOut: Counter Bytes "gateway_out_bytes" [] "Bytes written to clients" "写给客户端的字节数";
    GatewayEvents: Counter Count "gateway_events" [] "Events received from clients" "从客户端收到的事件数";
    GatewayPublishes: Counter Count "gateway_publishes" [] "Publications accepted" "已接受的发布次数";
    GatewayDeliveries: Counter Count "gateway_deliveries" [] "Messages put into an outbox" "放入发件箱的消息数";
    GatewayWrites: Counter Count "gateway_writes" [] "Writes to sockets" "套接字写入次数";
    GatewayFramesPerWrite: Histogram Count "gateway_frames_per_write" [] "Frames that shared one write" "一次写入合并的帧数";
    GatewayBatchSize: Histogram Count "gateway_batch_messages" [] "Messages in one batch event" "一个批量事件中的消息数";
    GatewayBatchEvents: Counter Count "gateway_batch_events" [] "Batch events sent" "已发送的批量事件数";
    GatewayOutboxBytes: Gauge Bytes "gateway_outbox_bytes" [] "Bytes waiting in outboxes" "发件箱中等待的字节数";
    GatewayOutboxFrames: Gauge Count "gateway_outbox_frames" [] "Frames waiting in outboxes" "发件箱中等待的帧数";
    GatewayDropped: Counter Count "gateway_dropped" [] "Messages dropped from full outboxes" "因发件箱已满而丢弃的消息数";
    GatewayConflated: Counter Count "gateway_conflated" [] "Messages replaced by a newer one of their key" "被同键新消息替换的消息数";
    GatewayDeliveryLatency: Histogram Nanoseconds "gateway_delivery_latency_seconds" [] "Time from publish to write" "从发布到写出的时间";
    GatewayDeflateSavedBytes: Counter Bytes "gateway_deflate_saved_bytes" [] "Bytes that compression kept off the wire" "压缩节省的字节数";

    // Shards.
    GatewayTurn: Histogram Nanoseconds "gateway_turn_seconds" [] "Length of a shard's turn" "分片单轮处理时间";
    GatewayShardUtilisation: Gauge PerMille "gateway_shard_utilisation_ratio" [shard <= 128] "Share of time a shard is busy" "分片忙碌时间占比";
    GatewayShardInbox: Gauge Count "gateway_shard_inbox" [shard <= 128] "Commands waiting in a shard's inbox" "分片收件箱中等待的命令数";
    GatewayFlushWindow: Gauge Microseconds "gateway_flush_window_seconds" [shard <= 128] "How long frames may wait to share a write" "帧为合并写入可等待的时间";
    GatewayInboxFull: Counter Count "gateway_inbox_full" [] "Publications refused because a shard's inbox was full" "因分片收件箱已满而拒绝的发布次数";

    // Handlers and limits.
    GatewayRateLimited: Counter Count "gateway_rate_limited" [] "Events refused by a session's rate limit" "因会话速率限制而拒绝的事件数";
    GatewayAcks: Counter Count "gateway_acks" [] "Acknowledgements received for events we sent" "收到的事件确认数";
    GatewayAckTimeouts: Counter Count "gateway_ack_timeouts" [] "Acknowledgements that did not come in time" "超时未到的确认数";
    GatewayHandlerInFlight: Gauge Count "gateway_handler_in_flight" [] "Event handlers running" "正在运行的事件处理器数";
    GatewayHandlerErrors: Counter Count "gateway_handler_errors" [] "Event handlers that failed or panicked" "失败或崩溃的事件处理器次数";
    GatewayEndingDropped: Counter Count "gateway_ending_dropped" [] "Events of ended sessions dropped because too many waited" "因等待过多而丢弃的已结束会话的事件数";
    GatewayReadingPaused: Gauge Count "gateway_reading_paused" [] "Connections whose reading is paused by their handlers" "因处理器积压而暂停读取的连接数";

    // Answers of clients that were collected and did not fit.
    GatewayAcksDropped: Counter Count "gateway_acks_dropped" [] "Acknowledgements that a collection had no room for or that were no JSON" "因收集容量不足或不是 JSON 而未保留的确认数";

    // Joins, leaves and disconnections that the application asks of many sessions at once.
    GatewayActions: Counter Count "gateway_actions" [action <= 4] "Joins, leaves and disconnections asked of chosen sessions, by action" "按操作统计的对选定会话的加入、离开与断开请求数";
    GatewayActionSessions: Counter Count "gateway_action_sessions" [action <= 4] "Sessions of which these were asked, by action" "按操作统计的上述请求涉及的会话数";
    GatewayActionRefused: Counter Count "gateway_action_refused" [] "Sessions that did not get into all rooms of a join because they were in as many as one may be in" "因所在房间数已达上限而未能加入全部房间的会话数";

    // The gateway under memory pressure.
    GatewayRelief: Counter Count "gateway_relief" [reaction <= 8] "Messages, connections and other things given up under memory pressure, by reaction" "内存压力下按措施统计的放弃项（消息、连接等）数";
    GatewayReliefBytes: Counter Bytes "gateway_relief_bytes" [reaction <= 8] "Bytes given up under memory pressure, by reaction" "内存压力下按措施统计的释放字节数";
    GatewayNoMemory: Counter Count "gateway_no_memory" [what <= 8] "Publications, events, sessions and joins refused because the memory accounts were full" "因内存账户已满而拒绝的发布、事件、会话与加入次数";

    // The store: pool, pipeline, transactions.
    StorePoolConnections: Gauge Count "store_pool_connections" [state <= 8] "Database connections by state" "各状态的数据库连接数";
    StorePoolWaiting: Gauge Count "store_pool_waiting" [] "Tasks waiting for a database connection" "等待数据库连接的任务数";
    StorePoolUse: Gauge PerMille "store_pool_use_ratio" [] "Connections checked out, of size and overflow together" "已借出连接占池容量（含溢出）的比例";
    StorePoolAcquires: Counter Count "store_pool_acquires" [] "Connections acquired" "已获取的连接次数";
    StorePoolReused: Counter Count "store_pool_reused" [] "Acquires served by a connection that was already open" "由已打开连接满足的获取次数";
    StorePoolTimeouts: Counter Count "store_pool_timeouts" [] "Acquires that timed out" "获取连接超时次数";
    StorePoolConnects: Counter Count "store_pool_connects" [] "Database connections opened" "已打开的数据库连接数";
    StorePoolConnectErrors: Counter Count "store_pool_connect_errors" [] "Database connections that could not be opened" "打开失败的数据库连接数";
    StorePoolClosed: Counter Count "store_pool_closed" [reason <= 16] "Database connections closed, by reason" "按原因统计的已关闭数据库连接数";
    StorePoolLeaks: Counter Count "store_pool_leaks" [] "Connections held longer than the leak threshold" "持有时间超过泄漏阈值的连接数";
    StorePoolAcquire: Histogram Nanoseconds "store_pool_acquire_seconds" [] "Time to acquire a connection, of acquires that waited" "获取连接的等待时间（仅统计需要等待的获取）";
    StorePoolHold: Histogram Nanoseconds "store_pool_hold_seconds" [] "Time a connection was held" "连接被持有的时间";
    StorePipelineInFlight: Gauge Count "store_pipeline_in_flight" [] "Statements in flight on the shared connections" "共享连接上在途的语句数";
    StorePipelineStatements: Counter Count "store_pipeline_statements" [outcome <= 8] "Statements given to the pipeline, by outcome" "按结果统计的管道语句数";
    StoreTransactions: Counter Count "store_transactions" [outcome <= 8] "Transactions, by outcome" "按结果统计的事务数";
    StoreReplicaLag: Gauge Microseconds "store_replica_lag_seconds" [replica <= 16] "How far a replica is behind" "副本的延迟";
    StoreReplicaReads: Counter Count "store_replica_reads" [target <= 17] "Reads by target, the primary or a replica" "按目标（主库或副本）统计的读取次数";

    // The store: statements and queries.
    StoreStatements: Counter Count "store_statements" [kind <= 8] "Statements executed, by kind" "按类型统计的已执行语句数";
    StoreStatement: Histogram Nanoseconds "store_statement_seconds" [] "Time of a statement, without the wait for a connection" "语句耗时（不含等待连接）";
    StoreStatementSlow: Counter Count "store_statement_slow" [level <= 2] "Slow statements, by level" "按级别统计的慢语句数";
    StoreStatementErrors: Counter Count "store_statement_errors" [sqlstate <= 64] "Statements that failed, by SQLSTATE" "按 SQLSTATE 统计的失败语句数";
    StoreQueries: Counter Count "store_queries" [query <= 64, outcome <= 8] "Declared queries answered, by query and outcome" "按查询与结果统计的声明式查询数";
    StoreQuery: Histogram Nanoseconds "store_query_seconds" [query <= 64] "Time to answer a declared query" "应答声明式查询的时间";
    StoreQueryRows: Counter Count "store_query_rows" [] "Rows given out by declared queries" "声明式查询返回的行数";

    // The store: rows on their way in.
    StoreIngestRows: Counter Count "store_ingest_rows" [feed <= 64, outcome <= 8] "Rows taken in, by feed and outcome" "按数据源与结果统计的写入行数";
    StoreIngestBacklog: Gauge Count "store_ingest_backlog_rows" [] "Rows that wait to be stored" "等待入库的行数";
    StoreIngestRefused: Counter Count "store_ingest_refused" [reason <= 16] "Ingest requests refused, by reason" "按原因统计的被拒绝写入请求数";
    StoreIngestCommits: Counter Count "store_ingest_commits" [method <= 8] "Commits of rows, by method" "按方式统计的写入提交次数";
    StoreIngestBatch: Histogram Count "store_ingest_batch_rows" [] "Rows in one commit" "每次提交的行数";
    StoreIngestCommit: Histogram Nanoseconds "store_ingest_commit_seconds" [] "Time of a commit of rows, from its first statement" "一次写入提交的耗时";
    StoreIngestAck: Histogram Nanoseconds "store_ingest_ack_seconds" [] "Time from the arrival of rows to their answer" "从收到数据行到应答的时间";
    StoreRollupRows: Counter Count "store_rollup_rows" [feed <= 64] "Rows of roll-ups written" "已写入的汇总行数";
    StoreDeadLetters: Counter Count "store_dead_letters" [feed <= 64] "Rows written to the dead-letter table" "写入死信表的行数";
    // The store: what it makes and asks by itself.
    StoreIngestPartitions: Counter Count "store_ingest_partitions" [] "Partitions made for rows that had none" "为没有分区的行创建的分区数";
    StoreStatementPlans: Counter Count "store_statement_plans" [outcome <= 8] "Slow statements, by what became of their plan" "慢语句的执行计划获取次数，按结果";
    StoreSpoolBytes: Gauge Bytes "store_spool_bytes" [] "Bytes in the spool" "暂存区字节数";
    StoreSpoolRows: Gauge Count "store_spool_rows" [] "Rows in the spool" "暂存区行数";
    StoreSpoolAge: Gauge Microseconds "store_spool_age_seconds" [] "Age of the oldest row in the spool" "暂存区最旧一行的存留时间";
    StoreSpoolSync: Histogram Nanoseconds "store_spool_sync_seconds" [] "Time of an fsync of the spool" "暂存区 fsync 耗时";
    StoreSpoolReplayed: Counter Count "store_spool_replayed" [] "Rows replayed from the spool" "从暂存区重放的行数";

    // Publications by SQL.
    StoreRelayRows: Counter Count "store_relay_rows" [outcome <= 8] "Publications read from the outbox, by outcome" "按结果统计的从发布表读取的发布数";
    StoreRelayRefused: Counter Count "store_relay_refused" [reason <= 16] "Publications by SQL put aside, by reason" "按原因统计的被搁置的 SQL 发布数";
    StoreRelayBatch: Histogram Count "store_relay_batch_rows" [] "Publications in one read of the outbox" "每次读取发布表得到的发布数";
    StoreRelayDelay: Histogram Nanoseconds "store_relay_delay_seconds" [] "Time from the call of tidegate.publish, the rest of its transaction included, to the publication" "从调用 tidegate.publish（含其事务余下部分）到发布的时间";
    StoreRelayWaiting: Gauge Count "store_relay_waiting_rows" [] "Publications in the outbox that this node has not read" "发布表中本节点尚未读取的发布数";
    StoreRelayOldest: Gauge Microseconds "store_relay_oldest_seconds" [] "Age of the oldest of them" "其中最旧一条的存留时间";
    StoreRelayBytes: Gauge Bytes "store_relay_outbox_bytes" [] "Bytes of the files of the outbox" "发布表文件的字节数";
    StoreRelayAlarm: Gauge Count "store_relay_alarm" [] "1 while more publications wait, or for longer, than is allowed without an alarm" "等待的发布超过数量或时间上限时为 1";
    StoreRelayFull: Counter Count "store_relay_full" [] "Times that publishing waited because an inbox or the memory accounts were full" "因收件箱或内存账户已满而等待发布的次数";
    StoreRelayFailures: Counter Count "store_relay_failures" [] "Reads and writes of the outbox that failed and were tried again" "失败后重试的发布表读写次数";

    // The application behind the hook.
    AppRequests: Counter Count "app_requests" [kind <= 4, outcome <= 16] "Requests to the application, by kind and outcome" "按类型与结果统计的对应用的请求数";
    AppRequest: Histogram Nanoseconds "app_request_seconds" [kind <= 4] "Time from an event to the application's answer, the wait for a place included" "从事件到应用应答的时间（含排队）";
    AppInFlight: Gauge Count "app_in_flight" [] "Requests the application has not answered" "应用尚未应答的请求数";
    AppWaiting: Gauge Count "app_waiting" [] "Requests that wait for a place among those in flight" "等待在途名额的请求数";
    AppAnswerErrors: Counter Count "app_answer_errors" [field <= 16] "Answers of the application that could not be used, by field" "按字段统计的应用无效应答数";
    AppSpoolRecords: Gauge Count "app_spool_records" [] "Disconnects the application has not been told" "尚未告知应用的断开数";
    AppSpoolBytes: Gauge Bytes "app_spool_bytes" [] "Bytes of the spool of disconnects" "断开暂存区的字节数";
    AppDisconnectsLost: Counter Count "app_disconnects_lost" [reason <= 8] "Disconnects the application was not told, by reason" "按原因统计的未告知应用的断开数";

    // The cache.
    CacheHits: Counter Count "cache_hits" [cache <= 16, level <= 4] "Values found, by cache and level" "按缓存与层级统计的命中次数";
    CacheMisses: Counter Count "cache_misses" [cache <= 16] "Values that no level had" "各层均未命中的次数";
    CacheStaleHits: Counter Count "cache_stale_hits" [cache <= 16] "Hits past their time, served while refreshed or because the load failed" "过期但仍返回的命中次数（后台刷新或加载失败时）";
    CacheNegativeHits: Counter Count "cache_negative_hits" [cache <= 16] "Hits that say that there is nothing" "命中“不存在”结果的次数";
    CacheInserts: Counter Count "cache_inserts" [cache <= 16] "Values stored in memory" "写入内存层的次数";
    CacheNotStored: Counter Count "cache_not_stored" [cache <= 16, reason <= 8] "Values answered but not stored, by reason" "按原因统计的已返回但未存储的值数";
    CacheEvictions: Counter Count "cache_evictions" [cache <= 16] "Values that left memory for others" "因空间不足被淘汰出内存的值数";
    CacheExpirations: Counter Count "cache_expirations" [cache <= 16] "Values found past their time or invalidated" "发现已过期或已失效的值数";
    CachePromotions: Counter Count "cache_promotions" [cache <= 16] "Values brought into memory from a lower level" "从下层提升到内存的值数";
    CacheInvalidations: Counter Count "cache_invalidations" [cache <= 16] "Tags invalidated" "失效的标签数";
    CacheLoads: Counter Count "cache_loads" [cache <= 16, outcome <= 8] "Loads, by outcome" "按结果统计的加载次数";
    CacheLoad: Histogram Nanoseconds "cache_load_seconds" [cache <= 16] "Time of a load" "加载耗时";
    CacheHit: Histogram Nanoseconds "cache_hit_seconds" [cache <= 16] "Time of a hit in memory, one in 256 measured" "内存命中耗时（每 256 次采样一次）";
    CacheBytes: Gauge Bytes "cache_memory_bytes" [cache <= 16] "Bytes held in memory" "内存层占用字节数";
    CacheEntries: Gauge Count "cache_memory_entries" [cache <= 16] "Values held in memory" "内存层中的值数";
    CacheCapacity: Gauge Bytes "cache_memory_capacity_bytes" [cache <= 16] "Bytes that memory may hold now" "内存层当前容量字节数";
    CacheDiskBytes: Gauge Bytes "cache_disk_bytes" [cache <= 16] "Bytes of the files of the disk level" "磁盘层文件字节数";
    CacheDiskEntries: Gauge Count "cache_disk_entries" [cache <= 16] "Values that the disk level can find" "磁盘层可查找的值数";
    CacheDiskDropped: Counter Count "cache_disk_dropped" [cache <= 16, reason <= 8] "Values that the disk level lost or did not take, by reason" "按原因统计的磁盘层丢弃或未接收的值数";
    CacheRemoteUp: Gauge Count "cache_remote_up" [cache <= 16] "Whether the remote level is connected" "远程层是否已连接";
    CacheRemoteErrors: Counter Count "cache_remote_errors" [cache <= 16, reason <= 8] "Calls to the remote level that gave nothing, by reason" "按原因统计的远程层失败调用次数";
    CacheRemoteInvalidations: Counter Count "cache_remote_invalidations" [cache <= 16] "Tags invalidated by other nodes" "由其他节点失效的标签数";

    // The store under memory pressure.
    StoreRelief: Counter Count "store_relief" [reaction <= 8] "Batches, requests, connections and other things given up under memory pressure, by reaction" "内存压力下按措施统计的放弃项（批次、请求、连接等）数";
    StoreReliefBytes: Counter Bytes "store_relief_bytes" [reaction <= 8] "Bytes given up under memory pressure, by reaction; estimates" "内存压力下按措施统计的释放字节数（估算）";
    StoreNoMemory: Counter Count "store_no_memory" [what <= 8] "Reservations for rows, spool and answers refused because the memory accounts were full" "因内存账户已满而拒绝的数据行、暂存区与应答预留次数";

    // Bounded work: limiters, single flights, breakers, instances.
    LimiterLimit: Gauge Count "limiter_limit" [limiter <= 8] "Calls that may be in flight" "允许的在途调用数上限";
    LimiterBaseline: Gauge Microseconds "limiter_baseline_seconds" [limiter <= 8] "Mean latency without a queue, as last measured" "最近测得的无排队平均延迟";
    LimiterInFlight: Gauge Count "limiter_in_flight" [limiter <= 8, partition <= 16] "Calls in flight, by partition" "按分区统计的在途调用数";
    LimiterWaiting: Gauge Count "limiter_waiting" [limiter <= 8, partition <= 16] "Calls waiting in line, by partition" "按分区统计的排队调用数";
    LimiterAdmitted: Counter Count "limiter_admitted" [limiter <= 8, partition <= 16] "Calls let in, by partition" "按分区统计的放行调用数";
    LimiterRefused: Counter Count "limiter_refused" [limiter <= 8, reason <= 4] "Calls refused, by reason" "按原因统计的被拒绝调用数";
    OnceFlights: Gauge Count "once_flights" [once <= 16] "Single flights running" "正在运行的合并执行数";
    OnceCalls: Counter Count "once_calls" [once <= 16, outcome <= 8] "Calls to single flights, by outcome" "按结果统计的合并执行调用数";
    BreakerState: Gauge Count "breaker_state" [breaker <= 16] "State of a breaker: 0 closed, 1 half-open, 2 open" "熔断器状态：0 关闭，1 半开，2 打开";
    BreakerCalls: Counter Count "breaker_calls" [breaker <= 16, outcome <= 4] "Calls through breakers, by outcome" "按结果统计的熔断器调用数";
    BreakerChanges: Counter Count "breaker_changes" [breaker <= 16, state <= 4] "Changes of a breaker, by the state it took" "按进入的状态统计的熔断器状态变更数";
    Instances: Gauge Count "instances" [registry <= 16] "Instances kept by key" "按键保存的实例数";
    InstancesCalls: Counter Count "instances_calls" [registry <= 16, outcome <= 8] "Calls for instances, by outcome" "按结果统计的实例调用数";

    // HTTP and configuration.
    HttpRequests: Counter Count "http_requests" [route <= 64, status <= 16] "HTTP requests answered, by route and status" "按路由和状态统计的 HTTP 请求数";
    HttpRequest: Histogram Nanoseconds "http_request_seconds" [] "Time to answer an HTTP request" "应答 HTTP 请求的时间";
    ConfigReloads: Counter Count "config_reloads" [result <= 4] "Configuration reloads, by result" "按结果统计的配置重载次数";

    // The process and its memory.
    ProcessRssBytes: Gauge Bytes "process_rss_bytes" [] "Resident memory of the process" "进程常驻内存";
    ProcessVirtualBytes: Gauge Bytes "process_virtual_bytes" [] "Virtual memory of the process" "进程虚拟内存";
    ProcessCpu: Counter Nanoseconds "process_cpu_seconds" [] "CPU time used by the process" "进程已用 CPU 时间";
    ProcessOpenFiles: Gauge Count "process_open_files" [] "Open file descriptors" "打开的文件描述符数";
    ProcessOpenFilesLimit: Gauge Count "process_open_files_limit" [] "Most open file descriptors allowed" "允许的最大文件描述符数";
    ProcessThreads: Gauge Count "process_threads" [] "Threads of the process" "进程线程数";
    LedgerUsed: Gauge Bytes "ledger_used_bytes" [class <= 16] "Accounted memory, by class" "按类别统计的已记账内存";
    LedgerLimit: Gauge Bytes "ledger_limit_bytes" [] "Most memory the accounts may hold" "记账内存上限";
    LedgerRefused: Counter Count "ledger_refused" [] "Reservations refused because the limit was reached" "因达到上限而拒绝的内存预留次数";
    SeriesOverflow: Counter Count "series_overflow" [] "Series folded into `other` because a bound was reached" "因达到上限而并入 other 的指标序列数";
    Series: Gauge Count "series" [] "Metric series alive" "存活的指标序列数";
    LogLinesLost: Counter Count "log_lines_lost" [] "Lines of the log lost because nobody read standard error" "因标准错误无人读取而丢失的日志行数";
    TasksRunning: Gauge Count "tasks_running" [name <= 64] "Tasks running, by name" "按名称统计的运行中任务数";
    TasksPanicked: Counter Count "tasks_panicked" [name <= 64] "Tasks that panicked, by name" "按名称统计的崩溃任务数";

    // Memory: levels, signal, reactions, allocator, leaks.
    PressureLevel: Gauge Count "pressure_level" [] "Level of memory pressure: 0 normal, 1 moderate, 2 high, 3 critical" "内存压力级别：0 正常，1 中等，2 高，3 危急";
    PressureSignal: Gauge PerMille "pressure_signal_ratio" [source <= 8] "Memory in use as a share of its limit, by source" "按来源统计的内存使用占其上限的比例";
    PressureChanges: Counter Count "pressure_changes" [level <= 4] "Changes of the level of memory pressure, by the level entered" "按进入的级别统计的内存压力级别变化次数";
    ShedAsked: Counter Bytes "shed_asked_bytes" [name <= 32] "Bytes a part was asked to give back" "要求各部件归还的字节数";
    ShedPromised: Counter Bytes "shed_promised_bytes" [name <= 32] "Bytes a part promised to give back" "各部件承诺归还的字节数";
    ShedMeasured: Counter Bytes "shed_measured_bytes" [name <= 32] "Promised bytes that were gone at the next tick" "下一次检查时确已归还的承诺字节数";
    ShedCalls: Counter Count "shed_calls" [name <= 32] "How often a part was asked to give memory back" "要求各部件归还内存的次数";
    // Profiling.
    ProfileFunctions: Gauge Count "profile_functions" [] "Profiled functions that have been called" "已被调用的受分析函数数";
    ProfileFunctionsRefused: Counter Count "profile_functions_refused" [] "Functions without figures because the table was full" "因表已满而没有数据的函数数";
    ProfileCallsLost: Counter Count "profile_calls_lost" [] "Calls that ended after their thread's figures were handed over" "在线程移交数据之后才结束的调用数";
    ProfileRuns: Counter Count "profile_runs" [result <= 3] "Profiles that were asked for: made, refused because another ran, or ended because the caller had gone" "请求的性能分析：已完成、因另一分析在运行而被拒、因请求方离开而结束";
    LockAcquisitions: Counter Count "lock_acquisitions" [lock <= 64] "Times a timed lock was taken" "计时锁的获取次数";
    LockContended: Counter Count "lock_contended" [lock <= 64] "Times a timed lock was held by somebody else" "计时锁被他人持有的次数";
    LockWait: Counter Nanoseconds "lock_wait_seconds" [lock <= 64] "Time spent waiting for timed locks" "等待计时锁的时间";
    TaskPolls: Counter Count "task_polls" [name <= 64] "Polls of watched tasks" "受观察任务的轮询次数";
    TaskLongPolls: Counter Count "task_long_polls" [name <= 64] "Polls of watched tasks that took over a millisecond" "受观察任务超过 1 毫秒的轮询次数";
    AllocatorBytes: Gauge Bytes "allocator_bytes" [kind <= 8] "Memory of the allocator, by kind" "按种类统计的分配器内存";
    AllocatorPurges: Counter Count "allocator_purges" [cause <= 4] "Times the allocator gave its unused memory back, by cause" "按原因统计的分配器归还空闲内存次数";
    AllocatorPurged: Counter Bytes "allocator_purged_bytes" [] "Bytes by which resident memory fell through purges" "因归还而减少的常驻内存字节数";
    LeakEvaluations: Counter Count "leak_evaluations" [] "Evaluations of the leak detector" "泄漏检测器的评估次数";
    LeakSuspicions: Counter Count "leak_suspicions" [] "Evaluations that found unexplained growth for the first time" "首次发现无法解释的增长的评估次数";
    LeakAlarms: Counter Count "leak_alarms" [] "Leaks found" "发现的泄漏数";
    LeakGrowth: Gauge Bytes "leak_growth_hourly_bytes" [] "Unexplained growth per hour at the last evaluation" "上次评估得出的每小时无法解释的增长";
    ObjectsLive: Gauge Count "objects_live" [kind <= 32] "Objects alive, by kind" "按种类统计的存活对象数";
    ObjectsPeak: Gauge Count "objects_peak" [kind <= 32] "Most objects alive at once, by kind" "按种类统计的同时存活对象最大数";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_plain_and_end_in_their_unit() {
        let mut seen = HashSet::new();
        for metric in TABLE {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert!(
                metric.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{}",
                metric.name
            );
            assert!(
                !metric.name.ends_with("_total"),
                "{}: the text format adds it",
                metric.name
            );
            if let Some(base) = metric.unit.base() {
                assert!(
                    metric.name.ends_with(base),
                    "{} lacks its unit {base}",
                    metric.name
                );
            }
            assert!(
                !metric.help_en.is_empty() && !metric.help_zh.is_empty(),
                "{} lacks help",
                metric.name
            );
            assert!(
                metric.labels.iter().all(|label| label.values_max > 0),
                "{}",
                metric.name
            );
        }
    }

    #[test]
    fn ids_find_their_entry() {
        for id in Id::all() {
            assert_eq!(id.metric().id, id);
            assert_eq!(Id::by_name(id.metric().name), Some(id));
        }
        assert_eq!(Id::by_name("no_such_figure"), None);
    }
}
