//! Requests to the Socket.IO path and its like: handshakes and the polling transport.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tidegate_vitals::Class;
use tokio::sync::oneshot;

use super::{Front, HttpBody, Peer, body, json};
use crate::{
    admission::{Permit, Refusal},
    id::Id,
    shard::{
        command::{Command, Poll, PollReply, PollRequest},
        conn::{Conn, Handshake},
        polling::is_text,
    },
};

/// How long the body of a polling request may take.
const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// What an Engine.IO request asks for.
pub(super) struct Wanted {
    pub(super) endpoint: u8,
    pub(super) sid: Option<Id>,
    pub(super) peer: Peer,
}

impl Front {
    pub(super) async fn answer_endpoint(
        self: &Arc<Self>,
        index: usize,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Response<HttpBody> {
        let headers = request.headers();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let (origin, host) = (
            text(header::ORIGIN).map(str::to_owned),
            text(header::HOST).map(str::to_owned),
        );
        let (origin, host) = (origin.as_deref(), host.as_deref());
        if request.method() == Method::OPTIONS {
            let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
            let mut response = Response::builder()
                .status(204)
                .body(body(""))
                .expect("a status is valid");
            for (name, value) in self.origins.preflight_headers(origin, host, asked) {
                response.headers_mut().append(name, value);
            }
            return response;
        }
        let mut response = if self.origins.allows(origin, host) {
            self.answer_allowed(index, request, peer).await
        } else {
            self.shared.figures.refused(Refusal::Origin.as_str());
            refused_code(403, 4, "Forbidden")
        };
        for (name, value) in self.origins.cors_headers(origin, host) {
            response.headers_mut().append(name, value);
        }
        response
    }

    async fn answer_allowed(
        self: &Arc<Self>,
        index: usize,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Response<HttpBody> {
        let endpoint = index as u8;
        if !self.shared.endpoints[index].is_engine() {
            return self.answer_websocket(
                request,
                &Wanted {
                    endpoint,
                    sid: None,
                    peer,
                },
            );
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        let value = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        if value("EIO") != Some("4") {
            return refused_code(400, 5, "Unsupported protocol version");
        }
        let sid = match value("sid").map(Id::parse) {
            Some(None) => return refused_code(400, 1, "Session ID unknown"),
            Some(sid) => sid,
            None => None,
        };
        let wanted = Wanted { endpoint, sid, peer };
        let config = &self.shared.config;
        match value("transport") {
            Some("websocket") if config.websocket => self.answer_websocket(request, &wanted),
            Some("polling") if config.polling => self.answer_polling(request, wanted).await,
            _ => refused_code(400, 0, "Transport unknown"),
        }
    }

    async fn answer_polling(
        self: &Arc<Self>,
        request: Request<Incoming>,
        wanted: Wanted,
    ) -> Response<HttpBody> {
        let get = request.method() == Method::GET;
        let Some(sid) = wanted.sid else {
            if !get {
                return refused_code(400, 2, "Bad handshake method");
            }
            return self.open_polling(&request, &wanted).await;
        };
        let Some(shard) = sid
            .shard()
            .filter(|&shard| usize::from(shard) < self.shared.inboxes.len())
        else {
            return refused_code(400, 1, "Session ID unknown");
        };
        if get {
            return self.ask(shard, PollRequest::Get { sid }).await;
        }
        if request.method() != Method::POST {
            return refused_code(400, 2, "Bad handshake method");
        }
        let kind = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        if !is_text(kind) {
            return refused_code(400, 3, "Bad request");
        }
        let max = self.shared.config.payload_bytes_max;
        let Ok(_guard) = self
            .shared
            .ledger
            .reserve(Class::RequestBodies, size_hint(request.headers(), max))
        else {
            return self.overloaded(Refusal::Memory);
        };
        let collected = Limited::new(request.into_body(), max).collect();
        match tokio::time::timeout(BODY_TIMEOUT, collected).await {
            Ok(Ok(collected)) => {
                self.ask(
                    shard,
                    PollRequest::Post {
                        sid,
                        body: collected.to_bytes(),
                    },
                )
                .await
            }
            Ok(Err(_)) => refused_code(413, 3, "Payload too large or cut short"),
            Err(_) => refused_code(408, 3, "Body took too long"),
        }
    }

    async fn open_polling(
        self: &Arc<Self>,
        request: &Request<Incoming>,
        wanted: &Wanted,
    ) -> Response<HttpBody> {
        let permit = match self.admit(wanted.peer) {
            Ok(permit) => permit,
            Err(refusal) => return self.overloaded(refusal),
        };
        let handshake = self.handshake(request, wanted.peer);
        let shard = self.shared.least_loaded() as u16;
        self.ask(
            shard,
            PollRequest::Open {
                endpoint: wanted.endpoint,
                handshake,
                permit,
            },
        )
        .await
    }

    /// Asks a shard, and makes its answer one of HTTP.
    async fn ask(&self, shard: u16, request: PollRequest) -> Response<HttpBody> {
        let (reply, answer) = oneshot::channel();
        let poll = Box::new(Poll { request, reply });
        if self.shared.inboxes[usize::from(shard)]
            .push(Command::Poll(poll))
            .is_err()
        {
            return self.overloaded(Refusal::Memory);
        }
        match answer.await {
            Ok(PollReply::Payload(payload)) => text(payload),
            Ok(PollReply::Accepted) => text(Bytes::from_static(b"ok")),
            Ok(PollReply::Refused(code, message)) => refused_code(400, code, message),
            Ok(PollReply::NoMemory) => {
                self.shared.figures.refused(Refusal::Memory.as_str());
                self.overloaded(Refusal::Memory)
            }
            // The connection ended while the request waited.
            Err(_) => refused_code(400, 1, "Session ID unknown"),
        }
    }

    /// Lets a new connection in, or says why not; the time it takes is a figure.
    pub(super) fn admit(&self, peer: Peer) -> Result<Permit, Refusal> {
        let shared = &self.shared;
        let began = shared.clock.now();
        let decision = if shared.is_draining() {
            Err(Refusal::Draining)
        } else if shared.relief.is_refusing() || shared.ledger.used() >= shared.ledger.limit() {
            Err(Refusal::Memory)
        } else {
            shared.admission.admit(
                peer.address,
                &shared.live.limits(),
                shared.connections_limit(),
                began,
            )
        };
        shared
            .figures
            .admission
            .record(shared.clock.now().since(began).as_nanos() as u64);
        if let Err(refusal) = &decision {
            if *refusal == Refusal::Connections {
                // A full inbox has more urgent things to do; the next refusal asks again.
                let _full = shared
                    .inboxes
                    .iter()
                    .filter(|inbox| inbox.push(Command::MakeRoom).is_err())
                    .count();
            }
            shared.figures.refused(refusal.as_str());
        }
        decision
    }

    pub(super) fn handshake(&self, request: &Request<Incoming>, peer: Peer) -> Arc<Handshake> {
        Arc::new(Handshake {
            query: request.uri().query().unwrap_or_default().to_owned(),
            headers: request.headers().clone(),
            address: peer.address,
            trusted: peer.trusted,
        })
    }

    /// The answer to a connection that was not let in.
    pub(super) fn overloaded(&self, refusal: Refusal) -> Response<HttpBody> {
        let status = Conn::refusal_status(refusal);
        let code = match refusal {
            Refusal::Draining => "unavailable",
            _ if status == 429 => "rate_limited",
            _ => "overloaded",
        };
        let text = format!(
            r#"{{"ok":false,"error":{{"code":"{code}","message":"connection refused: {}","retryable":true}}}}"#,
            refusal.as_str()
        );
        let mut response = json(status, text);
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        if refusal == Refusal::Draining {
            // The next attempt may find another server at the same address.
            response
                .headers_mut()
                .insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        response
    }
}

/// What a body is charged for before it has come: what it announces, within the limit.
fn size_hint(headers: &HeaderMap, max: usize) -> usize {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok());
    announced
        .and_then(|length| length.parse().ok())
        .unwrap_or(max)
        .min(max)
}

fn text(payload: impl Into<Bytes>) -> Response<HttpBody> {
    Response::builder()
        .header(header::CONTENT_TYPE, "text/plain; charset=UTF-8")
        .header(header::CACHE_CONTROL, "no-store")
        .body(body(payload))
        .expect("headers are valid")
}

/// An Engine.IO error.
pub(super) fn refused_code(status: u16, code: u8, message: &str) -> Response<HttpBody> {
    json(status, format!(r#"{{"code":{code},"message":"{message}"}}"#))
}
