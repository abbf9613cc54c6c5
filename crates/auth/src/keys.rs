//! The keys that verify tokens: checked when the configuration is read, chosen by `kid` afterwards.

use std::fmt;

use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Algorithm, Key, Secret, in_range};
use crate::error::{AuthError, ConfigError};
use crate::{SECRET_BYTES_MAX, SECRET_BYTES_MIN};

/// Where the key stands in the settings.
const KEY: &str = "auth.jwt.key";

/// Most usable keys of a set: an issuer publishes two or three.
const KEYS_MAX: usize = 64;

/// Allowed sizes of an RSA key: 2,048 is the floor of RFC 7518 section 3.3, 4,096 what the verifier takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The keys of one algorithm.
pub(crate) struct KeyRing {
    algorithm: Algorithm,
    keys: Keys,
}

enum Keys {
    /// One key, whatever `kid` a token names.
    Single(DecodingKey),
    /// A set, chosen by `kid`; never empty.
    Set(Vec<(Option<String>, DecodingKey)>),
}

/// The members of a JSON Web Key that decide whether it concerns us (RFC 7517, section 4).
#[derive(Deserialize)]
struct KeyUse {
    kty: String,
    crv: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    key_ops: Option<Vec<String>>,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

// === impl KeyRing ===

impl KeyRing {
    /// Reads and checks `key` for `algorithm`.
    pub(crate) fn new(algorithm: Algorithm, key: &Key) -> Result<Self, ConfigError> {
        let keys = match key {
            Key::Secret(secret) => Keys::Single(from_secret(algorithm, secret)?),
            Key::Pem(pem) => Keys::Single(from_pem(algorithm, pem)?),
            Key::Jwks(text) => Keys::Set(from_set(algorithm, text)?),
        };
        Ok(Self { algorithm, keys })
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key for a token that names `kid`. In a set a token without `kid` passes only if there is no choice.
    pub(crate) fn select(&self, kid: Option<&str>) -> Result<&DecodingKey, AuthError> {
        let set = match &self.keys {
            Keys::Single(key) => return Ok(key),
            Keys::Set(set) => set,
        };
        let found = match kid {
            Some(kid) => set.iter().find(|(own, _)| own.as_deref() == Some(kid)),
            None => set.first().filter(|_| set.len() == 1),
        };
        found
            .map(|(_, key)| key)
            .ok_or(AuthError::UnknownKey { n_keys: set.len() })
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_keys = match &self.keys {
            Keys::Single(_) => 1,
            Keys::Set(set) => set.len(),
        };
        f.debug_struct("KeyRing")
            .field("algorithm", &self.algorithm)
            .field("n_keys", &n_keys)
            .finish()
    }
}

// === reading ===

fn from_secret(algorithm: Algorithm, secret: &Secret) -> Result<DecodingKey, ConfigError> {
    if algorithm != Algorithm::Hs256 {
        let problem = format!("{algorithm} needs a public key in PEM or a key set, not a shared secret");
        return Err(ConfigError::invalid(KEY, problem));
    }
    let bytes = secret.bytes();
    // A public key as HMAC secret is how algorithm confusion begins: everyone has it.
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(ConfigError::invalid(
            KEY,
            "HS256 needs a shared secret, not a key in PEM",
        ));
    }
    checked(algorithm, DecodingKey::from_secret(bytes), KEY)
}

fn from_pem(algorithm: Algorithm, pem: &Secret) -> Result<DecodingKey, ConfigError> {
    let pem = pem.bytes();
    let key = match algorithm {
        Algorithm::Hs256 => {
            return Err(ConfigError::invalid(
                KEY,
                "HS256 needs a shared secret, not a key in PEM",
            ));
        }
        Algorithm::Rs256 => DecodingKey::from_rsa_pem(pem),
        Algorithm::Es256 => DecodingKey::from_ec_pem(pem),
        Algorithm::EdDsa => DecodingKey::from_ed_pem(pem),
    };
    let key = key.map_err(|_| {
        ConfigError::invalid(
            KEY,
            format!("not a public key in PEM for {algorithm} (\"BEGIN PUBLIC KEY\")"),
        )
    })?;
    checked(algorithm, key, KEY)
}

fn from_set(algorithm: Algorithm, text: &Secret) -> Result<Vec<(Option<String>, DecodingKey)>, ConfigError> {
    // The parser's message could quote the text, which may hold a secret: only the place is told.
    let set: KeySet = serde_json::from_slice(text.bytes()).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        ConfigError::invalid(
            KEY,
            format!("not a JSON Web Key Set: line {line}, column {column}"),
        )
    })?;
    let mut keys: Vec<(Option<String>, DecodingKey)> = Vec::new();
    for (at, jwk) in set.keys.iter().enumerate() {
        // RFC 7517, section 5: keys that are not understood are ignored.
        let Ok(usage) = KeyUse::deserialize(jwk) else {
            continue;
        };
        if !usage.verifies(algorithm) {
            continue;
        }
        if let Some(kid) = usage
            .kid
            .as_ref()
            .filter(|kid| keys.iter().any(|(own, _)| own.as_ref() == Some(kid)))
        {
            return Err(ConfigError::invalid(
                KEY,
                format!("two {algorithm} keys have kid {kid:?}"),
            ));
        }
        let key = from_jwk(algorithm, jwk, &format!("{KEY}: keys[{at}]"))?;
        keys.push((usage.kid, key));
    }
    in_range(KEY, keys.len(), 1..=KEYS_MAX, "keys for the configured algorithm")?;
    Ok(keys)
}

fn from_jwk(algorithm: Algorithm, jwk: &Value, key: &str) -> Result<DecodingKey, ConfigError> {
    let unusable = || ConfigError::invalid(key, format!("not a usable {algorithm} key"));
    let mut jwk = jwk.clone();
    if let Some(members) = jwk.as_object_mut() {
        // Optional members were judged by `KeyUse`; a form that the library does not know must not spoil the key.
        members.retain(|name, _| matches!(name.as_str(), "kty" | "crv" | "n" | "e" | "x" | "y" | "k"));
    }
    let jwk: Jwk = serde_json::from_value(jwk).map_err(|_| unusable())?;
    checked(
        algorithm,
        DecodingKey::from_jwk(&jwk).map_err(|_| unusable())?,
        key,
    )
}

impl KeyUse {
    /// Whether the key is one for `algorithm` and may verify signatures.
    fn verifies(&self, algorithm: Algorithm) -> bool {
        let (kty, crv) = match algorithm {
            Algorithm::Hs256 => ("oct", None),
            Algorithm::Rs256 => ("RSA", None),
            Algorithm::Es256 => ("EC", Some("P-256")),
            Algorithm::EdDsa => ("OKP", Some("Ed25519")),
        };
        self.kty == kty
            && (crv.is_none() || self.crv.as_deref() == crv)
            && self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.alg.as_deref().is_none_or(|alg| alg == algorithm.as_str())
            && self
                .key_ops
                .as_ref()
                .is_none_or(|ops| ops.iter().any(|op| op == "verify"))
    }
}

// === checking ===

/// Refuses keys that are weak or that would only fail, or panic, at the first token.
fn checked(algorithm: Algorithm, key: DecodingKey, name: &str) -> Result<DecodingKey, ConfigError> {
    match algorithm {
        Algorithm::Hs256 => check_secret(&key, name)?,
        Algorithm::Rs256 => check_rsa(&key, name)?,
        Algorithm::Es256 => check_point(algorithm, &key, 65, name)?,
        Algorithm::EdDsa => check_point(algorithm, &key, 32, name)?,
    }
    Ok(key)
}

fn check_secret(key: &DecodingKey, name: &str) -> Result<(), ConfigError> {
    let len = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    in_range(name, len, SECRET_BYTES_MIN..=SECRET_BYTES_MAX, "bytes of secret")
}

fn check_rsa(key: &DecodingKey, name: &str) -> Result<(), ConfigError> {
    let unusable = || ConfigError::invalid(name, "not a usable RSA public key");
    // The library hands a PEM's content on unparsed; asking for its components parses it.
    let jwk = Jwk::from_decoding_key(key, None).map_err(|_| unusable())?;
    let AlgorithmParameters::RSA(_) = &jwk.algorithm else {
        return Err(unusable());
    };
    let components = DecodingKey::from_jwk(&jwk).map_err(|_| unusable())?;
    let DecodingKeyKind::RsaModulusExponent { n, e } = components.kind() else {
        return Err(unusable());
    };
    in_range(name, bits(n), RSA_BITS, "bits of RSA modulus")?;
    let exponent_fits = (2..=33).contains(&bits(e)) && e.last().is_some_and(|last| last & 1 == 1);
    if exponent_fits { Ok(()) } else { Err(unusable()) }
}

fn check_point(algorithm: Algorithm, key: &DecodingKey, len: usize, name: &str) -> Result<(), ConfigError> {
    let library = match algorithm {
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        _ => jsonwebtoken::Algorithm::EdDSA,
    };
    // The length comes first: the library slices without looking.
    let usable = key.try_get_as_bytes().is_ok_and(|point| point.len() == len)
        && (DEFAULT_PROVIDER.verifier_factory)(&library, key).is_ok();
    if usable {
        return Ok(());
    }
    Err(ConfigError::invalid(
        name,
        format!("not a usable {algorithm} public key"),
    ))
}

/// Length of a big-endian number in bits, leading zeros not counted.
fn bits(number: &[u8]) -> usize {
    match number.iter().position(|&byte| byte != 0) {
        None => 0,
        Some(zeros) => (number.len() - zeros) * 8 - number[zeros].leading_zeros() as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_do_not_count_leading_zeros() {
        for (number, expected) in [
            (&[][..], 0),
            (&[0, 0], 0),
            (&[1], 1),
            (&[3], 2),
            (&[1, 0, 1], 17),
            (&[0, 0x80, 0], 16),
        ] {
            assert_eq!(bits(number), expected, "{number:?}");
        }
    }
}
