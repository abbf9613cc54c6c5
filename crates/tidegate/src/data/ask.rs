//! Questions to declared queries, whoever asks: permission, parameters, claims.

use serde_json::{Map, Value};
use tidegate_auth::{Action, Identity, Permissions};
use tidegate_gateway::Error;
use tidegate_store::{
    Type,
    query::{Page, Query, Source},
};

use super::Store;
use crate::api::Failure;

/// Refuses a caller whom no role lets ask, and queries that are not there.
pub(crate) fn admit(
    store: &Store,
    permissions: &Permissions,
    identity: &Identity,
    name: &str,
) -> Result<(), Failure> {
    permissions.check(Action::Query, name, identity)?;
    match store.declared().queries.contains_key(name) {
        true => Ok(()),
        false => Err(tidegate_store::Error::UnknownQuery(name.to_owned()).into()),
    }
}

/// What the token says under this name: texts and integers only, as in the patterns of roles.
pub(crate) fn claim(identity: &Identity, name: &str) -> Option<String> {
    match identity.claim(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Some(_) => None,
        None => match name {
            "tenant" => identity.tenant.as_deref().map(str::to_owned),
            "sub" | "user" => Some(identity.user.to_string()).filter(|user| !user.is_empty()),
            _ => None,
        },
    }
}

/// Texts of a query string as the values that the declared types ask for.
///
/// # Errors
/// A parameter given twice that is no array.
pub(crate) fn params(query: &Query, given: &[(String, String)]) -> Result<Map<String, Value>, Failure> {
    let mut params = Map::new();
    for (name, text) in given {
        let kind = query
            .params
            .iter()
            .find(|param| param.name == *name && param.source == Source::Caller)
            .map(|param| &param.kind);
        match (kind, params.get_mut(name)) {
            (Some(Type::Array(kind)), Some(Value::Array(values))) => values.push(value(kind, text)),
            (Some(Type::Array(kind)), None) if !text.starts_with('[') => {
                params.insert(name.clone(), Value::Array(vec![value(kind, text)]));
            }
            (_, Some(_)) => {
                return Err(Error::BadRequest(format!("parameter {name} is given twice")).into());
            }
            (Some(kind), None) => {
                params.insert(name.clone(), value(kind, text));
            }
            // The query itself says what it takes.
            (None, None) => {
                params.insert(name.clone(), Value::String(text.clone()));
            }
        }
    }
    Ok(params)
}

/// A text that is no value of the type stays text, and the query says what is wrong with it.
fn value(kind: &Type, text: &str) -> Value {
    let as_text = || Value::String(text.to_owned());
    match kind {
        Type::Bool
        | Type::Int2
        | Type::Int4
        | Type::Int8
        | Type::Float4
        | Type::Float8
        | Type::Jsonb
        | Type::Array(_) => serde_json::from_str(text).unwrap_or_else(|_| as_text()),
        _ => as_text(),
    }
}

/// `{ok, rows, next}`; the rows are JSON already.
pub(crate) fn page_json(page: &Page) -> String {
    let rows = String::from_utf8_lossy(&page.rows);
    let next = Value::from(page.next.clone());
    format!(r#"{{"ok":true,"rows":{rows},"next":{next}}}"#)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_auth::{Claims, Method};
    use tidegate_store::query::Param;

    use super::*;

    fn query() -> Query {
        let mut query = Query::new("q", "SELECT 1");
        let kinds = [
            ("n", "int8"),
            ("t", "text"),
            ("d", "numeric"),
            ("a", "int8[]"),
            ("b", "bool"),
            ("j", "jsonb"),
        ];
        query.params = kinds
            .map(|(name, kind)| Param::new(name, Type::parse(kind).unwrap()))
            .to_vec();
        query
    }

    #[test]
    fn texts_become_values_of_the_declared_types() {
        let check = |given: &[(&str, &str)], expected: Value| {
            let given: Vec<(String, String)> = given
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                .collect();
            let found = params(&query(), &given).map_or_else(|failure| failure.to_json(), Value::Object);
            match expected {
                Value::Null => assert_eq!(found["ok"], false),
                expected => assert_eq!(found, expected),
            }
        };
        check(&[("n", "7"), ("t", "7")], json!({"n": 7, "t": "7"}));
        check(&[("n", "seven")], json!({"n": "seven"}));
        check(&[("d", "1.10")], json!({"d": "1.10"}));
        check(
            &[("b", "true"), ("j", "{\"x\":1}")],
            json!({"b": true, "j": {"x": 1}}),
        );
        check(&[("a", "1"), ("a", "2")], json!({"a": [1, 2]}));
        check(&[("a", "[1,2]")], json!({"a": [1, 2]}));
        check(&[("other", "1")], json!({"other": "1"}));
        check(&[("n", "1"), ("n", "2")], Value::Null);
    }

    #[test]
    fn claims_are_texts_and_integers() {
        let mut ada = Identity::new("ada", Method::Token);
        ada.tenant = Some("acme".into());
        let claims = json!({"desk": "fx", "n": 7, "f": 1.5, "empty": "", "list": []});
        ada.claims = Claims::new(claims.as_object().unwrap().clone());
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(claim(&ada, name).as_deref(), expected, "{name}");
        };
        check("desk", Some("fx"));
        check("n", Some("7"));
        check("tenant", Some("acme"));
        check("sub", Some("ada"));
        for name in ["f", "empty", "list", "absent"] {
            check(name, None);
        }
    }
}
