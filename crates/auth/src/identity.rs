//! Who a session is, small enough to keep one for each of many thousand sessions.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::USER_BYTES_MAX;

/// Who a caller is. Cloning copies pointers only.
#[derive(Clone, PartialEq)]
pub struct Identity {
    /// The user, 1 to [`USER_BYTES_MAX`] bytes without control characters; empty only for anonymous callers, so
    /// that no token can name them.
    pub user: Arc<str>,
    /// The tenant, with the same limits.
    pub tenant: Option<Arc<str>>,
    /// Names of the roles. Names that no configuration defines are kept for applications and allow nothing.
    pub roles: Arc<[Arc<str>]>,
    /// What else the token says; `None` when that is nothing.
    pub claims: Option<Claims>,
    /// When the session must have renewed its token, in Unix milliseconds, the tolerance included; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// How the identity was proved.
    pub method: Method,
}

/// How an identity was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// By a signed token.
    Token,
    /// By an API key.
    ApiKey,
    /// By a header of a trusted proxy.
    TrustedHeader,
    /// Not at all.
    Anonymous,
    /// By the application behind the gateway.
    Application,
}

/// Claims of a token, without those that have fields of their own in [`Identity`] or only concern validity.
///
/// A sorted slice: a tree map would cost each session more than half a kilobyte.
#[derive(Clone, PartialEq)]
pub struct Claims(Arc<[(Box<str>, Value)]>);

// === impl Identity ===

impl Identity {
    /// An identity without tenant, roles, claims and expiry; the fields are open for the rest.
    pub fn new(user: &str, method: Method) -> Self {
        Self {
            user: user.into(),
            tenant: None,
            roles: Arc::default(),
            claims: None,
            expires_at_ms: None,
            method,
        }
    }

    /// The claim `name`, if there is one.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.claims.as_ref()?.get(name)
    }

    /// Whether `role` is among the roles.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| **own == *role)
    }

    /// Whether both are the same user of the same tenant: the condition for renewal and recovery. Anonymous callers
    /// all count as one user here, so that an anonymous session can recover.
    pub fn is_same_user(&self, other: &Self) -> bool {
        self.user == other.user && self.tenant == other.tenant && self.is_anonymous() == other.is_anonymous()
    }

    /// Whether the caller proved nothing.
    pub fn is_anonymous(&self) -> bool {
        self.method == Method::Anonymous
    }

    /// Whether the identity has expired at `now_ms` (Unix milliseconds).
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at| at <= now_ms)
    }
}

/// Shows the names of the claims, not their values: those may be personal.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("user", &self.user)
            .field("tenant", &self.tenant)
            .field("roles", &self.roles)
            .field("claims", &self.claims)
            .field("expires_at_ms", &self.expires_at_ms)
            .field("method", &self.method)
            .finish()
    }
}

/// Whether `name` may stand for a user or a tenant.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=USER_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

// === impl Method ===

impl Method {
    /// The name in lower case, as the API and the log show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::ApiKey => "api_key",
            Self::TrustedHeader => "trusted_header",
            Self::Anonymous => "anonymous",
            Self::Application => "application",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Claims ===

impl Claims {
    /// Keeps `map`, or `None` if it is empty.
    pub fn new(map: Map<String, Value>) -> Option<Self> {
        if map.is_empty() {
            return None;
        }
        let mut claims: Vec<_> = map
            .into_iter()
            .map(|(name, value)| (name.into_boxed_str(), value))
            .collect();
        // A map may keep the order of insertion if some other crate of the build asks for that.
        claims.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Some(Self(claims.into()))
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    /// All claims in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_by_name() {
        let map = serde_json::json!({"b": 1, "a": "x", "c": null});
        let claims = Claims::new(map.as_object().unwrap().clone()).unwrap();
        assert_eq!(claims.get("b"), Some(&Value::from(1)));
        assert_eq!(claims.get("d"), None);
        assert_eq!(
            claims.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            ["a", "b", "c"]
        );
        assert!(Claims::new(Map::new()).is_none());
    }

    #[test]
    fn an_identity_stays_small() {
        assert!(size_of::<Identity>() <= 88, "{} bytes", size_of::<Identity>());
    }

    #[test]
    fn anonymous_is_no_ones_user() {
        let anonymous = Identity::new("", Method::Anonymous);
        assert!(!anonymous.is_same_user(&Identity::new("", Method::Application)));
        assert!(anonymous.is_same_user(&anonymous));
        let mut ada = Identity::new("ada", Method::Token);
        assert!(ada.is_same_user(&Identity::new("ada", Method::ApiKey)));
        ada.tenant = Some("t".into());
        assert!(!ada.is_same_user(&Identity::new("ada", Method::Token)));
    }
}
