//! Which credential decides, and that a wrong one is never passed over.

use serde_json::json;
use tidegate_auth::{
    ApiKey, ApiKeyValue, AuthError, Authenticator, Config, Credentials, Method, Role, Secret, TrustedUser,
};

use crate::support::{NOW_MS, hs256, token};

const KEY: &str = "feeder-key-0123456789";

/// Everything configured at once.
fn full() -> Authenticator {
    let mut jwt = hs256();
    jwt.cookie = Some("session".into());
    let api_key = ApiKey {
        name: "feeder".into(),
        key: ApiKeyValue::Plain(Secret::new(KEY)),
        user: None,
        tenant: None,
        roles: vec![],
        claims: serde_json::Map::new(),
    };
    let mut config = Config {
        anonymous: true,
        anonymous_roles: vec!["guest".into()],
        jwt: Some(jwt),
        api_keys: vec![api_key],
        trusted_user: Some(TrustedUser {
            roles: vec!["staff".into()],
        }),
        ..Config::default()
    };
    for role in ["guest", "staff"] {
        config.roles.insert(role.into(), Role::default());
    }
    Authenticator::new(config).unwrap()
}

fn check(credentials: Credentials<'_>, user: &str, method: Method) {
    let identity = full().authenticate(&credentials, NOW_MS).unwrap();
    assert_eq!(
        (&*identity.user, identity.method),
        (user, method),
        "{credentials:?}"
    );
}

#[test]
fn the_first_credential_present_decides() {
    let [payload, header, cookie] = ["payload", "header", "cookie"].map(|user| token(json!({"sub": user})));
    let (header, cookie) = (format!("Bearer {header}"), format!("lang=zh; session={cookie}"));
    let mut credentials = Credentials {
        auth_token: Some(&payload),
        authorization: Some(&header),
        api_key: Some(KEY),
        cookie: Some(&cookie),
        trusted_user: Some("proxied"),
    };
    check(credentials, "payload", Method::Token);
    credentials.auth_token = Some(" ");
    check(credentials, "header", Method::Token);
    credentials.authorization = Some("Basic dTpw");
    check(credentials, "feeder", Method::ApiKey);
    credentials.api_key = None;
    check(credentials, "cookie", Method::Token);
    credentials.cookie = Some("lang=zh");
    check(credentials, "proxied", Method::TrustedHeader);
    credentials.trusted_user = None;
    check(credentials, "", Method::Anonymous);
}

#[test]
fn a_wrong_credential_is_refused_even_where_anonymous_would_pass() {
    let expired = token(json!({"exp": 1}));
    let cookie = format!("session={expired}");
    for (credentials, code) in [
        (
            Credentials {
                auth_token: Some("x"),
                ..Default::default()
            },
            "unauthenticated",
        ),
        (
            Credentials {
                auth_token: Some(&expired),
                ..Default::default()
            },
            "token_expired",
        ),
        (
            Credentials {
                authorization: Some("Bearer x"),
                api_key: Some(KEY),
                ..Default::default()
            },
            "unauthenticated",
        ),
        (
            Credentials {
                api_key: Some("x"),
                ..Default::default()
            },
            "unauthenticated",
        ),
        (
            Credentials {
                cookie: Some(&cookie),
                ..Default::default()
            },
            "token_expired",
        ),
        (
            Credentials {
                cookie: Some("session=a; session=b"),
                ..Default::default()
            },
            "unauthenticated",
        ),
        (
            Credentials {
                trusted_user: Some("a\u{7}"),
                ..Default::default()
            },
            "unauthenticated",
        ),
    ] {
        let error = full().authenticate(&credentials, NOW_MS).unwrap_err();
        assert_eq!(error.code(), code, "{credentials:?}");
    }
}

#[test]
fn what_is_not_configured_is_not_read() {
    let credentials = Credentials {
        auth_token: Some("x"),
        authorization: Some("Bearer x"),
        api_key: Some("x"),
        cookie: Some("session=x"),
        trusted_user: Some("root"),
    };
    let nothing = Authenticator::new(Config::default()).unwrap();
    assert_eq!(
        nothing.authenticate(&credentials, NOW_MS),
        Err(AuthError::Missing)
    );
    assert!(!nothing.has_anonymous() && nothing.anonymous().is_none());
    let open = Authenticator::new(Config {
        anonymous: true,
        ..Config::default()
    })
    .unwrap();
    assert_eq!(
        open.authenticate(&credentials, NOW_MS).unwrap().method,
        Method::Anonymous
    );
    assert_eq!(
        open.token("x", NOW_MS),
        Err(AuthError::NotConfigured { what: "tokens" })
    );
}

#[test]
fn roles_follow_the_way_in() {
    let full = full();
    assert!(full.anonymous().unwrap().has_role("guest"));
    let proxied = Credentials {
        trusted_user: Some("ada"),
        ..Default::default()
    };
    let proxied = full.authenticate(&proxied, NOW_MS).unwrap();
    assert!(proxied.has_role("staff") && !proxied.has_role("guest"));
}
