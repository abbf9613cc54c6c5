//! Binary arguments in JSON: `{"$binary": "<base64>"}` on the way to the application and back.
//!
//! What a client sends as JSON and looks the same has one more `$` on the way there, and one less on the way back. So an
//! application that gives back what it got gives back the same. Only such objects change; all other text stays as it is.

use std::{borrow::Cow, ops::Range};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tidegate_gateway::Args;

/// The name of the one member that an object which stands for bytes has, behind its `$`.
const MARK: &str = "binary";

/// Arguments of an event as the application reads them: placeholders become the bytes they stand for.
pub(crate) fn to_app(args: String, attachments: &[Bytes]) -> String {
    if attachments.is_empty() && !may_be_marked(&args) {
        return args;
    }
    let mut edits = Vec::new();
    objects(&args, |object, whole| {
        let bytes = object
            .num
            .filter(|_| object.is_placeholder)
            .and_then(|num| attachments.get(num));
        match (bytes, object.mark()) {
            (Some(bytes), _) => {
                let text = format!(r#"{{"${MARK}":"{}"}}"#, STANDARD.encode(bytes));
                edits.push((whole, text));
            }
            (None, Some(dollars)) => object.rename(dollars + 1, &mut edits),
            (None, None) => {}
        }
    });
    edited(args, edits)
}

/// Arguments from the application, a JSON array: marked texts become attachments.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn from_app(array: &str) -> Result<Args, String> {
    let (mut edits, mut attachments) = (Vec::new(), Vec::new());
    if may_be_marked(array) {
        objects(array, |object, whole| match object.mark() {
            Some(1) => {
                // Anything but base64 is what it is: nobody else can have meant it.
                if let Some(bytes) = object.bytes(array) {
                    let text = format!(r#"{{"_placeholder":true,"num":{}}}"#, attachments.len());
                    attachments.push(bytes);
                    edits.push((whole, text));
                }
            }
            Some(dollars) => object.rename(dollars - 1, &mut edits),
            None => {}
        });
    }
    let array = if edits.is_empty() {
        Cow::Borrowed(array)
    } else {
        Cow::Owned(edited(array.to_owned(), edits))
    };
    Args::from_json_array(&array, attachments).map_err(|error| error.to_string())
}

/// Whether a look at the objects of a text is worth it; letters may be written as `\u…`.
fn may_be_marked(json: &str) -> bool {
    json.contains(MARK) || json.contains("\\u")
}

/// New text for places of a text.
type Edits = Vec<(Range<usize>, String)>;

/// The text with its edits; of two for the same place the one that begins first stands.
fn edited(text: String, mut edits: Edits) -> String {
    if edits.is_empty() {
        return text;
    }
    edits.sort_unstable_by_key(|(place, _)| place.start);
    let more: usize = edits.iter().map(|(_, new)| new.len()).sum();
    let (mut new, mut done) = (String::with_capacity(text.len() + more), 0);
    for (place, instead) in edits {
        if place.start >= done {
            new.push_str(&text[done..place.start]);
            new.push_str(&instead);
            done = place.end;
        }
    }
    new.push_str(&text[done..]);
    new
}

// === objects of a text ===

/// What matters here of an object.
#[derive(Default)]
struct Object {
    from: usize,
    n_members: usize,
    /// Its names that are marks, without their quotes, while it has no other.
    marks: Vec<Range<usize>>,
    dollars: usize,
    has_other: bool,
    /// The name before the colon, and where its value begins.
    name: Name,
    value_from: usize,
    /// The last value.
    value: Range<usize>,
    is_placeholder: bool,
    num: Option<usize>,
}

/// What matters here of a name.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Name {
    /// None is read yet.
    #[default]
    None,
    Placeholder,
    Num,
    Other,
}

/// Walks through a JSON text and gives each object, with its place, when it ends. Text that is no JSON gives anything.
fn objects(json: &str, mut each: impl FnMut(&Object, Range<usize>)) {
    // None is a list.
    let mut open: Vec<Option<Object>> = Vec::new();
    let (bytes, mut at) = (json.as_bytes(), 0);
    while let Some(byte) = bytes.get(at) {
        let top = open.last_mut().and_then(Option::as_mut);
        match (byte, top) {
            (b'{', _) => open.push(Some(Object {
                from: at,
                ..Object::default()
            })),
            (b'[', _) => open.push(None),
            (b']', _) => drop(open.pop()),
            (b'}', top) => {
                if let Some(object) = top {
                    object.end_member(json, at);
                    each(object, object.from..at + 1);
                }
                open.pop();
            }
            (b'"', top) => {
                let end = end_of_string(bytes, at);
                if let Some(object) = top.filter(|object| object.name == Name::None) {
                    object.name(json, at + 1..end);
                }
                at = end;
            }
            (b':', Some(object)) => object.value_from = at + 1,
            (b',', Some(object)) => object.end_member(json, at),
            _ => {}
        }
        at += 1;
    }
}

/// The place of the quote that ends the string which begins at `at`.
fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(byte) = bytes.get(end).filter(|byte| **byte != b'"') {
        end += if *byte == b'\\' { 2 } else { 1 };
    }
    end.min(bytes.len())
}

fn decoded(json: &str, name: Range<usize>) -> Cow<'_, str> {
    let text = json.get(name.clone()).unwrap_or_default();
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let quoted = json.get(name.start - 1..name.end + 1).unwrap_or_default();
    serde_json::from_str::<String>(quoted).map_or(Cow::Borrowed(text), Cow::Owned)
}

// === impl Object ===

impl Object {
    fn name(&mut self, json: &str, place: Range<usize>) {
        self.n_members += 1;
        let name = decoded(json, place.clone());
        self.name = match &*name {
            "_placeholder" => Name::Placeholder,
            "num" => Name::Num,
            _ => Name::Other,
        };
        let dollars = name.strip_suffix(MARK).unwrap_or_default();
        let is_mark = !dollars.is_empty() && dollars.bytes().all(|byte| byte == b'$');
        if is_mark && (self.marks.is_empty() || self.dollars == dollars.len()) {
            self.dollars = dollars.len();
            self.marks.push(place);
        } else {
            self.has_other = true;
        }
    }

    fn end_member(&mut self, json: &str, at: usize) {
        let value = json.get(self.value_from..at).unwrap_or_default().trim();
        match self.name {
            Name::None => return,
            Name::Placeholder => self.is_placeholder = value == "true",
            Name::Num => self.num = value.parse().ok(),
            Name::Other => {}
        }
        self.name = Name::None;
        self.value = self.value_from..at;
    }

    /// How many `$` its one name has, if it is a mark. A name that comes twice is one, as readers of JSON have it.
    fn mark(&self) -> Option<usize> {
        (!self.has_other && !self.marks.is_empty()).then_some(self.dollars)
    }

    fn rename(&self, dollars: usize, edits: &mut Edits) {
        let name = format!("{}{MARK}", "$".repeat(dollars));
        let places = self.marks.iter();
        edits.extend(places.map(|place| (place.clone(), name.clone())));
    }

    /// The bytes that it stands for.
    fn bytes(&self, json: &str) -> Option<Bytes> {
        let text: String = serde_json::from_str(&json[self.value.clone()]).ok()?;
        let bytes = STANDARD.decode(text).ok().filter(|_| self.n_members == 1)?;
        Some(Bytes::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the application sees of what a client sent, and that it comes back the same when it is given back.
    fn round(sent: &str, attachments: &[&'static [u8]], seen: &str) {
        let attachments: Vec<Bytes> = attachments
            .iter()
            .map(|bytes| Bytes::from_static(bytes))
            .collect();
        assert_eq!(to_app(sent.to_owned(), &attachments), seen, "{sent}");
        let back = from_app(seen).unwrap();
        let same = Args::from_json_array(sent, attachments).unwrap();
        assert_eq!(back, same, "{sent}");
    }

    #[test]
    fn bytes_reach_the_application_and_come_back() {
        round(
            r#"[{"file":{"_placeholder":true,"num":0},"n":1},{"_placeholder":true,"num":1}]"#,
            &[b"abc", b"\x00\xff"],
            r#"[{"file":{"$binary":"YWJj"},"n":1},{"$binary":"AP8="}]"#,
        );
        round(
            r#"[{"_placeholder":true,"num":0},{"$binary":"YWJj"}]"#,
            &[b""],
            r#"[{"$binary":""},{"$$binary":"YWJj"}]"#,
        );
    }

    #[test]
    fn what_only_looks_like_bytes_comes_back_as_it_was() {
        let same = |sent: &str| round(sent, &[], sent);
        same(r#"[1,"$binary",{"binary":1},{"$":{}},{"x$binary":1},{"$binary ":1}]"#);
        same(r#"[{"$binary":"YWJj","more":1},{"more":1,"$binary":"YWJj"},{"$binary":1,"$$binary":2}]"#);
        same(r#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":99},{"_placeholder":true}]"#);
        same("[1e400,-0.0,12345678901234567890,\"\\u4f60\\\"{\", { \"b\" : [ ] , \"a\":{ }} ]");
        round(r#"[{"$binary":5}]"#, &[], r#"[{"$$binary":5}]"#);
        round(r#"[{"$binary":"YWJj"}]"#, &[], r#"[{"$$binary":"YWJj"}]"#);
        round(r#"[{"$binary":"%"}]"#, &[], r#"[{"$$binary":"%"}]"#);
        round(r#"[{"$$$binary":null}]"#, &[], r#"[{"$$$$binary":null}]"#);
        round(
            r#"[{"a":[{ "$binary" : {"$$binary": [{"$binary":"YQ=="}]} }]}]"#,
            &[],
            r#"[{"a":[{ "$$binary" : {"$$$binary": [{"$$binary":"YQ=="}]} }]}]"#,
        );
    }

    #[test]
    fn a_mark_in_other_letters_is_one() {
        let seen = to_app(r#"[{"\u0024bin\u0061ry":"YQ=="}]"#.to_owned(), &[]);
        assert_eq!(seen, r#"[{"$$binary":"YQ=="}]"#);
        // Readers of JSON see one member.
        let seen = to_app(r#"[{"$binary":1,"$binary":"YQ=="}]"#.to_owned(), &[]);
        assert_eq!(seen, r#"[{"$$binary":1,"$$binary":"YQ=="}]"#);
        let bytes = from_app(r#"[{"\u0024binary":"\/w=="}]"#).unwrap();
        assert_eq!(bytes, Args::new().and_binary(Bytes::from_static(b"\xff")));
    }

    #[test]
    fn what_is_no_argument_list_is_refused() {
        for array in [r#"{"a":1}"#, "[1", "{}", r#"[{"$binary":"YQ=="}"#] {
            assert!(from_app(array).is_err(), "{array}");
        }
        // Beside bytes it would stand for them.
        let beside = r#"[{"$binary":"YQ=="},{"_placeholder":true,"num":7}]"#;
        assert!(from_app(beside).is_err());
        for odd in [
            "",
            "}",
            "]",
            "{\"",
            "{\"a\\",
            "[{\"$binary\"",
            "{:}",
            "{,}",
            "[\"\\",
        ] {
            drop(to_app(odd.to_owned(), &[Bytes::new()]));
        }
    }
}
