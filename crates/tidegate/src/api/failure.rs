//! Errors as HTTP answers, in the one shape of the house.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, Response, header},
};
use serde_json::{Map, Value, json};
use tidegate_auth::{Action, AuthError};
use tidegate_gateway::{Code, Error};

/// Seconds after which a retryable failure is worth another try.
const RETRY_AFTER_S: u32 = 1;

/// A failed request.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Where HTTP has a status of its own for it.
    pub(crate) status: Option<u16>,
    /// What stands beside code and message.
    pub(crate) details: Map<String, Value>,
    /// When another try is worth it, where that is known.
    pub(crate) retry_after: Option<Duration>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            status: None,
            details: Map::new(),
            retry_after: None,
        }
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        match error {
            // Whoever is known may know what is missing.
            AuthError::Forbidden {
                action: Action::Act,
                name,
            } => Self::forbidden("act on", name),
            AuthError::Forbidden { action, name } => Self::forbidden(action.as_str(), name),
            other => Error::Auth(other).into(),
        }
    }
}

impl From<tidegate_store::Error> for Failure {
    fn from(error: tidegate_store::Error) -> Self {
        Self::from(&error)
    }
}

/// Several callers may wait for one answer, and get one error.
impl From<&tidegate_store::Error> for Failure {
    fn from(error: &tidegate_store::Error) -> Self {
        use tidegate_store::Error as E;
        let failure = Self::of(code(error), error.client_message());
        let failure = match error {
            E::IdReused { chunk, .. } => failure.with("chunk", *chunk),
            E::Quota { retry_after, .. } => Self {
                retry_after: Some(*retry_after),
                ..failure
            },
            _ => failure,
        };
        if matches!(
            failure.error.code(),
            Code::Internal | Code::Unavailable | Code::Overloaded | Code::Timeout
        ) {
            // What the caller is not told belongs in the log: hosts, tables, who holds the connections.
            tracing::warn!(%error, "the store refused");
        }
        failure
    }
}

/// One table for the whole house; the store knows the words.
fn code(error: &tidegate_store::Error) -> Code {
    match error.code() {
        "bad_request" => Code::BadRequest,
        "cursor_invalid" => Code::CursorInvalid,
        "forbidden" => Code::Forbidden,
        "not_found" => Code::NotFound,
        "unknown_feed" => Code::UnknownFeed,
        "id_reused" => Code::IdReused,
        "too_large" => Code::TooLarge,
        "rate_limited" => Code::RateLimited,
        "overloaded" => Code::Overloaded,
        "backlog_full" => Code::BacklogFull,
        "spool_full" => Code::SpoolFull,
        "unavailable" => Code::Unavailable,
        "timeout" => Code::Timeout,
        _ => Code::Internal,
    }
}

impl Failure {
    /// 404 for what is named so.
    pub(crate) fn not_found(kind: &'static str, name: impl Into<String>) -> Self {
        Error::NotFound {
            kind,
            name: name.into(),
        }
        .into()
    }

    /// 403.
    pub(crate) fn forbidden(action: &'static str, target: impl Into<String>) -> Self {
        Error::Forbidden {
            action,
            target: target.into(),
        }
        .into()
    }

    /// 405: the path exists with other methods, which the router adds as `Allow`.
    pub(crate) fn method() -> Self {
        Self {
            status: Some(405),
            ..Error::BadRequest("this path does not answer this method".to_owned()).into()
        }
    }

    /// A failure with a code of its own.
    pub(crate) fn of(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Error::Application { code, message }.into()
    }

    /// Adds what stands beside code and message.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The shape of the house, details included.
    pub(crate) fn to_json(&self) -> Value {
        let mut shape: Value =
            serde_json::from_str(&self.error.to_json()).unwrap_or_else(|_| json!({"ok": false}));
        if let Some(error) = shape["error"].as_object_mut() {
            error.extend(self.details.clone());
        }
        shape
    }

    /// A defect is in the log, wherever its answer goes.
    pub(crate) fn logged(self) -> Self {
        if self.error.code() == Code::Internal {
            tracing::error!(error = %self.error, "request failed");
        }
        self
    }

    /// The answer.
    pub(crate) fn into_response(self) -> Response<Body> {
        let this = self.logged();
        this.response()
    }

    fn response(&self) -> Response<Body> {
        let code = self.error.code();
        let status = self.status.unwrap_or_else(|| code.status());
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() = status.try_into().expect("codes carry valid statuses");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if code.is_retryable() {
            let seconds = self
                .retry_after
                .map_or(RETRY_AFTER_S, |wait| wait.as_secs_f64().ceil() as u32);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(RETRY_AFTER_S)));
        }
        if status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
