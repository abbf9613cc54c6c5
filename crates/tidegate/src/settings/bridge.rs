//! Turns the settings of the bridge into what it needs, its address read from outside.

use std::time::Duration;

use super::{Outside, Settings, SettingsError, model, store::variable};
use crate::bridge::{Link, check_address, formats::Format};

/// Where publishers speak through Redis, and how: [`Settings::bridge`].
#[derive(Clone)]
pub struct BridgeConfig {
    /// Address of Redis; it may hold a password.
    pub url: String,
    /// Formats that are heard.
    pub formats: Vec<Format>,
    /// Prefix of the classic channels.
    pub key: String,
    /// Prefix of the sharded channels.
    pub channel_prefix: String,
    /// Whether the channels of rooms are heard.
    pub follow_rooms: bool,
    /// Streams that are read.
    pub streams: Vec<String>,
    /// Channels of python-socketio's managers.
    pub python_channels: Vec<String>,
    /// Largest message.
    pub message_bytes_max: usize,
    /// How long a message waits for a place in the gateway.
    pub wait: Duration,
}

impl std::fmt::Debug for BridgeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address stays out: it may hold a password.
        f.debug_struct("BridgeConfig")
            .field("formats", &self.formats)
            .field("key", &self.key)
            .field("streams", &self.streams)
            .field("python_channels", &self.python_channels)
            .finish_non_exhaustive()
    }
}

impl BridgeConfig {
    /// Whether the address is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        check_address(&self.url).map_err(|problem| SettingsError::declaration("bridge.url", problem))
    }

    /// Whether publishers of this kind are heard.
    pub(crate) fn hears(&self, format: Format) -> bool {
        self.formats.contains(&format)
    }

    /// Whether there is anything to hear on a connection.
    pub(crate) fn uses(&self, link: Link) -> bool {
        match link {
            Link::PubSub => self.formats.iter().any(|format| *format != Format::Streams),
            Link::Streams => self.hears(Format::Streams) && !self.streams.is_empty(),
        }
    }
}

impl Settings {
    /// The way of publishers through Redis; none if there is none.
    ///
    /// # Errors
    /// A variable that is not set, an address that is none.
    pub fn bridge(&self, outside: &Outside<'_>) -> Result<Option<BridgeConfig>, SettingsError> {
        let bridge = &self.values.bridge;
        let (key, url) = match (&bridge.url_env, &bridge.url) {
            (Some(name), _) => ("bridge.url_env", variable("bridge.url_env", name, outside)?),
            (None, Some(url)) => ("bridge.url", url.clone()),
            (None, None) => return Ok(None),
        };
        check_address(&url).map_err(|problem| SettingsError::declaration(key, problem))?;
        let is_chosen = |format: &Format| bridge.formats.iter().any(|name| name == format.as_str());
        Ok(Some(BridgeConfig {
            url,
            formats: Format::ALL.into_iter().filter(is_chosen).collect(),
            key: bridge.key.clone(),
            channel_prefix: bridge.channel_prefix.clone(),
            follow_rooms: bridge.follow_rooms,
            streams: bridge.streams.clone(),
            python_channels: bridge.python_channels.clone(),
            message_bytes_max: bridge.message_bytes_max.0 as usize,
            wait: bridge.wait.0,
        }))
    }
}

/// Refuses what cannot work together.
pub(super) fn check(values: &model::Values) -> Result<(), SettingsError> {
    let bridge = &values.bridge;
    if bridge.url.is_some() && bridge.url_env.is_some() {
        let problem = "bridge.url stands there too; one of them says where it is";
        return Err(SettingsError::declaration("bridge.url_env", problem.to_owned()));
    }
    for (key, names) in [
        ("bridge.streams", &bridge.streams),
        ("bridge.python_channels", &bridge.python_channels),
    ] {
        let twice = names
            .iter()
            .enumerate()
            .find(|(at, name)| names[..*at].contains(name));
        if let Some((_, name)) = twice {
            return Err(SettingsError::value(key, format!("{name:?}"), "each name once"));
        }
    }
    Ok(())
}
