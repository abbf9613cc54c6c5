//! Numbered parameters in the spelling of SQLite.

use std::borrow::Cow;

/// `?1` for each `$1` outside quotes and comments; SQLite takes `$1` for a name and would number it by its place.
pub(super) fn numbered(sql: &str) -> Cow<'_, str> {
    if !sql.contains('$') {
        return Cow::Borrowed(sql);
    }
    let bytes = sql.as_bytes();
    let mut text = String::with_capacity(sql.len());
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        let is_parameter = bytes[at] == b'$'
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
            && !at.checked_sub(1).is_some_and(|before| is_word(bytes[before]));
        if is_parameter {
            text.push_str(&sql[copied..at]);
            text.push('?');
            copied = at + 1;
        }
        at = match bytes[at] {
            quote @ (b'\'' | b'"' | b'`') => end_of(bytes, at + 1, &[quote]),
            b'[' => end_of(bytes, at + 1, b"]"),
            b'-' if bytes[at..].starts_with(b"--") => end_of(bytes, at + 2, b"\n"),
            b'/' if bytes[at..].starts_with(b"/*") => end_of(bytes, at + 2, b"*/"),
            _ => at + 1,
        };
    }
    text.push_str(&sql[copied..]);
    Cow::Owned(text)
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Behind the next `end`, or at the end of the text. A doubled quote ends one literal and begins the next.
fn end_of(bytes: &[u8], from: usize, end: &[u8]) -> usize {
    let found = memchr::memmem::find(&bytes[from.min(bytes.len())..], end);
    found.map_or(bytes.len(), |at| from + at + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, expected: &str) {
        assert_eq!(numbered(sql), expected);
    }

    #[test]
    fn only_parameters_change() {
        check("SELECT 1", "SELECT 1");
        check("SELECT $2, $1, $10", "SELECT ?2, ?1, ?10");
        check(
            "SELECT '$1', \"$1\", `$1`, [$1], $1",
            "SELECT '$1', \"$1\", `$1`, [$1], ?1",
        );
        check(
            "SELECT 'it''s $1' || $1 -- $1\n, $2 /* $3 */",
            "SELECT 'it''s $1' || ?1 -- $1\n, ?2 /* $3 */",
        );
        check("SELECT a$1, $x, 'open $1", "SELECT a$1, $x, 'open $1");
        check("SELECT 值$1", "SELECT 值$1");
    }
}
