//! Holds JSON against the part of JSON Schema that the API's description uses.

use serde_json::Value;

/// Where `value` differs from `schema`; nothing if it fits. `root` resolves references.
pub(crate) fn mismatch(root: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    if let Some(path) = schema["$ref"].as_str() {
        let target = root.pointer(path.strip_prefix('#').unwrap());
        return mismatch(
            root,
            target.unwrap_or_else(|| panic!("{path} leads nowhere")),
            value,
            place,
        );
    }
    if let Some(options) = schema["anyOf"].as_array() {
        let all: Vec<String> = options
            .iter()
            .map_while(|option| mismatch(root, option, value, place))
            .collect();
        return (all.len() == options.len()).then(|| all.join(" and "));
    }
    if schema.get("const").is_some_and(|only| only != value) {
        return Some(format!("{place} is {value}, not {}", schema["const"]));
    }
    if schema["enum"]
        .as_array()
        .is_some_and(|known| !known.contains(value))
    {
        return Some(format!("{place} is {value}, not one of {}", schema["enum"]));
    }
    wrong_type(&schema["type"], value, place)
        .or_else(|| wrong_member(root, schema, value, place))
        .or_else(|| wrong_item(root, schema, value, place))
}

fn wrong_type(kind: &Value, value: &Value, place: &str) -> Option<String> {
    let fits = |kind: &str| match kind {
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("{place}: unknown type {other}"),
    };
    let right = match kind {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(|kind| fits(kind.as_str().unwrap())),
        kind => fits(kind.as_str().unwrap()),
    };
    (!right).then(|| format!("{place} is {value}, not {kind}"))
}

fn wrong_member(root: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    let members = value.as_object()?;
    for name in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(name.as_str().unwrap()) {
            return Some(format!("{place} lacks {name}"));
        }
    }
    members.iter().find_map(|(name, member)| {
        let inner = format!("{place}.{name}");
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(known), _) => mismatch(root, known, member, &inner),
            (None, Some(Value::Bool(false))) => Some(format!("{inner} is not described")),
            (None, Some(other)) => mismatch(root, other, member, &inner),
            (None, None) => None,
        }
    })
}

fn wrong_item(root: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    let (items, schema) = (value.as_array()?, schema.get("items")?);
    let mut numbered = items.iter().enumerate();
    numbered.find_map(|(index, item)| mismatch(root, schema, item, &format!("{place}[{index}]")))
}

#[test]
fn it_finds_what_is_wrong() {
    let schema: Value = serde_json::json!({
        "type": "object",
        "required": ["a"],
        "additionalProperties": false,
        "properties": {"a": {"type": ["integer", "null"]}, "b": {"type": "array", "items": {"enum": [1, 2]}}},
    });
    let check = |text: &str, expected: Option<&str>| {
        let value = serde_json::from_str(text).unwrap();
        let found = mismatch(&schema, &schema, &value, "it");
        assert_eq!(found.as_deref(), expected, "{text}");
    };
    check(r#"{"a":1}"#, None);
    check(r#"{"a":null,"b":[1,2]}"#, None);
    check(r#"{}"#, Some("it lacks \"a\""));
    check(r#"{"a":1.5}"#, Some("it.a is 1.5, not [\"integer\",\"null\"]"));
    check(r#"{"a":1,"c":1}"#, Some("it.c is not described"));
    check(r#"{"a":1,"b":[1,3]}"#, Some("it.b[1] is 3, not one of [1,2]"));
    check(r#"[]"#, Some("it is [], not \"object\""));
}
