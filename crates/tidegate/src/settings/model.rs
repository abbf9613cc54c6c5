//! The checked settings as typed values; [`super::TABLE`] says what each means.
//!
//! Every field must be present: defaults are filled in from the table before, so none is written twice.

use std::{collections::BTreeMap, fmt, marker::PhantomData, net::SocketAddr, path::PathBuf};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use super::{Preset, Size, Time};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Values {
    pub(crate) listen: SocketAddr,
    pub(crate) preset: Preset,
    pub(crate) path: String,
    pub(crate) shards: usize,
    pub(crate) origins: Vec<String>,
    pub(crate) trusted_proxies: Vec<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) admin: Option<Admin>,
    pub(crate) log: Log,
    pub(crate) http: Http,
    pub(crate) transport: Transport,
    pub(crate) limits: Limits,
    pub(crate) outbox: Outbox,
    pub(crate) batch: Batch,
    pub(crate) deflate: Deflate,
    pub(crate) recovery: Recovery,
    pub(crate) sessions: Sessions,
    pub(crate) builtins: Builtins,
    pub(crate) publish: Publish,
    pub(crate) drain: Drain,
    pub(crate) memory: Memory,
    pub(crate) concurrency: Concurrency,
    pub(crate) auth: Auth,
    #[serde(default)]
    pub(crate) roles: BTreeMap<String, Role>,
    #[serde(default)]
    pub(crate) rooms: Ordered<Room>,
    pub(crate) store: Store,
    pub(crate) cache: Cache,
    #[serde(default)]
    pub(crate) feeds: BTreeMap<String, Feed>,
    #[serde(default)]
    pub(crate) queries: BTreeMap<String, Query>,
    pub(crate) app: App,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    pub(crate) listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) format: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    pub(crate) body_bytes_max: Size,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Transport {
    pub(crate) websocket: bool,
    pub(crate) polling: bool,
    pub(crate) ping_interval: Time,
    pub(crate) ping_timeout: Time,
    pub(crate) connect_timeout: Time,
    pub(crate) upgrade_timeout: Time,
    pub(crate) request_head_timeout: Time,
    pub(crate) payload_bytes_max: Size,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) sessions_per_user: usize,
    pub(crate) connections_per_address: usize,
    pub(crate) accepts_per_second: u32,
    pub(crate) namespaces_per_connection: usize,
    pub(crate) rooms: usize,
    pub(crate) rooms_per_session: usize,
    pub(crate) name_bytes_max: usize,
    pub(crate) events_per_second: u32,
    pub(crate) handlers_in_flight: usize,
    pub(crate) handler_bytes_in_flight: Size,
    pub(crate) acks_in_flight: usize,
    pub(crate) inbox_commands_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outbox {
    pub(crate) soft_bytes: Size,
    pub(crate) hard_bytes: Size,
    pub(crate) entries_max: usize,
    pub(crate) stall_timeout: Time,
    pub(crate) flush_window_max: Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    pub(crate) messages_max: usize,
    pub(crate) bytes_max: Size,
    pub(crate) delay: Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deflate {
    pub(crate) enabled: bool,
    pub(crate) threshold_bytes: Size,
    pub(crate) level: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recovery {
    pub(crate) enabled: bool,
    pub(crate) window: Time,
    pub(crate) ring_bytes_max: Size,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sessions {
    pub(crate) idle_after: Time,
    pub(crate) stale_after: Time,
    pub(crate) close_stale: bool,
    pub(crate) sweep_every: Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Builtins {
    pub(crate) events: Vec<String>,
    pub(crate) prefix: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publish {
    pub(crate) ids_max: usize,
    pub(crate) id_ttl: Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drain {
    pub(crate) closes_per_second: u32,
    pub(crate) timeout: Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    pub(crate) budget: Option<Size>,
    pub(crate) critical: u64,
    pub(crate) high: Option<u64>,
    pub(crate) moderate: Option<u64>,
    pub(crate) stalls: bool,
    pub(crate) leaks: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Concurrency {
    pub(crate) enabled: bool,
    pub(crate) min: usize,
    pub(crate) max: usize,
    pub(crate) initial: usize,
    pub(crate) queue_max: usize,
    pub(crate) wait_max: Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cache {
    pub(crate) memory: Size,
    pub(crate) entries_max: usize,
    pub(crate) disk_dir: Option<PathBuf>,
    pub(crate) disk_bytes_max: Size,
    pub(crate) redis_url: Option<String>,
    pub(crate) redis_url_env: Option<String>,
    pub(crate) redis_stale_max: Time,
    pub(crate) value_bytes_max: Size,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Auth {
    pub(crate) anonymous: bool,
    pub(crate) anonymous_roles: Vec<String>,
    pub(crate) trusted_user: bool,
    pub(crate) trusted_user_roles: Vec<String>,
    pub(crate) jwt: Option<Jwt>,
    #[serde(default)]
    pub(crate) api_keys: Vec<ApiKey>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jwt {
    pub(crate) algorithm: tidegate_auth::Algorithm,
    pub(crate) secret_env: Option<String>,
    pub(crate) secret_file: Option<PathBuf>,
    pub(crate) public_key_file: Option<PathBuf>,
    pub(crate) jwks_file: Option<PathBuf>,
    pub(crate) user: String,
    pub(crate) roles: String,
    pub(crate) default_roles: Vec<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Vec<String>,
    pub(crate) leeway: Time,
    pub(crate) cookie: Option<String>,
    pub(crate) require_expiry: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKey {
    pub(crate) name: String,
    pub(crate) key_env: Option<String>,
    pub(crate) sha256: Option<String>,
    pub(crate) user: String,
    pub(crate) roles: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Role {
    pub(crate) join: Vec<String>,
    pub(crate) publish: Vec<String>,
    pub(crate) presence: Vec<String>,
    pub(crate) event: Vec<String>,
    pub(crate) query: Vec<String>,
    pub(crate) ingest: Vec<String>,
    pub(crate) act: Vec<String>,
    pub(crate) admin: bool,
    pub(crate) share: Option<u16>,
    pub(crate) share_max: Option<u16>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Room {
    pub(crate) last: usize,
    pub(crate) keys_max: usize,
    pub(crate) presence: bool,
    pub(crate) presence_grace: Time,
    pub(crate) join_leave_events: bool,
    pub(crate) history_messages: usize,
    pub(crate) history_age: Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) url: String,
    pub(crate) url_env: Option<String>,
    pub(crate) data_dir: PathBuf,
    pub(crate) statement_timeout: Time,
    pub(crate) slow: Time,
    pub(crate) critical: Time,
    pub(crate) replicas: Vec<String>,
    pub(crate) replica_lag_max: Time,
    pub(crate) cursor_secret_env: Option<String>,
    pub(crate) pool: Pool,
    pub(crate) pipeline: Pipeline,
    pub(crate) ingest: Ingest,
    pub(crate) spool: Spool,
    pub(crate) relay: Relay,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pool {
    pub(crate) min: usize,
    pub(crate) size: usize,
    pub(crate) overflow: usize,
    pub(crate) acquire_timeout: Time,
    pub(crate) idle_timeout: Time,
    pub(crate) lifetime: Time,
    pub(crate) leak_after: Time,
    pub(crate) pre_ping: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pipeline {
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ingest {
    pub(crate) backlog_rows_max: usize,
    pub(crate) batch_rows_max: usize,
    pub(crate) delay: Time,
    pub(crate) patience: Time,
    pub(crate) writers: usize,
    pub(crate) claims_kept: Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spool {
    pub(crate) enabled: bool,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) bytes_max: Size,
    pub(crate) segment_bytes: Size,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Relay {
    pub(crate) enabled: bool,
    pub(crate) node: Option<String>,
    pub(crate) poll: Time,
    pub(crate) batch_rows_max: usize,
    pub(crate) batch_bytes_max: Size,
    pub(crate) row_bytes_max: Size,
    pub(crate) retain: Time,
    pub(crate) rows_max: u64,
    pub(crate) bytes_max: Size,
    pub(crate) when_full: WhenFull,
    pub(crate) node_gone_after: Time,
    pub(crate) alarm_rows: u64,
    pub(crate) alarm_age: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WhenFull {
    Drop,
    Error,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Feed {
    pub(crate) table: String,
    pub(crate) columns: Ordered<String>,
    pub(crate) key: Vec<String>,
    pub(crate) on_conflict: OnConflict,
    pub(crate) room: Option<String>,
    pub(crate) event: Option<String>,
    pub(crate) conflate: Option<String>,
    pub(crate) urgent: bool,
    pub(crate) volatile: bool,
    pub(crate) tags: Vec<String>,
    pub(crate) retain: Option<Time>,
    pub(crate) manage: bool,
    pub(crate) partition: Option<Partition>,
    pub(crate) row_bytes_max: Size,
    pub(crate) rows_per_second_max: u32,
    #[serde(default)]
    pub(crate) rollups: BTreeMap<String, Rollup>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnConflict {
    Error,
    Ignore,
    Update,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Partition {
    pub(crate) column: String,
    pub(crate) every: Time,
    pub(crate) timescale: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rollup {
    pub(crate) table: String,
    pub(crate) group: Vec<String>,
    pub(crate) bucket: Option<Bucket>,
    pub(crate) count: bool,
    pub(crate) sum: Vec<String>,
    pub(crate) min: Vec<String>,
    pub(crate) max: Vec<String>,
    pub(crate) last: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bucket {
    pub(crate) column: String,
    pub(crate) every: Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    pub(crate) sql: Sql,
    pub(crate) params: Ordered<Param>,
    pub(crate) page: Vec<String>,
    pub(crate) rows_max: usize,
    pub(crate) bytes_max: Size,
    pub(crate) timeout: Time,
    pub(crate) returns: Ordered<String>,
    pub(crate) pipeline: bool,
    pub(crate) replica: bool,
    pub(crate) cache: Option<QueryCache>,
}

/// How long answers of a query are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryCache {
    pub(crate) ttl: Time,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    pub(crate) stale: Option<Time>,
    pub(crate) stale_on_error: Option<Time>,
    pub(crate) empty_ttl: Option<Time>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct App {
    pub(crate) url: Option<String>,
    pub(crate) secret_env: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) events: Vec<String>,
    pub(crate) builtin: Vec<String>,
    pub(crate) builtin_prefix: Option<String>,
    pub(crate) timeout: Time,
    pub(crate) in_flight: usize,
    pub(crate) waiting_max: usize,
    pub(crate) answer_bytes_max: Size,
    pub(crate) data_bytes_max: Size,
    pub(crate) keep_alive: Time,
    pub(crate) breaker_failures: u32,
    pub(crate) breaker_pause: Time,
    pub(crate) spool: AppSpool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppSpool {
    pub(crate) enabled: bool,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) bytes_max: Size,
}

/// One text for both databases, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Sql {
    Both(String),
    Each {
        postgres: Option<String>,
        sqlite: Option<String>,
    },
}

/// A type, or more than that.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Param {
    Type(String),
    Full {
        #[serde(rename = "type")]
        kind: String,
        from: Option<String>,
        default: Option<serde_json::Value>,
        #[serde(default)]
        optional: bool,
    },
}

/// Named blocks in the order of the file, which decides the first match.
#[derive(Clone, Debug)]
pub(crate) struct Ordered<T>(pub(crate) Vec<(String, T)>);

// === impl Ordered ===

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Blocks<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Blocks<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("named blocks")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut blocks = Vec::new();
                while let Some(block) = map.next_entry()? {
                    blocks.push(block);
                }
                Ok(Ordered(blocks))
            }
        }
        deserializer.deserialize_map(Blocks(PhantomData))
    }
}
