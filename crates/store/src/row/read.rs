//! Bodies of requests into rows by the columns of a feed.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use sha2::{Digest as _, Sha256};

use super::cell::Cell;
use super::split::{Elements, has_word_not_finite};
use super::{Fault, Rejected, Table, code};
use crate::error::{Error, Result};
use crate::feed::{Feed, Operation};
use crate::value::{Type, Value};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object, or an array of objects.
    Json,
    /// One object a line; empty lines count as nothing.
    Ndjson,
}

/// Reads rows for one feed and operation.
#[derive(Debug)]
pub struct Reader {
    rules: Vec<Rule>,
    operation: Operation,
    row_bytes_max: usize,
}

/// What a body held.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Its rows by chunk, in order; chunks without a good row are there as well.
    pub chunks: Vec<ChunkRows>,
    /// Rows that do not fit, the first [`REJECTED_MAX`] of them.
    pub rejected: Vec<Rejected>,
    /// How many do not fit.
    pub n_rejected: u64,
    /// How many there were, good and bad.
    pub n_rows: u64,
}

/// The rows of one chunk: those whose number divided by [`CHUNK_ROWS`] is `index`.
#[derive(Debug, Clone, Default)]
pub struct ChunkRows {
    /// Which chunk of the request.
    pub index: u32,
    /// The good rows.
    pub table: Table,
    /// The number of each good row in the whole request.
    pub numbers: Vec<u64>,
    /// Hash over the bytes of all its rows, good and bad, and their borders.
    pub digest: Sha256,
}

/// Rows of one request that are claimed together.
pub const CHUNK_ROWS: u64 = 1_000;
/// Most rejected rows of one request that are listed; the others are only counted.
pub const REJECTED_MAX: usize = 1_000;
/// Most bytes of a foreign column's name that are given back.
const NAME_BYTES_MAX: usize = 64;

#[derive(Debug)]
struct Rule {
    name: String,
    kind: Type,
    is_key: bool,
    not_null: bool,
}

// === impl Reader ===

impl Reader {
    /// A reader for rows of `feed` that come for `operation`.
    #[must_use]
    pub fn new(feed: &Feed, operation: Operation) -> Self {
        let rule = |column: &crate::feed::Column| {
            let is_key = feed.key.contains(&column.name);
            Rule {
                name: column.name.clone(),
                kind: column.kind.clone(),
                is_key,
                not_null: column.not_null || is_key,
            }
        };
        Self {
            rules: feed.columns.iter().map(rule).collect(),
            operation,
            row_bytes_max: feed.row_bytes_max,
        }
    }

    /// The same without a limit of the row's length: for rows that were taken in before.
    #[must_use]
    pub(crate) fn without_limit(self) -> Self {
        Self {
            row_bytes_max: usize::MAX,
            ..self
        }
    }

    /// Reads a body whose first row has the number `first_row`.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if it cannot be taken apart into rows; then none counts.
    pub fn read(&self, format: Format, body: &[u8], first_row: u64) -> Result<Parsed> {
        let mut reading = Reading {
            reader: self,
            is_utf8: simdutf8::basic::from_utf8(body).is_ok(),
            seen: vec![false; self.rules.len()],
            next: first_row,
            parsed: Parsed::default(),
        };
        match format {
            Format::Ndjson => reading.lines(body),
            Format::Json => reading.json(body.trim_ascii())?,
        }
        reading.parsed.n_rows = reading.next - first_row;
        Ok(reading.parsed)
    }
}

/// A body on its way.
struct Reading<'a> {
    reader: &'a Reader,
    is_utf8: bool,
    seen: Vec<bool>,
    next: u64,
    parsed: Parsed,
}

impl Reading<'_> {
    fn lines(&mut self, body: &[u8]) {
        let mut rest = body;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = rest[..end].trim_ascii();
            if !line.is_empty() {
                self.row(line);
            }
            rest = rest.get(end + 1..).unwrap_or_default();
        }
    }

    fn json(&mut self, body: &[u8]) -> Result<()> {
        match body.first() {
            Some(b'{') => self.row(body),
            Some(b'[') => {
                for element in Elements::new(&body[1..]) {
                    match element {
                        Ok(element) => self.row(element),
                        Err(broken) => {
                            let problem = format!("rows: {} after row {}", broken.0, self.next);
                            return Err(Error::BadRequest(problem));
                        }
                    }
                }
            }
            _ => {
                let problem = "rows: neither an object nor an array of objects";
                return Err(Error::BadRequest(problem.to_owned()));
            }
        }
        Ok(())
    }

    fn row(&mut self, text: &[u8]) {
        let number = self.next;
        self.next += 1;
        let digest = &mut self.chunk(number).digest;
        // The length first: "ab" is not "a" and "b".
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
        let fault = match self.reader.check_text(text, self.is_utf8) {
            Ok(text) => self.take(text, number),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = fault {
            self.parsed.n_rejected += 1;
            if self.parsed.rejected.len() < REJECTED_MAX {
                self.parsed.rejected.push(fault.reject(number));
            }
        }
    }

    fn chunk(&mut self, number: u64) -> &mut ChunkRows {
        let index = (number / CHUNK_ROWS) as u32;
        let chunks = &mut self.parsed.chunks;
        if chunks.last().is_none_or(|chunk| chunk.index != index) {
            chunks.push(ChunkRows {
                index,
                table: Table::new(self.reader.rules.len()),
                ..ChunkRows::default()
            });
        }
        chunks.last_mut().expect("one was pushed")
    }

    fn take(&mut self, text: &str, number: u64) -> std::result::Result<(), Fault> {
        let reader = self.reader;
        self.seen.fill(false);
        let mut seen = std::mem::take(&mut self.seen);
        let chunk = self.chunk(number);
        let start = chunk.table.values.len();
        chunk.table.values.resize(start + reader.rules.len(), Value::Null);
        let read = reader.read_row(text, &mut seen, &mut chunk.table.values[start..]);
        match &read {
            Err(_) => chunk.table.values.truncate(start),
            Ok(()) => {
                chunk.numbers.push(number);
                if reader.operation == Operation::Update {
                    chunk.table.push_given(&seen);
                }
            }
        }
        self.seen = seen;
        read
    }
}

impl Reader {
    fn check_text<'t>(&self, text: &'t [u8], is_utf8: bool) -> std::result::Result<&'t str, Fault> {
        if text.len() > self.row_bytes_max {
            let message = format!("{} bytes, at most {}", text.len(), self.row_bytes_max);
            return Err(Fault::new(code::TOO_LONG, message));
        }
        // Parts of a body that is UTF-8 are checked again only by the cheap standard check.
        simdutf8::compat::from_utf8(text).map_err(|error| {
            debug_assert!(!is_utf8, "a part of a body that is UTF-8, cut between characters");
            let fault = Fault::new(code::INVALID_UTF8, "not UTF-8");
            match self.column_before(&text[..error.valid_up_to()]) {
                Some(name) => fault.at(name),
                None => fault,
            }
        })
    }

    /// The column whose value `text` ends in, as far as one can tell.
    fn column_before(&self, text: &[u8]) -> Option<&str> {
        let place = |rule: &Rule| memchr::memmem::rfind(text, format!("\"{}\"", rule.name).as_bytes());
        let named = self.rules.iter().filter_map(|rule| Some((place(rule)?, rule)));
        named
            .max_by_key(|(at, _)| *at)
            .map(|(_, rule)| rule.name.as_str())
    }

    fn read_row(
        &self,
        text: &str,
        seen: &mut [bool],
        values: &mut [Value],
    ) -> std::result::Result<(), Fault> {
        let fault = RefCell::new(None);
        let mut current = None;
        let mut json = serde_json::Deserializer::from_str(text);
        let row = Row {
            reader: self,
            seen,
            values,
            current: &mut current,
            fault: &fault,
        };
        let read = row.deserialize(&mut json).and_then(|()| json.end());
        if let Err(error) = read {
            let fault = fault.into_inner().unwrap_or_else(|| diagnose(text, &error));
            return Err(match current {
                Some(at) => fault.at(&self.rules[at].name),
                None => fault,
            });
        }
        self.check_row(seen, values)
    }

    /// What can only be said of the whole row.
    fn check_row(&self, seen: &[bool], values: &[Value]) -> std::result::Result<(), Fault> {
        for ((rule, seen), value) in self.rules.iter().zip(seen).zip(values) {
            let is_needed = match self.operation {
                Operation::Insert | Operation::Upsert => rule.not_null,
                Operation::Update => rule.is_key || *seen && rule.not_null,
                Operation::Delete => rule.is_key,
            };
            if is_needed && *value == Value::Null {
                let (code, message) = match seen {
                    false if rule.is_key => (code::MISSING_KEY, "key column missing"),
                    false => (code::NULL, "missing, and must not be null"),
                    true => (code::NULL, "must not be null"),
                };
                return Err(Fault::new(code, message).at(&rule.name));
            }
        }
        let mut others = self.rules.iter().zip(seen).filter(|(rule, _)| !rule.is_key);
        match self.operation {
            Operation::Update if !others.any(|(_, seen)| *seen) => Err(Fault::new(
                code::NOT_ALLOWED,
                "nothing to change: only key columns",
            )),
            Operation::Delete => match others.find(|(_, seen)| **seen) {
                Some((rule, _)) => {
                    Err(Fault::new(code::NOT_ALLOWED, "only key columns for a deletion").at(&rule.name))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// Puts the parser's own error into our words.
fn diagnose(text: &str, error: &serde_json::Error) -> Fault {
    let message = error.to_string();
    if message.starts_with("number out of range") {
        return Fault::new(code::OUT_OF_RANGE, "number out of range");
    }
    if has_word_not_finite(text.as_bytes()) {
        return Fault::new(code::NAN, "NaN and infinity are not numbers");
    }
    match error.is_data() {
        true => Fault::new(code::TYPE_MISMATCH, "a row must be an object"),
        false => Fault::new(code::INVALID_JSON, message),
    }
}

// === One row ===

struct Row<'a> {
    reader: &'a Reader,
    seen: &'a mut [bool],
    values: &'a mut [Value],
    /// The column that is being read, for the report of a fault.
    current: &'a mut Option<usize>,
    fault: &'a RefCell<Option<Fault>>,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<(), A::Error> {
        let mut guess = 0;
        loop {
            let name = Name {
                rules: &self.reader.rules,
                guess,
                fault: self.fault,
            };
            let Some(at) = entries.next_key_seed(name)? else {
                return Ok(());
            };
            *self.current = Some(at);
            if std::mem::replace(&mut self.seen[at], true) {
                self.fault
                    .replace(Some(Fault::new(code::DUPLICATE_COLUMN, "given twice")));
                return Err(A::Error::custom("refused"));
            }
            let kind = &self.reader.rules[at].kind;
            self.values[at] = entries.next_value_seed(Cell {
                kind,
                fault: self.fault,
            })?;
            *self.current = None;
            guess = at + 1;
        }
    }
}

/// Reads a column's name; rows usually name them in the same order, so that the next one is tried first.
struct Name<'a> {
    rules: &'a [Rule],
    guess: usize,
    fault: &'a RefCell<Option<Fault>>,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<usize, E> {
        if self.rules.get(self.guess).is_some_and(|rule| rule.name == name) {
            return Ok(self.guess);
        }
        match self.rules.iter().position(|rule| rule.name == name) {
            Some(at) => Ok(at),
            None => {
                let known = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
                let fault = Fault::new(code::UNKNOWN_COLUMN, "the feed has no such column");
                self.fault.replace(Some(fault.at(known)));
                Err(E::custom("refused"))
            }
        }
    }
}
