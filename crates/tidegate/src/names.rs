//! Names in JSON: strings, or numbers as JavaScript and Python let them be.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use tidegate_gateway::Target;

/// Names in one list: more than the gateway takes is not gathered for it.
pub(crate) const NAMES_MAX: usize = 10_000;

/// How an error about a longer one begins.
pub(crate) const TOO_MANY: &str = "more than";

/// Names of rooms or of whatever else has one; alone or in a list; null is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(pub(crate) Vec<String>);

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) String);

/// Whom a message or an exception is about.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Targets {
    #[serde(deserialize_with = "Names::given")]
    rooms: Option<Names>,
    #[serde(deserialize_with = "Names::given")]
    users: Option<Names>,
    #[serde(deserialize_with = "Names::given")]
    sessions: Option<Names>,
}

// === impl Targets ===

impl Targets {
    /// Whether lists are given and no name is in them: that is nobody, where no list at all is everybody.
    pub(crate) fn is_nobody(&self) -> bool {
        let mut given = [&self.rooms, &self.users, &self.sessions]
            .into_iter()
            .flatten()
            .peekable();
        given.peek().is_some() && given.all(|names| names.0.is_empty())
    }

    pub(crate) fn into_vec(self) -> Vec<Target> {
        let list = |names: Option<Names>| names.unwrap_or_default().0.into_iter();
        let rooms = list(self.rooms).map(Target::Room);
        let users = list(self.users).map(Target::User);
        let sessions = list(self.sessions).map(Target::Session);
        rooms.chain(users).chain(sessions).collect()
    }
}

// === impl Names ===

impl Names {
    /// Of a member that is there, whatever it holds.
    fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        Self::deserialize(deserializer).map(Some)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Names;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name or a list of names")
            }

            fn visit_unit<E>(self) -> Result<Names, E> {
                Ok(Names::default())
            }

            fn visit_str<E>(self, name: &str) -> Result<Names, E> {
                Ok(Names(vec![name.to_owned()]))
            }

            fn visit_u64<E>(self, name: u64) -> Result<Names, E> {
                Ok(Names(vec![name.to_string()]))
            }

            fn visit_i64<E>(self, name: i64) -> Result<Names, E> {
                Ok(Names(vec![name.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
                let mut names = Names::default();
                while let Some(Name(name)) = list.next_element()? {
                    if names.0.len() == NAMES_MAX {
                        return Err(A::Error::custom(format_args!("{TOO_MANY} {NAMES_MAX} names")));
                    }
                    names.0.push(name);
                }
                Ok(names)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl Visitor<'_> for One {
            type Value = Name;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }

            fn visit_string<E>(self, name: String) -> Result<Name, E> {
                Ok(Name(name))
            }

            fn visit_u64<E>(self, name: u64) -> Result<Name, E> {
                Ok(Name(name.to_string()))
            }

            fn visit_i64<E>(self, name: i64) -> Result<Name, E> {
                Ok(Name(name.to_string()))
            }
        }
        deserializer.deserialize_any(One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_names_and_one_is_a_list() {
        let check = |json: &str, expected: &[&str]| {
            let Names(names) = serde_json::from_str(json).unwrap();
            assert_eq!(names, expected, "{json}");
        };
        check("null", &[]);
        check("[]", &[]);
        check("\"a\"", &["a"]);
        check("5", &["5"]);
        check("-5", &["-5"]);
        check(
            r#"["a",5,-5,18446744073709551615]"#,
            &["a", "5", "-5", "18446744073709551615"],
        );
        for wrong in ["true", "1.5", "{}", "[null]", "[true]", "[[1]]", "[1.5]"] {
            assert!(serde_json::from_str::<Names>(wrong).is_err(), "{wrong}");
        }
        let many = |n: usize| format!("[{}]", vec!["1"; n].join(","));
        assert!(serde_json::from_str::<Names>(&many(NAMES_MAX)).is_ok());
        let error = serde_json::from_str::<Names>(&many(NAMES_MAX + 1)).unwrap_err();
        assert!(error.to_string().starts_with(TOO_MANY), "{error}");
    }
}
