//! The settings of a pool, with their defaults and bounds.

use std::time::Duration;

use crate::error::{Error, Result};

/// How large a pool is and how long things may take in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Connections that are kept open even when nobody uses them: 0 to `size`.
    pub min: usize,
    /// Connections that are kept while demand lasts: 1 to 1,000.
    pub size: usize,
    /// Connections on top for bursts, closed after `linger`: 0 to 1,000.
    pub overflow: usize,
    /// How long an acquire may wait: 1 ms to 1 h.
    pub acquire_timeout: Duration,
    /// How long a connection beyond the demand may idle: 1 s to 1 day.
    pub idle_timeout: Duration,
    /// Age at which a connection is replaced, ±10 % so that they do not go together: 1 s to 7 days.
    pub lifetime: Duration,
    /// How long a connection beyond `size` may idle: 0 to 1 h.
    pub linger: Duration,
    /// A connection held longer than this is reported once, with the place that acquired it; `None`: never. At least 1 s.
    pub leak_after: Option<Duration>,
    /// Whether a connection not proven within the last second is checked before it is given out. A suspect one is
    /// checked in any case.
    pub pre_ping: bool,
    /// How long opening a connection may take: 10 ms to 5 min.
    pub connect_timeout: Duration,
    /// How long cleaning up after a user may take before the connection is dropped: 10 ms to 5 min.
    pub drain_timeout: Duration,
    /// Tasks that may wait at a time; one more is refused at once. At least 1.
    pub waiting_max: usize,
    /// Connections that are opened at a time once opening works: 1 to 64.
    pub dials_max: usize,
}

/// Connections that may be open on top of `size + overflow` while the ones that they replace are still in use.
pub const REPLACEMENTS_MAX: usize = 2;

impl Default for Config {
    fn default() -> Self {
        Self {
            min: 5,
            size: 20,
            overflow: 40,
            acquire_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            lifetime: Duration::from_secs(3_600),
            linger: Duration::from_secs(30),
            leak_after: Some(Duration::from_secs(60)),
            pre_ping: true,
            connect_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
            waiting_max: 10_000,
            dials_max: 4,
        }
    }
}

impl Config {
    /// The most connections that users can hold at a time.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.size + self.overflow
    }

    /// The most connections that can be open at a time, replacements included: what the server must allow.
    #[must_use]
    pub const fn connections_max(&self) -> usize {
        self.capacity() + REPLACEMENTS_MAX
    }

    /// Whether every value is within its range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first setting that is not, its value and its range.
    pub fn check(&self) -> Result<()> {
        let secs = Duration::from_secs;
        count("size", self.size, 1, 1_000)?;
        count("min", self.min, 0, self.size)?;
        count("overflow", self.overflow, 0, 1_000)?;
        count("waiting_max", self.waiting_max, 1, 10_000_000)?;
        count("dials_max", self.dials_max, 1, 64)?;
        let ms = Duration::from_millis;
        time("acquire_timeout", self.acquire_timeout, ms(1), secs(3_600))?;
        time("idle_timeout", self.idle_timeout, secs(1), secs(86_400))?;
        time("lifetime", self.lifetime, secs(1), secs(7 * 86_400))?;
        time("linger", self.linger, Duration::ZERO, secs(3_600))?;
        time("connect_timeout", self.connect_timeout, ms(10), secs(300))?;
        time("drain_timeout", self.drain_timeout, ms(10), secs(300))?;
        self.leak_after.map_or(Ok(()), |after| {
            time("leak_after", after, secs(1), secs(7 * 86_400))
        })
    }
}

fn count(key: &str, value: usize, least: usize, most: usize) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(refused(key, format!("{value} is not within {least} to {most}")))
}

fn time(key: &str, value: Duration, least: Duration, most: Duration) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(refused(
        key,
        format!("{value:?} is not within {least:?} to {most:?}"),
    ))
}

fn refused(key: &str, problem: String) -> Error {
    Error::Config {
        what: format!("pool.{key}"),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Config), expected: Option<&str>) {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(
            config.check().err().map(|error| error.to_string()).as_deref(),
            expected
        );
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_its_range() {
        check(|_| (), None);
        check(
            |config| config.size = 0,
            Some("pool.size: 0 is not within 1 to 1000"),
        );
        check(
            |config| config.min = 21,
            Some("pool.min: 21 is not within 0 to 20"),
        );
        check(
            |config| config.acquire_timeout = Duration::ZERO,
            Some("pool.acquire_timeout: 0ns is not within 1ms to 3600s"),
        );
        check(|config| config.leak_after = None, None);
        check(
            |config| config.leak_after = Some(Duration::ZERO),
            Some("pool.leak_after: 0ns is not within 1s to 604800s"),
        );
    }

    #[test]
    fn what_the_server_must_allow_counts_replacements() {
        assert_eq!(Config::default().capacity(), 60);
        assert_eq!(Config::default().connections_max(), 62);
    }
}
