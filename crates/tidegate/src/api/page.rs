//! `/api/docs`: the table of routes as one self-contained page, without scripts.

use std::fmt::Write as _;

use super::{
    openapi,
    route::{Access, Answer, LINES, Parameter, Route, Type},
    routes::ROUTES,
};

const HEAD: &str = include_str!("page.html");

/// The page.
pub(crate) fn html() -> String {
    let mut out = HEAD.replace("{version}", env!("CARGO_PKG_VERSION"));
    for route in ROUTES {
        put_route(&mut out, route);
    }
    out.push_str("<h2>Schemas</h2>\n");
    let schemas = &openapi::document()["components"]["schemas"];
    for (name, schema) in schemas.as_object().into_iter().flatten() {
        let text = serde_json::to_string_pretty(schema).expect("a value is always JSON");
        let text = escape(&text);
        put(
            &mut out,
            format_args!("<details id=\"{name}\"><summary>{name}</summary><pre>{text}</pre></details>\n"),
        );
    }
    out.push_str("</main></body></html>\n");
    out
}

fn put_route(out: &mut String, route: &Route) {
    let method = route.method.as_str();
    put(
        out,
        format_args!(
            "<section><h3><b class=\"{method}\">{method}</b> <code>{}</code></h3>\n<p>{}. {} <i>{}</i></p>\n",
            escape(route.path),
            escape(route.title),
            escape(route.about),
            access(route.access)
        ),
    );
    if !route.parameters.is_empty() {
        out.push_str("<table><tr><th>parameter</th><th>allowed</th><th></th></tr>\n");
        route
            .parameters
            .iter()
            .for_each(|parameter| put_parameter(out, parameter));
        out.push_str("</table>\n");
    }
    out.push_str("<p>");
    if let Some(body) = route.body {
        put(out, format_args!("Body: JSON, <a href=\"#{body}\">{body}</a>. "));
    }
    if route.lines {
        put(out, format_args!("Rows also flow as <code>{LINES}</code>. "));
    }
    match route.answer {
        Answer::JsonOr(name, others) => put(
            out,
            format_args!(
                "Answer: 200, <a href=\"#{name}\">{name}</a>, or <code>{}</code>",
                others.join("</code>, <code>")
            ),
        ),
        Answer::Json(name) => put(out, format_args!("Answer: 200, <a href=\"#{name}\">{name}</a>")),
        Answer::Text(media) => put(out, format_args!("Answer: 200, <code>{media}</code>")),
    }
    for code in route.all_failures() {
        put(
            out,
            format_args!(", {} <code>{}</code>", code.status(), code.as_str()),
        );
    }
    out.push_str(".</p></section>\n");
}

fn put_parameter(out: &mut String, parameter: &Parameter) {
    let allowed = match parameter.kind {
        Type::Text { bytes_max } => format!("1 to {bytes_max} bytes"),
        Type::Count { min, max, default } => format!("{min} to {max}, default {default}"),
        Type::Choice(words) => format!("{}, default {}", words.join(", "), words[0]),
        Type::Free { bytes_max } => format!("any names, values up to {bytes_max} bytes"),
    };
    let (name, about) = (parameter.name, escape(parameter.about));
    put(
        out,
        format_args!("<tr><td><code>{name}</code></td><td>{allowed}</td><td>{about}</td></tr>\n"),
    );
}

const fn access(access: Access) -> &'static str {
    match access {
        Access::Open => "Open to everybody.",
        Access::Known => "For callers that the settings let in.",
        Access::Admin => {
            "Needs role admin, or a caller on the server's own machine where the listener is loopback."
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}
