//! Cursors: where a page ended, signed, so that nobody but us can say where the next one begins.
//!
//! `1 | query version, 8 bytes | parameter digest, 16 bytes | keys | HMAC-SHA256, first 16 bytes`, as base64url. The
//! parameters of claims are in the digest: a cursor of one tenant is worth nothing to another.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::{
    error::{Error, Result},
    value::Value,
};

/// What a cursor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) version: u64,
    pub(super) params: [u8; 16],
}

/// Signs and opens cursors.
#[derive(Clone)]
pub(super) struct Signer(Hmac<Sha256>);

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 1 + 8 + 16;
const TAG_BYTES: usize = 16;
/// Keys are columns of an index: whoever pages by long texts is told, instead of carrying them to and fro.
const CURSOR_BYTES_MAX: usize = 8 << 10;
/// Keeps tags of cursors apart from all else that might be signed with the same secret.
const PURPOSE: &[u8] = b"tidegate cursor\0";

impl Signer {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        let mut mac = Hmac::new_from_slice(secret).expect("any length is a key");
        mac.update(PURPOSE);
        Self(mac)
    }

    /// A cursor for a page that ended at these keys.
    pub(super) fn seal(&self, scope: &Scope, keys: &[&Value]) -> Result<String> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + keys.len() * 16 + TAG_BYTES);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&scope.version.to_le_bytes());
        bytes.extend_from_slice(&scope.params);
        keys.iter().for_each(|key| encode(key, &mut bytes));
        if bytes.len() + TAG_BYTES > CURSOR_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "cursor".to_owned(),
                size: (bytes.len() + TAG_BYTES) as u64,
                limit: CURSOR_BYTES_MAX as u64,
            });
        }
        let tag = self.0.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&tag[..TAG_BYTES]);
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The keys of a cursor, if it is ours and belongs here. The tag is compared in constant time, and first.
    pub(super) fn open(&self, cursor: &str, scope: &Scope, n_keys: usize) -> Result<Vec<Value>> {
        let not_ours = Error::CursorInvalid("not made by this server");
        if cursor.len() > CURSOR_BYTES_MAX * 4 / 3 + 4 {
            return Err(not_ours);
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| not_ours.clone())?;
        let n_signed = bytes.len().checked_sub(TAG_BYTES).filter(|n| *n >= HEAD_BYTES);
        let (signed, tag) = bytes.split_at(n_signed.ok_or_else(|| not_ours.clone())?);
        self.0
            .clone()
            .chain_update(signed)
            .verify_truncated_left(tag)
            .map_err(|_| not_ours)?;
        let (head, mut rest) = signed.split_at(HEAD_BYTES);
        if head[0] != FORMAT {
            return Err(Error::CursorInvalid("made by another version of this server"));
        }
        if head[1..9] != scope.version.to_le_bytes() {
            return Err(Error::CursorInvalid(
                "made for another query, or the query has changed",
            ));
        }
        if head[9..] != scope.params {
            return Err(Error::CursorInvalid(
                "made for other parameters or another caller",
            ));
        }
        let keys: Option<Vec<_>> = (0..n_keys).map(|_| decode(&mut rest)).collect();
        keys.filter(|_| rest.is_empty())
            .ok_or(Error::CursorInvalid("its keys do not fit the query"))
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

/// Appends a value so that no two values, and no two lists of values, have the same bytes.
pub(super) fn encode(value: &Value, out: &mut Vec<u8>) {
    let bytes = |tag: u8, bytes: &[u8], out: &mut Vec<u8>| {
        out.push(tag);
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::Null => out.push(0),
        Value::Bool(value) => out.extend_from_slice(&[1, u8::from(*value)]),
        Value::Int(value) => fixed(2, &value.to_le_bytes(), out),
        Value::Float(value) => fixed(3, &value.to_le_bytes(), out),
        Value::Numeric(digits) => bytes(4, digits.as_bytes(), out),
        Value::Text(text) => bytes(5, text.as_bytes(), out),
        Value::Uuid(uuid) => fixed(6, uuid, out),
        Value::Date(days) => fixed(7, &days.to_le_bytes(), out),
        Value::Timestamptz(us) => fixed(8, &us.to_le_bytes(), out),
        Value::Jsonb(json) => bytes(9, json.as_bytes(), out),
        Value::Array(elements) => {
            fixed(10, &(elements.len() as u32).to_le_bytes(), out);
            elements.iter().for_each(|element| encode(element, out));
        }
        Value::Bytes(raw) => bytes(11, raw, out),
    }
}

fn fixed(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(bytes);
}

/// Takes one value off the front.
fn decode(rest: &mut &[u8]) -> Option<Value> {
    let [tag] = array(rest)?;
    Some(match tag {
        0 => Value::Null,
        1 => Value::Bool(array::<1>(rest)? == [1]),
        2 => Value::Int(i64::from_le_bytes(array(rest)?)),
        3 => Value::Float(f64::from_le_bytes(array(rest)?)),
        4 => Value::Numeric(text(rest)?),
        5 => Value::Text(text(rest)?),
        6 => Value::Uuid(array(rest)?),
        7 => Value::Date(i32::from_le_bytes(array(rest)?)),
        8 => Value::Timestamptz(i64::from_le_bytes(array(rest)?)),
        9 => Value::Jsonb(text(rest)?),
        10 => {
            let n = u32::from_le_bytes(array(rest)?) as usize;
            // Each element is at least a byte.
            if n > rest.len() {
                return None;
            }
            let elements: Option<Vec<_>> = (0..n).map(|_| decode(rest)).collect();
            Value::Array(elements?.into())
        }
        11 => Value::Bytes(slice(rest)?.into()),
        _ => return None,
    })
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn slice<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let n = u32::from_le_bytes(array(rest)?) as usize;
    let (head, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(head)
}

fn text(rest: &mut &[u8]) -> Option<Box<str>> {
    std::str::from_utf8(slice(rest)?).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCOPE: Scope = Scope {
        version: 7,
        params: [9; 16],
    };

    fn signer() -> Signer {
        Signer::new(&[1; 32])
    }

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (-1e300..1e300).prop_map(Value::Float),
            "-?[0-9]{1,20}\\.[0-9]{1,9}".prop_map(|digits| Value::Numeric(digits.into())),
            ".{0,40}".prop_map(|text| Value::Text(text.into())),
            any::<[u8; 16]>().prop_map(Value::Uuid),
            any::<i32>().prop_map(Value::Date),
            any::<i64>().prop_map(Value::Timestamptz),
            "[a-z]{0,9}".prop_map(|text| Value::Jsonb(format!("\"{text}\"").into())),
        ];
        scalar.prop_recursive(1, 8, 4, |element| {
            proptest::collection::vec(element, 0..4).prop_map(|elements| Value::Array(elements.into()))
        })
    }

    proptest! {
        #[test]
        fn keys_of_every_type_come_back(keys in proptest::collection::vec(value(), 1..5)) {
            let borrowed: Vec<_> = keys.iter().collect();
            let cursor = signer().seal(&SCOPE, &borrowed).unwrap();
            prop_assert_eq!(signer().open(&cursor, &SCOPE, keys.len()).unwrap(), keys);
        }

        #[test]
        fn no_two_lists_have_the_same_bytes(a in proptest::collection::vec(value(), 0..4), b in proptest::collection::vec(value(), 0..4)) {
            let bytes = |values: &[Value]| {
                let mut bytes = Vec::new();
                values.iter().for_each(|value| encode(value, &mut bytes));
                bytes
            };
            prop_assert_eq!(a == b, bytes(&a) == bytes(&b));
        }

        #[test]
        fn any_text_is_refused(text in ".{0,200}", base64 in "[A-Za-z0-9_-]{0,200}") {
            for cursor in [text, base64] {
                let refused = matches!(signer().open(&cursor, &SCOPE, 1), Err(Error::CursorInvalid(_)));
                prop_assert!(refused);
            }
        }
    }

    #[test]
    fn every_changed_byte_is_found() {
        let cursor = signer()
            .seal(&SCOPE, &[&Value::Timestamptz(5), &Value::Text("a".into())])
            .unwrap();
        for at in 0..cursor.len() {
            for other in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.+/ ".iter() {
                let mut tampered = cursor.clone().into_bytes();
                if tampered[at] == *other {
                    continue;
                }
                tampered[at] = *other;
                let tampered = String::from_utf8(tampered).unwrap();
                assert!(
                    matches!(signer().open(&tampered, &SCOPE, 2), Err(Error::CursorInvalid(_))),
                    "{at}"
                );
            }
        }
        for end in 0..cursor.len() {
            assert!(signer().open(&cursor[..end], &SCOPE, 2).is_err(), "cut at {end}");
        }
        assert!(signer().open(&format!("{cursor}A"), &SCOPE, 2).is_err());
    }

    #[test]
    fn a_cursor_belongs_to_its_query_its_parameters_and_its_secret() {
        let cursor = signer().seal(&SCOPE, &[&Value::Int(5)]).unwrap();
        let check = |signer: &Signer, scope: Scope, n_keys: usize, expected: &str| {
            let message = signer.open(&cursor, &scope, n_keys).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(
            &signer(),
            Scope { version: 8, ..SCOPE },
            1,
            "the query has changed",
        );
        check(
            &signer(),
            Scope {
                params: [8; 16],
                ..SCOPE
            },
            1,
            "another caller",
        );
        check(&signer(), SCOPE, 2, "its keys do not fit");
        check(&signer(), SCOPE, 0, "its keys do not fit");
        check(&Signer::new(&[2; 32]), SCOPE, 1, "not made by this server");
    }

    #[test]
    fn keys_too_long_to_carry_are_refused() {
        let long = Value::Text("x".repeat(CURSOR_BYTES_MAX).into());
        assert!(matches!(
            signer().seal(&SCOPE, &[&long]),
            Err(Error::TooLarge { .. })
        ));
    }
}
