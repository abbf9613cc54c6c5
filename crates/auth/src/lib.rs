//! Who may do what: a token or an API key becomes an [`Identity`], whose roles name rooms and events by pattern.
//!
//! ```text
//! Credentials ──▶ Authenticator ──▶ Identity (user · tenant · roles · claims · expiry)
//!                      │                │
//!  Config ─ roles ─────┴▶ Permissions ◀─┘  allows(Action::Join, "ticks:600519", &identity)
//! ```
//!
//! ```
//! use tidegate_auth::{Action, Algorithm, Authenticator, Config, Credentials, Jwt, Key, Role, Secret};
//!
//! let mut config = Config { anonymous: true, anonymous_roles: vec!["guest".into()], ..Config::default() };
//! let secret = Secret::new("a secret of at least thirty-two bytes");
//! config.jwt = Some(Jwt::new(Algorithm::Hs256, Key::Secret(secret)));
//! config.roles.insert("guest".into(), Role { join: vec!["ticks:*".into()], ..Role::default() });
//!
//! let authenticator = Authenticator::new(config)?;
//! let guest = authenticator.authenticate(&Credentials::default(), 1_760_000_000_000).unwrap();
//! let permissions = authenticator.permissions();
//! assert!(permissions.allows(Action::Join, "ticks:600519", &guest));
//! assert!(!permissions.allows(Action::Publish, "ticks:600519", &guest));
//! # Ok::<(), tidegate_auth::ConfigError>(())
//! ```
//!
//! What this crate does not know: sockets, HTTP, files, environment variables and the time. Callers pass the
//! header values, the key texts and `now`; the token library's own clock is never asked.

mod api_key;
mod authenticator;
mod config;
mod credentials;
mod error;
mod identity;
mod keys;
mod pattern;
mod permission;
mod token;

pub use authenticator::Authenticator;
pub use config::{Algorithm, ApiKey, ApiKeyValue, Config, Jwt, Key, Role, Secret, TrustedUser};
pub use credentials::Credentials;
pub use error::{AuthError, ConfigError, PatternError};
pub use identity::{Claims, Identity, Method};
pub use pattern::Pattern;
pub use permission::{Action, Permissions};

/// Longest token that is read, in bytes. Browsers and proxies cap a header line near this size, and the bound
/// keeps a hostile token from costing more than a few microseconds of base64.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Longest API key that is read, in bytes.
pub const API_KEY_BYTES_MAX: usize = 512;

/// Shortest API key that may be configured in plain text, in bytes. Keys are stored as an unsalted digest, which
/// is safe only for keys that cannot be guessed.
pub const API_KEY_BYTES_MIN: usize = 20;

/// Most API keys in one configuration: each is compared on every use, so that time tells nothing.
pub const API_KEYS_MAX: usize = 1024;

/// Longest user or tenant name, in bytes.
pub const USER_BYTES_MAX: usize = 256;

/// Most roles of one identity, so that a check stays a short walk.
pub const IDENTITY_ROLES_MAX: usize = 64;

/// Longest name of a role, in bytes.
pub const ROLE_BYTES_MAX: usize = 128;

/// Shortest secret for HS256, in bytes: the size of the hash output (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Longest secret for HS256, in bytes. Anything longer is a file given by mistake.
pub const SECRET_BYTES_MAX: usize = 1024;

/// Widest tolerance between the issuer's clock and ours, in seconds.
pub const LEEWAY_S_MAX: u64 = 300;
