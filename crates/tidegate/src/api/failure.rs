//! Errors as HTTP answers, in the one shape of the house.

use axum::{
    body::Body,
    http::{HeaderValue, Response, header},
};
use tidegate_auth::AuthError;
use tidegate_gateway::{Code, Error};

/// Seconds after which a retryable failure is worth another try.
const RETRY_AFTER_S: u32 = 1;

/// A failed request.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Where HTTP has a status of its own for it.
    pub(crate) status: Option<u16>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, status: None }
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        Error::Auth(error).into()
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
            error: Error::BadRequest("this path does not answer this method".to_owned()),
            status: Some(405),
        }
    }

    /// The answer.
    pub(crate) fn into_response(self) -> Response<Body> {
        let code = self.error.code();
        if code == Code::Internal {
            tracing::error!(error = %self.error, "request failed");
        }
        let status = self.status.unwrap_or_else(|| code.status());
        let mut response = Response::new(Body::from(self.error.to_json()));
        *response.status_mut() = status.try_into().expect("codes carry valid statuses");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if code.is_retryable() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
