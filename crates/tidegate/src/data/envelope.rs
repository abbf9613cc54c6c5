//! Takes a JSON object apart into its members without reading them, so that one broken row spoils nothing else.

use bytes::Bytes;

/// Deepest and widest objects have few members here; more is no envelope.
const MEMBERS_MAX: usize = 16;

/// The members of the object in `body`, in order; `None` if it is no object of a few members.
///
/// Values end where brackets outside of strings say; what is inside is not looked at.
pub(crate) fn members(body: &Bytes) -> Option<Vec<(String, Bytes)>> {
    let mut scan = Scan { bytes: body, at: 0 };
    scan.expect(b'{')?;
    let mut members = Vec::new();
    if scan.peek()? == b'}' {
        return scan.ends_after(b'}').then_some(members);
    }
    loop {
        let name = scan.string()?;
        scan.expect(b':')?;
        let (from, to) = scan.value()?;
        if members.len() == MEMBERS_MAX {
            return None;
        }
        members.push((name, body.slice(from..to)));
        match scan.peek()? {
            b',' => scan.expect(b',')?,
            b'}' => return scan.ends_after(b'}').then_some(members),
            _ => return None,
        }
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        Some(self.bytes[self.at])
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn ends_after(&mut self, byte: u8) -> bool {
        self.expect(byte).is_some() && self.peek().is_none()
    }

    fn string(&mut self) -> Option<String> {
        self.peek().filter(|byte| *byte == b'"')?;
        let from = self.at;
        self.skip_string()?;
        serde_json::from_slice(&self.bytes[from..self.at]).ok()
    }

    /// From the opening quote to behind the closing one.
    fn skip_string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }

    /// The extent of a value, without white space around it.
    fn value(&mut self) -> Option<(usize, usize)> {
        self.peek()?;
        let from = self.at;
        let mut depth = 0_usize;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => {
                    self.skip_string()?;
                    continue;
                }
                b'[' | b'{' => depth += 1,
                b',' | b'}' | b']' if depth == 0 => break,
                b']' | b'}' => depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
        let to = from + self.bytes[from..self.at].trim_ascii_end().len();
        (to > from).then_some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Option<&[(&str, &str)]>) {
        let found = members(&Bytes::copy_from_slice(body.as_bytes()));
        let found = found.map(|members| {
            let texts = members
                .into_iter()
                .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
            texts.collect::<Vec<_>>()
        });
        let expected = expected.map(|members| {
            let texts = members
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            texts.collect::<Vec<_>>()
        });
        assert_eq!(found, expected, "{body}");
    }

    #[test]
    fn members_are_cut_out_as_they_are() {
        check("{}", Some(&[]));
        check(
            r#" { "rows" : [ {"a":"]}"} , NaN ] , "id":"x\"," } "#,
            Some(&[("rows", r#"[ {"a":"]}"} , NaN ]"#), ("id", r#""x\",""#)]),
        );
        check(r#"{"a\u0062":1,"a":{}}"#, Some(&[("ab", "1"), ("a", "{}")]));
        check(r#"{"a":1"#, None);
        check(r#"{"a":}"#, None);
        check(r#"{"a":1} 2"#, None);
        check(r#"{"a" 1}"#, None);
        check(r#"{"a":"x"#, None);
        check(r#"{"a":"x\"#, None);
        check("[]", None);
        check("", None);
        check("7", None);
    }

    #[test]
    fn bytes_that_are_no_text_stay_in_their_row() {
        let body = Bytes::from_static(b"{\"rows\":[{\"a\":\"\xff\"}]}");
        let found = members(&body).unwrap();
        assert_eq!(found[0].1, b"[{\"a\":\"\xff\"}]".as_slice());
    }
}
