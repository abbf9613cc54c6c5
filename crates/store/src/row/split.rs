//! Where one row ends and the next begins: a scan for brackets outside of strings, so that a broken row costs only itself.

/// The parts of a JSON array, or why it cannot be taken apart.
pub(super) struct Elements<'a> {
    rest: &'a [u8],
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Next,
    Done,
}

/// The array is not closed, or more follows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

impl<'a> Elements<'a> {
    /// `body` begins behind the opening bracket.
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self {
            rest: body,
            state: State::First,
        }
    }

    fn close(&mut self, rest: &[u8]) -> Option<Result<&'a [u8], Broken>> {
        self.state = State::Done;
        let more = !rest.trim_ascii().is_empty();
        more.then_some(Err(Broken("more follows the closing bracket")))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Done {
            return None;
        }
        let Some(end) = element_end(self.rest) else {
            self.state = State::Done;
            return Some(Err(Broken("the array is not closed")));
        };
        let (element, behind) = (self.rest[..end].trim_ascii(), &self.rest[end + 1..]);
        let is_last = self.rest[end] == b']';
        if is_last && element.is_empty() && self.state == State::First {
            return self.close(behind);
        }
        self.state = State::Next;
        self.rest = behind;
        if is_last && let Some(broken) = self.close(behind) {
            return Some(broken);
        }
        Some(Ok(element))
    }
}

const PLAIN: u8 = 0;
const QUOTE: u8 = 1;
const OPEN: u8 = 2;
const CLOSE: u8 = 3;
const COMMA: u8 = 4;

const CLASSES: [u8; 256] = {
    let mut classes = [PLAIN; 256];
    classes[b'"' as usize] = QUOTE;
    classes[b'{' as usize] = OPEN;
    classes[b'[' as usize] = OPEN;
    classes[b'}' as usize] = CLOSE;
    classes[b']' as usize] = CLOSE;
    classes[b',' as usize] = COMMA;
    classes
};

/// The place of the comma or bracket that ends an element.
fn element_end(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match CLASSES[usize::from(*byte)] {
            QUOTE => at += string_length(&text[at + 1..])? + 1,
            OPEN => depth += 1,
            // A brace that was never opened belongs to a broken row, which its own reading will say.
            CLOSE if depth == 0 && *byte == b']' => return Some(at),
            CLOSE => depth = depth.saturating_sub(1),
            COMMA if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Bytes to the closing quote.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Whether `NaN` or `Infinity` stands outside of a string, as some languages write them.
pub(super) fn has_word_not_finite(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if *byte == b'"' {
            match string_length(&text[at + 1..]) {
                Some(length) => at += length + 1,
                None => return false,
            }
        }
        if text[at..].starts_with(b"NaN") || text[at..].starts_with(b"Infinity") {
            return true;
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: &[&str], broken: Option<&str>) {
        let mut parts = Vec::new();
        let mut found = None;
        for part in Elements::new(body.as_bytes()) {
            match part {
                Ok(part) => parts.push(str::from_utf8(part).unwrap()),
                Err(Broken(why)) => found = Some(why),
            }
        }
        assert_eq!((parts.as_slice(), found), (expected, broken), "{body}");
    }

    #[test]
    fn arrays_are_taken_apart() {
        check("]", &[], None);
        check(" ] ", &[], None);
        check("1]", &["1"], None);
        check(
            r#" {"a":[1,2]} , {"b":"],\"}"}]"#,
            &[r#"{"a":[1,2]}"#, r#"{"b":"],\"}"}"#],
            None,
        );
        check("{},,{}]", &["{}", "", "{}"], None);
        check("{},]", &["{}", ""], None);
        check("}},{}]", &["}}", "{}"], None);
        check("", &[], Some("the array is not closed"));
        check("{},{", &["{}"], Some("the array is not closed"));
        check(r#"{"a"#, &[], Some("the array is not closed"));
        check(r#"{"a\"#, &[], Some("the array is not closed"));
        check("{}] x", &[], Some("more follows the closing bracket"));
    }

    #[test]
    fn words_that_are_no_numbers_are_found_outside_of_strings() {
        assert!(has_word_not_finite(br#"{"a":NaN}"#));
        assert!(has_word_not_finite(br#"{"a":-Infinity}"#));
        assert!(!has_word_not_finite(br#"{"NaN":"Infinity"}"#));
        assert!(!has_word_not_finite(br#"{"a":"NaN"#));
    }
}
