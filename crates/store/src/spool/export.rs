//! Reading the spool for the verbs, while its owner may be running.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::value::RawValue;
use tidegate_seglog::Reader;

use super::{
    FeedStats, error,
    record::{Dated, Record},
};
use crate::error::{Error, Result};

/// What waits in the spool under `dir`, which a running process may hold. Blocks on the disk.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read.
pub fn list(dir: &Path) -> Result<Vec<FeedStats>> {
    let mut all = Vec::new();
    for feed in feeds(dir)? {
        let mut reader = Reader::peek(&dir.join(&feed)).map_err(error::of_log)?;
        let mut stats = FeedStats {
            feed,
            ..FeedStats::default()
        };
        while let Some(record) = reader.read().map_err(error::of_log)? {
            stats.records += 1;
            if let Ok(Dated { at_ms, record }) = Dated::decode(&record.payload.into()) {
                stats.rows += u64::from(record.n_rows);
                stats.oldest_at_ms.get_or_insert(at_ms);
            }
        }
        stats.damaged_records = reader.damage().records;
        // Asked last: what its owner removed while it was read waits no more, and is no damage.
        stats.bytes = file_bytes(&dir.join(&stats.feed))?;
        if stats.bytes > 0 && stats.records + stats.damaged_records > 0 {
            all.push(stats);
        }
    }
    Ok(all)
}

/// Writes the records under `dir`, of `feed` or of all, one JSON object a line; says how many. Rows of ingest stand in
/// `rows` as objects, value by column, with their numbers in the request in `row_numbers`; other JSON stands in `rows` as
/// it is, other bytes in `rows_base64`; a record that cannot be understood stands whole in `record_base64`. Blocks on the
/// disk.
///
/// # Errors
/// [`Error::UnknownFeed`] when nothing was ever spooled for `feed`; [`Error::Io`] when the folder cannot be read or
/// `out` cannot be written.
pub fn export(dir: &Path, feed: Option<&str>, out: &mut dyn Write) -> Result<u64> {
    let mut feeds = feeds(dir)?;
    if let Some(feed) = feed {
        feeds.retain(|name| name == feed);
        if feeds.is_empty() {
            return Err(Error::UnknownFeed(feed.to_owned()));
        }
    }
    let mut n_records = 0;
    for feed in feeds {
        let mut reader = Reader::peek(&dir.join(&feed)).map_err(error::of_log)?;
        while let Some(record) = reader.read().map_err(error::of_log)? {
            write_line(&feed, record.payload, out)
                .map_err(|error| error::io_error(format!("export: {error}")))?;
            n_records += 1;
        }
    }
    Ok(n_records)
}

/// A record as one line of JSON.
#[derive(serde::Serialize)]
struct Line<'a> {
    feed: &'a str,
    #[serde(flatten)]
    content: Content<'a>,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Known {
        at_ms: u64,
        feed_version: u64,
        principal: &'a str,
        id: &'a str,
        chunk: u32,
        operation: &'static str,
        n_rows: u32,
        #[serde(flatten)]
        rows: Rows,
    },
    Foreign {
        record_base64: String,
    },
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Rows {
    /// Those of ingest, as they came, so that no digit of a number changes.
    Numbered {
        row_numbers: Vec<u64>,
        rows: Vec<Box<RawValue>>,
    },
    Json {
        rows: Box<RawValue>,
    },
    Other {
        rows_base64: String,
    },
}

/// The first line of what ingest spools; each row is a line behind it.
#[derive(serde::Deserialize)]
struct Head {
    numbers: Vec<u64>,
}

fn write_line(feed: &str, payload: Vec<u8>, out: &mut dyn Write) -> io::Result<()> {
    let payload = payload.into();
    let dated = Dated::decode(&payload).ok();
    let content = match &dated {
        Some(Dated { at_ms, record }) => Content::Known {
            at_ms: *at_ms,
            feed_version: record.feed_version,
            principal: &record.claim.principal,
            id: &record.claim.id,
            chunk: record.claim.chunk,
            operation: record.operation.as_str(),
            n_rows: record.n_rows,
            rows: Rows::new(record),
        },
        None => Content::Foreign {
            record_base64: STANDARD.encode(&payload),
        },
    };
    serde_json::to_writer(&mut *out, &Line { feed, content })?;
    out.write_all(b"\n")
}

impl Rows {
    fn new(record: &Record) -> Self {
        let text = simdutf8::basic::from_utf8(&record.rows).ok();
        let readable = text.and_then(|text| Self::numbered(text).or_else(|| Self::json(text)));
        readable.unwrap_or_else(|| Self::Other {
            rows_base64: STANDARD.encode(&record.rows),
        })
    }

    fn numbered(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let head: Head = serde_json::from_str(lines.next()?).ok()?;
        let rows: Vec<Box<RawValue>> = lines
            .map(|line| RawValue::from_string(line.to_owned()).ok())
            .collect::<Option<_>>()?;
        (rows.len() == head.numbers.len()).then_some(Self::Numbered {
            row_numbers: head.numbers,
            rows,
        })
    }

    fn json(text: &str) -> Option<Self> {
        // Line breaks stand only between the tokens of JSON, never inside.
        let rows = RawValue::from_string(text.replace(['\n', '\r'], " ")).ok()?;
        Some(Self::Json { rows })
    }
}

/// Feeds that ever spooled something here, by name.
pub(super) fn feeds(dir: &Path) -> Result<Vec<String>> {
    let failed = |error| error::of_path(dir, &error);
    let mut feeds = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_dir = entry.file_type().map_err(failed)?.is_dir();
        let name = entry.file_name();
        feeds.extend(
            name.to_str()
                .filter(|name| is_dir && is_name(name))
                .map(str::to_owned),
        );
    }
    feeds.sort_unstable();
    Ok(feeds)
}

/// Whether a feed of this name can have a folder: the rule for names of feeds, which leaves nothing for a path to climb.
pub(super) fn is_name(name: &str) -> bool {
    let is_sound = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(is_sound)
}

fn file_bytes(dir: &Path) -> Result<u64> {
    let failed = |error| error::of_path(dir, &error);
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "seg")
        {
            // Its owner may be removing it.
            bytes += entry.metadata().map_or(0, |metadata| metadata.len());
        }
    }
    Ok(bytes)
}
