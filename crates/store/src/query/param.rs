//! Parameters of a call: what the caller sent and what the token says, by the declared types.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};

use super::{
    cursor,
    declaration::{Param, Query, Source},
};
use crate::{
    error::{Error, Result},
    row,
    value::{Type, Value},
};

/// Values of all declared parameters, in order of declaration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bound {
    pub(super) values: Vec<Value>,
}

/// More bytes of one parameter are not looked at.
const BYTES_MAX: usize = 1 << 20;

impl Bound {
    /// Binds what the caller sent and what the token says.
    pub(super) fn new(
        query: &Query,
        sent: &Map<String, Json>,
        claim: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        if let Some(name) = sent
            .keys()
            .find(|name| query.params.iter().all(|param| param.name != **name))
        {
            return Err(unknown(query, name));
        }
        let values = query.params.iter().map(|param| match &param.source {
            Source::Caller => given(param, sent.get(&param.name)),
            Source::Claim(claimed) => match sent.contains_key(&param.name) {
                true => Err(broken(
                    &param.name,
                    format!("comes from the token's claim {claimed:?} and cannot be sent"),
                )),
                false => from_claim(query, param, claimed, claim(claimed)),
            },
        });
        Ok(Self {
            values: values.collect::<Result<_>>()?,
        })
    }

    /// A digest of all values, those of claims included: what a cursor and a cached answer belong to.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut bytes = Vec::new();
        self.values
            .iter()
            .for_each(|value| cursor::encode(value, &mut bytes));
        Sha256::digest(&bytes).into()
    }
}

/// Reads a parameter that is there.
pub(super) fn read(param: &Param, json: &Json) -> Result<Value> {
    if json.is_null() {
        return match param.optional {
            true => Ok(Value::Null),
            false => Err(broken(
                &param.name,
                format!("null where {} is expected", param.kind),
            )),
        };
    }
    let text = as_json(&param.kind, json);
    if text.len() > BYTES_MAX {
        return Err(broken(
            &param.name,
            format!("{} bytes, at most {BYTES_MAX}", text.len()),
        ));
    }
    match row::read_value(&param.kind, &text) {
        Ok(Value::Null) if !param.optional => Err(broken(
            &param.name,
            format!("null where {} is expected", param.kind),
        )),
        Ok(value) => Ok(value),
        Err(fault) => Err(broken(&param.name, allowed(&param.kind, &fault.message))),
    }
}

fn given(param: &Param, json: Option<&Json>) -> Result<Value> {
    match (json, &param.default) {
        (Some(json), _) => read(param, json),
        (None, Some(default)) => read(param, default),
        (None, None) if param.optional => Ok(Value::Null),
        (None, None) => Err(broken(
            &param.name,
            format!("missing; {} is expected", param.kind),
        )),
    }
}

fn from_claim(query: &Query, param: &Param, name: &str, claim: Option<String>) -> Result<Value> {
    let missing = || Error::MissingClaim {
        query: query.name.clone(),
        claim: name.to_owned(),
    };
    let text = claim.ok_or_else(missing)?;
    // A claim that is not of the type is as good as none: the caller cannot mend it, and must not learn more.
    read(param, &Json::String(text)).map_err(|_| missing())
}

fn unknown(query: &Query, name: &str) -> Error {
    let known: BTreeSet<_> = query
        .params
        .iter()
        .filter(|param| param.source == Source::Caller)
        .map(|param| param.name.as_str())
        .collect();
    let known: Vec<_> = known.into_iter().collect();
    let problem = match known.is_empty() {
        true => format!("unknown; query {} takes none", query.name),
        false => format!("unknown; query {} takes {}", query.name, known.join(", ")),
    };
    let name: String = name.chars().take(64).collect();
    broken(&name, problem)
}

fn broken(name: &str, problem: String) -> Error {
    Error::Parameter {
        name: name.to_owned(),
        problem,
    }
}

fn allowed(kind: &Type, problem: &str) -> String {
    match problem.contains(&kind.to_string()) || matches!(kind, Type::Enum(_)) {
        true => problem.to_owned(),
        false => format!("{problem}; {kind} is expected"),
    }
}

/// The JSON that a value is read from. In the query part of a URL everything is text, so texts of numbers, bools, JSON
/// and lists are taken as what they say.
fn as_json(kind: &Type, json: &Json) -> String {
    let Json::String(text) = json else {
        return json.to_string();
    };
    let trimmed = text.trim();
    let is_number = || serde_json::from_str::<serde_json::Number>(trimmed).is_ok();
    match kind {
        Type::Bool if matches!(trimmed, "true" | "false") => trimmed.to_owned(),
        Type::Float4 | Type::Float8 if is_number() => trimmed.to_owned(),
        Type::Timestamptz if is_number() => trimmed.to_owned(),
        Type::Jsonb if serde_json::from_str::<&serde_json::value::RawValue>(trimmed).is_ok() => {
            trimmed.to_owned()
        }
        Type::Array(element) if trimmed.starts_with('[') => {
            match serde_json::from_str::<Vec<Json>>(trimmed) {
                Ok(elements) => list(element, elements.iter()),
                Err(_) => json.to_string(),
            }
        }
        Type::Array(element) => {
            let elements: Vec<_> = trimmed
                .split(',')
                .map(|part| Json::String(part.trim().to_owned()))
                .collect();
            list(element, elements.iter())
        }
        _ => json.to_string(),
    }
}

fn list<'a>(element: &Type, elements: impl Iterator<Item = &'a Json>) -> String {
    let elements: Vec<_> = elements.map(|json| as_json(element, json)).collect();
    format!("[{}]", elements.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: &str, json: &Json, expected: std::result::Result<Value, &str>) {
        let param = Param::new("p", Type::parse(kind).unwrap());
        match (read(&param, json), expected) {
            (Ok(value), Ok(expected)) => assert_eq!(value, expected, "{kind} {json}"),
            (Err(error), Err(expected)) => {
                let message = error.to_string();
                assert!(
                    message.starts_with("parameter p: ") && message.contains(expected),
                    "{kind} {json}: {message}"
                );
            }
            (read, _) => panic!("{kind} {json}: {read:?}"),
        }
    }

    #[test]
    fn values_are_read_by_their_type_from_json_and_from_text() {
        check("int4", &json!(5), Ok(Value::Int(5)));
        check("int4", &json!("5"), Ok(Value::Int(5)));
        check("int8", &json!("-9223372036854775808"), Ok(Value::Int(i64::MIN)));
        check("bool", &json!("true"), Ok(Value::Bool(true)));
        check("float8", &json!("1.5"), Ok(Value::Float(1.5)));
        check("numeric", &json!("12.50"), Ok(Value::Numeric("12.50".into())));
        check("numeric", &json!(0.1), Ok(Value::Numeric("0.1".into())));
        check("text", &json!("5"), Ok(Value::Text("5".into())));
        check("text", &json!("O'Hara\n漢"), Ok(Value::Text("O'Hara\n漢".into())));
        check("enum(buy,sell)", &json!("buy"), Ok(Value::Text("buy".into())));
        check("date", &json!("1970-01-02"), Ok(Value::Date(1)));
        check(
            "timestamptz",
            &json!("1970-01-01T00:00:01Z"),
            Ok(Value::Timestamptz(1_000_000)),
        );
        check("timestamptz", &json!("1000"), Ok(Value::Timestamptz(1_000_000)));
        check("jsonb", &json!({"a": 1}), Ok(Value::Jsonb("{\"a\":1}".into())));
        check(
            "jsonb",
            &json!("{\"a\": 1}"),
            Ok(Value::Jsonb("{\"a\": 1}".into())),
        );
        check("jsonb", &json!("plain"), Ok(Value::Jsonb("\"plain\"".into())));
        let list = |values: Vec<Value>| Ok(Value::Array(values.into()));
        check("int4[]", &json!([1, 2]), list(vec![Value::Int(1), Value::Int(2)]));
        check("int4[]", &json!("1, 2"), list(vec![Value::Int(1), Value::Int(2)]));
        check(
            "text[]",
            &json!("[\"a,b\", \"c\"]"),
            list(vec![Value::Text("a,b".into()), Value::Text("c".into())]),
        );
        check(
            "text[]",
            &json!("a,b"),
            list(vec![Value::Text("a".into()), Value::Text("b".into())]),
        );
    }

    #[test]
    fn what_does_not_fit_names_the_parameter_and_what_is_allowed() {
        check("int4", &json!("five"), Err("int4"));
        check("int2", &json!(40_000), Err("40000 is outside of int2"));
        check("int8", &json!(1.5), Err("int8"));
        check("bool", &json!(1), Err("bool"));
        check("float8", &json!("NaN"), Err("float8"));
        check("float4", &json!(1e300), Err("float4"));
        check("uuid", &json!("x"), Err("uuid"));
        check("date", &json!("yesterday"), Err("date"));
        check("enum(buy,sell)", &json!("hold"), Err("not one of buy, sell"));
        check("text", &json!("a\u{0}b"), Err("NUL"));
        check("jsonb", &json!({"a": "\u{0}"}), Err("\\u0000"));
        check("text", &json!(null), Err("null where text is expected"));
        check("jsonb", &json!("null"), Err("null where jsonb is expected"));
        check("int4[]", &json!({"a": 1}), Err("int4[]"));
    }

    fn query() -> Query {
        Query {
            params: vec![
                Param::new("symbol", Type::Text),
                Param {
                    default: Some(json!(7)),
                    ..Param::new("days", Type::Int4)
                },
                Param {
                    optional: true,
                    ..Param::new("channel", Type::Text)
                },
                Param::claim("tenant", Type::Int8, "org"),
            ],
            ..Query::new("latest", "SELECT 1")
        }
    }

    fn bind(sent: Json, org: Option<&str>) -> Result<Bound> {
        let Json::Object(sent) = sent else {
            panic!("an object is needed")
        };
        Bound::new(&query(), &sent, &|claim| {
            org.filter(|_| claim == "org").map(ToOwned::to_owned)
        })
    }

    #[test]
    fn absent_parameters_take_their_default_or_null() {
        let bound = bind(json!({"symbol": "x"}), Some("5")).unwrap();
        assert_eq!(
            bound.values,
            [Value::Text("x".into()), Value::Int(7), Value::Null, Value::Int(5)]
        );
        let message = bind(json!({}), Some("5")).unwrap_err().to_string();
        assert_eq!(message, "parameter symbol: missing; text is expected");
        let message = bind(json!({"symbol": "x", "symbool": "y"}), Some("5"))
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "parameter symbool: unknown; query latest takes channel, days, symbol"
        );
    }

    #[test]
    fn a_claim_is_never_taken_from_the_caller() {
        let error = bind(json!({"symbol": "x", "tenant": 6}), Some("5")).unwrap_err();
        assert!(
            matches!(&error, Error::Parameter { name, .. } if name == "tenant"),
            "{error}"
        );
        for org in [None, Some("five")] {
            let error = bind(json!({"symbol": "x"}), org).unwrap_err();
            assert!(
                matches!(&error, Error::MissingClaim { claim, .. } if claim == "org"),
                "{error}"
            );
        }
    }

    #[test]
    fn each_value_changes_the_digest() {
        let digest = |sent: Json, org| bind(sent, Some(org)).unwrap().digest();
        let same = digest(json!({"symbol": "x"}), "5");
        assert_eq!(same, digest(json!({"symbol": "x", "days": "7"}), "5"));
        assert_ne!(same, digest(json!({"symbol": "y"}), "5"));
        assert_ne!(same, digest(json!({"symbol": "x"}), "6"));
        assert_ne!(same, digest(json!({"symbol": "x", "channel": ""}), "5"));
    }
}
