//! Rows that the database refused: listed, exported, sent again.

use std::io;

use serde::{Serialize, Serializer};

use super::{Ingest, Outcome, Request, Rows};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::feed::Operation;
use crate::kind::Kind;
use crate::row::write_value;
use crate::schema::own;
use crate::transaction::Row;
use crate::value::{Type, Value};

/// A refused row.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetter {
    /// Its number in the dead letter.
    pub id: i64,
    /// When it was refused, RFC 3339.
    pub at: String,
    /// Its feed.
    pub feed: String,
    /// Principal, id, chunk and operation of the request, as JSON.
    pub claim: Box<serde_json::value::RawValue>,
    /// Its number in the request.
    pub row_no: i64,
    /// The row as JSON; written as it is, value by column.
    #[serde(serialize_with = "as_json")]
    pub row: String,
    /// Why, in five characters.
    pub sqlstate: String,
    /// Why, in the database's words.
    pub message: String,
}

fn as_json<S: Serializer>(row: &str, to: S) -> std::result::Result<S::Ok, S::Error> {
    match serde_json::value::RawValue::from_string(row.to_owned()) {
        Ok(json) => json.serialize(to),
        // Somebody else wrote it; then it is a text.
        Err(_) => to.serialize_str(row),
    }
}

/// What became of rows that were sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Retried {
    /// Stored, or known as duplicates: gone from the dead letter.
    pub stored: u64,
    /// Refused again: in the dead letter with the reason of now.
    pub refused: u64,
    /// Not fit for the feed as it is declared now, or the database was away: still where they were.
    pub kept: u64,
}

/// Rows of one page.
pub const PAGE_MAX: usize = 1_000;
/// Who sends rows of the dead letter again.
const PRINCIPAL: &str = "tidegate:dead_letter";

/// At most [`PAGE_MAX`] refused rows, of `feed` or of all, behind the one with the number `after`.
///
/// # Errors
/// What the database says.
///
/// # Cancel safety
/// It only reads.
pub async fn list(
    database: &Database,
    feed: Option<&str>,
    after: i64,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    let sql = list_sql(database.kind(), limit.min(PAGE_MAX));
    let feed = feed.map_or(Value::Null, |feed| Value::Text(feed.into()));
    let parameters = [Value::Int(after), feed];
    let rows = database.read(async |transaction| transaction.query(&sql, &parameters).await);
    rows.await?.iter().map(DeadLetter::read).collect()
}

fn list_sql(kind: Kind, limit: usize) -> String {
    let table = own::name(kind, "dead_letter");
    let (after, feed) = match kind {
        Kind::Postgres => ("$1::int8", "$2::text"),
        Kind::Sqlite => ("?1", "?2"),
    };
    let (claim, row) = match kind {
        Kind::Postgres => ("claim::text", "convert_from(row, 'UTF8')"),
        Kind::Sqlite => ("claim", "CAST(row AS TEXT)"),
    };
    format!(
        "SELECT id, at, feed, {claim} AS claim, row_no, {row} AS row, sqlstate, message FROM {table} \
         WHERE id > {after} AND ({feed} IS NULL OR feed = {feed}) ORDER BY id LIMIT {limit}"
    )
}

/// Writes all refused rows, of `feed` or of all, one JSON object a line; says how many.
///
/// # Errors
/// What the database says, or [`Error::Io`] when `out` cannot be written.
///
/// # Cancel safety
/// Dropped, `out` holds whole lines.
pub async fn export(
    database: &Database,
    feed: Option<&str>,
    out: &mut (dyn io::Write + Send),
) -> Result<u64> {
    let mut n_rows = 0;
    let mut after = 0;
    loop {
        let page = list(database, feed, after, PAGE_MAX).await?;
        let Some(last) = page.last() else {
            return Ok(n_rows);
        };
        after = last.id;
        for letter in &page {
            let mut line = serde_json::to_vec(letter).expect("a letter is plain data");
            line.push(b'\n');
            out.write_all(&line).map_err(|error| Error::Io {
                what: "export of the dead letter".to_owned(),
                message: error.to_string(),
            })?;
            n_rows += 1;
        }
    }
}

/// Sends refused rows of `feed` again, up to `limit`, each under an id of its own: a retry that is cut off and made again
/// stores nothing twice.
///
/// # Errors
/// What the database says; [`Error::UnknownFeed`].
///
/// # Cancel safety
/// Dropped, some rows may have been sent and still be in the dead letter; the next retry removes them.
pub async fn retry(ingest: &Ingest, feed: &str, limit: usize) -> Result<Retried> {
    let database = &ingest.0.database;
    let mut retried = Retried::default();
    let mut after = 0;
    // Rows that are refused again stand behind this one.
    let end = last_id(database, feed).await?;
    let mut left = limit;
    while left > 0 {
        let mut page = list(database, Some(feed), after, left).await?;
        page.retain(|letter| letter.id <= end);
        let Some(last) = page.last() else { break };
        after = last.id;
        left -= page.len();
        for letter in page {
            match send_again(ingest, &letter).await {
                Ok(outcome) if outcome.rejected.is_empty() => {
                    retried.refused += outcome.dead_lettered.len() as u64;
                    retried.stored += u64::from(outcome.dead_lettered.is_empty());
                    remove(database, letter.id).await?;
                }
                Err(error @ Error::UnknownFeed(_)) => return Err(error),
                Ok(_) => retried.kept += 1,
                Err(error) => {
                    tracing::warn!(feed, id = letter.id, %error, "row of the dead letter not sent again");
                    retried.kept += 1;
                }
            }
        }
    }
    Ok(retried)
}

async fn send_again(ingest: &Ingest, letter: &DeadLetter) -> Result<Outcome> {
    #[derive(serde::Deserialize)]
    struct Claim {
        operation: Option<String>,
    }
    let claim: Option<Claim> = serde_json::from_str(letter.claim.get()).ok();
    let operation = claim.and_then(|claim| claim.operation);
    let request = Request {
        feed: letter.feed.clone(),
        principal: PRINCIPAL.to_owned(),
        id: Some(format!("dead-letter-{}", letter.id)),
        operation: operation.as_deref().and_then(Operation::from_word),
        rows: Rows::Json(letter.row.clone().into()),
        first_row: 0,
    };
    ingest.submit(request).await
}

async fn last_id(database: &Database, feed: &str) -> Result<i64> {
    let kind = database.kind();
    let parameter = match kind {
        Kind::Postgres => "$1::text",
        Kind::Sqlite => "?1",
    };
    let table = own::name(kind, "dead_letter");
    let sql = format!("SELECT coalesce(max(id), 0) AS id FROM {table} WHERE feed = {parameter}");
    let feed = [Value::Text(feed.into())];
    let rows = database
        .read(async |transaction| transaction.query(&sql, &feed).await)
        .await?;
    match rows.first().and_then(|row| row.get("id")) {
        Some(Value::Int(id)) => Ok(*id),
        _ => Ok(0),
    }
}

async fn remove(database: &Database, id: i64) -> Result<()> {
    let kind = database.kind();
    let parameter = match kind {
        Kind::Postgres => "$1",
        Kind::Sqlite => "?1",
    };
    let sql = format!(
        "DELETE FROM {} WHERE id = {parameter}",
        own::name(kind, "dead_letter")
    );
    let id = [Value::Int(id)];
    database
        .write(async |transaction| transaction.execute(&sql, &id).await)
        .await
        .map(drop)
}

// === impl DeadLetter ===

impl DeadLetter {
    fn read(row: &Row) -> Result<Self> {
        let text = |name: &str| match row.get(name) {
            Some(Value::Text(text) | Value::Jsonb(text)) => text.to_string(),
            Some(Value::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        let number = |name: &str| match row.get(name) {
            Some(Value::Int(number) | Value::Timestamptz(number)) => *number,
            _ => 0,
        };
        let mut at = Vec::new();
        write_value(&Type::Timestamptz, &Value::Timestamptz(number("at")), &mut at);
        let claim = serde_json::value::RawValue::from_string(text("claim"));
        Ok(Self {
            id: number("id"),
            at: String::from_utf8_lossy(&at).trim_matches('"').to_owned(),
            feed: text("feed"),
            claim: claim.map_err(|error| Error::BadRequest(format!("claim of a dead letter: {error}")))?,
            row_no: number("row_no"),
            row: text("row"),
            sqlstate: text("sqlstate"),
            message: text("message"),
        })
    }
}
