//! No name belongs to two: the property that keeps tenants apart, over crafted patterns, values and names.

use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_auth::{Claims, Identity, Method, Pattern};

/// Two characters, so that a value often holds what surrounds its place; now and then what patterns are made of.
const VALUE: &str = "[a:]{1,3}|[a:*{}]{1,3}";

/// Patterns of literals, stars and placeholders in any order; most of those that touch do not parse.
fn pattern() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a:]{1,2}",
        2 => Just("*".to_owned()),
        1 => Just("{user}".to_owned()),
        2 => Just("{tenant}".to_owned()),
        1 => Just("{claim:desk}".to_owned()),
    ];
    prop::collection::vec(part, 1..7).prop_map(|parts| parts.concat())
}

fn identity() -> impl Strategy<Value = Identity> {
    (VALUE, VALUE, VALUE).prop_map(|(user, tenant, desk)| {
        let mut identity = Identity::new(&user, Method::Token);
        identity.tenant = Some(tenant.into());
        identity.claims = Claims::new(json!({"desk": desk}).as_object().unwrap().clone());
        identity
    })
}

/// What `pattern` says about `identity`, so that two who say the same may share names.
fn values<'i>(pattern: &str, identity: &'i Identity) -> Vec<Option<&'i str>> {
    let named = [
        ("{user}", Some(&*identity.user)),
        ("{tenant}", identity.tenant.as_deref()),
        ("{claim:desk}", identity.claim("desk").and_then(Value::as_str)),
    ];
    named
        .iter()
        .filter(|(place, _)| pattern.contains(place))
        .map(|(_, value)| *value)
        .collect()
}

/// A name that `identity` would get from `pattern` with each `*` as `star`.
fn fill(pattern: &str, identity: &Identity, star: &str) -> String {
    let desk = identity.claim("desk").and_then(Value::as_str).unwrap();
    let marked = pattern
        .replace("{user}", "\u{1}")
        .replace("{tenant}", "\u{2}")
        .replace("{claim:desk}", "\u{3}");
    let parts = marked.chars().map(|c| match c {
        '\u{1}' => identity.user.to_string(),
        '\u{2}' => identity.tenant.as_deref().unwrap().to_owned(),
        '\u{3}' => desk.to_owned(),
        '*' => star.to_owned(),
        other => other.to_string(),
    });
    parts.collect()
}

/// The plainest matcher there is: every way to cut the name.
fn matches_slowly(parts: &[Option<String>], name: &str) -> bool {
    match parts.split_first() {
        None => name.is_empty(),
        Some((Some(literal), rest)) => name
            .strip_prefix(literal.as_str())
            .is_some_and(|name| matches_slowly(rest, name)),
        Some((None, rest)) => {
            name.char_indices()
                .skip(1)
                .any(|(at, _)| matches_slowly(rest, &name[at..]))
                || (!name.is_empty() && matches_slowly(rest, ""))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_name_belongs_to_two(
        text in pattern(),
        one in identity(),
        other in identity(),
        star in VALUE,
        crafted in "[a:*]{1,10}",
    ) {
        let Ok(pattern) = Pattern::parse(&text) else { return Ok(()) };
        if values(&text, &one) == values(&text, &other) {
            return Ok(());
        }
        for name in [fill(&text, &one, &star), fill(&text, &other, &star), crafted] {
            let both = pattern.matches(&name, &one) && pattern.matches(&name, &other);
            prop_assert!(!both, "{name:?} by {text:?} belongs to {one:?} and {other:?}");
        }
    }

    #[test]
    fn stars_match_as_the_plainest_matcher_does(text in "[ab*]{1,8}", name in "[ab价]{0,10}") {
        let Ok(pattern) = Pattern::parse(&text) else { return Ok(()) };
        let parts: Vec<_> = text.chars().map(|c| (c != '*').then(|| c.to_string())).collect();
        prop_assert_eq!(pattern.matches_name(&name), matches_slowly(&parts, &name));
    }

    #[test]
    fn any_text_parses_or_is_refused(text in "\\PC{0,40}", name in "\\PC{0,40}", who in identity()) {
        if let Ok(pattern) = Pattern::parse(&text) {
            prop_assert_eq!(pattern.as_str(), &text);
            // Only the answer is of no interest; it must be one.
            let _ = pattern.matches(&name, &who);
            let _ = pattern.matches(&text, &who);
        }
    }
}

/// The property above is worth something only if many of its patterns and names do match.
#[test]
fn harmless_values_reach_their_own_names() {
    let mut who = Identity::new("u", Method::Token);
    who.tenant = Some("t".into());
    who.claims = Claims::new(json!({"desk": "d"}).as_object().unwrap().clone());
    for text in [
        "t:{tenant}:*",
        "*:{user}",
        "{tenant}:{user}:{claim:desk}",
        "{tenant}-*-x:{user}",
        "*.{claim:desk}",
    ] {
        let pattern = Pattern::parse(text).unwrap();
        assert!(pattern.matches(&fill(text, &who, "any:thing"), &who), "{text}");
    }
}
