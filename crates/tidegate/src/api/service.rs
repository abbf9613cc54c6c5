//! Takes requests through the table of routes: limits, access, body, handler, answer.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{RawPathParams, Request, State},
    http::{HeaderValue, Response, header, request::Parts as Head},
    response::IntoResponse,
    routing::{MethodFilter, get, on},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use tidegate_auth::Identity;
use tidegate_gateway::{Error, HttpBody, HttpService, Peer};
use tidegate_vitals::{Class, Guard, Id};
use tower::ServiceExt;

use super::{
    Api, access,
    failure::Failure,
    route::{Access, Call, Caller, Given, HeldTurn, In, LINES, Place, Reply, Route, header, take},
    routes::ROUTES,
};

/// How long a body may take to arrive.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Parameters as they came: place, name, value.
type Values = Vec<(In, String, String)>;

/// How long a refused body is listened to.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// A file served from memory beside the routes.
#[derive(Clone, Debug)]
pub(crate) struct Asset {
    pub(crate) path: String,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

/// The routes of one listener.
#[derive(Clone)]
pub(crate) struct Service {
    router: Router,
    loopback: bool,
}

// === impl Service ===

impl Service {
    /// The routes for a listener: `is_here` says which places it serves.
    pub(crate) fn new(
        api: &Arc<Api>,
        is_here: impl Fn(Place) -> bool,
        assets: Vec<Asset>,
        loopback: bool,
    ) -> Self {
        let mut router = Router::new();
        for route in ROUTES.iter().filter(|route| is_here(route.place)) {
            router = add_route(router, route);
        }
        for asset in assets {
            let path = asset.path.clone();
            router = router.route(&path, get(move || std::future::ready(asset.answer())));
        }
        let router = router
            .fallback(|request: Request| async move {
                Failure::not_found("route", request.uri().path()).into_response()
            })
            .method_not_allowed_fallback(|| async { Failure::method().into_response() })
            .with_state(Arc::clone(api));
        Self { router, loopback }
    }

    /// Answers one request.
    ///
    /// # Cancel safety
    /// Dropped, the request has either had its effect or not; nothing is left half done.
    pub(crate) async fn answer(&self, mut request: Request, caller: Caller) -> Response<Body> {
        request.extensions_mut().insert(caller);
        let Ok(mut response) = self.router.clone().oneshot(request).await;
        let nosniff = HeaderValue::from_static("nosniff");
        response
            .headers_mut()
            .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        response
    }

    pub(crate) const fn is_loopback(&self) -> bool {
        self.loopback
    }
}

impl HttpService for Service {
    fn call(
        &self,
        request: axum::http::Request<hyper::body::Incoming>,
        peer: Peer,
    ) -> Pin<Box<dyn Future<Output = Response<HttpBody>> + Send>> {
        let service = self.clone();
        let caller = Caller {
            address: peer.address,
            proxied: peer.trusted,
            loopback_listener: self.is_loopback(),
        };
        Box::pin(async move {
            let response = service.answer(request.map(Body::new), caller).await;
            response.map(|body| body.map_err(Into::into).boxed_unsync())
        })
    }
}

// === impl Asset ===

impl Asset {
    fn answer(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body.clone()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

fn add_route(router: Router<Arc<Api>>, route: &'static Route) -> Router<Arc<Api>> {
    let filter = MethodFilter::try_from(route.method.clone()).expect("the table uses common methods");
    let handler = move |State(api): State<Arc<Api>>, path: RawPathParams, request: Request| async move {
        let began = api.clock.now();
        let given = path
            .iter()
            .map(|(name, value)| (In::Path, name.to_owned(), value.to_owned()))
            .collect();
        let response = match run(&api, route, given, request).await {
            Ok(reply) => reply.into_response(),
            Err(failure) => failure.into_response(),
        };
        let status = response.status();
        api.registry
            .counter(Id::HttpRequests, &[route.path, status.as_str()])
            .inc();
        api.registry
            .histogram(Id::HttpRequest, &[])
            .record(api.clock.now().since(began).as_nanos() as u64);
        response
    };
    router.route(route.path, on(filter, handler))
}

async fn run(
    api: &Arc<Api>,
    route: &'static Route,
    given: Values,
    request: Request,
) -> Result<Reply, Failure> {
    let (head, body) = request.into_parts();
    let caller = *head
        .extensions
        .get::<Caller>()
        .expect("every listener says who calls");
    let identity = access::admit(api, route.access, caller, (head.version, &head.headers))?;
    // Operators are let in whatever happens: it is then that they need their figures.
    let turn = match (route.access, &identity) {
        (Access::Known, Some(identity)) => match api.requests.turn(identity).await {
            Ok(turn) => Some(turn),
            Err(refused) => {
                discard(body, api.body_bytes_max).await;
                return Err(refused);
            }
        },
        _ => None,
    };
    let turn = Arc::new(Mutex::new(turn));
    let result = answer(api, route, (identity, given, Arc::clone(&turn)), head, body).await;
    if let Some(turn) = take(&turn) {
        turn.end(&result);
    }
    result
}

async fn answer(
    api: &Arc<Api>,
    route: &'static Route,
    (identity, mut given, turn): (Option<Arc<Identity>>, Values, HeldTurn),
    head: Head,
    body: Body,
) -> Result<Reply, Failure> {
    for (name, value) in query_pairs(head.uri.query().unwrap_or(""))? {
        given.push((In::Query, name, value));
    }
    let is_lines = route.lines && media(&head.headers).eq_ignore_ascii_case(LINES);
    // The place in the account is given back when the answer is ready.
    let (body, lines, _place) = match route.body {
        Some(_) if is_lines => (Bytes::new(), Some(body), None),
        Some(_) => read_body(api, &head.headers, body)
            .await
            .map(|(body, place)| (body, None, Some(place)))?,
        None => (Bytes::new(), None, None),
    };
    let given = Given {
        identity,
        values: given,
        headers: head.headers,
        turn,
        body,
        lines,
    };
    let parts = api.parts()?;
    let call = Call::new((Arc::clone(api), parts), route, given)?;
    (route.run)(call).await
}

/// The media type that a request says its body has.
fn media(headers: &axum::http::HeaderMap) -> &str {
    header(headers, "content-type")
        .unwrap_or("")
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
}

/// Reads a JSON body within the limits on bytes and time.
async fn read_body(
    api: &Api,
    headers: &axum::http::HeaderMap,
    body: Body,
) -> Result<(Bytes, Guard), Failure> {
    // Browsers send other types across sites without asking first; with this one they must ask.
    let media = media(headers);
    if !media.eq_ignore_ascii_case("application/json") {
        let message = format!("content-type is {media:?}, allowed is \"application/json\"");
        return Err(Error::BadRequest(message).into());
    }
    let max = api.body_bytes_max;
    let too_large = |bytes| {
        Failure::from(Error::TooLarge {
            what: "request body",
            bytes,
            max,
        })
    };
    let declared = header(headers, "content-length")
        .and_then(|text| text.parse::<usize>().ok())
        .unwrap_or(0);
    if declared > max {
        return Err(too_large(declared));
    }
    // The account is charged with what may come, before any of it is taken.
    let asked = if declared > 0 { declared } else { max };
    let place = match api.ledger.reserve(Class::RequestBodies, asked) {
        Ok(place) => place,
        Err(full) => {
            discard(body, max).await;
            return Err(Error::Memory(full).into());
        }
    };
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, max)).await {
        Err(_) => Err(Error::Timeout(BODY_TIMEOUT).into()),
        Ok(Ok(bytes)) => Ok((bytes, place)),
        Ok(Err(error)) => {
            let full = std::error::Error::source(&error)
                .is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
            Err(if full {
                too_large(max + 1)
            } else {
                Error::BadRequest("request body broke off".to_owned()).into()
            })
        }
    }
}

/// Reads a body that is refused and keeps none of it: a connection that is closed over unread bytes is reset, and its
/// caller would never see the answer.
async fn discard(mut body: Body, bytes_max: usize) {
    let all = async {
        let mut n_bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            n_bytes += frame.data_ref().map_or(0, Bytes::len);
            if n_bytes > bytes_max {
                break;
            }
        }
    };
    // Whoever sends slower has to do without the answer.
    let _late = tokio::time::timeout(DISCARD_TIMEOUT, all).await;
}

/// Name and value of each query parameter, `+` and percent signs decoded.
fn query_pairs(query: &str) -> Result<Vec<(String, String)>, Failure> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name)?, decode(value)?))
    });
    let decoded: Option<Vec<_>> = pairs.collect();
    decoded.ok_or_else(|| Error::BadRequest("query is not valid percent-encoded UTF-8".to_owned()).into())
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| (byte? as char).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self
            .status
            .try_into()
            .expect("handlers answer with valid statuses");
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(status) = self.cache_status {
            let name = axum::http::HeaderName::from_static("cache-status");
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(status));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_or_refused() {
        let check = |query: &str, expected: Option<&[(&str, &str)]>| {
            let pairs = query_pairs(query).ok();
            let expected = expected.map(|pairs| {
                pairs
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect::<Vec<_>>()
            });
            assert_eq!(pairs, expected, "{query}");
        };
        check("", Some(&[]));
        check("limit=5&after=a%2Fb", Some(&[("limit", "5"), ("after", "a/b")]));
        check("q=a+b%20c&x", Some(&[("q", "a b c"), ("x", "")]));
        check("q=%e4%ba%ba", Some(&[("q", "人")]));
        check("q=%e4", None);
        check("q=%zz", None);
        check("q=%2", None);
    }
}
