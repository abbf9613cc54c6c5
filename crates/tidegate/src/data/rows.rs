//! Rows on their way in, whoever brings them: permission, request, answer.

use bytes::Bytes;
use serde_json::Value;
use tidegate_auth::{Action, Identity, Permissions};
use tidegate_gateway::{Code, Error};
use tidegate_store::{
    Operation,
    ingest::{Outcome, Request, Rows},
};

use super::{Store, envelope};
use crate::api::Failure;

/// What a request to a feed says besides its rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    pub(crate) id: Option<String>,
    pub(crate) operation: Option<Operation>,
}

/// Refuses a caller whom no role lets into the feed, and feeds that are not there.
pub(crate) fn admit(
    store: &Store,
    permissions: &Permissions,
    identity: &Identity,
    feed: &str,
) -> Result<(), Failure> {
    permissions.check(Action::Ingest, feed, identity)?;
    match store.declared().feeds.contains_key(feed) {
        true => Ok(()),
        false => Err(tidegate_store::Error::UnknownFeed(feed.to_owned()).into()),
    }
}

/// Takes `{rows, id?, op?}`, a list of rows or one row.
///
/// # Errors
/// Another value of `id` or `op` than their texts.
pub(crate) fn taken_apart(
    body: Bytes,
    mut about: About,
    has_rows_column: bool,
) -> Result<(Bytes, About), Failure> {
    let members = match has_rows_column {
        true => None,
        false => envelope::members(&body),
    };
    let Some(members) = members.filter(|members| is_envelope(members)) else {
        return Ok((body, about));
    };
    let mut rows = Bytes::new();
    for (name, value) in members {
        match name.as_str() {
            "rows" => rows = value,
            "id" => about.id = Some(text("id", &value)?),
            _ => about.operation = Some(operation(&text("op", &value)?)?),
        }
    }
    Ok((rows, about))
}

/// Rows in a list, and nothing beside them but what belongs there.
fn is_envelope(members: &[(String, Bytes)]) -> bool {
    let has_rows = members
        .iter()
        .any(|(name, value)| name == "rows" && value.first() == Some(&b'['));
    has_rows
        && members
            .iter()
            .all(|(name, _)| matches!(name.as_str(), "rows" | "id" | "op"))
}

pub(crate) fn text(name: &str, value: &[u8]) -> Result<String, Failure> {
    serde_json::from_slice(value)
        .map_err(|_| Error::BadRequest(format!("{name} is {}, allowed is a text", shown(value))).into())
}

fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().take(64).collect()
}

/// An operation by its word.
pub(crate) fn operation(word: &str) -> Result<Operation, Failure> {
    let allowed = "insert, upsert, update or delete";
    let shown: String = word.chars().take(64).collect();
    Operation::from_word(word)
        .ok_or_else(|| Error::BadRequest(format!("op is {shown:?}, allowed is {allowed}")).into())
}

/// Who brings the rows, as ids are remembered: one user of one tenant, however he proved himself.
pub(crate) fn principal(identity: &Identity) -> String {
    match &identity.tenant {
        // Names have no control characters, so no two callers share a principal.
        Some(tenant) => format!("{tenant}\u{1f}{}", identity.user),
        None => identity.user.to_string(),
    }
}

/// Stores JSON rows and makes the answer.
///
/// # Errors
/// What the store refused; `invalid_row` when no row fits.
///
/// # Cancel safety
/// Rows that were taken are stored all the same; only the answer is lost.
pub(crate) async fn submit(
    store: &Store,
    identity: &Identity,
    feed: &str,
    (rows, about): (Bytes, About),
) -> Result<Value, Failure> {
    let request = Request {
        feed: feed.to_owned(),
        principal: principal(identity),
        id: about.id,
        operation: about.operation,
        rows: Rows::Json(rows),
        first_row: 0,
    };
    answer(&store.ingest().submit(request).await?)
}

/// The answer to a request; a failure when not one of its rows was good.
pub(crate) fn answer(outcome: &Outcome) -> Result<Value, Failure> {
    let json = serde_json::to_value(outcome).map_err(Error::Json)?;
    let kept = outcome.stored + outcome.duplicates + outcome.missing + outcome.dead_lettered.len() as u64;
    if kept > 0 || outcome.rejected.is_empty() {
        return Ok(json);
    }
    let n = outcome.rejected_total.unwrap_or(outcome.rejected.len() as u64);
    let first = &outcome.rejected[0];
    let place = match &first.column {
        Some(column) => format!("row {}, column {column}", first.row),
        None => format!("row {}", first.row),
    };
    let message = format!("none of {n} rows fits the feed; {place}: {}", first.message);
    let mut failure = Failure::of(Code::InvalidRow, message).with("rejected", json["rejected"].clone());
    if let Some(total) = outcome.rejected_total {
        failure = failure.with("rejected_total", total);
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, rows: &str, id: Option<&str>, op: Option<Operation>) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let (found, about) = taken_apart(body, About::default(), false).unwrap();
        assert_eq!(String::from_utf8_lossy(&found), rows);
        assert_eq!((about.id.as_deref(), about.operation), (id, op), "{rows}");
    }

    #[test]
    fn rows_come_with_or_without_an_envelope() {
        check(r#"[{"a":1}]"#, r#"[{"a":1}]"#, None, None);
        check(r#"{"a":1}"#, r#"{"a":1}"#, None, None);
        check(r#"{"rows":[{"a":1}]}"#, r#"[{"a":1}]"#, None, None);
        check(
            r#"{"op":"delete","rows":[],"id":"x"}"#,
            "[]",
            Some("x"),
            Some(Operation::Delete),
        );
        // Not an envelope: a row with a column that happens to be called so.
        check(r#"{"rows":3}"#, r#"{"rows":3}"#, None, None);
        check(r#"{"rows":[],"a":1}"#, r#"{"rows":[],"a":1}"#, None, None);
    }

    #[test]
    fn wrong_words_are_named() {
        let check = |body: &str, expected: &str| {
            let body = Bytes::copy_from_slice(body.as_bytes());
            let error = taken_apart(body, About::default(), false).unwrap_err().error;
            assert_eq!(error.to_string(), expected);
        };
        check(r#"{"rows":[],"id":7}"#, "id is 7, allowed is a text");
        check(
            r#"{"rows":[],"op":"drop"}"#,
            "op is \"drop\", allowed is insert, upsert, update or delete",
        );
    }
}
