//! What a setting is: its key, kind, range, default, and why it stands so.

use toml::Value;

use super::entries::TABLE;

/// Longest text in a list, bytes.
pub(super) const TEXT_BYTES_MAX: usize = 4_096;

/// The same words in the two languages of the house.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// English.
    pub en: &'static str,
    /// Chinese.
    pub zh: &'static str,
}

/// Type and range of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Count {
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// A [`super::Time`].
    Time {
        /// Shortest, milliseconds.
        min_ms: u64,
        /// Longest, milliseconds.
        max_ms: u64,
    },
    /// A [`super::Size`].
    Size {
        /// Least, bytes.
        min: u64,
        /// Most, bytes.
        max: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of these words.
    Choices(&'static [&'static str]),
    /// IP address and port.
    Address,
    /// Text.
    Text {
        /// Longest, bytes.
        bytes_max: usize,
        /// What the text must be.
        form: &'static str,
    },
    /// A list of texts.
    List {
        /// Most entries.
        items_max: usize,
        /// What each must be.
        form: &'static str,
    },
    /// A number, a flag or a text.
    Scalar,
    /// A small table of fixed keys.
    Fields(&'static [Field]),
    /// A small table of names of the user's choice, in his order.
    Map {
        /// Most names.
        items_max: usize,
        /// What stands behind each name.
        of: &'static Self,
    },
    /// A plain value, or a table where that is not enough.
    Either(&'static Self, &'static Self),
}

/// A key of [`Kind::Fields`].
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// Whether the table means nothing without it.
    pub required: bool,
}

/// The value of a setting that nobody wrote.
#[derive(Clone, Copy, Debug)]
pub enum Initial {
    /// This TOML value.
    Always(&'static str),
    /// This TOML value for the presets small, medium and large.
    ByPreset([&'static str; 3]),
    /// None; the example shows how one looks.
    Absent(&'static str),
    /// None, and its block means nothing without it; the example shows how one looks.
    Required(&'static str),
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its path in the file; `*` stands for a name of the user's choice.
    pub key: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// Its default.
    pub initial: Initial,
    /// Whether a running server takes a new value on SIGHUP.
    pub reload: bool,
    /// What it does and what a change costs.
    pub why: Words,
}

/// A section of the file.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Prefix of its settings, `""` for those at the top.
    pub name: &'static str,
    /// The line that opens it in the sample.
    pub header: &'static str,
    /// What it is about.
    pub why: Words,
}

// === impl Kind ===

impl Kind {
    /// The allowed values, in words.
    #[must_use]
    pub fn allowed(self) -> String {
        use super::{Size, Time};
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Count { min, max } => format!("{min} to {max}"),
            Self::Time { min_ms, max_ms } => {
                format!(
                    "\"{}\" to \"{}\"",
                    Time::from_millis(min_ms),
                    Time::from_millis(max_ms)
                )
            }
            Self::Size { min, max } => format!("\"{}\" to \"{}\"", Size(min), Size(max)),
            Self::Choice(choices) => quoted_list(choices, " or "),
            Self::Choices(choices) => format!("a list of {}", quoted_list(choices, ", ")),
            Self::Address => "an IP address and a port, such as \"127.0.0.1:8080\"".to_owned(),
            Self::Text { bytes_max, form } => format!("{form}, at most {bytes_max} bytes"),
            Self::List { items_max, form } => format!("a list of at most {items_max}, each {form}"),
            Self::Scalar => "a number, true or false, or a text".to_owned(),
            Self::Fields(fields) => {
                let named = fields.iter().map(|field| match field.required {
                    true => field.name.to_owned(),
                    false => format!("{} (optional)", field.name),
                });
                format!("a table of {}", named.collect::<Vec<_>>().join(", "))
            }
            Self::Map { items_max, of } => {
                format!("a table of at most {items_max} names, each {}", of.allowed())
            }
            Self::Either(plain, table) => format!("{}; or {}", plain.allowed(), table.allowed()),
        }
    }
}

fn quoted_list(items: &[&str], separator: &str) -> String {
    items
        .iter()
        .map(|item| format!("\"{item}\""))
        .collect::<Vec<_>>()
        .join(separator)
}

// === impl Setting ===

impl Setting {
    /// The group it stands in.
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.key.rsplit_once('.').map_or("", |(group, _)| group)
    }

    /// Its own name, the last part of the key.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.key.rsplit_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The default under the preset of this column.
    pub(super) fn default_value(&self, column: usize) -> Option<Value> {
        let literal = match self.initial {
            Initial::Always(literal) => literal,
            Initial::ByPreset(literals) => literals[column],
            Initial::Absent(_) | Initial::Required(_) => return None,
        };
        let table: toml::Table = format!("v = {literal}")
            .parse()
            .expect("defaults of the table are TOML");
        table.get("v").cloned()
    }
}

/// The setting with exactly this pattern as its key.
pub(super) fn find(pattern: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.key == pattern)
}

/// Whether settings stand below `pattern`.
pub(super) fn is_group(pattern: &str) -> bool {
    TABLE.iter().any(|setting| {
        setting
            .key
            .strip_prefix(pattern)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// Names of the settings and groups directly below `pattern`.
pub(super) fn children(pattern: &str) -> Vec<String> {
    let below = TABLE.iter().filter_map(|setting| match pattern {
        "" => Some(setting.key),
        _ => setting.key.strip_prefix(pattern)?.strip_prefix('.'),
    });
    let mut names: Vec<String> = below
        .filter_map(|rest| rest.split('.').next())
        .filter(|name| *name != "*")
        .map(str::to_owned)
        .collect();
    names.dedup();
    names
}
