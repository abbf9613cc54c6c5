//! The settings of this crate as plain data: no files, no environment, no defaults that hide a choice.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::ConfigError;

/// Everything that [`Authenticator::new`](crate::Authenticator::new) needs. The default refuses everyone.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Whether callers without credentials are let in. Callers with wrong ones never are.
    pub anonymous: bool,
    /// Roles of anonymous callers; each must be in `roles`.
    pub anonymous_roles: Vec<String>,
    /// How tokens are checked; `None`: presented tokens are not read.
    pub jwt: Option<Jwt>,
    /// Keys for programs, at most [`API_KEYS_MAX`](crate::API_KEYS_MAX); empty: presented keys are not read.
    pub api_keys: Vec<ApiKey>,
    /// Whether a user named by a trusted proxy is believed; `None`: the name is not read.
    pub trusted_user: Option<TrustedUser>,
    /// What each role may do, by name.
    pub roles: BTreeMap<String, Role>,
}

/// How JSON Web Tokens are checked and read (RFC 7519).
#[derive(Debug, Clone)]
pub struct Jwt {
    /// The only algorithm that is accepted, whatever a token's header says.
    pub algorithm: Algorithm,
    /// The key or keys that verify.
    pub key: Key,
    /// Claim that names the user, a non-empty string or an integer. A dotted path reaches into objects, unless a
    /// claim has exactly this name.
    pub user_claim: String,
    /// Claim that lists the roles: an array of strings, or one string with spaces between.
    pub roles_claim: String,
    /// Roles of a token that has no roles claim; each must be in `Config::roles`.
    pub default_roles: Vec<String>,
    /// Claim that names the tenant; when set, a token without it is refused.
    pub tenant_claim: Option<String>,
    /// The only accepted `iss`; `None`: any.
    pub issuer: Option<String>,
    /// Accepted values of `aud`. With an empty list only tokens without `aud` pass, as RFC 7519 section 4.1.3 asks.
    pub audience: Vec<String>,
    /// Tolerance for `exp` and `nbf` in seconds, 0 to [`LEEWAY_S_MAX`](crate::LEEWAY_S_MAX).
    pub leeway_s: u64,
    /// Whether a token must have `exp`. Without one a session never ends by itself.
    pub require_exp: bool,
    /// Name of the cookie that carries the token; `None`: cookies are not read.
    pub cookie: Option<String>,
}

/// Signature algorithms (RFC 7518 section 3.1, RFC 8037). There is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256 and a shared secret.
    #[serde(rename = "HS256")]
    Hs256,
    /// RSA PKCS#1 v1.5 with SHA-256, keys of 2,048 to 4,096 bits.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Edwards-curve signatures on Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// What verifies a token. The texts are given whole; reading files is the caller's part.
#[derive(Debug, Clone)]
pub enum Key {
    /// Shared secret for HS256, [`SECRET_BYTES_MIN`](crate::SECRET_BYTES_MIN) to
    /// [`SECRET_BYTES_MAX`](crate::SECRET_BYTES_MAX) bytes.
    Secret(Secret),
    /// One public key in PEM.
    Pem(Secret),
    /// A JSON Web Key Set (RFC 7517). Keys of other algorithms in it are ignored; `kid` chooses among the rest.
    Jwks(Secret),
}

/// Bytes that never appear in debug output or errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// A key for a program, and who the program then is.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Name for logs and errors, unique.
    pub name: String,
    /// The key itself or its digest.
    pub key: ApiKeyValue,
    /// User that the program acts as; `None`: the name of the key.
    pub user: Option<String>,
    /// Tenant that the program belongs to.
    pub tenant: Option<String>,
    /// Its roles; each must be in `Config::roles`.
    pub roles: Vec<String>,
    /// What `{claim:…}` finds.
    pub claims: Map<String, Value>,
}

/// How an API key is configured.
#[derive(Debug, Clone)]
pub enum ApiKeyValue {
    /// SHA-256 of the key, 64 hexadecimal digits: the configuration then holds no secret.
    Sha256(String),
    /// The key itself, [`API_KEY_BYTES_MIN`](crate::API_KEY_BYTES_MIN) to
    /// [`API_KEY_BYTES_MAX`](crate::API_KEY_BYTES_MAX) bytes. Only its digest is kept.
    Plain(Secret),
}

/// What a user named by a trusted proxy gets.
#[derive(Debug, Clone, Default)]
pub struct TrustedUser {
    /// Roles of every such user; each must be in `Config::roles`.
    pub roles: Vec<String>,
}

/// What holders of a role may do. Each list holds [patterns](crate::Pattern); an empty list allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Role {
    /// Rooms to join.
    pub join: Vec<String>,
    /// Rooms to publish to.
    pub publish: Vec<String>,
    /// Rooms whose members may be listed.
    pub presence: Vec<String>,
    /// Events that may be sent to application handlers.
    pub event: Vec<String>,
    /// Queries to run.
    pub query: Vec<String>,
    /// Feeds to send rows to.
    pub ingest: Vec<String>,
    /// Rooms whose members may be listed, moved and disconnected; `*` also every user and session.
    pub act: Vec<String>,
    /// Whether the administrators' API is open. It grants none of the lists above.
    pub admin: bool,
}

// === impl Jwt ===

impl Jwt {
    /// Settings with the usual claims: user `sub`, roles `roles`, 5 s of leeway, `exp` required, nothing else checked.
    pub fn new(algorithm: Algorithm, key: Key) -> Self {
        Self {
            algorithm,
            key,
            user_claim: "sub".to_owned(),
            roles_claim: "roles".to_owned(),
            default_roles: Vec::new(),
            tenant_claim: None,
            issuer: None,
            audience: Vec::new(),
            leeway_s: 5,
            require_exp: true,
            cookie: None,
        }
    }
}

// === impl Algorithm ===

impl Algorithm {
    /// The registered name, as in a token's `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Secret ===

impl Secret {
    /// Wraps `bytes`.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

// === checks ===

/// Stops unless `value` lies in `range`.
pub(crate) fn in_range(
    key: impl Into<String>,
    value: usize,
    range: std::ops::RangeInclusive<usize>,
    unit: &'static str,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        key: key.into(),
        value: value as u64,
        min: *range.start() as u64,
        max: *range.end() as u64,
        unit,
    })
}

/// Stops unless every name in `named` is a key of `roles`.
pub(crate) fn roles_exist(
    key: &str,
    named: &[String],
    roles: &BTreeMap<String, Role>,
) -> Result<(), ConfigError> {
    in_range(key, named.len(), 0..=crate::IDENTITY_ROLES_MAX, "roles")?;
    match named.iter().find(|name| !roles.contains_key(*name)) {
        None => Ok(()),
        Some(role) => Err(ConfigError::UnknownRole {
            key: key.to_owned(),
            role: role.clone(),
        }),
    }
}
