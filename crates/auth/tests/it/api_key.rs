//! API keys: digests, identities, refusals.

use serde_json::json;
use tidegate_auth::{
    ApiKey, ApiKeyValue, AuthError, Authenticator, Config, ConfigError, Method, Role, Secret,
};

const KEY: &str = "feeder-key-0123456789";
/// SHA-256 of "abc", the example of FIPS 180-2.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn api_key(name: &str, key: ApiKeyValue) -> ApiKey {
    ApiKey {
        name: name.into(),
        key,
        user: None,
        tenant: None,
        roles: vec![],
        claims: serde_json::Map::new(),
    }
}

fn plain(key: &str) -> ApiKeyValue {
    ApiKeyValue::Plain(Secret::new(key))
}

fn build(api_keys: Vec<ApiKey>) -> Result<Authenticator, ConfigError> {
    let mut config = Config {
        api_keys,
        ..Config::default()
    };
    config.roles.insert("feeder".into(), Role::default());
    Authenticator::new(config)
}

#[test]
fn a_key_is_who_its_settings_say() {
    let mut feeder = api_key("feeder", plain(KEY));
    feeder.user = Some("robot".into());
    feeder.tenant = Some("acme".into());
    feeder.roles = vec!["feeder".into()];
    feeder.claims = json!({"desk": "fx"}).as_object().unwrap().clone();
    let keys = vec![api_key("first", plain("another-key-0123456789")), feeder];
    let robot = build(keys).unwrap().api_key(KEY).unwrap();
    assert_eq!(
        (&*robot.user, robot.tenant.as_deref(), robot.method),
        ("robot", Some("acme"), Method::ApiKey)
    );
    assert!(robot.has_role("feeder"));
    assert_eq!(robot.claim("desk"), Some(&json!("fx")));
    assert_eq!(robot.expires_at_ms, None);
}

#[test]
fn a_digest_serves_as_well_as_the_key() {
    let authenticator = build(vec![api_key("abc", ApiKeyValue::Sha256(ABC.to_uppercase()))]).unwrap();
    assert_eq!(&*authenticator.api_key("abc").unwrap().user, "abc");
    for wrong in ["", "ab", "abcd", ABC] {
        assert_eq!(
            authenticator.api_key(wrong),
            Err(AuthError::UnknownApiKey),
            "{wrong}"
        );
    }
    let long = AuthError::TooLong {
        what: "API key",
        bytes: 513,
        max: 512,
    };
    assert_eq!(authenticator.api_key(&"a".repeat(513)), Err(long));
    let none = AuthError::NotConfigured { what: "API keys" };
    assert_eq!(build(vec![]).unwrap().api_key(KEY), Err(none));
}

#[test]
fn unusable_keys_stop_the_start() {
    let check = |keys: Vec<ApiKey>, expected: &str| {
        assert_eq!(build(keys).unwrap_err().to_string(), expected);
    };
    check(
        vec![api_key("a", plain("short"))],
        "auth.api_keys.a.key: 5 bytes, allowed 20 to 512",
    );
    check(
        vec![api_key("a", ApiKeyValue::Sha256("abc".into()))],
        "auth.api_keys.a.sha256: 3 characters, allowed exactly 64 hexadecimal digits",
    );
    check(
        vec![api_key("a", ApiKeyValue::Sha256(ABC.replace('b', "g")))],
        "auth.api_keys.a.sha256: 64 characters, allowed exactly 64 hexadecimal digits",
    );
    check(
        vec![api_key("a", plain(KEY)), api_key("b", plain(KEY))],
        "auth.api_keys.b: another key has the same value",
    );
    check(
        vec![
            api_key("a", plain(KEY)),
            api_key("a", ApiKeyValue::Sha256(ABC.into())),
        ],
        "auth.api_keys.a: two keys have this name",
    );
    let mut ghost = api_key("a", plain(KEY));
    ghost.roles = vec!["ghost".into()];
    check(
        vec![ghost],
        "auth.api_keys.a.roles: role \"ghost\" is not defined, allowed: the names under [roles]",
    );
}

#[test]
fn keys_do_not_show_in_debug_output() {
    let key = api_key("feeder", plain(KEY));
    assert!(!format!("{key:?}").contains(KEY));
    let authenticator = build(vec![key]).unwrap();
    let shown = format!("{authenticator:?}");
    assert!(shown.contains("feeder") && !shown.contains(KEY), "{shown}");
}
