//! The settings that a reload can change while the gateway runs.

use std::sync::{Arc, PoisonError, RwLock};

use tidegate_auth::{Authenticator, Credentials, Identity, Pattern};

use crate::{
    Error,
    config::{Config, Limits},
    room::RoomOptions,
};

/// Settings in force, replaced as a whole.
pub(crate) struct Live {
    current: RwLock<Arc<Current>>,
    auth: RwLock<Auth>,
}

#[derive(Clone)]
struct Auth {
    authenticator: Arc<Authenticator>,
    /// One for all sessions without credentials.
    anonymous: Option<Arc<Identity>>,
}

struct Current {
    limits: Arc<Limits>,
    rooms: Vec<(Pattern, Arc<RoomOptions>)>,
}

impl Live {
    pub(crate) fn new(config: &Config, auth: Arc<Authenticator>) -> Result<Self, Error> {
        let current = RwLock::new(Arc::new(Current::new(config)?));
        Ok(Self {
            current,
            auth: RwLock::new(Auth::new(auth)),
        })
    }

    pub(crate) fn replace(&self, config: &Config) -> Result<(), Error> {
        let current = Arc::new(Current::new(config)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    fn current(&self) -> Arc<Current> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn limits(&self) -> Arc<Limits> {
        self.current().limits.clone()
    }

    /// Options of the first pattern that matches.
    pub(crate) fn room_options(&self, name: &str) -> Option<Arc<RoomOptions>> {
        let current = self.current();
        let found = current
            .rooms
            .iter()
            .find(|(pattern, _)| pattern.matches_name(name));
        found.map(|(_, options)| options.clone())
    }

    /// The longest grace of any room: a session waits once for all of its rooms.
    pub(crate) fn presence_grace(&self) -> std::time::Duration {
        let current = self.current();
        let graces = current.rooms.iter().filter(|(_, options)| options.presence);
        graces
            .map(|(_, options)| options.presence_grace)
            .max()
            .unwrap_or_default()
    }

    pub(crate) fn auth(&self) -> Arc<Authenticator> {
        self.auth
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .authenticator
            .clone()
    }

    /// Who these credentials prove.
    pub(crate) fn authenticate(
        &self,
        credentials: &Credentials<'_>,
        now_ms: u64,
    ) -> Result<Arc<Identity>, Error> {
        let Auth {
            authenticator,
            anonymous,
        } = self.auth.read().unwrap_or_else(PoisonError::into_inner).clone();
        let identity = authenticator.authenticate(credentials, now_ms)?;
        Ok(anonymous
            .filter(|_| identity.is_anonymous())
            .unwrap_or_else(|| identity.into()))
    }

    pub(crate) fn set_auth(&self, auth: Arc<Authenticator>) {
        *self.auth.write().unwrap_or_else(PoisonError::into_inner) = Auth::new(auth);
    }
}

impl Auth {
    fn new(authenticator: Arc<Authenticator>) -> Self {
        let anonymous = authenticator.anonymous().map(Arc::new);
        Self {
            authenticator,
            anonymous,
        }
    }
}

impl Current {
    fn new(config: &Config) -> Result<Self, Error> {
        let compile = |(text, options): &(String, RoomOptions)| match Pattern::parse(text) {
            Ok(pattern) if !pattern.has_placeholders() => Ok((pattern, Arc::new(options.clone()))),
            Ok(_) => Err(setting(text, "a pattern without placeholders")),
            Err(error) => Err(setting(text, &error.to_string())),
        };
        let rooms = config.rooms.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self {
            limits: Arc::new(config.limits.clone()),
            rooms,
        })
    }
}

fn setting(value: &str, allowed: &str) -> Error {
    Error::Setting {
        key: "rooms",
        value: value.to_owned(),
        allowed: allowed.to_owned(),
    }
}
