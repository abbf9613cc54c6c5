//! What can be published, and the handle that publishes it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use tidegate_vitals::Guard;

use crate::Error;

/// Who receives a publication; several targets are a union in which everybody is served once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The members of a room.
    Room(String),
    /// Every session of a user.
    User(String),
    /// One session, by its Socket.IO id.
    Session(String),
}

/// What happens to a publication when a receiver's socket does not take it in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WhenSlow {
    /// Wait in the outbox; over its hard limit the connection is closed and may recover. For what must not be lost.
    #[default]
    Disconnect,
    /// The oldest waiting entries of this kind are dropped first.
    DropOldest,
    /// While it waits, a newer message of the same key replaces it. Right for prices.
    Conflate(String),
}

/// Event arguments as JSON with binary attachments, encoded once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// The arguments separated by commas, without the surrounding brackets; empty for none.
    pub(crate) json: String,
    pub(crate) attachments: Vec<Bytes>,
}

impl Args {
    /// No arguments.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            json: String::new(),
            attachments: Vec::new(),
        }
    }

    /// One argument.
    ///
    /// # Errors
    /// When `value` has no JSON form (a map with keys that are not strings, a failing `Serialize`).
    pub fn one<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        Self::new().and(value)
    }

    /// As deep as lists and objects may be nested.
    pub const DEPTH_MAX: usize = 127;

    /// How deep the lists and objects of a JSON text are nested.
    #[must_use]
    pub fn depth_of(json: &str) -> usize {
        let (mut depth, mut deepest, mut in_string) = (0_usize, 0, false);
        let mut letters = json.bytes();
        while let Some(letter) = letters.next() {
            match letter {
                b'"' => in_string = !in_string,
                b'\\' => drop(letters.next()),
                b'[' | b'{' if !in_string => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        deepest
    }

    /// Takes the text of a JSON array as it is.
    ///
    /// # Errors
    /// When `array` is not a JSON array, or nested deeper than [`Args::DEPTH_MAX`].
    pub fn from_json_array(array: &str, attachments: Vec<Bytes>) -> Result<Self, Error> {
        let values: Vec<&serde_json::value::RawValue> = serde_json::from_str(array)?;
        let json = values
            .iter()
            .map(|value| value.get())
            .collect::<Vec<_>>()
            .join(",");
        // Where there is no attachment, what looks like a placeholder is what it is: clients read it so. The walk reads every
        // value, and refuses what is JSON and no text or number here; clients may think otherwise.
        if !attachments.is_empty() {
            tidegate_wire::socketio::check_placeholders(array, attachments.len())
                .map_err(|error| Error::BadRequest(error.to_string()))?;
        }
        let depth = Self::depth_of(array);
        if depth > Self::DEPTH_MAX {
            let text = format!("arguments nested {depth} deep, at most {}", Self::DEPTH_MAX);
            return Err(Error::BadRequest(text));
        }
        Ok(Self { json, attachments })
    }

    /// Adds an argument.
    ///
    /// # Errors
    /// As [`Args::one`].
    pub fn and<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Self, Error> {
        let text = serde_json::to_string(value)?;
        self.push_raw(&text);
        Ok(self)
    }

    /// Adds a binary argument.
    #[must_use]
    pub fn and_binary(mut self, data: impl Into<Bytes>) -> Self {
        let placeholder = format!(r#"{{"_placeholder":true,"num":{}}}"#, self.attachments.len());
        self.push_raw(&placeholder);
        self.attachments.push(data.into());
        self
    }

    fn push_raw(&mut self, json: &str) {
        if !self.json.is_empty() {
            self.json.push(',');
        }
        self.json.push_str(json);
    }

    /// Bytes of JSON and attachments together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.json.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }
}

/// One message to many; made by [`Publication::new`], changed by setting fields.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Namespace, default `/`.
    pub namespace: String,
    /// Receivers; empty is everybody in the namespace.
    pub to: Vec<Target>,
    /// Left out, whatever `to` says.
    pub except: Vec<Target>,
    /// Name of the event.
    pub event: String,
    /// Its arguments.
    pub args: Args,
    /// Drop it for receivers whose socket is not writable at once.
    pub volatile: bool,
    /// Flush each receiver at once, not at the end of the flush window.
    pub urgent: bool,
    /// What to do for slow receivers.
    pub when_slow: WhenSlow,
    /// The same id within the remembered time is published once only.
    pub id: Option<String>,
    /// Who speaks; ids are remembered per speaker. Filled by the gateway for clients.
    pub speaker: Option<Arc<str>>,
}

impl Publication {
    /// A publication to everybody in `/`.
    #[must_use]
    pub fn new(event: impl Into<String>, args: Args) -> Self {
        Self {
            namespace: "/".to_owned(),
            to: Vec::new(),
            except: Vec::new(),
            event: event.into(),
            args,
            volatile: false,
            urgent: false,
            when_slow: WhenSlow::default(),
            id: None,
            speaker: None,
        }
    }

    /// A publication to one room of `/`.
    #[must_use]
    pub fn to_room(room: impl Into<String>, event: impl Into<String>, args: Args) -> Self {
        Self {
            to: vec![Target::Room(room.into())],
            ..Self::new(event, args)
        }
    }
}

/// What became of a publication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Position in the namespace's order.
    pub seq: u64,
    /// The recovery offset of this message, as clients see it.
    pub offset: String,
    /// True when its idempotency id had been published before; nothing was sent again.
    pub duplicate: bool,
}

/// The answers to a publication that asked for acknowledgements.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Collected {
    /// How many sessions it was sent to.
    pub expected: usize,
    /// The answers, in order of arrival: session id and the JSON array of its arguments.
    pub answers: Vec<Answer>,
    /// Ids of sessions that had not answered when it ended, in order, at most 10,000.
    pub missing: Vec<String>,
    /// Answers that were not kept, because they were no JSON or there was no room, and sessions that could not be waited
    /// for.
    pub dropped: usize,
    /// Whether the timeout ended the wait.
    pub timed_out: bool,
    /// True when its idempotency id had been published before; then nobody was asked again.
    pub duplicate: bool,
    /// What pays for it.
    #[serde(skip)]
    pub(crate) memory: Option<Arc<Guard>>,
}

/// One acknowledgement.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// The Socket.IO id of the session that answered.
    pub session: String,
    /// Its arguments, a JSON array.
    pub args: Box<serde_json::value::RawValue>,
    /// Its binary attachments.
    #[serde(skip)]
    pub attachments: Vec<Bytes>,
}

/// How long [`crate::Publisher::publish_collect`] waits at most by default.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers that one collection takes at most; 16 MiB of them are kept.
pub const ANSWERS_MAX: usize = 100_000;
