//! From an HTTP request to a WebSocket on a shard.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tidegate_wire::{
    deflate::{self, Negotiated},
    websocket,
};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{
    Front, HttpBody, body,
    request::{Wanted, refused_code},
};
use crate::{
    admission::Permit,
    shard::{
        command::{Command, NewWebSocket},
        conn::Handshake,
        link::{Link, Tls},
    },
};

/// Browsers whose permessage-deflate is known to be broken: Safari before 12 dies of some compressed messages.
const BROKEN_DEFLATE: [&str; 4] = ["Version/9.", "Version/10.", "Version/11.", "CriOS/5"];

struct Opening {
    endpoint: u8,
    upgrades: Option<crate::id::Id>,
    window_bits: Option<u8>,
    handshake: Arc<Handshake>,
    permit: Option<Permit>,
}

impl Front {
    pub(super) fn answer_websocket(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        wanted: &Wanted,
    ) -> Response<HttpBody> {
        let Some(accept) = accept_of(&request) else {
            return refused_code(400, 3, "Bad request");
        };
        let permit = match wanted.sid {
            // The polling connection to upgrade has been let in already.
            Some(_) => None,
            None => match self.admit(wanted.peer) {
                Ok(permit) => Some(permit),
                Err(refusal) => return self.overloaded(refusal),
            },
        };
        let deflate = self.negotiate(request.headers());
        let opening = Opening {
            endpoint: wanted.endpoint,
            upgrades: wanted.sid,
            window_bits: deflate.as_ref().map(|agreed| agreed.server_window_bits),
            handshake: self.handshake(&request, wanted.peer),
            permit,
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let front = self.clone();
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => front.hand_over(upgraded, opening),
                Err(_) => front.shared.figures.handshake_errors.inc(),
            }
        });
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(agreed) = deflate {
            response = response.header(header::SEC_WEBSOCKET_EXTENSIONS, agreed.response);
        }
        response
            .body(body(""))
            .expect("base64 and an extension list are valid headers")
    }

    fn negotiate(&self, headers: &HeaderMap) -> Option<Negotiated> {
        if !self.shared.config.deflate.enabled {
            return None;
        }
        let agent = headers
            .get(header::USER_AGENT)
            .and_then(|agent| agent.to_str().ok())
            .unwrap_or_default();
        if BROKEN_DEFLATE.iter().any(|version| agent.contains(version)) {
            return None;
        }
        let offers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
        let offers: Vec<&str> = offers.filter_map(|offer| offer.to_str().ok()).collect();
        deflate::negotiate(&offers.join(", "))
    }

    /// The socket leaves the HTTP server and goes to its shard for good.
    fn hand_over(&self, upgraded: Upgraded, opening: Opening) {
        let Some((link, early)) = into_link(upgraded) else {
            self.shared.figures.handshake_errors.inc();
            return;
        };
        let shards = self.shared.inboxes.len();
        let named = opening
            .upgrades
            .and_then(|sid| sid.shard())
            .map(usize::from)
            .filter(|&shard| shard < shards);
        let shard = named.unwrap_or_else(|| self.shared.least_loaded());
        let new = NewWebSocket {
            link,
            early,
            endpoint: opening.endpoint,
            window_bits: opening.window_bits,
            upgrades: opening.upgrades,
            handshake: opening.handshake,
            permit: opening.permit,
        };
        if self.shared.inboxes[shard]
            .push(Command::WebSocket(Box::new(new)))
            .is_err()
        {
            self.shared.figures.refused("overloaded");
        }
    }
}

/// The answer to a valid opening handshake (RFC 6455 section 4.2.1).
fn accept_of(request: &Request<Incoming>) -> Option<String> {
    let headers = request.headers();
    let has = |name: header::HeaderName, word: &str| {
        let values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let valid = request.method() == Method::GET
        && has(header::UPGRADE, "websocket")
        && has(header::CONNECTION, "upgrade")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    // 16 bytes of base64.
    (valid && key.len() == 24 && key.ends_with("==")).then(|| websocket::accept_key(key))
}

/// The socket under an upgraded connection, and what it has read already.
fn into_link(upgraded: Upgraded) -> Option<(Link, Bytes)> {
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => return Some((Link::Tcp(parts.io.into_inner().into_std().ok()?), parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    let parts = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>().ok()?;
    let (socket, session) = parts.io.into_inner().into_inner();
    let socket = socket.into_std().ok()?;
    Some((Link::Tls(Box::new(Tls { socket, session })), parts.read_buf))
}
