//! Configurations that stop the start, with key, value and allowed range, and without the secret.

use serde_json::{Value, json};
use tidegate_auth::{Algorithm, Authenticator, Config, Jwt, Key, Secret};

use crate::support::*;

fn check(jwt: Jwt, expected: &str) {
    assert_eq!(build(jwt).unwrap_err().to_string(), expected);
}

fn secret(algorithm: Algorithm, secret: &str) -> Jwt {
    Jwt::new(algorithm, Key::Secret(Secret::new(secret)))
}

#[test]
fn secrets_have_the_size_of_the_hash() {
    check(
        secret(Algorithm::Hs256, "short"),
        "auth.jwt.key: 5 bytes of secret, allowed 32 to 1024",
    );
    check(
        secret(Algorithm::Hs256, &"a".repeat(1025)),
        "auth.jwt.key: 1025 bytes of secret, allowed 32 to 1024",
    );
    assert!(build(secret(Algorithm::Hs256, &"a".repeat(32))).is_ok());
}

#[test]
fn keys_must_fit_the_algorithm() {
    let hmac_needs = "auth.jwt.key: HS256 needs a shared secret, not a key in PEM";
    check(secret(Algorithm::Hs256, RSA_PUBLIC), hmac_needs);
    check(pem(Algorithm::Hs256, RSA_PUBLIC), hmac_needs);
    check(
        secret(Algorithm::Rs256, SECRET),
        "auth.jwt.key: RS256 needs a public key in PEM or a key set, not a shared secret",
    );
    for (algorithm, text) in [
        (Algorithm::Rs256, EC_PUBLIC),
        (Algorithm::Rs256, "nonsense"),
        (Algorithm::Es256, RSA_PUBLIC),
        (Algorithm::Es256, EC),
        (Algorithm::EdDsa, EC_PUBLIC),
        (Algorithm::EdDsa, ED),
    ] {
        let expected =
            format!("auth.jwt.key: not a public key in PEM for {algorithm} (\"BEGIN PUBLIC KEY\")");
        check(pem(algorithm, text), &expected);
    }
    check(
        pem(Algorithm::Rs256, RSA),
        "auth.jwt.key: not a usable RSA public key",
    );
    check(
        pem(Algorithm::Rs256, RSA_WEAK),
        "auth.jwt.key: 1024 bits of RSA modulus, allowed 2048 to 4096",
    );
}

#[test]
fn key_sets_are_read_for_what_concerns_us() {
    let ed = |more: Value| {
        let mut key =
            json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        key.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        key
    };
    let set = |keys: Vec<Value>| jwks(Algorithm::EdDsa, &json!({"keys": keys}));
    let foreign = vec![
        json!({"kty": "lattice", "x": 1}),
        json!("no key at all"),
        json!({"kty": "EC", "crv": "P-256", "x": "", "y": ""}),
        ed(json!({"use": "enc"})),
        ed(json!({"alg": "ES256K"})),
        ed(json!({"key_ops": ["sign"]})),
        ed(json!({"crv": "X25519"})),
    ];
    let nothing = "auth.jwt.key: 0 keys for the configured algorithm, allowed 1 to 64";
    check(set(foreign.clone()), nothing);
    check(set(vec![]), nothing);
    let ours = ed(json!({"kid": "a", "use": "sig", "alg": "EdDSA", "key_ops": ["verify", "odd"], "x5t": 1}));
    assert!(build(set(foreign.into_iter().chain([ours.clone()]).collect())).is_ok());
    check(
        set(vec![ours.clone(), ours]),
        "auth.jwt.key: two EdDSA keys have kid \"a\"",
    );
    let unusable = "auth.jwt.key: keys[0]: not a usable EdDSA public key";
    check(set(vec![ed(json!({"x": "AAAA"}))]), unusable);
    check(
        set(vec![ed(json!({"x": "!"}))]),
        "auth.jwt.key: keys[0]: not a usable EdDSA key",
    );
    let text = Jwt::new(Algorithm::EdDsa, Key::Jwks(Secret::new("{\"keys\": hunter2")));
    check(text, "auth.jwt.key: not a JSON Web Key Set: line 1, column 10");
}

#[test]
fn numbers_and_names_have_bounds() {
    let mut jwt = hs256();
    jwt.leeway_s = 301;
    check(jwt, "auth.jwt.leeway: 301 s, allowed 0 to 300");
    let mut jwt = hs256();
    jwt.user_claim = String::new();
    check(jwt, "auth.jwt.user: 0 bytes of claim name, allowed 1 to 128");
    let mut jwt = hs256();
    jwt.cookie = Some(String::new());
    check(jwt, "auth.jwt.cookie: 0 bytes of cookie name, allowed 1 to 128");
    let mut jwt = hs256();
    jwt.default_roles = vec!["tradr".into()];
    check(
        jwt,
        "auth.jwt.default_roles: role \"tradr\" is not defined, allowed: the names under [roles]",
    );
    let config = Config {
        anonymous_roles: vec!["ghost".into()],
        ..Config::default()
    };
    let error = Authenticator::new(config).unwrap_err();
    assert_eq!(
        (error.key(), error.is_retryable()),
        ("auth.anonymous_roles", false)
    );
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let config = Config {
        jwt: Some(hs256()),
        ..Config::default()
    };
    assert!(!format!("{config:?}").contains(SECRET));
    let shown = format!("{:?}", build(hs256()).unwrap());
    assert!(shown.contains("Hs256") && !shown.contains(SECRET), "{shown}");
}
