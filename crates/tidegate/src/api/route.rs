//! What a route is: the one description from which router, OpenAPI document and page are made.

use std::{
    collections::BTreeMap,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use axum::{
    body::Body,
    http::{HeaderMap, Method},
};
use bytes::Bytes;
use tidegate_auth::Identity;
use tidegate_gateway::{Code, Error};

use super::{Api, Parts, failure::Failure};
use crate::limits::Turn;

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody.
    Open,
    /// Whoever the settings let in; what it may publish is checked message by message.
    Known,
    /// Role admin, or a caller on this machine where the listener is loopback.
    Admin,
}

/// Which listener a route is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Both.
    Everywhere,
    /// The main one.
    Main,
    /// The administration listener; the main one where there is none of its own.
    Admin,
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum In {
    Path,
    Query,
}

/// Type and range of a parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Type {
    Text {
        bytes_max: usize,
    },
    Count {
        min: usize,
        max: usize,
        default: usize,
    },
    Choice(&'static [&'static str]),
    /// Any other names with texts of at most so many bytes, also more than once; see [`Call::free`].
    Free {
        bytes_max: usize,
    },
}

/// A parameter of a route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) place: In,
    pub(crate) kind: Type,
    pub(crate) about: &'static str,
}

/// What a successful answer holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// JSON of this schema.
    Json(&'static str),
    /// JSON of this schema, or on request one of these content types.
    JsonOr(&'static str, &'static [&'static str]),
    /// Text of this content type.
    Text(&'static str),
}

/// One route.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) place: Place,
    pub(crate) access: Access,
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) parameters: &'static [Parameter],
    /// Schema of the body, which is JSON.
    pub(crate) body: Option<&'static str>,
    /// Whether rows may also come or go as lines: of any length, read and written as they flow.
    pub(crate) lines: bool,
    pub(crate) answer: Answer,
    /// Failures beyond those that every route of its kind has.
    pub(crate) failures: &'static [Code],
    pub(crate) run: fn(Call) -> Answering,
}

/// The answer to come.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send>>;

/// A finished answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Body,
    /// The header `Cache-Status`, where a cache was asked.
    pub(crate) cache_status: Option<&'static str>,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// Its address; behind trusted proxies the one they name.
    pub(crate) address: IpAddr,
    /// Whether a trusted proxy passed it on.
    pub(crate) proxied: bool,
    /// Whether the listener it came in by is loopback.
    pub(crate) loopback_listener: bool,
}

/// One request on its way through a route.
pub(crate) struct Call {
    pub(crate) api: Arc<Api>,
    pub(crate) parts: Arc<Parts>,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) body: Bytes,
    /// A body of lines, not read yet. The lock is never waited for: it only lets calls be shared.
    pub(crate) lines: Option<Mutex<Body>>,
    pub(crate) headers: HeaderMap,
    turn: HeldTurn,
    values: BTreeMap<&'static str, String>,
    free: Vec<(String, String)>,
    route: &'static Route,
}

/// The place of a request among those at once, until it ends or steps aside.
pub(crate) type HeldTurn = Arc<Mutex<Option<Turn>>>;

/// What the service read of a request before its route runs.
pub(crate) struct Given {
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) values: Vec<(In, String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) turn: HeldTurn,
    pub(crate) body: Bytes,
    pub(crate) lines: Option<Body>,
}

/// The media type of lines.
pub(crate) const LINES: &str = "application/x-ndjson";

// === impl Route ===

impl Route {
    /// Every failure a caller can meet, without those of a broken server.
    pub(crate) fn all_failures(&self) -> Vec<Code> {
        let mut codes = self.failures.to_vec();
        match self.access {
            Access::Open => {}
            Access::Known => codes.push(Code::Unauthenticated),
            Access::Admin => codes.extend([Code::Unauthenticated, Code::Forbidden]),
        }
        if self.body.is_some() {
            codes.extend([Code::BadRequest, Code::TooLarge]);
        }
        if self
            .parameters
            .iter()
            .any(|parameter| parameter.place == In::Query)
        {
            codes.push(Code::BadRequest);
        }
        codes.sort_by_key(|code| (code.status(), code.as_str()));
        codes.dedup();
        codes
    }
}

// === impl Reply ===

impl Reply {
    /// 200 with JSON.
    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self {
            status: 200,
            content_type: "application/json",
            body: Body::from(value.to_string()),
            cache_status: None,
        }
    }

    /// 200 with JSON that is text already.
    pub(crate) fn json_text(body: impl Into<Body>) -> Self {
        Self::stream("application/json", body.into())
    }

    /// 200 with a body that may still be on its way.
    pub(crate) const fn stream(content_type: &'static str, body: Body) -> Self {
        Self {
            status: 200,
            content_type,
            body,
            cache_status: None,
        }
    }

    /// The same, and whether the cache answered.
    #[must_use]
    pub(crate) const fn with_cache_status(mut self, status: &'static str) -> Self {
        self.cache_status = Some(status);
        self
    }

    /// 200 with text.
    pub(crate) fn text(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            content_type,
            body: Body::from(body.into()),
            cache_status: None,
        }
    }
}

// === impl Call ===

impl Call {
    /// Checks path and query against the route's parameters.
    ///
    /// # Errors
    /// `bad_request` naming the parameter, its value and its range.
    pub(crate) fn new(
        (api, parts): (Arc<Api>, Arc<Parts>),
        route: &'static Route,
        given: Given,
    ) -> Result<Self, Failure> {
        let (mut values, mut free) = (BTreeMap::new(), Vec::new());
        let open = route
            .parameters
            .iter()
            .find_map(|parameter| match parameter.kind {
                Type::Free { bytes_max } => Some((parameter.place, bytes_max)),
                _ => None,
            });
        for (place, name, value) in given.values {
            let known = route
                .parameters
                .iter()
                .find(|known| known.place == place && known.name == name && !known.is_free());
            let Some(parameter) = known else {
                if let Some((_, bytes_max)) = open.filter(|(at, _)| *at == place) {
                    check_free(&name, &value, bytes_max)?;
                    free.push((name, value));
                    continue;
                }
                let message = format!(
                    "unknown parameter {name:?}, known are {}",
                    names(route.parameters)
                );
                return Err(Error::BadRequest(message).into());
            };
            check(parameter, &value)?;
            if values.insert(parameter.name, value).is_some() {
                return Err(Error::BadRequest(format!("parameter {name} is given twice")).into());
            }
        }
        Ok(Self {
            api,
            parts,
            identity: given.identity,
            body: given.body,
            lines: given.lines.map(Mutex::new),
            headers: given.headers,
            turn: given.turn,
            values,
            free,
            route,
        })
    }

    /// Who calls a route that is not open.
    pub(crate) fn caller(&self) -> &Identity {
        self.identity.as_ref().expect("the route asks for an identity")
    }

    /// Gives the place among the requests at once to others, because from here on it only waits for somebody else.
    pub(crate) fn step_aside(&self) {
        let turn = take(&self.turn);
        if let Some(turn) = turn {
            turn.leave();
        }
    }

    /// Parameters whose names the route does not fix, in order, as often as they were given.
    pub(crate) fn free(&self) -> &[(String, String)] {
        &self.free
    }

    /// A parameter that is text, if given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A parameter of the path, which the router guarantees.
    pub(crate) fn path(&self, name: &str) -> &str {
        self.text(name)
            .expect("the path has this parameter, or the router had not matched")
    }

    /// A parameter that is a number, or its default.
    pub(crate) fn count(&self, name: &str) -> usize {
        let parameter = self.route.parameters.iter().find(|known| known.name == name);
        let default = match parameter.map(|known| known.kind) {
            Some(Type::Count { default, .. }) => default,
            _ => unreachable!("the route declares {name} as a number"),
        };
        self.text(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    }
}

/// The place, if it is still held.
pub(crate) fn take(turn: &HeldTurn) -> Option<Turn> {
    turn.lock()
        .expect("nothing panics while it holds this lock")
        .take()
}

impl Parameter {
    const fn is_free(&self) -> bool {
        matches!(self.kind, Type::Free { .. })
    }
}

fn check_free(name: &str, value: &str, bytes_max: usize) -> Result<(), Failure> {
    if value.len() <= bytes_max {
        return Ok(());
    }
    let message = format!(
        "parameter {name} has {} bytes, allowed is 0 to {bytes_max}",
        value.len()
    );
    Err(Error::BadRequest(message).into())
}

fn check(parameter: &Parameter, value: &str) -> Result<(), Failure> {
    let name = parameter.name;
    let problem = match parameter.kind {
        Type::Text { bytes_max } if value.is_empty() || value.len() > bytes_max => {
            format!(
                "parameter {name} has {} bytes, allowed is 1 to {bytes_max}",
                value.len()
            )
        }
        Type::Count { min, max, .. }
            if !value
                .parse::<usize>()
                .is_ok_and(|number| (min..=max).contains(&number)) =>
        {
            format!("parameter {name} is {value:?}, allowed is {min} to {max}")
        }
        Type::Choice(words) if !words.contains(&value) => {
            format!("parameter {name} is {value:?}, allowed is {}", words.join(", "))
        }
        _ => return Ok(()),
    };
    Err(Error::BadRequest(problem).into())
}

fn names(parameters: &[Parameter]) -> String {
    if parameters.is_empty() {
        return "none".to_owned();
    }
    parameters
        .iter()
        .map(|parameter| parameter.name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The value of a header, if it is text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
