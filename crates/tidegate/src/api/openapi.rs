//! The OpenAPI 3.1 document, made from the table of routes.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use tidegate_gateway::Code;

use super::{
    route::{Access, Answer, In, LINES, Parameter, Route, Type},
    routes::ROUTES,
    schema,
};

/// The document.
pub(crate) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(build);
    &DOCUMENT
}

fn build() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let operations = paths.entry(route.path).or_insert_with(|| json!({}));
        operations[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Errors have one shape, {\"ok\":false,\"error\":{\"code\",\"message\",\"retryable\"}}; \
                            retryable ones carry Retry-After.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schema::all(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.title,
        "operationId": operation_id(route),
        "parameters": route.parameters.iter().map(parameter).collect::<Value>(),
        "responses": responses(route),
    });
    if !route.about.is_empty() {
        operation["description"] = route.about.into();
    }
    if route.access != Access::Open {
        operation["security"] = json!([{"bearer": []}, {"apiKey": []}, {}]);
    }
    if let Some(body) = route.body {
        let mut content = json!({"application/json": {"schema": schema::reference(body)}});
        if route.lines {
            content[LINES] = lines("One row a line, of any number.");
        }
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let path = route.path.replace(['{', '}'], "").replace(['/', '.'], "_");
    format!("{}{path}", route.method.as_str().to_ascii_lowercase())
}

fn parameter(parameter: &Parameter) -> Value {
    let (place, required) = match parameter.place {
        In::Path => ("path", true),
        In::Query => ("query", false),
    };
    if let Type::Free { bytes_max } = parameter.kind {
        let one = json!({"type": "string", "maxLength": bytes_max});
        return json!({
            "name": parameter.name,
            "in": place,
            "style": "form",
            "explode": true,
            "description": parameter.about,
            "schema": {"type": "object", "additionalProperties": one},
        });
    }
    let schema = match parameter.kind {
        Type::Choice(words) => json!({"type": "string", "enum": words, "default": words[0]}),
        Type::Free { .. } => unreachable!("answered above"),
        Type::Text { bytes_max } => json!({"type": "string", "minLength": 1, "maxLength": bytes_max}),
        Type::Count { min, max, default } => {
            json!({"type": "integer", "minimum": min, "maximum": max, "default": default})
        }
    };
    json!({
        "name": parameter.name,
        "in": place,
        "required": required,
        "description": parameter.about,
        "schema": schema,
    })
}

fn responses(route: &Route) -> Value {
    let content = match route.answer {
        Answer::JsonOr(name, others) => {
            let mut content = json!({"application/json": {"schema": schema::reference(name)}});
            for other in others {
                let media = other.split(';').next().unwrap_or(other);
                content[media] = json!({"schema": {"type": "string", "contentMediaType": media}});
            }
            content
        }
        Answer::Json(name) => json!({"application/json": {"schema": schema::reference(name)}}),
        Answer::Text(media) => {
            let media = media.split(';').next().unwrap_or(media);
            json!({media: {"schema": {"type": "string"}}})
        }
    };
    let mut content: Value = content;
    if route.lines {
        content[LINES] = lines("Objects, one a line; the last says how it went.");
    }
    let mut responses = Map::new();
    responses.insert(
        "200".to_owned(),
        json!({"description": route.title, "content": content}),
    );
    for code in route.all_failures() {
        let entry = responses
            .entry(code.status().to_string())
            .or_insert_with(|| failure(code));
        // Several codes may share a status.
        let text = entry["description"].as_str().unwrap_or("").to_owned();
        if !text.split(", ").any(|known| known == code.as_str()) {
            entry["description"] = format!("{text}, {}", code.as_str()).into();
        }
    }
    Value::Object(responses)
}

fn lines(about: &str) -> Value {
    json!({"schema": {"type": "string", "description": about}})
}

fn failure(code: Code) -> Value {
    let mut response = json!({
        "description": code.as_str(),
        "content": {"application/json": {"schema": schema::reference("Failure")}},
    });
    if code.is_retryable() {
        response["headers"] = json!({"Retry-After": {"schema": {"type": "integer"}}});
    }
    response
}
