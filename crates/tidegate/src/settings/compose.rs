//! Turns the settings into the plain configuration of each crate.

use std::{net::SocketAddr, path::Path, time::Duration};

use tidegate_auth::{ApiKeyValue, Key, Secret};
use tidegate_gateway as gateway;

use super::{Outside, Preset, Settings, SettingsError, model};

/// Built-in events that the database answers.
const STORE_EVENTS: [&str; 2] = ["ingest", "query"];

impl Settings {
    /// Address of the main listener.
    #[must_use]
    pub const fn listen(&self) -> SocketAddr {
        self.values.listen
    }

    /// Address of the administration listener, if it has one of its own.
    #[must_use]
    pub fn admin_listen(&self) -> Option<SocketAddr> {
        self.values.admin.as_ref().and_then(|admin| admin.listen)
    }

    /// The preset whose defaults are in force.
    #[must_use]
    pub const fn preset(&self) -> Preset {
        self.values.preset
    }

    /// Least serious log entry: `error` to `trace`.
    #[must_use]
    pub fn log_level(&self) -> &str {
        &self.values.log.level
    }

    /// Form of the log: `auto`, `text` or `json`.
    #[must_use]
    pub fn log_format(&self) -> &str {
        &self.values.log.format
    }

    /// Certificate chain and key, where TLS is on.
    #[must_use]
    pub fn tls_files(&self) -> Option<(&Path, &Path)> {
        self.values
            .tls
            .as_ref()
            .map(|tls| (tls.cert.as_path(), tls.key.as_path()))
    }

    /// Reads relative paths of certificate, key and data as meant from `folder`, the settings' own.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        folder.clone_into(&mut self.folder);
        if let Some(tls) = &mut self.values.tls {
            tls.cert = folder.join(&tls.cert);
            tls.key = folder.join(&tls.key);
        }
        self
    }

    /// The declared feeds.
    #[must_use]
    pub fn feeds(&self) -> Vec<super::FeedSettings> {
        super::feeds::compose(&self.values).expect("the settings were read, and reading composes the feeds")
    }

    /// The declared queries.
    #[must_use]
    pub fn queries(&self) -> Vec<tidegate_store::query::Query> {
        self.declared_queries().map(|declared| declared.query).collect()
    }

    /// How long answers are kept, by query; those without a cache are not among them.
    #[must_use]
    pub fn cache_rules(&self) -> Vec<(String, super::CacheRule)> {
        let rules = self.declared_queries();
        rules
            .filter_map(|declared| Some((declared.query.name, declared.cache?)))
            .collect()
    }

    fn declared_queries(&self) -> impl Iterator<Item = super::queries::QuerySettings> {
        let composed = super::queries::compose(&self.values);
        let composed = composed.expect("the settings were read, and reading composes the queries");
        composed.into_iter()
    }

    /// Limit on connections; none is the open-file limit.
    #[must_use]
    pub fn connections_max(&self) -> Option<usize> {
        some(self.values.limits.connections)
    }

    /// Whether anybody can come in at all.
    #[must_use]
    pub fn has_a_way_in(&self) -> bool {
        let auth = &self.values.auth;
        auth.anonymous || auth.trusted_user || auth.jwt.is_some() || !auth.api_keys.is_empty()
    }

    /// Whether clients come in without credentials.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        self.values.auth.anonymous
    }

    /// Whether pages of any site may connect.
    #[must_use]
    pub fn allows_any_origin(&self) -> bool {
        self.values.origins.iter().any(|origin| origin == "*")
    }

    /// Largest body of an API request, bytes.
    #[must_use]
    pub const fn body_bytes_max(&self) -> usize {
        self.values.http.body_bytes_max.0 as usize
    }

    /// Memory to plan with, bytes; `host` is what the machine allows, where the settings name nothing.
    #[must_use]
    pub fn memory_budget_bytes(&self, host: u64) -> u64 {
        self.values.memory.budget.map_or(host, |budget| budget.0)
    }

    /// Where accounts are full, bytes: the critical level of the budget.
    #[must_use]
    pub fn ledger_limit_bytes(&self, host: u64) -> u64 {
        // Percent first would overflow only above 1.8e17 bytes; the budget is at most 1 PiB.
        self.memory_budget_bytes(host) / 100 * self.values.memory.critical
    }

    /// The configuration of the gateway.
    #[must_use]
    pub fn gateway(&self) -> gateway::Config {
        let values = &self.values;
        let transport = &values.transport;
        let (builtins, prefix) = self.builtins();
        gateway::Config {
            path: values.path.clone(),
            shards: values.shards,
            ping_interval: transport.ping_interval.0,
            ping_timeout: transport.ping_timeout.0,
            connect_timeout: transport.connect_timeout.0,
            upgrade_timeout: transport.upgrade_timeout.0,
            request_head_timeout: transport.request_head_timeout.0,
            payload_bytes_max: transport.payload_bytes_max.0 as usize,
            websocket: transport.websocket,
            polling: transport.polling,
            origins: values.origins.clone(),
            trusted_proxies: values.trusted_proxies.clone(),
            limits: limits(&values.limits),
            outbox: outbox(&values.outbox),
            flush_window_max: values.outbox.flush_window_max.0,
            batch: batch(&values.batch),
            deflate: deflate(&values.deflate),
            recovery: recovery(&values.recovery),
            sessions: sessions(&values.sessions),
            rooms: values
                .rooms
                .0
                .iter()
                .map(|(pattern, room)| (pattern.clone(), options(room)))
                .collect(),
            builtins: gateway::Builtins {
                // Those that need the database are handlers beside the gateway.
                events: builtins
                    .iter()
                    .filter(|event| !STORE_EVENTS.contains(&event.as_str()))
                    .cloned()
                    .collect(),
                prefix: prefix.to_owned(),
            },
            drain: gateway::DrainConfig {
                closes_per_second: values.drain.closes_per_second,
                timeout: values.drain.timeout.0,
            },
            inbox_commands_max: values.limits.inbox_commands_max,
            publish_ids_max: values.publish.ids_max,
            publish_id_ttl: values.publish.id_ttl.0,
        }
    }

    /// The configuration of access, secrets read through `outside`.
    ///
    /// # Errors
    /// A variable that is not set, a file that cannot be read.
    pub fn auth(&self, outside: &Outside<'_>) -> Result<tidegate_auth::Config, SettingsError> {
        let auth = &self.values.auth;
        let keys = auth
            .api_keys
            .iter()
            .enumerate()
            .map(|(index, key)| api_key(index, key, outside));
        Ok(tidegate_auth::Config {
            anonymous: auth.anonymous,
            anonymous_roles: auth.anonymous_roles.clone(),
            jwt: auth
                .jwt
                .as_ref()
                .map(|jwt| token_rules(jwt, outside))
                .transpose()?,
            api_keys: keys.collect::<Result<_, _>>()?,
            trusted_user: auth.trusted_user.then(|| tidegate_auth::TrustedUser {
                roles: auth.trusted_user_roles.clone(),
            }),
            roles: self
                .values
                .roles
                .iter()
                .map(|(name, role)| (name.clone(), permissions(role)))
                .collect(),
        })
    }
}

/// 0 is written for "no limit".
fn some<T: Copy + PartialEq + Default>(limit: T) -> Option<T> {
    (limit != T::default()).then_some(limit)
}

fn limits(limits: &model::Limits) -> gateway::Limits {
    gateway::Limits {
        connections: some(limits.connections),
        sessions_per_user: some(limits.sessions_per_user),
        connections_per_address: some(limits.connections_per_address),
        accepts_per_second: some(limits.accepts_per_second),
        namespaces_per_connection: limits.namespaces_per_connection,
        rooms: limits.rooms,
        rooms_per_session: limits.rooms_per_session,
        name_bytes_max: limits.name_bytes_max,
        events_per_second: some(limits.events_per_second),
        handlers_in_flight: limits.handlers_in_flight,
        handler_bytes_in_flight: limits.handler_bytes_in_flight.0 as usize,
        acks_in_flight: limits.acks_in_flight,
    }
}

fn outbox(outbox: &model::Outbox) -> gateway::OutboxConfig {
    gateway::OutboxConfig {
        soft_bytes: outbox.soft_bytes.0 as usize,
        hard_bytes: outbox.hard_bytes.0 as usize,
        entries_max: outbox.entries_max,
        stall_timeout: outbox.stall_timeout.0,
    }
}

fn batch(batch: &model::Batch) -> gateway::BatchConfig {
    gateway::BatchConfig {
        messages_max: batch.messages_max,
        bytes_max: batch.bytes_max.0 as usize,
        delay: batch.delay.0,
    }
}

fn deflate(deflate: &model::Deflate) -> gateway::DeflateConfig {
    gateway::DeflateConfig {
        enabled: deflate.enabled,
        threshold_bytes: deflate.threshold_bytes.0 as usize,
        level: deflate.level,
    }
}

fn recovery(recovery: &model::Recovery) -> gateway::RecoveryConfig {
    gateway::RecoveryConfig {
        enabled: recovery.enabled,
        window: recovery.window.0,
        ring_bytes_max: recovery.ring_bytes_max.0 as usize,
    }
}

fn sessions(sessions: &model::Sessions) -> gateway::SessionConfig {
    gateway::SessionConfig {
        idle_after: sessions.idle_after.0,
        stale_after: sessions.stale_after.0,
        close_stale: sessions.close_stale,
        sweep_every: sessions.sweep_every.0,
    }
}

fn options(room: &model::Room) -> gateway::RoomOptions {
    gateway::RoomOptions {
        last: room.last,
        keys_max: room.keys_max,
        presence: room.presence,
        presence_grace: room.presence_grace.0,
        join_leave_events: room.join_leave_events,
        history_messages: room.history_messages,
        history_age: room.history_age.0,
    }
}

fn permissions(role: &model::Role) -> tidegate_auth::Role {
    tidegate_auth::Role {
        join: role.join.clone(),
        publish: role.publish.clone(),
        presence: role.presence.clone(),
        event: role.event.clone(),
        query: role.query.clone(),
        ingest: role.ingest.clone(),
        act: role.act.clone(),
        admin: role.admin,
    }
}

fn token_rules(jwt: &model::Jwt, outside: &Outside<'_>) -> Result<tidegate_auth::Jwt, SettingsError> {
    let key = if let Some(name) = &jwt.secret_env {
        Key::Secret(secret("auth.jwt.secret_env", name, outside)?)
    } else if let Some(path) = &jwt.secret_file {
        let text = file("auth.jwt.secret_file", path, outside)?;
        Key::Secret(Secret::new(text.trim_end_matches(['\r', '\n'])))
    } else if let Some(path) = &jwt.public_key_file {
        Key::Pem(Secret::new(file("auth.jwt.public_key_file", path, outside)?))
    } else {
        let path = jwt.jwks_file.as_deref().unwrap_or_else(|| Path::new(""));
        Key::Jwks(Secret::new(file("auth.jwt.jwks_file", path, outside)?))
    };
    Ok(tidegate_auth::Jwt {
        algorithm: jwt.algorithm,
        key,
        user_claim: jwt.user.clone(),
        roles_claim: jwt.roles.clone(),
        default_roles: jwt.default_roles.clone(),
        tenant_claim: jwt.tenant.clone(),
        issuer: jwt.issuer.clone(),
        audience: jwt.audience.clone(),
        leeway_s: ceil_seconds(jwt.leeway.0),
        require_exp: jwt.require_expiry,
        cookie: jwt.cookie.clone(),
    })
}

fn api_key(
    index: usize,
    key: &model::ApiKey,
    outside: &Outside<'_>,
) -> Result<tidegate_auth::ApiKey, SettingsError> {
    let value = match (&key.key_env, &key.sha256) {
        (Some(name), _) => {
            ApiKeyValue::Plain(secret(&format!("auth.api_keys[{index}].key_env"), name, outside)?)
        }
        (None, digest) => ApiKeyValue::Sha256(digest.clone().unwrap_or_default()),
    };
    Ok(tidegate_auth::ApiKey {
        name: key.name.clone(),
        key: value,
        user: Some(key.user.clone()),
        tenant: None,
        roles: key.roles.clone(),
        claims: serde_json::Map::new(),
    })
}

fn secret(key: &str, name: &str, outside: &Outside<'_>) -> Result<Secret, SettingsError> {
    let value = (outside.env)(name);
    value.map(Secret::new).ok_or_else(|| SettingsError::Environment {
        key: key.to_owned(),
        name: name.to_owned(),
    })
}

fn file(key: &str, path: &Path, outside: &Outside<'_>) -> Result<String, SettingsError> {
    (outside.read)(path).map_err(|source| SettingsError::File {
        key: key.to_owned(),
        path: path.display().to_string(),
        source,
    })
}

/// Whole seconds, rounded up, so that a tolerance never shrinks.
fn ceil_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
