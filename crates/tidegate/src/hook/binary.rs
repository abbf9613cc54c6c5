//! Binary arguments in JSON: `{"$binary": "<base64>"}` on the way to the application and back.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tidegate_gateway::Args;

/// The one member of an object that stands for bytes.
const MARK: &str = "$binary";

/// Arguments of an event as the application reads them: placeholders become the bytes they stand for.
pub(crate) fn to_app(args: String, attachments: &[Bytes]) -> Result<String, serde_json::Error> {
    if attachments.is_empty() {
        return Ok(args);
    }
    let mut value: Value = serde_json::from_str(&args)?;
    replace(&mut value, &mut |object| {
        let number = object.get("num").and_then(Value::as_u64)?;
        let bytes = attachments.get(usize::try_from(number).ok()?)?;
        let is_placeholder = object.get("_placeholder") == Some(&Value::Bool(true));
        is_placeholder.then(|| json!({ MARK: STANDARD.encode(bytes) }))
    });
    serde_json::to_string(&value)
}

/// Arguments from the application, a JSON array: marked texts become attachments.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn from_app(array: &str) -> Result<Args, String> {
    if !array.contains(MARK) {
        return Args::from_json_array(array, Vec::new()).map_err(|error| error.to_string());
    }
    let mut value: Value = serde_json::from_str(array).map_err(|error| error.to_string())?;
    let (mut attachments, mut wrong) = (Vec::new(), false);
    replace(&mut value, &mut |object| {
        let text = object.get(MARK).filter(|_| object.len() == 1)?;
        match text.as_str().map(|text| STANDARD.decode(text)) {
            Some(Ok(bytes)) => {
                let number = attachments.len();
                attachments.push(Bytes::from(bytes));
                Some(json!({"_placeholder": true, "num": number}))
            }
            _ => {
                wrong = true;
                None
            }
        }
    });
    if wrong {
        return Err(format!("{MARK} that is no base64"));
    }
    Args::from_json_array(&value.to_string(), attachments).map_err(|error| error.to_string())
}

/// Puts what `with` makes of an object in its place, from the outside in.
fn replace(value: &mut Value, with: &mut impl FnMut(&Map<String, Value>) -> Option<Value>) {
    match value {
        Value::Object(object) => match with(object) {
            Some(new) => *value = new,
            None => object.values_mut().for_each(|inner| replace(inner, with)),
        },
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, with)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_reach_the_application_and_come_back() {
        let sent = r#"[{"file":{"_placeholder":true,"num":1},"n":1},{"_placeholder":true,"num":0}]"#;
        let attachments = [Bytes::from_static(b"\x00\xff"), Bytes::from_static(b"abc")];
        let seen = to_app(sent.to_owned(), &attachments).unwrap();
        let expected = json!([{"file": {"$binary": "YWJj"}, "n": 1}, {"$binary": "AP8="}]);
        assert_eq!(serde_json::from_str::<Value>(&seen).unwrap(), expected);
        let back = from_app(&seen).unwrap();
        let same = Args::new().and_binary(Bytes::from_static(b"abc"));
        assert!(back.bytes() > same.bytes());
        assert_eq!(to_app(sent.to_owned(), &[]).unwrap(), sent);
    }

    #[test]
    fn what_only_looks_like_bytes_stays_or_is_refused() {
        let check = |array: &str, refused: Option<&str>| {
            let got = from_app(array).err();
            assert_eq!(got.is_some(), refused.is_some(), "{array}: {got:?}");
            assert!(
                got.unwrap_or_default().contains(refused.unwrap_or_default()),
                "{array}"
            );
        };
        check(r#"[1,"$binary"]"#, None);
        check(r#"[{"$binary":"YWJj","more":1}]"#, None);
        check(r#"[{"$binary":"%"}]"#, Some("no base64"));
        check(r#"[{"$binary":5}]"#, Some("no base64"));
        check(r#"{"a":1}"#, Some(""));
        check(r#"[{"_placeholder":true,"num":0}]"#, Some(""));
    }
}
