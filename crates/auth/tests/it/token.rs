//! Tokens: what is accepted, what is refused and with which words.

use jsonwebtoken::{EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_auth::{Algorithm, AuthError, Identity, Jwt, Method, TOKEN_BYTES_MAX};

use crate::support::*;

fn read(jwt: Jwt, token: &str) -> Result<Identity, AuthError> {
    build(jwt).unwrap().token(token, NOW_MS)
}

fn check_error(jwt: Jwt, token: &str, expected: AuthError) {
    assert_eq!(read(jwt, token), Err(expected), "{token}");
}

fn claim(claim: &str, problem: &'static str) -> AuthError {
    AuthError::Claim {
        claim: claim.into(),
        problem,
    }
}

#[test]
fn every_algorithm_reads_its_own_tokens() {
    for (algorithm, jwt) in [
        (Algorithm::Hs256, hs256()),
        (Algorithm::Rs256, pem(Algorithm::Rs256, RSA_PUBLIC)),
        (Algorithm::Es256, pem(Algorithm::Es256, EC_PUBLIC)),
        (Algorithm::EdDsa, pem(Algorithm::EdDsa, ED_PUBLIC)),
    ] {
        let claims = json!({"sub": "ada", "exp": NOW_S + 60, "roles": ["trader", "other"], "desk": "fx"});
        let ada = read(jwt, &sign(algorithm, Some("any"), &claims)).unwrap();
        assert_eq!((&*ada.user, ada.method), ("ada", Method::Token), "{algorithm}");
        assert!(ada.has_role("trader") && ada.has_role("other") && !ada.has_role("admin"));
        assert_eq!(ada.expires_at_ms, Some(NOW_MS + 65_000));
        assert_eq!(
            ada.claims
                .unwrap()
                .iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>(),
            ["desk", "sub"]
        );
    }
}

#[test]
fn another_algorithm_is_refused_whatever_the_key() {
    let claims = json!({"sub": "eve", "exp": NOW_S + 60});
    for (configured, jwt) in [
        (Algorithm::Hs256, hs256()),
        (Algorithm::Rs256, pem(Algorithm::Rs256, RSA_PUBLIC)),
        (Algorithm::Es256, pem(Algorithm::Es256, EC_PUBLIC)),
        (Algorithm::EdDsa, pem(Algorithm::EdDsa, ED_PUBLIC)),
    ] {
        for other in [
            Algorithm::Hs256,
            Algorithm::Rs256,
            Algorithm::Es256,
            Algorithm::EdDsa,
        ] {
            if other != configured {
                let expected = AuthError::Algorithm {
                    expected: configured.as_str(),
                };
                check_error(jwt.clone(), &sign(other, None, &claims), expected);
            }
        }
    }
}

/// The classic attack: an HMAC over the token with the published RSA key as its secret.
#[test]
fn a_public_key_does_not_serve_as_secret() {
    let forger = EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
    let forged = encode(
        &Header::default(),
        &json!({"sub": "eve", "exp": NOW_S + 60}),
        &forger,
    )
    .unwrap();
    check_error(
        pem(Algorithm::Rs256, RSA_PUBLIC),
        &forged,
        AuthError::Algorithm { expected: "RS256" },
    );
}

#[test]
fn unsigned_and_broken_tokens_are_malformed() {
    let valid = token(json!({}));
    let (signed, _) = valid.rsplit_once('.').unwrap();
    let payload = signed.split_once('.').unwrap().1;
    let header = |text: &'static str| AuthError::Malformed { what: text };
    // {"alg":"none"} and {"alg":"None"}
    check_error(
        hs256(),
        &format!("eyJhbGciOiJub25lIn0.{payload}."),
        header("token header"),
    );
    check_error(
        hs256(),
        &format!("eyJhbGciOiJOb25lIn0.{payload}."),
        header("token header"),
    );
    for broken in [
        "",
        ".",
        "..",
        "a.b.c",
        "a.b.c.d",
        signed,
        &format!("{valid}.x"),
        &format!(" {valid}"),
    ] {
        check_error(hs256(), broken, header("token header"));
    }
    check_error(hs256(), &format!("{signed}."), AuthError::Signature);
    let array = sign(Algorithm::Hs256, None, &json!([1]));
    check_error(hs256(), &array, AuthError::Malformed { what: "token" });
}

#[test]
fn critical_extensions_are_refused() {
    let header = Header {
        crit: Some(vec!["b64".into()]),
        ..Header::default()
    };
    let (_, key) = signer(Algorithm::Hs256);
    let token = encode(&header, &json!({"sub": "ada", "exp": NOW_S + 60}), &key).unwrap();
    check_error(hs256(), &token, AuthError::CriticalHeader);
}

#[test]
fn a_long_token_is_not_read() {
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    let bytes = long.len();
    check_error(
        hs256(),
        &long,
        AuthError::TooLong {
            what: "token",
            bytes,
            max: TOKEN_BYTES_MAX,
        },
    );
}

#[test]
fn time_is_the_callers_and_has_the_configured_tolerance() {
    let at = |more: Value, now_s: u64| {
        let mut jwt = hs256();
        jwt.leeway_s = 10;
        build(jwt)
            .unwrap()
            .token(&token(more), now_s * 1000)
            .map(|identity| identity.expires_at_ms)
    };
    assert_eq!(at(json!({"exp": 1000}), 1009), Ok(Some(1_010_000)));
    assert_eq!(
        at(json!({"exp": 1000}), 1010),
        Err(AuthError::Expired { ago_s: 0 })
    );
    assert_eq!(
        at(json!({"exp": 1000}), 1075),
        Err(AuthError::Expired { ago_s: 65 })
    );
    assert_eq!(at(json!({"exp": 2000, "nbf": 1000}), 990), Ok(Some(2_010_000)));
    assert_eq!(
        at(json!({"exp": 2000, "nbf": 1000}), 989),
        Err(AuthError::NotYetValid { in_s: 1 })
    );
    assert_eq!(at(json!({"exp": u64::MAX}), 1), Ok(Some(u64::MAX)));
    assert_eq!(at(json!({"exp": null}), 1), Err(claim("exp", "is missing")));
    for odd in [json!("1000"), json!(-1), json!([])] {
        let problem = "must be a number of seconds, zero or more";
        assert_eq!(at(json!({"exp": odd}), 1), Err(claim("exp", problem)), "{odd}");
        assert_eq!(at(json!({"nbf": odd}), 1), Err(claim("nbf", problem)), "{odd}");
    }
}

#[test]
fn a_token_without_end_needs_the_operators_word() {
    let endless = sign(Algorithm::Hs256, None, &json!({"sub": "ada"}));
    check_error(hs256(), &endless, claim("exp", "is missing"));
    let mut jwt = hs256();
    jwt.require_exp = false;
    assert_eq!(read(jwt, &endless).unwrap().expires_at_ms, None);
}

#[test]
fn issuer_and_audience_must_be_ours() {
    let mut jwt = hs256();
    jwt.issuer = Some("https://id".into());
    jwt.audience = vec!["app".into(), "other".into()];
    for (claims, expected) in [
        (json!({"iss": "https://id", "aud": "app"}), None),
        (json!({"iss": "https://id", "aud": ["x", "other"]}), None),
        (
            json!({"iss": "https://evil", "aud": "app"}),
            Some(AuthError::Issuer),
        ),
        (
            json!({"iss": ["https://id"], "aud": "app"}),
            Some(AuthError::Issuer),
        ),
        (json!({"aud": "app"}), Some(AuthError::Issuer)),
        (
            json!({"iss": "https://id"}),
            Some(AuthError::Audience { n_configured: 2 }),
        ),
        (
            json!({"iss": "https://id", "aud": []}),
            Some(AuthError::Audience { n_configured: 2 }),
        ),
        (
            json!({"iss": "https://id", "aud": "x"}),
            Some(AuthError::Audience { n_configured: 2 }),
        ),
    ] {
        assert_eq!(
            read(jwt.clone(), &token(claims.clone())).err(),
            expected,
            "{claims}"
        );
    }
    let foreign = token(json!({"aud": "someone"}));
    check_error(hs256(), &foreign, AuthError::Audience { n_configured: 0 });
}

#[test]
fn users_are_text_or_numbers_within_bounds() {
    let bounds = "must have 1 to 256 bytes and no control characters";
    for (sub, expected) in [
        (json!("ada"), Ok("ada")),
        (json!("张伟"), Ok("张伟")),
        (json!(42), Ok("42")),
        (json!("*"), Ok("*")),
        (json!(""), Err(bounds)),
        (json!("a\nb"), Err(bounds)),
        (json!("a".repeat(257)), Err(bounds)),
        (json!(1.5), Err("must be a string or an integer")),
        (json!(true), Err("must be a string or an integer")),
        (json!(null), Err("is missing")),
    ] {
        let read = read(hs256(), &token(json!({"sub": sub})));
        let expected = expected.map_err(|problem| claim("sub", problem));
        assert_eq!(
            read.as_ref()
                .map(|identity| &*identity.user)
                .map_err(Clone::clone),
            expected,
            "{sub}"
        );
    }
}

#[test]
fn roles_come_as_a_list_or_as_words_or_by_default() {
    let mut jwt = hs256();
    jwt.roles_claim = "realm.roles".into();
    jwt.default_roles = vec!["trader".into()];
    let shape = "must be an array of strings, or a string";
    for (claims, expected) in [
        (json!({"realm": {"roles": ["a", "b"]}}), Ok(vec!["a", "b"])),
        (json!({"realm.roles": "a  b"}), Ok(vec!["a", "b"])),
        (json!({"realm": {"roles": []}}), Ok(vec![])),
        (json!({}), Ok(vec!["trader"])),
        (json!({"realm": {"roles": [1]}}), Err(shape)),
        (json!({"realm": {"roles": true}}), Err(shape)),
        (
            json!({"realm": {"roles": vec!["a"; 65]}}),
            Err("has more than 64 roles"),
        ),
        (
            json!({"realm": {"roles": "a".repeat(129)}}),
            Err("has a role of more than 128 bytes"),
        ),
    ] {
        let read = read(jwt.clone(), &token(claims.clone()));
        let roles = read.map(|identity| identity.roles.iter().map(ToString::to_string).collect::<Vec<_>>());
        let expected = expected.map(|roles| roles.iter().map(ToString::to_string).collect());
        assert_eq!(
            roles,
            expected.map_err(|problem| claim("realm.roles", problem)),
            "{claims}"
        );
    }
}

#[test]
fn a_configured_tenant_is_required() {
    let mut jwt = hs256();
    jwt.tenant_claim = Some("org".into());
    let acme = read(jwt.clone(), &token(json!({"org": "acme"}))).unwrap();
    assert_eq!(acme.tenant.as_deref(), Some("acme"));
    check_error(jwt, &token(json!({})), claim("org", "is missing"));
}

#[test]
fn the_kid_chooses_the_key_of_a_set() {
    let oct = |kid: &str, k: &str| json!({"kty": "oct", "kid": kid, "k": k});
    // The first is the shared secret of the fixtures in base64url, the second another one.
    let ours = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
    let other = "b3RoZXIgc2VjcmV0IG9mIHRoZSBzYW1lIGxlbmd0aCE";
    let set = json!({"keys": [oct("old", other), oct("new", ours)]});
    let claims = json!({"sub": "ada", "exp": NOW_S + 60});
    let signed = |kid| sign(Algorithm::Hs256, kid, &claims);
    assert!(read(jwks(Algorithm::Hs256, &set), &signed(Some("new"))).is_ok());
    check_error(
        jwks(Algorithm::Hs256, &set),
        &signed(Some("old")),
        AuthError::Signature,
    );
    check_error(
        jwks(Algorithm::Hs256, &set),
        &signed(Some("ghost")),
        AuthError::UnknownKey { n_keys: 2 },
    );
    check_error(
        jwks(Algorithm::Hs256, &set),
        &signed(None),
        AuthError::UnknownKey { n_keys: 2 },
    );

    let single = json!({"keys": [{"kty": "oct", "k": ours}]});
    assert!(read(jwks(Algorithm::Hs256, &single), &signed(None)).is_ok());
    check_error(
        jwks(Algorithm::Hs256, &single),
        &signed(Some("new")),
        AuthError::UnknownKey { n_keys: 1 },
    );
}

#[test]
fn clients_see_three_codes() {
    for (error, code, retryable) in [
        (AuthError::Missing, "unauthenticated", false),
        (AuthError::Signature, "unauthenticated", false),
        (AuthError::NotYetValid { in_s: 1 }, "unauthenticated", true),
        (AuthError::Expired { ago_s: 1 }, "token_expired", false),
    ] {
        assert_eq!((error.code(), error.is_retryable()), (code, retryable), "{error}");
    }
}

proptest! {
    /// Whatever arrives is answered, not crashed on, and never let in.
    #[test]
    fn hostile_text_is_refused(text in "[A-Za-z0-9_.{}\"-]{0,120}") {
        let authenticator = build(pem(Algorithm::EdDsa, ED_PUBLIC)).unwrap();
        prop_assert!(authenticator.token(&text, NOW_MS).is_err());
    }

    /// Every change of one character of a signed token ends it.
    #[test]
    fn a_changed_token_is_refused(at in 0usize..1000, to in proptest::char::range('A', 'z')) {
        let valid = token(json!({"desk": "fx"}));
        let mut changed: Vec<char> = valid.chars().collect();
        let at = at % changed.len();
        // The last character of a part may carry bits that say nothing.
        prop_assume!(changed[at] != to && changed[at] != '.' && changed.get(at + 1).is_some_and(|next| *next != '.'));
        changed[at] = to;
        let changed: String = changed.into_iter().collect();
        prop_assert!(build(hs256()).unwrap().token(&changed, NOW_MS).is_err());
    }
}
