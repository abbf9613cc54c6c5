//! Standard output that may be closed: a reader that has gone, as in `tidegate demo | head -1`, ends no server.

use std::io::{Write, stderr, stdout};

/// Prints one line for the reader of the result.
pub(crate) fn line(text: &str) {
    // Nobody reads any more; there is nothing better to do with that than to go on.
    let _unread = writeln!(stdout(), "{text}");
}

/// Prints a text that ends in its own line end.
pub(crate) fn whole(text: &str) {
    let _unread = stdout().write_all(text.as_bytes());
}

/// Prints one line about what went wrong.
pub(crate) fn error(text: &str) {
    let _unread = writeln!(stderr(), "tidegate: {text}");
}

/// Prints one line about what goes on, beside the result.
pub(crate) fn note(text: &str) {
    let _unread = writeln!(stderr(), "{text}");
}
