//! Values with a unit as they are written in the settings: `"30s"`, `"256KiB"`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

/// A length of time, written as a whole number and a unit: `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// A number of bytes: a plain integer, or a whole number and `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1,024)
/// or `KB`, `MB`, `GB`, `TB` (powers of 1,000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The text is no number followed by a known unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a whole number with a unit")]
pub struct NotAValue;

impl NotAValue {
    /// Never: the same text fails again.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        false
    }
}

const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

// === impl Time ===

impl Time {
    /// From milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }
}

impl FromStr for Time {
    type Err = NotAValue;

    fn from_str(text: &str) -> Result<Self, NotAValue> {
        number_with_unit(text, &TIME_UNITS).map(Self::from_millis)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        put_with_unit(f, ms, &TIME_UNITS, "0s")
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

// === impl Size ===

impl FromStr for Size {
    type Err = NotAValue;

    fn from_str(text: &str) -> Result<Self, NotAValue> {
        number_with_unit(text, &SIZE_UNITS).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        put_with_unit(f, self.0, &SIZE_UNITS, "0B")
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

fn number_with_unit(text: &str, units: &[(&str, u64)]) -> Result<u64, NotAValue> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or(NotAValue)?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units
        .iter()
        .find(|(name, _)| *name == unit.trim_start())
        .ok_or(NotAValue)?;
    let number: u64 = number.parse().map_err(|_| NotAValue)?;
    number.checked_mul(*factor).ok_or(NotAValue)
}

fn put_with_unit(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)], zero: &str) -> fmt::Result {
    // The largest unit that divides the value leaves the shortest text that loses nothing.
    let best = units
        .iter()
        .filter(|(_, factor)| value.is_multiple_of(*factor))
        .max_by_key(|unit| unit.1);
    match best {
        Some((unit, factor)) if value > 0 => write!(f, "{}{unit}", value / factor),
        _ => f.write_str(zero),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        let check = |text: &str, ms: Option<u64>| {
            assert_eq!(text.parse::<Time>().ok(), ms.map(Time::from_millis), "{text}");
        };
        check("250ms", Some(250));
        check("30s", Some(30_000));
        check("2m", Some(120_000));
        check("1h", Some(3_600_000));
        check("1d", Some(86_400_000));
        check("0s", Some(0));
        check("30", None);
        check("-1s", None);
        check("1.5s", None);
        check("s", None);
        check("", None);
        check("99999999999999999999s", None);
        check("18446744073709551615d", None);
        assert_eq!(Time::from_millis(90_000).to_string(), "90s");
        assert_eq!(Time::from_millis(120_000).to_string(), "2m");
        assert_eq!(Time::from_millis(0).to_string(), "0s");
    }

    #[test]
    fn sizes_are_read_and_written() {
        let check = |text: &str, bytes: Option<u64>| {
            assert_eq!(text.parse::<Size>().ok(), bytes.map(Size), "{text}");
        };
        check("256KiB", Some(262_144));
        check("1MB", Some(1_000_000));
        check("2 GiB", Some(2 << 30));
        check("12B", Some(12));
        check("12", None);
        check("1kib", None);
        check("17179869184TiB", None);
        assert_eq!(Size(1 << 20).to_string(), "1MiB");
        assert_eq!(Size(1_000_000).to_string(), "1MB");
        assert_eq!(Size(1_500).to_string(), "1500B");
    }
}
