//! What the application is asked: the body of one request.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_gateway::{CloseReason, Entrant, Error, Event, Socket};

use super::binary;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// May this client come in, and who is it?
    Connect,
    /// A client sent an event.
    Event,
    /// A session is over.
    Disconnect,
}

/// The names of one request.
pub(super) struct Names {
    /// Of what it is about: the same however often a disconnect is told.
    pub(super) id: String,
    /// Of this request in traces (W3C Trace Context).
    pub(super) traceparent: String,
}

/// A request, ready to be posted.
pub(super) struct Asked {
    pub(super) kind: Kind,
    pub(super) body: Bytes,
    pub(super) traceparent: String,
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    kind: Kind,
    boot: &'a str,
    session: &'a str,
    namespace: &'a str,
    user: Option<&'a str>,
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<&'a str, Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wants_ack: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Connect, Self::Event, Self::Disconnect];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Event => "event",
            Self::Disconnect => "disconnect",
        }
    }
}

impl Names {
    /// Fresh random ones.
    pub(super) fn new() -> Self {
        let mut random = [0; 24];
        getrandom::fill(&mut random).expect("the system has random bytes");
        let (id, span) = (hex(&random[..16]), hex(&random[16..]));
        let traceparent = format!("00-{id}-{span}-01");
        Self { id, traceparent }
    }
}

impl Asked {
    /// May this client come in?
    pub(super) fn connect(boot: &str, entrant: &Entrant) -> Result<Self, Error> {
        let (names, request) = (Names::new(), entrant.request());
        let mut headers = BTreeMap::new();
        for (name, value) in request.headers() {
            put_header(&mut headers, name, value);
        }
        let body = Body {
            headers: Some(headers),
            auth: raw(Some(request.auth_json())),
            query: Some(request.query()),
            address: Some(request.address()),
            ..Body::new(&names.id, Kind::Connect, boot)
        };
        let user = named(&request.identity().user);
        let (session, namespace) = (entrant.id(), request.namespace());
        let body = Body {
            session,
            namespace,
            user,
            ..body
        };
        body.asked(names.traceparent)
    }

    /// A client sent an event.
    pub(super) fn event(boot: &str, socket: &Socket, event: &Event) -> Result<Self, Error> {
        let names = Names::new();
        let args = RawValue::from_string(binary::to_app(event.args_json(), event.attachments()))?;
        let body = Body {
            event: Some(event.name()),
            args: Some(&args),
            wants_ack: Some(event.wants_ack()),
            ..Body::of(&names.id, Kind::Event, boot, socket)
        };
        body.asked(names.traceparent)
    }

    /// A session is over.
    pub(super) fn disconnect(boot: &str, socket: &Socket, reason: CloseReason) -> Result<Self, Error> {
        let names = Names::new();
        let body = Body {
            reason: Some(reason.as_str()),
            ..Body::of(&names.id, Kind::Disconnect, boot, socket)
        };
        body.asked(names.traceparent)
    }

    /// A session that the application may have let in did not come about.
    pub(super) fn not_begun(boot: &str, entrant: &Entrant) -> Result<Self, Error> {
        let (names, request) = (Names::new(), entrant.request());
        let body = Body {
            session: entrant.id(),
            namespace: request.namespace(),
            user: named(&request.identity().user),
            reason: Some(CloseReason::TransportClosed.as_str()),
            ..Body::new(&names.id, Kind::Disconnect, boot)
        };
        body.asked(names.traceparent)
    }

    /// A disconnect that was kept.
    pub(super) fn kept(body: Bytes) -> Self {
        Self {
            kind: Kind::Disconnect,
            body,
            traceparent: Names::new().traceparent,
        }
    }
}

impl<'a> Body<'a> {
    const fn new(id: &'a str, kind: Kind, boot: &'a str) -> Self {
        Self {
            id,
            kind,
            boot,
            session: "",
            namespace: "/",
            user: None,
            data: None,
            headers: None,
            auth: None,
            query: None,
            address: None,
            event: None,
            args: None,
            wants_ack: None,
            reason: None,
        }
    }

    fn of(id: &'a str, kind: Kind, boot: &'a str, socket: &'a Socket) -> Self {
        Self {
            session: socket.id(),
            namespace: socket.namespace(),
            user: named(socket.user()),
            data: raw(socket.data()),
            ..Self::new(id, kind, boot)
        }
    }

    fn asked(&self, traceparent: String) -> Result<Asked, Error> {
        let body = serde_json::to_vec(self)?.into();
        let kind = self.kind;
        Ok(Asked {
            kind,
            body,
            traceparent,
        })
    }
}

/// A header that comes several times is one list; cookies have a sign of their own between them.
fn put_header<'a>(headers: &mut BTreeMap<&'a str, Cow<'a, str>>, name: &'a str, value: &'a str) {
    let between = if name == "cookie" { "; " } else { ", " };
    headers
        .entry(name)
        .and_modify(|known| *known = format!("{known}{between}{value}").into())
        .or_insert(Cow::Borrowed(value));
}

fn raw(text: Option<&str>) -> Option<&RawValue> {
    serde_json::from_str(text?).ok()
}

fn named(user: &str) -> Option<&str> {
    (!user.is_empty()).then_some(user)
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_come_twice_are_one_list() {
        let mut headers = BTreeMap::new();
        for (name, value) in [
            ("cookie", "a=1"),
            ("accept", "x"),
            ("cookie", "b=2"),
            ("accept", "y"),
        ] {
            put_header(&mut headers, name, value);
        }
        assert_eq!(headers["cookie"], "a=1; b=2");
        assert_eq!(headers["accept"], "x, y");
    }

    #[test]
    fn names_are_of_trace_context_and_fresh() {
        let (one, two) = (Names::new(), Names::new());
        assert_ne!(one.id, two.id);
        let parts: Vec<&str> = one.traceparent.split('-').collect();
        assert_eq!(
            (parts[0], parts[1].len(), parts[2].len(), parts[3]),
            ("00", 32, 16, "01")
        );
        assert_eq!(parts[1], one.id);
    }
}
