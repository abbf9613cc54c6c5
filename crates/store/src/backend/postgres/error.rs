//! What the client library and the server say, in the store's own words.

use std::{error::Error as StdError, io, sync::Arc};

use tokio_postgres::error::DbError;

use crate::error::Error;

/// Most parameters of one statement: their count travels in 16 bits.
pub const PARAMETERS_MAX: usize = 65_535;

/// The store's error for one of the client library.
///
/// A server's refusal keeps its SQLSTATE and the name of the constraint, column or table. A connection that ended becomes
/// [`Error::Lost`]; a parameter that does not fit its type [`Error::Parameter`], named `$1`, `$2` and so on.
#[must_use]
pub fn error(error: tokio_postgres::Error) -> Error {
    if let Some(refusal) = error.as_db_error() {
        return Error::Database {
            sqlstate: refusal.code().code().to_owned(),
            message: refusal.message().to_owned(),
            object: object_of(refusal),
            source: Some(Arc::new(error)),
        };
    }
    let text = error.to_string();
    let cause = error.source().map(ToString::to_string);
    if let Some(at) = text.strip_prefix("error serializing parameter ") {
        let number = at.parse::<usize>().map_or(0, |at| at + 1);
        return Error::Parameter {
            name: format!("${number}"),
            problem: cause.unwrap_or_default(),
        };
    }
    let whole = match cause {
        Some(cause) => format!("{text}: {cause}"),
        None => text,
    };
    match is_about_the_call(&whole) {
        true => Error::BadRequest(whole),
        false => Error::Lost(whole),
    }
}

/// The store's error for a connection that could not be opened; `target` names it without the password.
pub(super) fn connect_error(target: &str, error: &tokio_postgres::Error) -> Error {
    let sqlstate = error.code().map(|code| code.code().to_owned());
    let message = match error.as_db_error() {
        Some(refusal) => refusal.message().to_owned(),
        None => match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    };
    Error::Connect {
        target: target.to_owned(),
        message,
        sqlstate,
    }
}

pub(super) fn io_error(target: &str, error: &io::Error) -> Error {
    Error::Connect {
        target: target.to_owned(),
        message: error.to_string(),
        sqlstate: None,
    }
}

/// Refused before the wire, where the protocol would only say that a message is too large.
///
/// # Errors
/// [`Error::TooLarge`] above [`PARAMETERS_MAX`].
pub(crate) fn check_parameters(n_parameters: usize) -> Result<(), Error> {
    match n_parameters <= PARAMETERS_MAX {
        true => Ok(()),
        false => Err(Error::TooLarge {
            what: "number of parameters of one statement".to_owned(),
            size: n_parameters as u64,
            limit: PARAMETERS_MAX as u64,
        }),
    }
}

/// Whether the statement never left, or its answer was read in a wrong way: the connection is as good as before.
fn is_about_the_call(text: &str) -> bool {
    [
        "expected ",
        "error deserializing",
        "invalid column",
        "query returned",
        "error encoding",
    ]
    .iter()
    .any(|start| text.starts_with(start))
}

/// The constraint, column or table that the server names, with what it belongs to.
fn object_of(refusal: &DbError) -> Option<String> {
    let table = refusal.table().map(|table| match refusal.schema() {
        Some(schema) => format!("{schema}.{table}"),
        None => table.to_owned(),
    });
    let within = |name: &str| match &table {
        Some(table) => format!("{table}.{name}"),
        None => name.to_owned(),
    };
    let named = refusal.constraint().or(refusal.column()).map(within);
    named
        .or(table)
        .or_else(|| refusal.datatype().map(ToOwned::to_owned))
}
