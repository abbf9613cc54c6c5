//! What a query is: a declared, read-only way of rows out.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::{named::Text, outline::Outline, param};
use crate::{
    error::{Error, Result},
    kind::Kind,
    value::Type,
};

/// A declared way of rows out. Plain data: [`Query::check`] says whether it is sound in itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Its name, unique; `[a-z0-9_-]`, 1 to 64 bytes.
    pub name: String,
    /// Its text, one `SELECT`, with parameters as `:symbol`.
    pub sql: Dialects,
    /// Its parameters, at most 64.
    pub params: Vec<Param>,
    /// The order of its pages, all in one direction; empty: it has no pages. Together with the columns that the text
    /// binds by `=` these contain a unique, non-null key of each table.
    pub page: Vec<Order>,
    /// Most rows of an answer or a page, 1 to 100,000.
    pub rows_max: usize,
    /// Most bytes of an answer or a page as JSON, 1 KiB to 64 MiB. A page ends early; any other answer is refused.
    pub bytes_max: usize,
    /// How long it may take, the wait for a connection included; of a stream, how long it may stand still. 1 ms to 1 h.
    pub timeout: Duration,
    /// Names and types of its columns, needed for SQLite alone.
    pub returns: Vec<(String, Type)>,
    /// Whether it may share a connection with other short statements; streams never do.
    pub pipeline: bool,
    /// Whether a replica may answer.
    pub replica: bool,
}

/// The text of a query for each database it is used with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dialects {
    /// For PostgreSQL.
    pub postgres: Option<String>,
    /// For SQLite.
    pub sqlite: Option<String>,
}

/// A parameter of a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Its name without the colon: `[a-z_][a-z0-9_]*`, at most 63 bytes; not `limit` or `after`.
    pub name: String,
    /// What it takes.
    pub kind: Type,
    /// Who gives it.
    pub source: Source,
    /// Its value when the caller gives none.
    pub default: Option<serde_json::Value>,
    /// Whether it may be absent or null; then it is NULL.
    pub optional: bool,
}

/// Who gives a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Whoever asks.
    Caller,
    /// The token's claim of this name; never the caller.
    Claim(String),
}

/// A column by which pages are ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its name in the answer.
    pub column: String,
    /// Whether the greatest come first.
    pub descending: bool,
}

/// A sound query for one kind of database.
#[derive(Debug)]
pub(super) struct Sound {
    pub(super) query: Query,
    /// The text with `$n`, and which parameter each is.
    pub(super) text: Text,
    /// What the pages are cut from; for queries with pages.
    pub(super) outline: Option<Outline>,
    /// Changes with the declaration: cursors carry it.
    pub(super) version: u64,
}

const PARAMS_MAX: usize = 64;
const PAGE_COLUMNS_MAX: usize = 8;

// === impl Dialects ===

impl Dialects {
    /// One text for all databases.
    pub fn same(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            postgres: Some(text.clone()),
            sqlite: Some(text),
        }
    }

    /// The text for a database.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<&str> {
        match kind {
            Kind::Postgres => self.postgres.as_deref(),
            Kind::Sqlite => self.sqlite.as_deref(),
        }
    }
}

// === impl Param ===

impl Param {
    /// A required parameter that the caller gives.
    pub fn new(name: impl Into<String>, kind: Type) -> Self {
        Self {
            name: name.into(),
            kind,
            source: Source::Caller,
            default: None,
            optional: false,
        }
    }

    /// A parameter that is filled from a claim of the token.
    pub fn claim(name: impl Into<String>, kind: Type, claim: impl Into<String>) -> Self {
        Self {
            source: Source::Claim(claim.into()),
            ..Self::new(name, kind)
        }
    }
}

// === impl Order ===

impl Order {
    /// Reads `ts`, `ts asc` or `ts desc`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the text and what is allowed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = text.split_ascii_whitespace();
        let column = words.next().map(ToOwned::to_owned);
        let direction = words.next().map(str::to_ascii_lowercase);
        let descending = match direction.as_deref() {
            None | Some("asc") => Some(false),
            Some("desc") => Some(true),
            Some(_) => None,
        };
        match (column, descending, words.next()) {
            (Some(column), Some(descending), None) => Ok(Self { column, descending }),
            _ => Err(Error::Config {
                what: format!("page column {text:?}"),
                problem: "write a column's name, possibly followed by asc or desc".to_owned(),
            }),
        }
    }
}

// === impl Query ===

impl Query {
    /// A query without parameters and pages, with the usual limits: 1,000 rows, 4 MiB, 30 s, pipelined.
    pub fn new(name: impl Into<String>, sql: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            sql: Dialects::same(sql),
            params: Vec::new(),
            page: Vec::new(),
            rows_max: 1_000,
            bytes_max: 4 << 20,
            timeout: Duration::from_secs(30),
            returns: Vec::new(),
            pipeline: true,
            replica: false,
        }
    }

    /// Whether it is sound for this kind of database, as far as that can be said without it.
    ///
    /// # Errors
    /// [`Error::Config`] naming the query, the parameter and what is allowed; [`Error::Unsupported`] if it has no text for
    /// this database.
    pub fn check(&self, kind: Kind) -> Result<()> {
        Sound::new(self.clone(), kind).map(drop)
    }

    /// An error about this query.
    pub(super) fn broken(&self, problem: impl Into<String>) -> Error {
        Error::Config {
            what: format!("query {}", self.name),
            problem: problem.into(),
        }
    }

    fn broken_param(&self, name: &str, problem: impl Into<String>) -> Error {
        Error::Config {
            what: format!("query {}, parameter {name}", self.name),
            problem: problem.into(),
        }
    }

    fn check_limits(&self) -> Result<()> {
        let is_name = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(is_name) {
            return Err(self.broken(format!(
                "the name {:?} is not 1 to 64 of a-z, 0-9, _ and -",
                self.name
            )));
        }
        if !(1..=100_000).contains(&self.rows_max) {
            return Err(self.broken(format!("rows_max = {} is not 1 to 100,000", self.rows_max)));
        }
        if !(1 << 10..=64 << 20).contains(&self.bytes_max) {
            return Err(self.broken(format!("bytes_max = {} is not 1 KiB to 64 MiB", self.bytes_max)));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&self.timeout) {
            return Err(self.broken(format!("timeout = {:?} is not 1 ms to 1 h", self.timeout)));
        }
        Ok(())
    }

    fn check_params(&self) -> Result<()> {
        if self.params.len() > PARAMS_MAX {
            return Err(self.broken(format!("{} parameters, at most {PARAMS_MAX}", self.params.len())));
        }
        for (at, param) in self.params.iter().enumerate() {
            let name = &param.name;
            let is_start = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'_';
            let is_name = |byte: u8| is_start(&byte) || byte.is_ascii_digit();
            if !name.as_bytes().first().is_some_and(is_start) || name.len() > 63 || !name.bytes().all(is_name)
            {
                return Err(self.broken_param(
                    name,
                    "a name is 1 to 63 of a-z, 0-9 and _, and begins with no digit",
                ));
            }
            if name == "limit" || name == "after" {
                return Err(self.broken_param(name, "this name belongs to pages"));
            }
            if self.params[..at].iter().any(|other| other.name == *name) {
                return Err(self.broken_param(name, "declared twice"));
            }
            if matches!(param.source, Source::Claim(_)) && (param.default.is_some() || param.optional) {
                return Err(
                    self.broken_param(name, "what comes from a claim has no default and is not optional")
                );
            }
            if let Some(default) = &param.default {
                param::read(param, default)
                    .map_err(|error| self.broken_param(name, format!("default: {error}")))?;
            }
        }
        Ok(())
    }

    fn check_page(&self) -> Result<()> {
        if self.page.len() > PAGE_COLUMNS_MAX {
            return Err(self.broken(format!(
                "{} page columns, at most {PAGE_COLUMNS_MAX}",
                self.page.len()
            )));
        }
        for (at, order) in self.page.iter().enumerate() {
            if order.column.is_empty() || order.column.len() > 63 || order.column.contains('\0') {
                return Err(self.broken(format!("page column {:?} is no name", order.column)));
            }
            if self.page[..at].iter().any(|other| other.column == order.column) {
                return Err(self.broken(format!("page column {} is named twice", order.column)));
            }
        }
        match self
            .page
            .iter()
            .all(|order| order.descending == self.page[0].descending)
        {
            true => Ok(()),
            false => Err(self.broken("page columns must all be ascending or all descending")),
        }
    }

    /// Each parameter is used in some text, and each text uses none that is not declared.
    fn check_texts(&self) -> Result<()> {
        let mut used = vec![false; self.params.len()];
        for sql in [&self.sql.postgres, &self.sql.sqlite].into_iter().flatten() {
            let text = Text::parse(sql, &self.params).map_err(|problem| self.broken(problem))?;
            text.params.iter().for_each(|at| used[*at] = true);
        }
        match used.iter().position(|used| !used) {
            Some(at) => {
                let name = &self.params[at].name;
                Err(self.broken_param(name, format!("declared, but the text has no :{name}")))
            }
            None => Ok(()),
        }
    }
}

// === impl Sound ===

impl Sound {
    pub(super) fn new(query: Query, kind: Kind) -> Result<Self> {
        query.check_limits()?;
        query.check_params()?;
        query.check_page()?;
        query.check_texts()?;
        let sql = query.sql.of(kind).ok_or_else(|| Error::Unsupported {
            what: format!("query {}", query.name),
            needs: match kind {
                Kind::Postgres => "a text for PostgreSQL",
                Kind::Sqlite => "a text for SQLite",
            },
        })?;
        let text = Text::parse(sql, &query.params).map_err(|problem| query.broken(problem))?;
        let outline = match query.page.is_empty() {
            true => None,
            false => Some(Outline::of(sql).map_err(|problem| query.broken(problem))?),
        };
        let version = version(&query, &text.sql);
        Ok(Self {
            text,
            outline,
            version,
            query,
        })
    }
}

/// The first eight bytes of a digest of what a cursor depends on.
fn version(query: &Query, sql: &str) -> u64 {
    let mut digest = Sha256::new();
    let mut add = |text: &str| {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    };
    add(&query.name);
    add(sql);
    for param in &query.params {
        add(&param.name);
        add(&param.kind.to_string());
        match &param.source {
            Source::Caller => add("caller"),
            Source::Claim(claim) => add(&format!("claim:{claim}")),
        }
    }
    for order in &query.page {
        add(&order.column);
        add(if order.descending { "desc" } else { "asc" });
    }
    let digest = digest.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> Query {
        Query {
            params: vec![Param::new("symbol", Type::Text)],
            page: vec![Order::parse("ts desc").unwrap(), Order::parse("id DESC").unwrap()],
            ..Query::new("latest", "SELECT ts, id FROM ticks WHERE symbol = :symbol")
        }
    }

    fn check(change: impl FnOnce(&mut Query), expected: &str) {
        let mut query = query();
        change(&mut query);
        let message = query
            .check(Kind::Postgres)
            .map_or_else(|error| error.to_string(), |()| "sound".to_owned());
        assert!(
            message.contains(expected),
            "{message:?} does not contain {expected:?}"
        );
    }

    #[test]
    fn declarations_that_contradict_themselves_are_named() {
        check(|_| {}, "sound");
        check(|query| query.name = "No".to_owned(), "query No: the name");
        check(|query| query.rows_max = 0, "rows_max = 0 is not 1 to 100,000");
        check(|query| query.bytes_max = 9, "bytes_max = 9");
        check(
            |query| query.timeout = Duration::ZERO,
            "timeout = 0ns is not 1 ms to 1 h",
        );
        check(
            |query| query.params.clear(),
            "query latest: unknown parameter :symbol",
        );
        check(
            |query| query.params.push(Param::new("more", Type::Int8)),
            "parameter more: declared, but the text has no :more",
        );
        check(
            |query| query.params.push(Param::new("symbol", Type::Int8)),
            "parameter symbol: declared twice",
        );
        check(
            |query| query.params[0].name = "limit".to_owned(),
            "belongs to pages",
        );
        check(
            |query| query.params[0].name = "Symbol".to_owned(),
            "a name is 1 to 63",
        );
        check(
            |query| query.params[0].default = Some(serde_json::json!(5)),
            "parameter symbol: default",
        );
        check(
            |query| {
                query.params[0].source = Source::Claim("tenant".to_owned());
                query.params[0].optional = true;
            },
            "what comes from a claim",
        );
        check(
            |query| query.page[0].descending = false,
            "must all be ascending or all descending",
        );
        check(
            |query| query.page[1].column = "ts".to_owned(),
            "page column ts is named twice",
        );
        check(
            |query| query.sql.postgres = None,
            "query latest needs a text for PostgreSQL",
        );
    }

    #[test]
    fn page_columns_are_read_with_their_direction() {
        let check = |text: &str, expected: Option<(&str, bool)>| {
            let order = Order::parse(text)
                .ok()
                .map(|order| (order.column, order.descending));
            assert_eq!(
                order,
                expected.map(|(column, descending)| (column.to_owned(), descending)),
                "{text}"
            );
        };
        check("ts", Some(("ts", false)));
        check(" ts  ASC ", Some(("ts", false)));
        check("ts desc", Some(("ts", true)));
        check("", None);
        check("ts down", None);
        check("ts desc nulls", None);
    }

    #[test]
    fn whatever_a_cursor_depends_on_changes_the_version() {
        let version = |change: fn(&mut Query)| {
            let mut query = query();
            change(&mut query);
            Sound::new(query, Kind::Postgres).unwrap().version
        };
        let same = version(|_| {});
        assert_eq!(same, version(|query| query.rows_max = 7));
        assert_ne!(same, version(|query| query.name = "other".to_owned()));
        assert_ne!(same, version(|query| query.page.truncate(1)));
        assert_ne!(same, version(|query| query.params[0].kind = Type::Uuid));
        assert_ne!(
            same,
            version(|query| query.params[0].source = Source::Claim("tenant".to_owned()))
        );
        assert_ne!(
            same,
            version(|query| query.sql = Dialects::same("SELECT ts, id FROM ticks WHERE symbol < :symbol"))
        );
    }
}
