//! Turns the settings of memory, concurrency and cache into plain values, and checks them against each other.

use std::{path::PathBuf, time::Duration};

use tidegate_cache::RemoteConfig;
use tidegate_flow::limiter::PARTITIONS_MAX;
use tidegate_store::{Template, query::Query};
use tidegate_vitals::pressure::{self, Thresholds};

use super::{Outside, Settings, SettingsError, feeds::parsed, model, store::variable};

/// How far below critical the other levels lie unless they are written, in percent points.
const HIGH_BELOW: u64 = 8;
const MODERATE_BELOW: u64 = 20;

/// Roles together may keep at most so many percent for themselves: the rest is what all share.
const SHARES_MAX: u16 = 90;

/// Where the levels of memory pressure begin, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Caches and rings shrink.
    pub moderate: u64,
    /// Nobody new.
    pub high: u64,
    /// The slowest are closed.
    pub critical: u64,
}

/// How many requests run at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrencySettings {
    /// Never fewer.
    pub min: usize,
    /// Never more.
    pub max: usize,
    /// Before anything is measured.
    pub initial: usize,
    /// How many may wait.
    pub queue_max: usize,
    /// How long one may wait.
    pub wait_max: Duration,
    /// Roles with a share of their own.
    pub shares: Vec<RoleShare>,
}

/// What a role may have of the requests at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleShare {
    /// The role.
    pub role: String,
    /// Percent that are kept for it.
    pub guaranteed: u16,
    /// Percent that it may have at most.
    pub most: u16,
}

/// Where answers are kept: [`Settings::cache`].
#[derive(Clone)]
pub struct CacheSettings {
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Answers in memory.
    pub entries_max: usize,
    /// The folder and the most bytes of the level on disk.
    pub disk: Option<(PathBuf, u64)>,
    /// The address of the level that nodes share, and for how long answers may be behind while it is away.
    pub redis: Option<(String, Duration)>,
    /// Larger answers are not kept.
    pub value_bytes_max: usize,
}

/// How long answers of a query are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRule {
    /// How long an answer is fresh.
    pub ttl: Duration,
    /// How much longer it may be given while a new one is loaded.
    pub stale: Duration,
    /// How much longer it may be given when loading fails.
    pub stale_on_error: Duration,
    /// Instead of `ttl`, for answers without rows.
    pub empty_ttl: Option<Duration>,
    /// What makes it void, from parameters of the query.
    pub tags: Vec<Template>,
}

impl std::fmt::Debug for CacheSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address holds a password.
        f.debug_struct("CacheSettings")
            .field("memory_bytes", &self.memory_bytes)
            .field("entries_max", &self.entries_max)
            .field("disk", &self.disk)
            .field("redis", &self.redis.is_some())
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Where the levels of memory pressure begin.
    #[must_use]
    pub fn levels(&self) -> Levels {
        levels(&self.values.memory)
    }

    /// Whether growth without load is looked for.
    #[must_use]
    pub const fn finds_leaks(&self) -> bool {
        self.values.memory.leaks
    }

    /// Memory pressure; `host` is what the machine allows, where the settings name no budget.
    #[must_use]
    pub fn pressure(&self, host: u64) -> pressure::Config {
        let Levels {
            moderate,
            high,
            critical,
        } = self.levels();
        let per_mille = |percent: u64| percent as u16 * 10;
        pressure::Config {
            thresholds: Thresholds {
                moderate: per_mille(moderate),
                high: per_mille(high),
                critical: per_mille(critical),
            },
            use_psi: self.values.memory.stalls,
            ..pressure::Config::new(self.memory_budget_bytes(host))
        }
    }

    /// Whether there is a limit on requests at once.
    #[must_use]
    pub const fn limits_requests(&self) -> bool {
        self.values.concurrency.enabled
    }

    /// How many requests run at once.
    #[must_use]
    pub fn concurrency(&self) -> ConcurrencySettings {
        let values = &self.values.concurrency;
        ConcurrencySettings {
            min: values.min,
            max: values.max,
            initial: values.initial,
            queue_max: values.queue_max,
            wait_max: values.wait_max.0,
            shares: shares(&self.values).collect(),
        }
    }

    /// Whether answers of any query are kept.
    #[must_use]
    pub fn keeps_answers(&self) -> bool {
        self.values.cache.memory.0 > 0 && self.values.queries.values().any(|query| query.cache.is_some())
    }

    /// Where answers are kept; none where no query asks for it or it is turned off.
    ///
    /// # Errors
    /// A variable that is not set, an address that is none.
    pub fn cache(&self, outside: &Outside<'_>) -> Result<Option<CacheSettings>, SettingsError> {
        let values = &self.values.cache;
        if !self.keeps_answers() {
            return Ok(None);
        }
        let (key, redis) = match &values.redis_url_env {
            Some(name) => (
                "cache.redis_url_env",
                Some(variable("cache.redis_url_env", name, outside)?),
            ),
            None => ("cache.redis_url", values.redis_url.clone()),
        };
        if let Some(url) = &redis {
            let refused = RemoteConfig::new(url).check();
            refused.map_err(|error| SettingsError::declaration(key, error.to_string()))?;
        }
        let in_folder = |path: &PathBuf| self.folder.join(path);
        Ok(Some(CacheSettings {
            memory_bytes: values.memory.0,
            entries_max: values.entries_max,
            disk: values
                .disk_dir
                .as_ref()
                .map(|dir| (in_folder(dir), values.disk_bytes_max.0)),
            redis: redis.map(|url| (url, values.redis_stale_max.0)),
            value_bytes_max: values.value_bytes_max.0 as usize,
        }))
    }
}

/// Roles that have a share or a bound of their own.
fn shares(values: &model::Values) -> impl Iterator<Item = RoleShare> {
    let roles = values.roles.iter();
    roles
        .filter(|(_, role)| role.share.is_some() || role.share_max.is_some())
        .map(|(name, role)| RoleShare {
            role: name.clone(),
            guaranteed: role.share.unwrap_or(0),
            most: role.share_max.unwrap_or(100),
        })
}

fn levels(memory: &model::Memory) -> Levels {
    let below = |points| memory.critical.saturating_sub(points).max(1);
    Levels {
        moderate: memory.moderate.unwrap_or_else(|| below(MODERATE_BELOW)),
        high: memory.high.unwrap_or_else(|| below(HIGH_BELOW)),
        critical: memory.critical,
    }
}

/// Refuses the first combination that cannot work.
pub(super) fn check(values: &model::Values) -> Result<(), SettingsError> {
    let Levels {
        moderate,
        high,
        critical,
    } = levels(&values.memory);
    if high >= critical {
        let allowed = format!("below memory.critical, which is {critical}");
        return Err(SettingsError::value("memory.high", high, allowed));
    }
    if moderate >= high {
        let allowed = format!("below memory.high, which is {high}");
        return Err(SettingsError::value("memory.moderate", moderate, allowed));
    }
    let concurrency = &values.concurrency;
    if !(concurrency.min..=concurrency.max).contains(&concurrency.initial) {
        let allowed = format!(
            "{} to {}, which are min and max",
            concurrency.min, concurrency.max
        );
        return Err(SettingsError::value(
            "concurrency.initial",
            concurrency.initial,
            allowed,
        ));
    }
    check_shares(values)?;
    let cache = &values.cache;
    if cache.redis_url.is_some() && cache.redis_url_env.is_some() {
        let problem = "cache.redis_url stands there too; one of them says where it is";
        return Err(SettingsError::declaration(
            "cache.redis_url_env",
            problem.to_owned(),
        ));
    }
    Ok(())
}

fn check_shares(values: &model::Values) -> Result<(), SettingsError> {
    let shares: Vec<RoleShare> = shares(values).collect();
    if shares.len() > PARTITIONS_MAX {
        let allowed = format!("share or share_max in at most {PARTITIONS_MAX} roles");
        return Err(SettingsError::value("roles", shares.len(), allowed));
    }
    let sum: u16 = shares.iter().map(|share| share.guaranteed).sum();
    if sum > SHARES_MAX {
        let allowed = format!("at most {SHARES_MAX} for all roles together");
        return Err(SettingsError::value("roles.*.share", sum, allowed));
    }
    match shares.iter().find(|share| share.most < share.guaranteed) {
        None => Ok(()),
        Some(RoleShare {
            role,
            guaranteed,
            most,
        }) => {
            let allowed = format!("at least its share, which is {guaranteed}");
            Err(SettingsError::value(
                &format!("roles.{role}.share_max"),
                most,
                allowed,
            ))
        }
    }
}

/// The rule of one query, its tags held against the query's parameters.
///
/// # Errors
/// A tag that is no template or names what is no parameter.
pub(super) fn rule(key: &str, block: &model::QueryCache, query: &Query) -> Result<CacheRule, SettingsError> {
    let key = format!("{key}.cache.tags");
    let mut tags = Vec::with_capacity(block.tags.len());
    for text in &block.tags {
        let tag = parsed(&key, Template::parse(text))?;
        let unknown = tag
            .names()
            .find(|name| !query.params.iter().any(|param| param.name == *name));
        if let Some(name) = unknown {
            return Err(SettingsError::declaration(
                &key,
                format!("{name:?} is no parameter of the query"),
            ));
        }
        tags.push(tag);
    }
    let length = |time: Option<super::Time>| time.map_or(Duration::ZERO, |time| time.0);
    Ok(CacheRule {
        ttl: block.ttl.0,
        stale: length(block.stale),
        stale_on_error: length(block.stale_on_error),
        empty_ttl: block.empty_ttl.map(|time| time.0),
        tags,
    })
}
