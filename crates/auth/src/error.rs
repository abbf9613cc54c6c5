//! What can go wrong: a setting that cannot be used, or a caller that may not pass.

use crate::permission::Action;

/// Why a configuration cannot be used. Every variant names the key; no variant carries a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size, count or duration lies outside what is allowed.
    #[error("{key}: {value} {unit}, allowed {min} to {max}")]
    OutOfRange {
        /// Path of the setting, as in `auth.jwt.leeway`.
        key: String,
        /// What was given.
        value: u64,
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
        /// Unit of all three numbers.
        unit: &'static str,
    },
    /// A value has the wrong form.
    #[error("{key}: {problem}")]
    Invalid {
        /// Path of the setting.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A role is named that no `[roles.…]` section defines.
    #[error("{key}: role {role:?} is not defined, allowed: the names under [roles]")]
    UnknownRole {
        /// Path of the setting that names the role.
        key: String,
        /// The name that was not found.
        role: String,
    },
    /// A pattern of a role cannot be compiled.
    #[error("{key}: pattern {pattern:?} cannot be used")]
    Pattern {
        /// Path of the list, as in `roles.trader.join`.
        key: String,
        /// The pattern as written.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: PatternError,
    },
}

/// Why a pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The pattern has no characters.
    #[error("pattern is empty")]
    Empty,
    /// The pattern is longer than allowed.
    #[error("pattern has {bytes} bytes, allowed 1 to {max}")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The pattern has too many `*` and placeholders.
    #[error("pattern has {count} variable parts, allowed 0 to {max}")]
    TooManyParts {
        /// How many it has.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A brace without its partner.
    #[error("brace at byte {at} has no partner")]
    Brace {
        /// Where the brace stands, in bytes from the start.
        at: usize,
    },
    /// A placeholder that is none of `{user}`, `{tenant}`, `{claim:name}`.
    #[error("unknown placeholder {{{name}}}, allowed: {{user}}, {{tenant}}, {{claim:name}}")]
    UnknownPlaceholder {
        /// What stands between the braces.
        name: String,
    },
    /// Two variable parts touch, so that a name could be cut between them in more than one way.
    #[error("two variable parts touch at byte {at}: text must stand between them")]
    Touching {
        /// Where the second one starts, in bytes from the start.
        at: usize,
    },
    /// A placeholder between two `*`, so that a name could hold the value anywhere.
    #[error("a placeholder stands between two *: whose name it is could not be told")]
    Floating,
}

/// Why a caller may not pass. [`AuthError::code`] is what a client sees; the text names no part of a token or key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Nothing was presented that this configuration reads, and anonymous access is off.
    #[error("no credentials")]
    Missing,
    /// This way of proving an identity is not configured.
    #[error("{what} are not configured")]
    NotConfigured {
        /// `tokens` or `API keys`.
        what: &'static str,
    },
    /// The credential is longer than is read.
    #[error("{what} has {bytes} bytes, allowed 1 to {max}")]
    TooLong {
        /// `token`, `API key` or `user`.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The credential does not have the form of one.
    #[error("malformed {what}")]
    Malformed {
        /// The part that could not be read.
        what: &'static str,
    },
    /// The token is signed by another algorithm than the configured one (RFC 8725, section 3.1).
    #[error("token algorithm is not the configured {expected}")]
    Algorithm {
        /// The configured algorithm.
        expected: &'static str,
    },
    /// The token demands extensions by `crit`, which must then be refused (RFC 7515, section 4.1.11).
    #[error("token header has critical extensions, none is supported")]
    CriticalHeader,
    /// No key of the set has the token's `kid`, or the token names none of several.
    #[error("token names none of the {n_keys} configured keys")]
    UnknownKey {
        /// How many keys could have been named.
        n_keys: usize,
    },
    /// The signature does not belong to this token and key.
    #[error("token signature does not match")]
    Signature,
    /// The token was valid once.
    #[error("token expired {ago_s} s ago")]
    Expired {
        /// How long ago, in whole seconds, the tolerance included.
        ago_s: u64,
    },
    /// The token will be valid later (`nbf`).
    #[error("token is valid in {in_s} s")]
    NotYetValid {
        /// How long until then, in seconds rounded up.
        in_s: u64,
    },
    /// The token comes from another issuer.
    #[error("token issuer is not the configured one")]
    Issuer,
    /// The token is meant for someone else (RFC 7519, section 4.1.3).
    #[error("token audience is not one of the {n_configured} configured")]
    Audience {
        /// How many audiences are configured.
        n_configured: usize,
    },
    /// A claim is missing or has the wrong form.
    #[error("token claim {claim:?} {problem}")]
    Claim {
        /// The configured name of the claim.
        claim: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No such API key.
    #[error("unknown API key")]
    UnknownApiKey,
    /// The identity is known, but its roles do not allow this.
    #[error("{action} {name:?} is not allowed")]
    Forbidden {
        /// What was asked for.
        action: Action,
        /// The room, event, query or feed, cut after 128 bytes.
        name: String,
    },
}

// === impl ConfigError ===

impl ConfigError {
    pub(crate) fn invalid(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            key: key.into(),
            problem: problem.into(),
        }
    }

    /// The path of the setting to change.
    pub fn key(&self) -> &str {
        match self {
            Self::OutOfRange { key, .. }
            | Self::Invalid { key, .. }
            | Self::UnknownRole { key, .. }
            | Self::Pattern { key, .. } => key,
        }
    }

    /// Whether trying again can help: never, a setting must be changed first.
    pub fn is_retryable(&self) -> bool {
        false
    }
}

// === impl PatternError ===

impl PatternError {
    /// Whether trying again can help: never.
    pub fn is_retryable(&self) -> bool {
        false
    }
}

// === impl AuthError ===

impl AuthError {
    /// The stable code for clients: `unauthenticated`, `token_expired` or `forbidden`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "token_expired",
            Self::Forbidden { .. } => "forbidden",
            _ => "unauthenticated",
        }
    }

    /// Whether the same credentials may pass later: only a token that is not valid yet.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NotYetValid { .. })
    }
}
