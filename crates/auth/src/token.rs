//! A JSON Web Token becomes an identity: signature first, then every claim against the configuration and `now`.

use std::collections::HashSet;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::config::{Algorithm, Jwt, in_range};
use crate::error::{AuthError, ConfigError};
use crate::identity::{Claims, Identity, Method, is_name};
use crate::keys::KeyRing;
use crate::{IDENTITY_ROLES_MAX, LEEWAY_S_MAX, ROLE_BYTES_MAX, TOKEN_BYTES_MAX};

/// Claims that only concern validity, which is judged here once and for all.
const VALIDITY: [&str; 6] = ["iss", "aud", "exp", "nbf", "iat", "jti"];

/// Checks tokens by one configuration.
#[derive(Debug)]
pub(crate) struct TokenReader {
    keys: KeyRing,
    validation: Validation,
    settings: Settings,
    default_roles: Arc<[Arc<str>]>,
}

/// The settings without the key, which lives in the ring.
#[derive(Debug)]
struct Settings {
    user_claim: String,
    roles_claim: String,
    tenant_claim: Option<String>,
    issuer: Option<String>,
    audience: Vec<String>,
    leeway_ms: u64,
    require_exp: bool,
}

// === impl TokenReader ===

impl TokenReader {
    pub(crate) fn new(jwt: Jwt) -> Result<Self, ConfigError> {
        in_range(
            "auth.jwt.leeway",
            jwt.leeway_s as usize,
            0..=LEEWAY_S_MAX as usize,
            "s",
        )?;
        for (key, claim) in [
            ("auth.jwt.user", &jwt.user_claim),
            ("auth.jwt.roles", &jwt.roles_claim),
        ] {
            in_range(key, claim.len(), 1..=128, "bytes of claim name")?;
        }
        Ok(Self {
            keys: KeyRing::new(jwt.algorithm, &jwt.key)?,
            validation: signature_only(jwt.algorithm),
            default_roles: jwt
                .default_roles
                .iter()
                .map(|role| role.as_str().into())
                .collect(),
            settings: Settings {
                user_claim: jwt.user_claim,
                roles_claim: jwt.roles_claim,
                tenant_claim: jwt.tenant_claim,
                issuer: jwt.issuer,
                audience: jwt.audience,
                leeway_ms: jwt.leeway_s * 1000,
                require_exp: jwt.require_exp,
            },
        })
    }

    /// Who `token` speaks for at `now_ms` (Unix milliseconds).
    pub(crate) fn read(&self, token: &str, now_ms: u64) -> Result<Identity, AuthError> {
        let mut claims = self.verify(token)?;
        self.settings.check_issuer(&claims)?;
        self.settings.check_audience(&claims)?;
        let expires_at_ms = self.settings.check_time(&claims, now_ms)?;
        let user = name(&claims, &self.settings.user_claim)?;
        let tenant = self
            .settings
            .tenant_claim
            .as_deref()
            .map(|claim| name(&claims, claim))
            .transpose()?;
        let roles = self.roles(&claims)?;
        claims.retain(|claim, _| !VALIDITY.contains(&claim.as_str()) && *claim != self.settings.roles_claim);
        Ok(Identity {
            user,
            tenant,
            roles,
            claims: Claims::new(claims),
            expires_at_ms,
            method: Method::Token,
        })
    }

    /// The claims of a token whose signature is right.
    fn verify(&self, token: &str) -> Result<Map<String, Value>, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong {
                what: "token",
                bytes: token.len(),
                max: TOKEN_BYTES_MAX,
            });
        }
        let header = decode_header(token).map_err(|_| AuthError::Malformed { what: "token header" })?;
        let expected = self.keys.algorithm().as_str();
        // Before the key is chosen: what the header asks for must not decide how a key is used.
        if header.alg != library(self.keys.algorithm()) {
            return Err(AuthError::Algorithm { expected });
        }
        if header.crit.is_some() {
            return Err(AuthError::CriticalHeader);
        }
        let key = self.keys.select(header.kid.as_deref())?;
        let token = decode(token, key, &self.validation).map_err(|error| match error.kind() {
            ErrorKind::InvalidAlgorithm => AuthError::Algorithm { expected },
            ErrorKind::InvalidSignature => AuthError::Signature,
            _ => AuthError::Malformed { what: "token" },
        })?;
        Ok(token.claims)
    }

    fn roles(&self, claims: &Map<String, Value>) -> Result<Arc<[Arc<str>]>, AuthError> {
        let claim = &self.settings.roles_claim;
        let roles: Vec<&str> = match find(claims, claim) {
            None | Some(Value::Null) => return Ok(self.default_roles.clone()),
            Some(Value::String(roles)) => roles.split_ascii_whitespace().collect(),
            Some(Value::Array(roles)) => {
                let roles: Option<Vec<_>> = roles.iter().map(Value::as_str).collect();
                roles.ok_or_else(|| wrong(claim, "must be an array of strings, or a string"))?
            }
            Some(_) => return Err(wrong(claim, "must be an array of strings, or a string")),
        };
        if roles.len() > IDENTITY_ROLES_MAX {
            return Err(wrong(claim, "has more than 64 roles"));
        }
        if roles.iter().any(|role| role.len() > ROLE_BYTES_MAX) {
            return Err(wrong(claim, "has a role of more than 128 bytes"));
        }
        Ok(roles.into_iter().map(Arc::from).collect())
    }
}

/// The library checks the signature only: its clock is not ours, and its rules for claims are looser.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(library(algorithm));
    validation.required_spec_claims = HashSet::new();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn library(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
    }
}

// === impl Settings ===

impl Settings {
    fn check_issuer(&self, claims: &Map<String, Value>) -> Result<(), AuthError> {
        match &self.issuer {
            Some(issuer) if claims.get("iss").and_then(Value::as_str) != Some(issuer) => {
                Err(AuthError::Issuer)
            }
            _ => Ok(()),
        }
    }

    /// `aud` is a string or an array of strings; one of them must be ours (RFC 7519, section 4.1.3).
    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), AuthError> {
        let ours = |value: &Value| {
            value
                .as_str()
                .is_some_and(|aud| self.audience.iter().any(|own| own == aud))
        };
        let accepted = match claims.get("aud") {
            None | Some(Value::Null) => self.audience.is_empty(),
            Some(Value::Array(list)) => list.iter().any(ours),
            Some(single) => ours(single),
        };
        if accepted {
            Ok(())
        } else {
            Err(AuthError::Audience {
                n_configured: self.audience.len(),
            })
        }
    }

    /// When the session must have renewed; an error if the token is not valid at `now_ms`.
    fn check_time(&self, claims: &Map<String, Value>, now_ms: u64) -> Result<Option<u64>, AuthError> {
        let not_before_ms = date_ms(claims, "nbf")?.unwrap_or(0);
        let early_ms = not_before_ms.saturating_sub(now_ms.saturating_add(self.leeway_ms));
        if early_ms > 0 {
            return Err(AuthError::NotYetValid {
                in_s: early_ms.div_ceil(1000),
            });
        }
        let Some(expires_ms) = date_ms(claims, "exp")? else {
            return if self.require_exp {
                Err(wrong("exp", "is missing"))
            } else {
                Ok(None)
            };
        };
        let ends_ms = expires_ms.saturating_add(self.leeway_ms);
        // RFC 7519, section 4.1.4: at the instant of `exp` a token is no longer accepted.
        if now_ms >= ends_ms {
            return Err(AuthError::Expired {
                ago_s: (now_ms - ends_ms) / 1000,
            });
        }
        Ok(Some(ends_ms))
    }
}

// === claims ===

fn wrong(claim: &str, problem: &'static str) -> AuthError {
    AuthError::Claim {
        claim: claim.to_owned(),
        problem,
    }
}

/// The claim named exactly `path`, or else the one that the dotted path reaches.
fn find<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    rest.split('.')
        .try_fold(claims.get(first)?, |value, step| value.get(step))
}

/// A claim that names a user or tenant: text, or an integer as some issuers number their users.
fn name(claims: &Map<String, Value>, claim: &str) -> Result<Arc<str>, AuthError> {
    let name: Arc<str> = match find(claims, claim) {
        None | Some(Value::Null) => return Err(wrong(claim, "is missing")),
        Some(Value::String(name)) => name.as_str().into(),
        Some(Value::Number(number)) if number.is_u64() || number.is_i64() => number.to_string().into(),
        Some(_) => return Err(wrong(claim, "must be a string or an integer")),
    };
    if is_name(&name) {
        return Ok(name);
    }
    Err(wrong(claim, "must have 1 to 256 bytes and no control characters"))
}

/// A NumericDate (RFC 7519, section 2: seconds, perhaps with a fraction) in milliseconds.
fn date_ms(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, AuthError> {
    let value = match claims.get(claim) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    if let Some(seconds) = value.as_u64() {
        return Ok(Some(seconds.saturating_mul(1000)));
    }
    match value
        .as_f64()
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
    {
        // The cast saturates, which is what a date beyond all time should do.
        Some(seconds) => Ok(Some((seconds * 1000.0) as u64)),
        None => Err(wrong(claim, "must be a number of seconds, zero or more")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_date(value: &Value, expected: Option<u64>) {
        let claims = json!({"exp": value});
        let date = date_ms(claims.as_object().unwrap(), "exp");
        assert_eq!(date.ok().flatten(), expected, "{value}");
    }

    #[test]
    fn dates_are_seconds_with_or_without_fraction() {
        check_date(&json!(0), Some(0));
        check_date(&json!(1_300_819_380), Some(1_300_819_380_000));
        check_date(&json!(1.5), Some(1500));
        check_date(&json!(1e300), Some(u64::MAX));
        check_date(&json!(u64::MAX), Some(u64::MAX));
        check_date(&json!(-1), None);
        check_date(&json!("1"), None);
        check_date(&json!(null), None);
    }

    #[test]
    fn dotted_paths_reach_into_objects_unless_the_name_is_taken() {
        let claims = json!({"a": {"b": {"c": 1}}, "https://x.y/roles": 2, "d.e": 3, "d": {"e": 4}});
        for (path, expected) in [
            ("a.b.c", Some(1)),
            ("https://x.y/roles", Some(2)),
            ("d.e", Some(3)),
            ("a.c", None),
            ("z", None),
        ] {
            let found = find(claims.as_object().unwrap(), path).and_then(Value::as_u64);
            assert_eq!(found, expected, "{path}");
        }
    }
}
