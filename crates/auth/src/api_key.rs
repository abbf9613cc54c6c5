//! API keys: kept as digests, compared in constant time.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::config::{ApiKey, ApiKeyValue, Role, in_range, roles_exist};
use crate::error::{AuthError, ConfigError};
use crate::identity::{Claims, Identity, Method, is_name};
use crate::{API_KEY_BYTES_MAX, API_KEY_BYTES_MIN, API_KEYS_MAX};

/// All configured keys.
pub(crate) struct ApiKeys {
    keys: Vec<(KeyDigest, Identity)>,
}

type KeyDigest = [u8; 32];

// === impl ApiKeys ===

impl ApiKeys {
    pub(crate) fn new(api_keys: Vec<ApiKey>, roles: &BTreeMap<String, Role>) -> Result<Self, ConfigError> {
        in_range("auth.api_keys", api_keys.len(), 0..=API_KEYS_MAX, "keys")?;
        let mut names = HashSet::new();
        let mut keys: Vec<(KeyDigest, Identity)> = Vec::with_capacity(api_keys.len());
        for api_key in api_keys {
            let key = format!("auth.api_keys.{}", api_key.name);
            if !names.insert(api_key.name.clone()) {
                return Err(ConfigError::invalid(key, "two keys have this name"));
            }
            roles_exist(&format!("{key}.roles"), &api_key.roles, roles)?;
            let digest = digest_of(&key, &api_key.key)?;
            if keys.iter().any(|(own, _)| *own == digest) {
                return Err(ConfigError::invalid(key, "another key has the same value"));
            }
            keys.push((digest, identity_of(&key, api_key)?));
        }
        Ok(Self { keys })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who `key` belongs to. Takes the same time for every key, known or not.
    pub(crate) fn read(&self, key: &str) -> Result<Identity, AuthError> {
        if key.len() > API_KEY_BYTES_MAX {
            return Err(AuthError::TooLong {
                what: "API key",
                bytes: key.len(),
                max: API_KEY_BYTES_MAX,
            });
        }
        let presented = KeyDigest::from(Sha256::digest(key.as_bytes()));
        let mut found = u64::MAX;
        for (at, (own, _)) in (0..).zip(&self.keys) {
            found.conditional_assign(&at, own.ct_eq(&presented));
        }
        let (_, identity) = self.keys.get(found as usize).ok_or(AuthError::UnknownApiKey)?;
        Ok(identity.clone())
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|(_, identity)| identity))
            .finish()
    }
}

fn digest_of(key: &str, value: &ApiKeyValue) -> Result<KeyDigest, ConfigError> {
    match value {
        ApiKeyValue::Plain(secret) => {
            let allowed = API_KEY_BYTES_MIN..=API_KEY_BYTES_MAX;
            in_range(format!("{key}.key"), secret.bytes().len(), allowed, "bytes")?;
            Ok(Sha256::digest(secret.bytes()).into())
        }
        ApiKeyValue::Sha256(hex) => from_hex(hex).ok_or_else(|| {
            let problem = format!(
                "{} characters, allowed exactly 64 hexadecimal digits",
                hex.chars().count()
            );
            ConfigError::invalid(format!("{key}.sha256"), problem)
        }),
    }
}

fn from_hex(hex: &str) -> Option<KeyDigest> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect();
    (digits.len() == 64).then(|| bytes.try_into().ok())?
}

fn identity_of(key: &str, api_key: ApiKey) -> Result<Identity, ConfigError> {
    let user = api_key.user.unwrap_or(api_key.name);
    for name in std::iter::once(&user).chain(&api_key.tenant) {
        if !is_name(name) {
            let problem = "user and tenant must have 1 to 256 bytes and no control characters";
            return Err(ConfigError::invalid(key, problem));
        }
    }
    Ok(Identity {
        user: user.into(),
        tenant: api_key.tenant.map(Arc::from),
        roles: api_key.roles.into_iter().map(Arc::from).collect(),
        claims: Claims::new(api_key.claims),
        expires_at_ms: None,
        method: Method::ApiKey,
    })
}
