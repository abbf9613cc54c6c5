//! Every error a caller or a client can meet, with its stable code.

use serde::Serialize;
use tidegate_auth::AuthError;
use tidegate_vitals::Full;

/// Stable names of errors, the same over HTTP and in acknowledgements (one table for the whole house).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is malformed. 400.
    BadRequest,
    /// The cursor was not made for this query, these parameters and this caller. 400.
    CursorInvalid,
    /// No valid credentials. 401.
    Unauthenticated,
    /// The token's time is over. 401.
    TokenExpired,
    /// Known, but not allowed. 403.
    Forbidden,
    /// No such session, room, user or route. 404.
    NotFound,
    /// No feed of this name. 404.
    UnknownFeed,
    /// The same idempotency id with another content. 409.
    IdReused,
    /// Larger than the limit named in the message. 413.
    TooLarge,
    /// No row of the request fits its feed. 422.
    InvalidRow,
    /// The caller's own limit. 429.
    RateLimited,
    /// The server's limit. 503.
    Overloaded,
    /// Too many rows wait to be stored. 503.
    BacklogFull,
    /// The database is away and the spool has no room. 503.
    SpoolFull,
    /// No answer in time. 504.
    Timeout,
    /// Something the server needs is away. 503.
    Unavailable,
    /// The application behind the gateway did not answer. 503.
    AppUnavailable,
    /// A defect; details are in the log. 500.
    Internal,
}

impl Code {
    /// The HTTP status that carries this code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::CursorInvalid => 400,
            Self::Unauthenticated | Self::TokenExpired => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::UnknownFeed => 404,
            Self::IdReused => 409,
            Self::TooLarge => 413,
            Self::InvalidRow => 422,
            Self::RateLimited => 429,
            Self::Overloaded
            | Self::BacklogFull
            | Self::SpoolFull
            | Self::Unavailable
            | Self::AppUnavailable => 503,
            Self::Timeout => 504,
            Self::Internal => 500,
        }
    }

    /// The name as it stands on the wire, for example `rate_limited`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::CursorInvalid => "cursor_invalid",
            Self::Unauthenticated => "unauthenticated",
            Self::TokenExpired => "token_expired",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::UnknownFeed => "unknown_feed",
            Self::IdReused => "id_reused",
            Self::TooLarge => "too_large",
            Self::InvalidRow => "invalid_row",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::BacklogFull => "backlog_full",
            Self::SpoolFull => "spool_full",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::AppUnavailable => "app_unavailable",
            Self::Internal => "internal",
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Overloaded
                | Self::BacklogFull
                | Self::SpoolFull
                | Self::Timeout
                | Self::Unavailable
                | Self::AppUnavailable
        )
    }
}

/// What went wrong, for a caller of the Rust API.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something in the request is not as it must be.
    #[error("{0}")]
    BadRequest(String),
    /// The credentials do not hold.
    #[error("authentication failed")]
    Auth(#[from] AuthError),
    /// Known, but not allowed.
    #[error("not allowed to {action} {target:?}")]
    Forbidden {
        /// What was tried, for example `join`.
        action: &'static str,
        /// The room, event or session it was tried on.
        target: String,
    },
    /// No such thing.
    #[error("no {kind} named {name:?}")]
    NotFound {
        /// `session`, `room`, `user`, `namespace`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// An idempotency id came again with another content.
    #[error("idempotency id {0:?} was used for another message")]
    IdReused(String),
    /// Over a size limit.
    #[error("{what} of {bytes} bytes is over the limit of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Over a limit on number.
    #[error("{what} limit of {max} reached")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// The caller is over its own rate.
    #[error("{what} limited to {per_second} a second")]
    RateLimited {
        /// What is limited.
        what: &'static str,
        /// The limit.
        per_second: u32,
    },
    /// A shard's inbox is full; nothing was sent to anybody.
    #[error("inbox of shard {shard} is full at {max} commands")]
    Overloaded {
        /// Which shard.
        shard: usize,
        /// Its limit.
        max: usize,
    },
    /// The memory account is full; nothing was sent to anybody.
    #[error("memory account is full")]
    Memory(#[from] Full),
    /// The other side did not answer in time.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// The session left before it answered.
    #[error("session is gone")]
    Gone,
    /// The gateway is shutting down.
    #[error("gateway is draining")]
    Draining,
    /// A value could not be turned into or from JSON.
    #[error("payload is not what was expected")]
    Json(#[from] serde_json::Error),
    /// A setting is outside its range.
    #[error("setting {key} is {value}, allowed is {allowed}")]
    Setting {
        /// Its name.
        key: &'static str,
        /// Its value.
        value: String,
        /// The range.
        allowed: String,
    },
    /// The operating system refused.
    #[error("{what} failed")]
    Io {
        /// What was tried.
        what: String,
        /// Its answer.
        #[source]
        source: std::io::Error,
    },
    /// The application does not let a session in; its client gets exactly this as `connect_error`.
    #[error("refused by the application: {message}")]
    Refused {
        /// The text of the error.
        message: String,
        /// What stands in `data` of the error.
        data: Option<Box<serde_json::value::RawValue>>,
    },
    /// An error of the application's own, passed to the client as it is.
    #[error("{message}")]
    Application {
        /// The code the client sees.
        code: Code,
        /// The text the client sees.
        message: String,
    },
}

impl Error {
    /// The code a client or an HTTP caller sees.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::BadRequest(_) | Self::Json(_) => Code::BadRequest,
            Self::Auth(error) => match error.code() {
                "token_expired" => Code::TokenExpired,
                "forbidden" => Code::Forbidden,
                _ => Code::Unauthenticated,
            },
            Self::Forbidden { .. } | Self::Refused { .. } => Code::Forbidden,
            Self::NotFound { .. } | Self::Gone => Code::NotFound,
            Self::IdReused(_) => Code::IdReused,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::TooMany { .. } | Self::RateLimited { .. } => Code::RateLimited,
            Self::Overloaded { .. } | Self::Memory(_) => Code::Overloaded,
            Self::Timeout(_) => Code::Timeout,
            Self::Draining => Code::Unavailable,
            Self::Setting { .. } | Self::Io { .. } => Code::Internal,
            Self::Application { code, .. } => *code,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.code().is_retryable()
    }

    /// The error shape of the house: `{"ok":false,"error":{"code","message","retryable"}}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let code = self.code();
        let message = if code == Code::Internal {
            "internal error".to_owned()
        } else {
            self.to_string()
        };
        format!(
            r#"{{"ok":false,"error":{{"code":"{}","message":{},"retryable":{}}}}}"#,
            code.as_str(),
            serde_json::to_string(&message).expect("a string is always JSON"),
            code.is_retryable()
        )
    }
}
