//! What the roles of an identity allow, compiled once from the configuration.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::config::{Role, in_range};
use crate::error::{AuthError, ConfigError};
use crate::identity::Identity;
use crate::pattern::Pattern;
use crate::{IDENTITY_ROLES_MAX, ROLE_BYTES_MAX};

/// Most roles of one configuration.
const ROLES_MAX: usize = 1024;

/// Most patterns of one list of a role: a refusal walks them all.
const PATTERNS_MAX: usize = 256;

/// Longest part of a refused name that an error repeats, in bytes.
const NAME_SHOWN_BYTES: usize = 128;

/// Something a session may ask for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Join a room.
    Join,
    /// Publish to a room.
    Publish,
    /// List the members of a room.
    Presence,
    /// Send an event to an application handler.
    Event,
    /// Run a query.
    Query,
    /// Send rows to a feed.
    Ingest,
    /// List, move and disconnect the members of a room; of every room stands for users and sessions.
    Act,
}

/// All roles, compiled. An identity may do what any of its roles allows.
///
/// Sessions keep role names only and ask the table that is current, so that a reload reaches them at once.
#[derive(Debug, Default)]
pub struct Permissions {
    roles: HashMap<Box<str>, Compiled>,
}

#[derive(Debug)]
struct Compiled {
    /// One list for each `Action`, in the order of its variants.
    lists: [Box<[Pattern]>; 7],
    admin: bool,
}

// === impl Permissions ===

impl Permissions {
    /// Compiles `roles`.
    ///
    /// # Errors
    /// The first name or pattern that cannot be used, with its key as in `roles.trader.join`.
    pub fn new(roles: &BTreeMap<String, Role>) -> Result<Self, ConfigError> {
        in_range("roles", roles.len(), 0..=ROLES_MAX, "roles")?;
        let compiled = roles.iter().map(|(name, role)| {
            in_range(
                format!("roles.{name}"),
                name.len(),
                1..=ROLE_BYTES_MAX,
                "bytes of name",
            )?;
            Ok((name.as_str().into(), Compiled::new(name, role)?))
        });
        Ok(Self {
            roles: compiled.collect::<Result<_, ConfigError>>()?,
        })
    }

    /// Whether some role of `identity` allows `action` on `name`. Allocates nothing; costs one table look-up for
    /// each role and one pass over `name` for each pattern.
    pub fn allows(&self, action: Action, name: &str, identity: &Identity) -> bool {
        self.of(identity).any(|role| {
            role.list(action)
                .iter()
                .any(|pattern| pattern.matches(name, identity))
        })
    }

    /// Whether `identity` may send `event` to the application behind. The application decides about its events, so roles
    /// without a list of them leave it alone; as soon as one of the roles has a list, one of them must match.
    pub fn allows_event(&self, event: &str, identity: &Identity) -> bool {
        let mut lists = self.of(identity).map(|role| role.list(Action::Event));
        !lists.any(|list| !list.is_empty()) || self.allows(Action::Event, event, identity)
    }

    /// As [`allows`](Self::allows), with the refusal as an error.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`] with the action and the name.
    pub fn check(&self, action: Action, name: &str, identity: &Identity) -> Result<(), AuthError> {
        if self.allows(action, name, identity) {
            return Ok(());
        }
        let name = name[..name.floor_char_boundary(NAME_SHOWN_BYTES)].to_owned();
        Err(AuthError::Forbidden { action, name })
    }

    /// Whether some role of `identity` opens the administrators' API.
    pub fn is_admin(&self, identity: &Identity) -> bool {
        self.of(identity).any(|role| role.admin)
    }

    fn of<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = &'a Compiled> {
        identity
            .roles
            .iter()
            .take(IDENTITY_ROLES_MAX)
            .filter_map(|name| self.roles.get(&**name))
    }
}

// === impl Compiled ===

impl Compiled {
    fn new(name: &str, role: &Role) -> Result<Self, ConfigError> {
        let compile = |list: &str, patterns: &[String]| {
            let key = format!("roles.{name}.{list}");
            in_range(&*key, patterns.len(), 0..=PATTERNS_MAX, "patterns")?;
            let compiled = patterns.iter().map(|text| {
                Pattern::parse(text).map_err(|source| ConfigError::Pattern {
                    key: key.clone(),
                    pattern: text.clone(),
                    source,
                })
            });
            compiled.collect::<Result<Box<[_]>, _>>()
        };
        Ok(Self {
            lists: [
                compile("join", &role.join)?,
                compile("publish", &role.publish)?,
                compile("presence", &role.presence)?,
                compile("event", &role.event)?,
                compile("query", &role.query)?,
                compile("ingest", &role.ingest)?,
                compile("act", &role.act)?,
            ],
            admin: role.admin,
        })
    }

    fn list(&self, action: Action) -> &[Pattern] {
        &self.lists[action as usize]
    }
}

// === impl Action ===

impl Action {
    /// The name in lower case, as in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Publish => "publish",
            Self::Presence => "presence",
            Self::Event => "event",
            Self::Query => "query",
            Self::Ingest => "ingest",
            Self::Act => "act",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::PatternError;
    use crate::identity::Method;

    const ACTIONS: [Action; 7] = [
        Action::Join,
        Action::Publish,
        Action::Presence,
        Action::Event,
        Action::Query,
        Action::Ingest,
        Action::Act,
    ];

    fn identity(roles: &[&str]) -> Identity {
        let mut identity = Identity::new("ada", Method::Token);
        identity.roles = roles.iter().map(|&role| role.into()).collect();
        identity
    }

    fn roles(roles: &[(&str, Role)]) -> BTreeMap<String, Role> {
        roles
            .iter()
            .map(|(name, role)| ((*name).to_owned(), role.clone()))
            .collect()
    }

    #[test]
    fn events_are_the_applications_until_a_role_lists_them() {
        let listed = Role {
            event: vec!["order.*".into()],
            ..Role::default()
        };
        let permissions =
            Permissions::new(&roles(&[("plain", Role::default()), ("trader", listed)])).unwrap();
        let check = |own: &[&str], event, expected| {
            assert_eq!(
                permissions.allows_event(event, &identity(own)),
                expected,
                "{own:?} {event}"
            );
        };
        check(&[], "chat", true);
        check(&["unknown"], "chat", true);
        check(&["plain"], "chat", true);
        check(&["trader"], "chat", false);
        check(&["trader"], "order.new", true);
        check(&["plain", "trader"], "chat", false);
    }

    #[test]
    fn each_action_has_its_own_list() {
        let all = Role {
            join: vec!["join".into()],
            publish: vec!["publish".into()],
            presence: vec!["presence".into()],
            event: vec!["event".into()],
            query: vec!["query".into()],
            ingest: vec!["ingest".into()],
            act: vec!["act".into()],
            admin: false,
        };
        let permissions = Permissions::new(&roles(&[("all", all)])).unwrap();
        for action in ACTIONS {
            for other in ACTIONS {
                let allowed = permissions.allows(action, other.as_str(), &identity(&["all"]));
                assert_eq!(allowed, action == other, "{action} on {other}");
            }
        }
    }

    #[test]
    fn roles_add_up_and_unknown_ones_give_nothing() {
        let permissions = Permissions::new(&roles(&[
            (
                "reader",
                Role {
                    join: vec!["ticks:*".into(), "user:{user}".into()],
                    ..Role::default()
                },
            ),
            (
                "writer",
                Role {
                    publish: vec!["chat".into()],
                    admin: true,
                    ..Role::default()
                },
            ),
        ]))
        .unwrap();
        let both = identity(&["reader", "ghost", "writer"]);
        assert!(permissions.allows(Action::Join, "user:ada", &both));
        assert!(permissions.allows(Action::Publish, "chat", &both));
        assert!(permissions.is_admin(&both));
        assert!(!permissions.allows(Action::Join, "chat", &both));
        assert!(!permissions.allows(Action::Join, "ticks:1", &identity(&["ghost"])));
        assert!(!permissions.allows(Action::Join, "ticks:1", &identity(&[])));
        assert!(!permissions.is_admin(&identity(&["reader"])));
    }

    #[test]
    fn a_refusal_names_action_and_room() {
        let refusal = Permissions::default()
            .check(Action::Join, &"房".repeat(100), &identity(&[]))
            .unwrap_err();
        assert_eq!(refusal.code(), "forbidden");
        assert_eq!(
            refusal.to_string(),
            format!("join {:?} is not allowed", "房".repeat(42))
        );
    }

    #[test]
    fn a_bad_pattern_is_named_with_its_key() {
        let bad = Role {
            publish: vec!["ok".into(), "{nobody}".into()],
            ..Role::default()
        };
        let error = Permissions::new(&roles(&[("trader", bad)])).unwrap_err();
        assert_eq!(error.key(), "roles.trader.publish");
        let source = PatternError::UnknownPlaceholder {
            name: "nobody".into(),
        };
        let pattern = "{nobody}".to_owned();
        assert_eq!(
            error,
            ConfigError::Pattern {
                key: "roles.trader.publish".into(),
                pattern,
                source
            }
        );
    }
}
