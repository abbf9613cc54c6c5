//! Publishing: one number, one order, and what is kept of each message.

use std::{hash::BuildHasher, sync::Arc};

use tidegate_vitals::{Class, Guard};
use tokio::sync::oneshot;

use super::{Inner, Namespace, Room, ids::Known, ring::Log};
use crate::{
    Collected, Error, Publication, Published, Target, WhenSlow,
    message::{Dest, Dests, Message, Policy, event_json},
    shard::command::Command,
};

/// Largest message the server itself may publish, bytes.
const PUBLISH_BYTES_MAX: usize = 64 << 20;
/// Longest event name, bytes.
const EVENT_BYTES_MAX: usize = 1_024;
/// Most targets of one publication or action, and as many exceptions.
pub(super) const TARGETS_MAX: usize = 10_000;

impl Namespace {
    /// Gives a message its place in the order and hands it to every shard that has receivers.
    ///
    /// Places in the inboxes are reserved before the number is taken: when one is full nobody gets it.
    pub(crate) fn publish(&self, publication: Publication) -> Result<Published, Error> {
        self.publish_with(publication, None)
            .map(|(published, _)| published)
    }

    /// Publishes an event that asks for acknowledgements; the receiver gets them when all have answered.
    pub(crate) fn publish_acked(
        &self,
        publication: Publication,
        answers_max: usize,
    ) -> Result<(u64, oneshot::Receiver<Collected>), Error> {
        let guard = self.ledger.empty(Class::Handlers);
        let (id, receiver) = self.lock().acks.open(answers_max, guard)?;
        match self.publish_with(publication, Some(id)) {
            Ok((published, shards)) => {
                self.lock().acks.sent(id, shards, published.duplicate);
                Ok((id, receiver))
            }
            Err(error) => {
                self.lock().acks.time_out(id);
                Err(error)
            }
        }
    }

    fn publish_with(&self, publication: Publication, ack: Option<u64>) -> Result<(Published, u32), Error> {
        let draft = self.draft(publication)?;
        let now = self.clock.now();
        let mut inner = self.lock();
        let content = match &draft.id {
            Some(id) => {
                let content = inner.ids.content(&draft.args, &draft.to);
                match inner.ids.check(&draft.speaker, id, content, now) {
                    Known::New => content,
                    Known::Duplicate(seq) => return Ok((self.published(seq, true), 0)),
                    Known::Reused => return Err(Error::IdReused(id.clone())),
                }
            }
            None => 0,
        };
        let to = inner.resolve(self, &draft.to, true)?;
        let nobody = to.is_empty() && !draft.to.is_empty();
        let except = inner.resolve_excepted(self, &draft.except)?;
        let shards = if nobody { 0 } else { inner.shards_of(&to) };
        self.reserve(shards)?;
        inner.seq += 1;
        let seq = inner.seq;
        if let Some(id) = &draft.id {
            inner.ids.remember(draft.speaker.clone(), id, content, seq, now);
        }
        if !nobody {
            let mut message = self.message(draft, seq, ack, to, except, now);
            if inner.keeps(&message, self.recovery) {
                message.guard.move_to(Class::Rings);
            }
            let message = Arc::new(message);
            inner.keep(&message, self.recovery);
            self.shrink_with(&mut inner);
            self.fill(shards, || Command::Deliver(message.clone()));
        }
        drop(inner);
        self.wake(shards);
        self.figures.publishes.inc();
        Ok((self.published(seq, false), shards.count_ones()))
    }

    fn published(&self, seq: u64, duplicate: bool) -> Published {
        Published {
            seq,
            offset: self.epoch.offset_string(seq),
            duplicate,
        }
    }

    /// Checks a publication and does all work that needs no lock.
    fn draft(&self, publication: Publication) -> Result<Draft, Error> {
        let Publication {
            to,
            except,
            event,
            args,
            volatile,
            urgent,
            when_slow,
            id,
            speaker,
            ..
        } = publication;
        check_event(&event)?;
        let n_targets = to.len().max(except.len());
        if n_targets > TARGETS_MAX {
            return Err(Error::TooMany {
                what: "targets",
                max: TARGETS_MAX,
            });
        }
        let bytes = args.bytes();
        if bytes > PUBLISH_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "publication",
                bytes,
                max: PUBLISH_BYTES_MAX,
            });
        }
        let policy = match &when_slow {
            WhenSlow::Disconnect => Policy::Disconnect,
            WhenSlow::DropOldest => Policy::DropOldest,
            WhenSlow::Conflate(key) => Policy::Conflate(self.hasher.hash_one((&event, key)) | 1),
        };
        let json = event_json(&event, &args.json);
        let guard = self
            .ledger
            .reserve(Class::Frames, Message::cost(json.len(), &args.attachments))
            .inspect_err(|_| self.figures.no_memory("publication"))?;
        let attachments = args.attachments;
        Ok(Draft {
            to,
            except,
            args: json,
            attachments,
            volatile,
            urgent,
            policy,
            id,
            speaker,
            guard,
        })
    }

    fn message(
        &self,
        draft: Draft,
        seq: u64,
        ack: Option<u64>,
        to: Dests,
        except: Dests,
        at: tidegate_vitals::Instant,
    ) -> Message {
        Message {
            seq,
            at,
            ts_ms: self.clock.wall_ms(),
            namespace: self.name.clone(),
            namespace_index: self.index,
            epoch: self.epoch,
            to,
            except,
            args: draft.args.into_boxed_str(),
            attachments: draft.attachments,
            ack,
            policy: draft.policy,
            volatile: draft.volatile,
            urgent: draft.urgent,
            forms: Default::default(),
            guard: draft.guard,
        }
    }
}

struct Draft {
    to: Vec<Target>,
    except: Vec<Target>,
    args: String,
    attachments: Vec<bytes::Bytes>,
    volatile: bool,
    urgent: bool,
    policy: Policy,
    id: Option<String>,
    speaker: Option<Arc<str>>,
    guard: Guard,
}

// === impl Inner ===

impl Inner {
    /// Whether a ring or a history will hold a message beyond its delivery.
    fn keeps(&self, message: &Message, recovery: bool) -> bool {
        let logged = message.to.is_empty() || message.to.iter().any(|dest| !self.is_empty_room(dest));
        let kept =
            |dest: &Dest| matches!(dest, Dest::Room(id) if self.rooms.get(*id).is_some_and(Room::keeps));
        (recovery && is_replayed(message) && logged) || (message.ack.is_none() && message.to.iter().any(kept))
    }

    /// Nobody in a room without members can come back for it; who joins later begins after it.
    fn is_empty_room(&self, dest: &Dest) -> bool {
        matches!(dest, Dest::Room(id) if self.rooms.get(*id).is_none_or(|room| room.n_members() == 0))
    }

    /// Keeps a message for recovery and for those who join later.
    fn keep(&mut self, message: &Arc<Message>, recovery: bool) {
        if recovery && is_replayed(message) {
            self.log(message);
        }
        let share = self.rooms.share();
        for dest in &message.to {
            if let Dest::Room(id) = dest
                && message.ack.is_none()
                && let Some(room) = self.rooms.get_mut(*id)
            {
                room.keep(message, share);
            }
        }
        while let Some(old) = self.ring.pop_excess() {
            self.forget(&old);
        }
    }

    fn log(&mut self, message: &Arc<Message>) {
        let mut logged = message.to.is_empty();
        if logged {
            self.everyone.push(message);
        }
        for dest in &message.to {
            if !self.is_empty_room(dest)
                && let Some(log) = self.log_of(dest)
            {
                log.push(message);
                logged = true;
            }
        }
        if logged {
            self.ring.push(message.clone());
        }
    }

    pub(super) fn forget(&mut self, message: &Message) {
        if message.to.is_empty() {
            self.everyone.drop_front(message.seq);
        }
        for dest in &message.to {
            if let Some(log) = self.log_of(dest) {
                log.drop_front(message.seq);
            }
        }
    }

    fn log_of(&mut self, dest: &Dest) -> Option<&mut Log> {
        match dest {
            Dest::Room(id) => self.rooms.get_mut(*id).map(|room| &mut room.log),
            Dest::User(name, _) => self.users.get_mut(name).map(|user| &mut user.log),
            Dest::Session(id, _) => self
                .sessions
                .get_mut(id)
                .map(|resident| &mut **resident.log.get_or_insert_default()),
        }
    }
}

/// A message that was allowed to be lost, or that waits for an answer, is not replayed.
fn is_replayed(message: &Message) -> bool {
    !message.volatile && message.ack.is_none()
}

/// Names of events that the protocol keeps for itself.
const RESERVED: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

fn check_event(event: &str) -> Result<(), Error> {
    if event.is_empty() || RESERVED.contains(&event) {
        return Err(Error::BadRequest(format!(
            "event name {event:?} is reserved or empty"
        )));
    }
    if event.len() > EVENT_BYTES_MAX {
        return Err(Error::TooLarge {
            what: "event name",
            bytes: event.len(),
            max: EVENT_BYTES_MAX,
        });
    }
    Ok(())
}
