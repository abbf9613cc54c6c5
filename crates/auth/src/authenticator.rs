//! Credentials become an identity, or an error that says why not.

use crate::USER_BYTES_MAX;
use crate::api_key::ApiKeys;
use crate::config::{Config, in_range, roles_exist};
use crate::credentials::Credentials;
use crate::error::{AuthError, ConfigError};
use crate::identity::{Identity, Method, is_name};
use crate::permission::Permissions;
use crate::token::TokenReader;

/// Checks credentials by one configuration. Immutable and shared; a reload builds another one.
#[derive(Debug)]
pub struct Authenticator {
    tokens: Option<TokenReader>,
    cookie: Option<String>,
    api_keys: ApiKeys,
    /// The identity of users named by a trusted proxy, but for their name.
    trusted_user: Option<Identity>,
    anonymous: Option<Identity>,
    permissions: Permissions,
}

// === impl Authenticator ===

impl Authenticator {
    /// Checks `config` whole and compiles it.
    ///
    /// # Errors
    /// The first setting that cannot be used, with its key and what is allowed.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let roles = &config.roles;
        let permissions = Permissions::new(roles)?;
        roles_exist("auth.anonymous_roles", &config.anonymous_roles, roles)?;
        let anonymous = with_roles(Method::Anonymous, &config.anonymous_roles);
        let trusted_user = match &config.trusted_user {
            None => None,
            Some(trusted) => {
                roles_exist("auth.trusted_user.roles", &trusted.roles, roles)?;
                Some(with_roles(Method::TrustedHeader, &trusted.roles))
            }
        };
        if let Some(jwt) = &config.jwt {
            roles_exist("auth.jwt.default_roles", &jwt.default_roles, roles)?;
        }
        let cookie = config.jwt.as_ref().and_then(|jwt| jwt.cookie.clone());
        if let Some(name) = &cookie {
            in_range("auth.jwt.cookie", name.len(), 1..=128, "bytes of cookie name")?;
        }
        Ok(Self {
            cookie,
            api_keys: ApiKeys::new(config.api_keys, roles)?,
            tokens: config.jwt.map(TokenReader::new).transpose()?,
            trusted_user,
            anonymous: config.anonymous.then_some(anonymous),
            permissions,
        })
    }

    /// Who presented `credentials` at `now_ms` (Unix milliseconds).
    ///
    /// The first that is present decides, in this order: token of the auth payload, `Bearer` token, API key, cookie,
    /// user named by a trusted proxy, anonymous. A credential that is wrong is refused and never passed over for
    /// the next; one of a kind that is not configured is not read.
    ///
    /// # Errors
    /// Why the deciding credential is refused, or [`AuthError::Missing`].
    pub fn authenticate(&self, credentials: &Credentials<'_>, now_ms: u64) -> Result<Identity, AuthError> {
        if let (Some(tokens), Some(token)) = (&self.tokens, credentials.token()) {
            return tokens.read(token, now_ms);
        }
        if let Some(key) = credentials.api_key().filter(|_| !self.api_keys.is_empty()) {
            return self.api_keys.read(key);
        }
        if let (Some(tokens), Some(name)) = (&self.tokens, &self.cookie)
            && let Some(token) = credentials.cookie(name)?
        {
            return tokens.read(token, now_ms);
        }
        if let (Some(identity), Some(user)) = (&self.trusted_user, credentials.trusted_user()) {
            return named(identity, user);
        }
        self.anonymous().ok_or(AuthError::Missing)
    }

    /// Who `token` speaks for at `now_ms` (Unix milliseconds).
    ///
    /// # Errors
    /// Why it is refused; [`AuthError::NotConfigured`] if no token would be read.
    pub fn token(&self, token: &str, now_ms: u64) -> Result<Identity, AuthError> {
        let tokens = self
            .tokens
            .as_ref()
            .ok_or(AuthError::NotConfigured { what: "tokens" })?;
        tokens.read(token, now_ms)
    }

    /// Who the API key `key` belongs to.
    ///
    /// # Errors
    /// Why it is refused; [`AuthError::NotConfigured`] if there are no keys.
    pub fn api_key(&self, key: &str) -> Result<Identity, AuthError> {
        if self.api_keys.is_empty() {
            return Err(AuthError::NotConfigured { what: "API keys" });
        }
        self.api_keys.read(key)
    }

    /// The identity of callers without credentials; `None` if they are refused.
    pub fn anonymous(&self) -> Option<Identity> {
        self.anonymous.clone()
    }

    /// Whether callers without credentials are let in.
    pub fn has_anonymous(&self) -> bool {
        self.anonymous.is_some()
    }

    /// What the roles allow.
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }
}

fn with_roles(method: Method, roles: &[String]) -> Identity {
    let roles = roles.iter().map(|role| role.as_str().into()).collect();
    Identity {
        roles,
        ..Identity::new("", method)
    }
}

fn named(identity: &Identity, user: &str) -> Result<Identity, AuthError> {
    if user.len() > USER_BYTES_MAX {
        return Err(AuthError::TooLong {
            what: "user",
            bytes: user.len(),
            max: USER_BYTES_MAX,
        });
    }
    if !is_name(user) {
        return Err(AuthError::Malformed { what: "user" });
    }
    Ok(Identity {
        user: user.into(),
        ..identity.clone()
    })
}
