//! The fast application behind the hook: what it answers costs next to nothing, so that it is never what is waited for.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::error::{Result, Tried};

/// The part of a request that the answer needs; signatures are not checked.
#[derive(Deserialize)]
struct Asked<'a> {
    event: Option<&'a str>,
    #[serde(default)]
    args: Vec<u64>,
}

/// Answers the hook until it is killed.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .tried("start a runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address)
            .await
            .tried(format!("listen on {address}"))?;
        loop {
            let (stream, _) = listener.accept().await.tried("accept a connection")?;
            stream.set_nodelay(true).tried("send at once")?;
            tokio::spawn(async move {
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
                // Tidegate closes what it has no use for; whatever else breaks is seen as an event without answer.
                drop(connection.await);
            });
        }
    })
}

async fn answer(request: Request<Incoming>) -> std::result::Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let text = reply(&body);
    let mut response = Response::new(Full::from(text.clone().unwrap_or_default()));
    if text.is_none() {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

/// `count` is acknowledged with its argument and one, all else is only heard; none for what is no request.
fn reply(body: &[u8]) -> Option<String> {
    let asked: Asked<'_> = serde_json::from_slice(body).ok()?;
    match (asked.event, asked.args.as_slice()) {
        (None, _) => Some("{}".to_owned()),
        (Some("count"), [n]) => Some(format!(r#"{{"ack":[{}]}}"#, n.checked_add(1)?)),
        (Some(_), _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: Option<&str>) {
        assert_eq!(reply(body.as_bytes()).as_deref(), expected);
    }

    #[test]
    fn a_count_is_acknowledged_and_a_connect_is_let_in() {
        check(
            r#"{"kind":"event","event":"count","args":[41]}"#,
            Some(r#"{"ack":[42]}"#),
        );
        check(r#"{"kind":"connect","headers":{"host":"a"}}"#, Some("{}"));
        check(r#"{"kind":"disconnect","reason":"client_left"}"#, Some("{}"));
    }

    #[test]
    fn what_nobody_sends_is_refused() {
        check(r#"{"kind":"event","event":"other","args":[41]}"#, None);
        check(r#"{"kind":"event","event":"count","args":[]}"#, None);
        check(r#"{"kind":"event","event":"count","args":["a"]}"#, None);
        check("count", None);
    }
}
