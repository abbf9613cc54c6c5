//! Patterns over names of rooms, events, queries and feeds, with places that the identity fills.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use serde_json::Value;

use crate::error::PatternError;
use crate::identity::Identity;

/// Longest pattern in bytes.
const PATTERN_BYTES_MAX: usize = 255;

/// Most `*` and placeholders of one pattern, so that a match stays a short walk.
const PARTS_MAX: usize = 8;

/// A compiled pattern.
///
/// - `*` stands for one or more characters of any kind, `:` included: `ticks:*` matches `ticks:a:b`, not `ticks:`.
/// - `{user}`, `{tenant}` and `{claim:name}` stand for what the [`Identity`] says, taken literally: a user named `*`
///   is a star and nothing more. A missing or empty value never matches; a claim must be a string or an integer.
/// - Everything else stands for itself, byte by byte; there is no escape, so names with `*`, `{` or `}` are only
///   reached through a `*`.
///
/// **No crossing.** Whoever matches a name must have exactly the values that the name was made from. Two variable
/// parts must therefore have text between them, a placeholder may not stand between two `*`, and where a pattern
/// has another variable part on some side of a placeholder, a value that contains the character next to the
/// placeholder on that side never matches. So with `t:{tenant}:*` tenant `a` cannot reach the rooms of a tenant
/// `a:b`, which has none under this pattern; alone, as in `user:{user}`, a value may contain anything.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    /// What the name must start with; the whole name if there is no `*`.
    head: Box<[Piece]>,
    /// The texts between one `*` and the next; placeholders cannot stand there.
    middle: Box<[Box<str>]>,
    /// What the name must end with after the last `*`; `None` if there is no `*`.
    tail: Option<Box<[Piece]>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Piece {
    Literal(Box<str>),
    Place(Place),
}

/// A placeholder with the characters its value may not contain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    source: Source,
    fence_before: Option<char>,
    fence_after: Option<char>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    User,
    Tenant,
    Claim(Box<str>),
}

/// One part of a pattern as written.
enum Part<'a> {
    Literal(&'a str),
    Star,
    Place(Source),
}

/// The text of a value without an allocation.
enum ValueText<'a> {
    Text(&'a str),
    Digits { buffer: [u8; 20], len: usize },
}

// === impl Pattern ===

impl Pattern {
    /// Compiles `text`, 1 to 255 bytes with at most 8 variable parts.
    ///
    /// # Errors
    /// The rule of the type's documentation that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong {
                bytes: text.len(),
                max: PATTERN_BYTES_MAX,
            });
        }
        let parts = split(text)?;
        check_anchors(&parts)?;
        Ok(compile(text, parts))
    }

    /// Whether `identity` may use `name` by this pattern. Allocates nothing.
    pub fn matches(&self, name: &str, identity: &Identity) -> bool {
        self.matches_for(name, Some(identity))
    }

    /// Whether `name` fits whoever asks: placeholders never match. For options by pattern, which have no caller.
    pub fn matches_name(&self, name: &str) -> bool {
        self.matches_for(name, None)
    }

    /// Whether the pattern has placeholders.
    pub fn has_placeholders(&self) -> bool {
        let pieces = self.head.iter().chain(self.tail.iter().flatten());
        pieces.into_iter().any(|piece| matches!(piece, Piece::Place(_)))
    }

    /// The only name that can match, if the pattern is plain text.
    pub fn as_literal(&self) -> Option<&str> {
        (self.tail.is_none() && !self.has_placeholders()).then_some(&*self.text)
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn matches_for(&self, name: &str, identity: Option<&Identity>) -> bool {
        let Some(rest) = strip_head(&self.head, name, identity) else {
            return false;
        };
        let Some(tail) = &self.tail else {
            return rest.is_empty();
        };
        strip_tail(tail, rest, identity).is_some_and(|rest| self.middle_matches(rest))
    }

    /// Whether `rest` is one or more characters, then each text of the middle followed by one or more characters.
    /// Taking the first place where a text occurs is enough: it leaves the most for what follows.
    fn middle_matches(&self, mut rest: &str) -> bool {
        for literal in &self.middle {
            let Some(after_one) = skip_char(rest) else {
                return false;
            };
            let Some((_, after)) = after_one.split_once(&**literal) else {
                return false;
            };
            rest = after;
        }
        !rest.is_empty()
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

// === matching ===

fn strip_head<'n>(pieces: &[Piece], name: &'n str, identity: Option<&Identity>) -> Option<&'n str> {
    pieces.iter().try_fold(name, |rest, piece| match piece {
        Piece::Literal(literal) => rest.strip_prefix(&**literal),
        Piece::Place(place) => rest.strip_prefix(place.value(identity?)?.as_str()),
    })
}

fn strip_tail<'n>(pieces: &[Piece], name: &'n str, identity: Option<&Identity>) -> Option<&'n str> {
    pieces.iter().rev().try_fold(name, |rest, piece| match piece {
        Piece::Literal(literal) => rest.strip_suffix(&**literal),
        Piece::Place(place) => rest.strip_suffix(place.value(identity?)?.as_str()),
    })
}

fn skip_char(text: &str) -> Option<&str> {
    let mut chars = text.chars();
    chars.next()?;
    Some(chars.as_str())
}

impl Place {
    /// What the identity puts here; `None` if that is missing, empty or contains a fence.
    fn value<'i>(&self, identity: &'i Identity) -> Option<ValueText<'i>> {
        let value = match &self.source {
            Source::User => ValueText::Text(&identity.user),
            Source::Tenant => ValueText::Text(identity.tenant.as_deref()?),
            Source::Claim(name) => ValueText::of(identity.claim(name)?)?,
        };
        let text = value.as_str();
        let fenced = [self.fence_before, self.fence_after]
            .into_iter()
            .flatten()
            .any(|c| text.contains(c));
        (!text.is_empty() && !fenced).then_some(value)
    }
}

impl<'a> ValueText<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text)),
            Value::Number(number) if number.is_u64() || number.is_i64() => {
                let mut buffer = [0; 20];
                let mut free = &mut buffer[..];
                write!(free, "{number}").expect("a 64-bit integer has at most 20 characters");
                let len = 20 - free.len();
                Some(Self::Digits { buffer, len })
            }
            _ => None,
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Digits { buffer, len } => {
                str::from_utf8(&buffer[..*len]).expect("digits and a sign are ASCII")
            }
        }
    }
}

// === parsing ===

/// Cuts `text` into parts and refuses neighbours without text between them.
fn split(text: &str) -> Result<Vec<Part<'_>>, PatternError> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let (part, len) = next_part(text, at)?;
        let touches = !matches!(part, Part::Literal(_))
            && parts.last().is_some_and(|last| !matches!(last, Part::Literal(_)));
        if touches {
            return Err(PatternError::Touching { at });
        }
        parts.push(part);
        at += len;
    }
    let count = parts
        .iter()
        .filter(|part| !matches!(part, Part::Literal(_)))
        .count();
    if count > PARTS_MAX {
        return Err(PatternError::TooManyParts {
            count,
            max: PARTS_MAX,
        });
    }
    Ok(parts)
}

/// The part that starts at byte `at`, and its length in bytes.
fn next_part(text: &str, at: usize) -> Result<(Part<'_>, usize), PatternError> {
    let rest = &text[at..];
    if rest.starts_with('*') {
        return Ok((Part::Star, 1));
    }
    if let Some(inner) = rest.strip_prefix('{') {
        let end = inner
            .find(['{', '}'])
            .filter(|&end| inner[end..].starts_with('}'));
        let name = &inner[..end.ok_or(PatternError::Brace { at })?];
        return Ok((Part::Place(source(name)?), name.len() + 2));
    }
    let len = rest.find(['*', '{', '}']).unwrap_or(rest.len());
    if len == 0 {
        return Err(PatternError::Brace { at });
    }
    Ok((Part::Literal(&rest[..len]), len))
}

fn source(name: &str) -> Result<Source, PatternError> {
    match name {
        "user" => Ok(Source::User),
        "tenant" => Ok(Source::Tenant),
        _ => match name.strip_prefix("claim:") {
            Some(claim) if !claim.is_empty() => Ok(Source::Claim(claim.into())),
            _ => Err(PatternError::UnknownPlaceholder {
                name: name.to_owned(),
            }),
        },
    }
}

/// Refuses placeholders with a `*` on both sides: nothing would fix where their value stands in a name.
fn check_anchors(parts: &[Part<'_>]) -> Result<(), PatternError> {
    let stars = || {
        parts
            .iter()
            .enumerate()
            .filter(|(_, part)| matches!(part, Part::Star))
            .map(|(at, _)| at)
    };
    let (Some(first), Some(last)) = (stars().next(), stars().next_back()) else {
        return Ok(());
    };
    let floating = parts[first..last]
        .iter()
        .any(|part| matches!(part, Part::Place(_)));
    if floating {
        Err(PatternError::Floating)
    } else {
        Ok(())
    }
}

fn compile(text: &str, parts: Vec<Part<'_>>) -> Pattern {
    let fences: Vec<_> = (0..parts.len())
        .map(|at| (fence_before(&parts, at), fence_after(&parts, at)))
        .collect();
    // The groups between stars; splitting always yields at least one.
    let mut groups = vec![Vec::new()];
    for (part, (fence_before, fence_after)) in parts.into_iter().zip(fences) {
        let group = groups.last_mut().expect("there is always a group");
        match part {
            Part::Star => groups.push(Vec::new()),
            Part::Literal(literal) => group.push(Piece::Literal(literal.into())),
            Part::Place(source) => group.push(Piece::Place(Place {
                source,
                fence_before,
                fence_after,
            })),
        }
    }
    let tail = (groups.len() > 1).then(|| groups.pop().expect("counted above").into_boxed_slice());
    let mut groups = groups.into_iter();
    let head = groups.next().expect("there is always a group").into_boxed_slice();
    let middle = groups.flatten().filter_map(|piece| match piece {
        Piece::Literal(literal) => Some(literal),
        Piece::Place(_) => None, // refused by `check_anchors`
    });
    Pattern {
        text: text.into(),
        head,
        middle: middle.collect(),
        tail,
    }
}

/// The last character before part `at`, if a variable part stands anywhere before it.
fn fence_before(parts: &[Part<'_>], at: usize) -> Option<char> {
    let before = &parts[..at];
    let varies = before.iter().any(|part| !matches!(part, Part::Literal(_)));
    match before.last() {
        Some(Part::Literal(literal)) if varies => literal.chars().next_back(),
        _ => None,
    }
}

/// The first character after part `at`, if a variable part stands anywhere after it.
fn fence_after(parts: &[Part<'_>], at: usize) -> Option<char> {
    let after = &parts[at + 1..];
    let varies = after.iter().any(|part| !matches!(part, Part::Literal(_)));
    match after.first() {
        Some(Part::Literal(literal)) if varies => literal.chars().next(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Claims, Method};

    fn ada() -> Identity {
        let claims = serde_json::json!({
            "desk": "fx", "id": 42, "low": i64::MIN, "high": u64::MAX, "ratio": 0.5, "on": true, "none": "", "list": ["fx"],
        });
        let mut ada = Identity::new("ada", Method::Token);
        ada.tenant = Some("acme".into());
        ada.claims = Claims::new(claims.as_object().unwrap().clone());
        ada
    }

    fn check(pattern: &str, name: &str, expected: bool) {
        let compiled = Pattern::parse(pattern).unwrap();
        assert_eq!(compiled.matches(name, &ada()), expected, "{pattern} on {name:?}");
    }

    #[test]
    fn literals_match_themselves() {
        check("ticks", "ticks", true);
        check("ticks", "tick", false);
        check("ticks", "tickss", false);
        check("ticks", "Ticks", false);
        check("房间", "房间", true);
    }

    #[test]
    fn a_star_is_one_or_more_characters() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("*", "", false),
            ("ticks:*", "ticks:600519", true),
            ("ticks:*", "ticks:a:b", true),
            ("ticks:*", "ticks:", false),
            ("ticks:*", "tick:a", false),
            ("*:out", "a:out", true),
            ("*:out", ":out", false),
            ("a*a", "aa", false),
            ("a*a", "aaa", true),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "abbbc", true),
            ("a*b*c", "abbc", false),
            ("a*b*c", "abc", false),
            ("*-*", "--", false),
            ("*-*", "---", true),
            ("*价*", "股价格", true),
            ("*价*", "价格", false),
        ] {
            check(pattern, name, expected);
        }
    }

    #[test]
    fn placeholders_take_what_the_identity_says() {
        for (pattern, name, expected) in [
            ("user:{user}", "user:ada", true),
            ("user:{user}", "user:eve", false),
            ("user:{user}", "user:", false),
            ("t:{tenant}:*", "t:acme:x", true),
            ("t:{tenant}:*", "t:other:x", false),
            ("*@{tenant}", "x@acme", true),
            ("d:{claim:desk}", "d:fx", true),
            ("d:{claim:id}", "d:42", true),
            ("d:{claim:low}", "d:-9223372036854775808", true),
            ("d:{claim:high}", "d:18446744073709551615", true),
            ("{user}:{claim:desk}:*", "ada:fx:1", true),
        ] {
            check(pattern, name, expected);
        }
    }

    #[test]
    fn missing_and_unfit_values_never_match() {
        for claim in ["ratio", "on", "none", "list", "absent"] {
            let pattern = Pattern::parse(&format!("d:{{claim:{claim}}}")).unwrap();
            for name in [
                "d:",
                "d:0.5",
                "d:true",
                "d:fx",
                "d:null",
                &format!("d:{{claim:{claim}}}"),
            ] {
                assert!(!pattern.matches(name, &ada()), "{pattern} on {name}");
            }
        }
        let anonymous = Identity::new("", Method::Anonymous);
        assert!(
            !Pattern::parse("user:{user}")
                .unwrap()
                .matches("user:", &anonymous)
        );
        assert!(
            !Pattern::parse("t:{tenant}:*")
                .unwrap()
                .matches("t::x", &anonymous)
        );
    }

    #[test]
    fn values_are_taken_literally_and_do_not_leave_their_place() {
        let fits = |pattern: &str, user: &str, name: &str| {
            Pattern::parse(pattern)
                .unwrap()
                .matches(name, &Identity::new(user, Method::Token))
        };
        assert!(!fits("user:{user}", "*", "user:eve"));
        assert!(fits("user:{user}", "*", "user:*"));
        assert!(!fits("user:{user}", "{user}", "user:eve"));
        assert!(fits("user:{user}", "urn:a:b", "user:urn:a:b"));
        assert!(fits("user:{user}:in", "a:in", "user:a:in:in"));
        assert!(!fits("user:{user}:*", "a:b", "user:a:b:c"));
        assert!(fits("user:{user}-*", "a:b", "user:a:b-c"));
        assert!(!fits("*.{user}", "a.b", "x.a.b"));
    }

    #[test]
    fn patterns_that_could_cross_are_refused() {
        let unknown = |name: &str| PatternError::UnknownPlaceholder {
            name: name.to_owned(),
        };
        for (pattern, expected) in [
            ("", PatternError::Empty),
            ("**", PatternError::Touching { at: 1 }),
            ("t{tenant}*", PatternError::Touching { at: 9 }),
            ("*{user}", PatternError::Touching { at: 1 }),
            ("{user}{tenant}", PatternError::Touching { at: 6 }),
            ("*:{user}:*", PatternError::Floating),
            ("a{user", PatternError::Brace { at: 1 }),
            ("a}", PatternError::Brace { at: 1 }),
            ("{a{user}", PatternError::Brace { at: 0 }),
            ("{}", unknown("")),
            ("{name}", unknown("name")),
            ("{claim:}", unknown("claim:")),
            (
                "*a*a*a*a*a*a*a*a*",
                PatternError::TooManyParts { count: 9, max: 8 },
            ),
        ] {
            assert_eq!(Pattern::parse(pattern), Err(expected), "{pattern}");
        }
        let long = "a".repeat(256);
        assert_eq!(
            Pattern::parse(&long),
            Err(PatternError::TooLong { bytes: 256, max: 255 })
        );
        assert!(Pattern::parse(&long[1..]).is_ok());
    }

    #[test]
    fn what_a_pattern_is_can_be_asked() {
        let plain = Pattern::parse("lobby").unwrap();
        assert_eq!(
            (plain.as_literal(), plain.has_placeholders()),
            (Some("lobby"), false)
        );
        assert!(plain.matches_name("lobby"));
        let own = Pattern::parse("a:*:{user}").unwrap();
        assert_eq!(
            (own.as_literal(), own.has_placeholders(), own.as_str()),
            (None, true, "a:*:{user}")
        );
        assert!(!own.matches_name("a:b:c"));
    }
}
