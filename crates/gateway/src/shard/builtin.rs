//! Built-in events, each allowed by what the client's roles say.

use serde::Deserialize;
use tidegate_auth::Action;

use super::Shard;
use crate::{Args, Builtins, Error, Publication, Target, WhenSlow, handler::Event, id::Id, namespace::By};

/// Members listed in the answer to `presence`.
const MEMBERS_MAX: usize = 1_000;

/// A built-in event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Builtin {
    Join,
    Leave,
    Publish,
    Presence,
    Auth,
}

/// One room, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    fn as_strs(&self) -> Vec<&str> {
        match self {
            Self::One(name) => vec![name],
            Self::Many(names) => names.iter().map(String::as_str).collect(),
        }
    }
}

#[derive(Deserialize)]
struct PublishRequest {
    room: String,
    event: String,
    #[serde(default)]
    data: Option<Box<serde_json::value::RawValue>>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    volatile: bool,
    #[serde(default, alias = "critical")]
    urgent: bool,
    #[serde(default)]
    conflate: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Renewal {
    Token(String),
    Object { token: String },
}

/// The built-in event of that name, if it is switched on.
pub(super) fn find(config: &Builtins, name: &str) -> Option<Builtin> {
    let bare = name.strip_prefix(config.prefix.as_str())?;
    let builtin = match bare {
        "join" => Builtin::Join,
        "leave" => Builtin::Leave,
        "publish" => Builtin::Publish,
        "presence" => Builtin::Presence,
        "auth" => Builtin::Auth,
        _ => return None,
    };
    config.events.iter().any(|on| on == bare).then_some(builtin)
}

impl Shard {
    /// The built-in event of that name, if it is switched on.
    pub(super) fn builtin(&self, name: &str) -> Option<Builtin> {
        find(&self.shared.config.builtins, name)
    }

    /// Answers a built-in event; joins and leaves are answered where they take effect.
    pub(super) fn run_builtin(&mut self, index: u32, builtin: Builtin, event: &Event) {
        let ack = event.ack.as_ref().map(|ack| ack.id);
        let answer = match builtin {
            Builtin::Join => self.join_by_client(index, event, ack).map(|()| None),
            Builtin::Leave => self.leave_by_client(index, event, ack).map(|()| None),
            Builtin::Publish => self.publish_by_client(index, event).map(Some),
            Builtin::Presence => self.presence_for_client(index, event).map(Some),
            Builtin::Auth => self.renew(index, event).map(Some),
        };
        match (answer, ack) {
            (Ok(Some(more)), Some(ack)) => self.ack_ok(index, ack, &more),
            (Err(error), Some(ack)) => self.ack_error(index, ack, &error),
            (Ok(_), _) => {}
            (Err(error), None) => {
                let session = &mut self.sessions[index as usize];
                session.errors = session.errors.saturating_add(1);
                tracing::debug!(session = %session.id, %error, "built-in event refused");
            }
        }
    }

    fn join_by_client(&mut self, index: u32, event: &Event, ack: Option<u64>) -> Result<(), Error> {
        let names: Names = event.payload()?;
        let names = names.as_strs();
        let max = self.shared.live.limits().rooms_per_session;
        if names.len() > max {
            return Err(Error::TooMany {
                what: "rooms of a session",
                max,
            });
        }
        for name in &names {
            self.allow(index, Action::Join, "join", name)?;
        }
        let session = &self.sessions[index as usize];
        let namespace = &self.shared.namespaces[usize::from(session.namespace)];
        namespace.join(session.id, &names, By::Client { ack })
    }

    fn leave_by_client(&mut self, index: u32, event: &Event, ack: Option<u64>) -> Result<(), Error> {
        let names: Names = event.payload()?;
        let session = &self.sessions[index as usize];
        self.shared.namespaces[usize::from(session.namespace)].leave(session.id, &names.as_strs(), ack)
    }

    fn publish_by_client(&mut self, index: u32, event: &Event) -> Result<String, Error> {
        let request: PublishRequest = event.payload()?;
        self.allow(index, Action::Publish, "publish", &request.room)?;
        let session = &self.sessions[index as usize];
        let namespace = &self.shared.namespaces[usize::from(session.namespace)];
        let args = Args {
            json: request
                .data
                .map_or_else(|| "null".to_owned(), |data| data.get().to_owned()),
            attachments: event.attachments.clone(),
        };
        let published = namespace.publish(Publication {
            namespace: namespace.name.to_string(),
            to: vec![Target::Room(request.room)],
            volatile: request.volatile,
            urgent: request.urgent,
            when_slow: request
                .conflate
                .map_or_else(WhenSlow::default, WhenSlow::Conflate),
            id: request.id,
            speaker: Some(session.who()),
            ..Publication::new(request.event, args)
        })?;
        Ok(format!(
            r#","offset":"{}","duplicate":{}"#,
            published.offset, published.duplicate
        ))
    }

    fn presence_for_client(&mut self, index: u32, event: &Event) -> Result<String, Error> {
        let room: String = event.payload()?;
        self.allow(index, Action::Presence, "presence", &room)?;
        let session = &self.sessions[index as usize];
        let namespace = &self.shared.namespaces[usize::from(session.namespace)];
        let presence = namespace.presence(&room, MEMBERS_MAX).ok_or(Error::NotFound {
            kind: "room with presence",
            name: room,
        })?;
        let members = serde_json::to_string(&presence.members)?;
        Ok(format!(r#","count":{},"members":{members}"#, presence.count))
    }

    /// A new token for the same user, before the old one's time is over.
    fn renew(&mut self, index: u32, event: &Event) -> Result<String, Error> {
        let (Renewal::Token(token) | Renewal::Object { token }) = event.payload()?;
        let identity = self
            .shared
            .live
            .auth()
            .token(&token, self.shared.clock.wall_ms())?;
        let session = &self.sessions[index as usize];
        if !session.identity.is_same_user(&identity) {
            return Err(Error::Forbidden {
                action: "renew",
                target: "the token of another user".to_owned(),
            });
        }
        let expires = identity.expires_at_ms;
        let at = self.reference(index);
        self.on_identify(at, identity.into());
        Ok(expires.map_or_else(String::new, |expires| format!(r#","expires_at_ms":{expires}"#)))
    }

    fn allow(&self, index: u32, action: Action, verb: &'static str, name: &str) -> Result<(), Error> {
        let session = &self.sessions[index as usize];
        let forbidden = || Error::Forbidden {
            action: verb,
            target: name.to_owned(),
        };
        // The room that bears another session's id is nobody's business, whatever the patterns say.
        if Id::parse(name).is_some_and(|id| id != session.id)
            && self.shared.namespaces[usize::from(session.namespace)]
                .session(name)
                .is_some()
        {
            return Err(forbidden());
        }
        let auth = self.shared.live.auth();
        if auth.permissions().allows(action, name, &session.identity) {
            Ok(())
        } else {
            Err(forbidden())
        }
    }
}
