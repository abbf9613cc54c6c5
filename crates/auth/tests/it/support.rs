//! Keys, tokens and configurations that the tests share.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tidegate_auth::{Algorithm, Authenticator, Config, ConfigError, Jwt, Key, Role, Secret};

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const RSA: &str = include_str!("../fixtures/rsa.pem");
pub(crate) const RSA_PUBLIC: &str = include_str!("../fixtures/rsa.pub.pem");
pub(crate) const RSA_WEAK: &str = include_str!("../fixtures/rsa-1024.pub.pem");
pub(crate) const EC: &str = include_str!("../fixtures/ec.pem");
pub(crate) const EC_PUBLIC: &str = include_str!("../fixtures/ec.pub.pem");
pub(crate) const ED: &str = include_str!("../fixtures/ed.pem");
pub(crate) const ED_PUBLIC: &str = include_str!("../fixtures/ed.pub.pem");

/// The instant at which the tests take place, in seconds and milliseconds.
pub(crate) const NOW_S: u64 = 1_760_000_000;
pub(crate) const NOW_MS: u64 = NOW_S * 1000;

pub(crate) fn hs256() -> Jwt {
    Jwt::new(Algorithm::Hs256, Key::Secret(Secret::new(SECRET)))
}

pub(crate) fn pem(algorithm: Algorithm, text: &str) -> Jwt {
    Jwt::new(algorithm, Key::Pem(Secret::new(text)))
}

pub(crate) fn jwks(algorithm: Algorithm, set: &Value) -> Jwt {
    Jwt::new(algorithm, Key::Jwks(Secret::new(set.to_string())))
}

pub(crate) fn build(jwt: Jwt) -> Result<Authenticator, ConfigError> {
    let mut config = Config {
        jwt: Some(jwt),
        ..Config::default()
    };
    config.roles.insert("trader".into(), Role::default());
    Authenticator::new(config)
}

/// A key that signs for `algorithm`, matching the fixtures above.
pub(crate) fn signer(algorithm: Algorithm) -> (jsonwebtoken::Algorithm, EncodingKey) {
    use jsonwebtoken::Algorithm as Library;
    match algorithm {
        Algorithm::Hs256 => (Library::HS256, EncodingKey::from_secret(SECRET.as_bytes())),
        Algorithm::Rs256 => (Library::RS256, EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap()),
        Algorithm::Es256 => (Library::ES256, EncodingKey::from_ec_pem(EC.as_bytes()).unwrap()),
        Algorithm::EdDsa => (Library::EdDSA, EncodingKey::from_ed_pem(ED.as_bytes()).unwrap()),
    }
}

/// A token of `claims`, signed by the fixture for `algorithm`.
pub(crate) fn sign(algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let (library, key) = signer(algorithm);
    let header = Header {
        kid: kid.map(str::to_owned),
        ..Header::new(library)
    };
    encode(&header, claims, &key).unwrap()
}

/// A valid HS256 token of user `ada` with `more` claims over the usual ones.
pub(crate) fn token(more: Value) -> String {
    let mut claims = json!({"sub": "ada", "exp": NOW_S + 60});
    if let (Some(claims), Value::Object(more)) = (claims.as_object_mut(), more) {
        claims.extend(more);
    }
    sign(Algorithm::Hs256, None, &claims)
}
