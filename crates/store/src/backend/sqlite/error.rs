//! What SQLite says, in the words of the house.

use std::sync::Arc;

use rusqlite::{ErrorCode, ffi};

use crate::error::Error;

/// Translates an error; the SQLSTATE is the one PostgreSQL gives for the same mistake, so that callers need one table.
#[must_use]
pub fn error(error: rusqlite::Error) -> Error {
    let sqlstate = sqlstate(&error);
    let message = match &error {
        rusqlite::Error::SqliteFailure(failure, None) => failure.to_string(),
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    };
    Error::Database {
        sqlstate: sqlstate.to_owned(),
        object: object(&message),
        message,
        source: Some(Arc::new(error)),
    }
}

fn sqlstate(error: &rusqlite::Error) -> &'static str {
    use rusqlite::Error as E;
    match error {
        E::SqliteFailure(failure, message) => of_failure(*failure, message.as_deref().unwrap_or("")),
        E::SqlInputError { msg, .. } => of_text(msg),
        E::InvalidColumnType(..) | E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) => {
            "22000"
        }
        E::InvalidParameterCount(..) | E::InvalidParameterName(_) => "07001",
        E::ExecuteReturnedResults | E::QueryReturnedNoRows | E::MultipleStatement => "42601",
        _ => "58000",
    }
}

fn of_failure(failure: ffi::Error, message: &str) -> &'static str {
    match failure.extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
            return "23505";
        }
        ffi::SQLITE_CONSTRAINT_NOTNULL => return "23502",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => return "23503",
        ffi::SQLITE_CONSTRAINT_CHECK => return "23514",
        ffi::SQLITE_CONSTRAINT_DATATYPE => return "22P02",
        _ => {}
    }
    match failure.code {
        ErrorCode::ConstraintViolation => "23000",
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => "55P03",
        ErrorCode::DiskFull => "53100",
        ErrorCode::OutOfMemory => "53200",
        ErrorCode::OperationInterrupted => "57014",
        ErrorCode::ReadOnly => "25006",
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => "58030",
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => "XX001",
        ErrorCode::TooBig => "54000",
        ErrorCode::TypeMismatch => "42804",
        ErrorCode::ParameterOutOfRange => "07001",
        _ => of_text(message),
    }
}

/// SQLite has one code for all mistakes in a statement; the text tells them apart.
fn of_text(message: &str) -> &'static str {
    if message.contains("no such table") {
        "42P01"
    } else if message.contains("no such column") || message.contains("has no column") {
        "42703"
    } else if message.contains("syntax error") {
        "42601"
    } else {
        "42000"
    }
}

/// `ticks.price` from `NOT NULL constraint failed: ticks.price`.
fn object(message: &str) -> Option<String> {
    let (head, object) = message.rsplit_once(": ")?;
    let named = head.ends_with("constraint failed") || head.starts_with("no such");
    named.then(|| object.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, sqlstate: &str, object: Option<&str>) {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE t (a INTEGER NOT NULL PRIMARY KEY, b INTEGER CHECK (b > 0)) STRICT; INSERT INTO t VALUES (1, 1)")
            .unwrap();
        let failure = error(connection.execute(sql, []).unwrap_err());
        let Error::Database {
            sqlstate: found,
            object: named,
            ..
        } = failure
        else {
            panic!("{failure:?}");
        };
        assert_eq!((found.as_str(), named.as_deref()), (sqlstate, object), "{sql}");
    }

    #[test]
    fn mistakes_have_the_codes_of_the_standard() {
        check("INSERT INTO t VALUES (1, 1)", "23505", Some("t.a"));
        check("INSERT INTO t (a, b) VALUES (3, 0)", "23514", Some("b > 0"));
        check("INSERT INTO t VALUES ('x', 1)", "42804", None);
        check("INSERT INTO t VALUES (4, 'x')", "22P02", None);
        check("INSERT INTO nowhere VALUES (1)", "42P01", Some("nowhere"));
        check("UPDATE t SET c = 1", "42703", Some("c"));
        check("SELEC 1", "42601", None);
    }
}
