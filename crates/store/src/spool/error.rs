//! Errors of the log in the words of the store.

use std::{error::Error as _, io, path::Path};

use crate::error::Error;

/// An error of the log.
pub(super) fn of_log(error: tidegate_seglog::Error) -> Error {
    use tidegate_seglog::Error as Log;
    match error {
        Log::Full { bytes, limit, .. } => Error::SpoolFull { bytes, limit },
        Log::TooLarge { size, limit } => Error::TooLarge {
            what: "record of the spool".to_owned(),
            size: size as u64,
            limit: limit as u64,
        },
        Log::Config { .. } | Log::Locked { .. } | Log::Version { .. } => Error::Config {
            what: "spool".to_owned(),
            problem: error.to_string(),
        },
        other => io_error(text(&other)),
    }
}

/// An error with what the system said.
pub(super) fn text(error: &tidegate_seglog::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The disk refused something about `path`.
pub(super) fn of_path(path: &Path, error: &io::Error) -> Error {
    io_error(format!("{}: {error}", path.display()))
}

pub(super) fn io_error(message: String) -> Error {
    Error::Io {
        what: "spool".to_owned(),
        message,
    }
}
