//! The application's handle on one session, and the way to speak to many.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde::Serialize;
use tidegate_auth::Identity;

use crate::{
    Action, Args, Collected, Error, Publication, Published, Target, WhenSlow,
    admit::SessionData,
    close::CloseReason,
    id::Id,
    message::SessionRef,
    namespace::{By, Namespace},
    publish::{ANSWERS_MAX, Answer},
    shard::command::{Command, Who},
    shared::Shared,
};

/// A session as handlers see it. Cheap to clone, and of use on any thread; when the session is gone, what is sent
/// to it is dropped or refused with [`Error::Gone`].
#[derive(Clone)]
pub struct Socket {
    pub(crate) shared: Arc<Shared>,
    pub(crate) namespace: u16,
    pub(crate) id: Id,
    pub(crate) identity: Arc<Identity>,
    pub(crate) address: IpAddr,
    pub(crate) recovered: bool,
    pub(crate) data: Option<SessionData>,
}

impl Socket {
    /// The Socket.IO id: random and public.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// Who it is, as of the event at hand.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The user; empty for an anonymous session.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.identity.user
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.space().name
    }

    /// The client's address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// In a connect handler: whether the session was recovered, so that its rooms are still there.
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// The text that the application keeps with the session, as of the event at hand.
    #[must_use]
    pub fn data(&self) -> Option<&str> {
        self.data.as_ref().map(SessionData::as_str)
    }

    fn space(&self) -> &Arc<Namespace> {
        &self.shared.namespaces[usize::from(self.namespace)]
    }

    fn at(&self) -> Option<SessionRef> {
        self.space().session(self.id.as_str())
    }

    /// Puts the session into a room. What is published to the room after this returns reaches the session.
    ///
    /// # Errors
    /// [`Error::Gone`], a name over its limit, or a full shard.
    pub fn join(&self, room: &str) -> Result<(), Error> {
        self.space().join(self.id, &[room], By::Server)
    }

    /// Puts the session into several rooms at one point of the order.
    ///
    /// # Errors
    /// As [`Socket::join`]; then it is in none of them.
    pub fn join_all(&self, rooms: &[&str]) -> Result<(), Error> {
        self.space().join(self.id, rooms, By::Server)
    }

    /// Takes the session out of several rooms at one point of the order.
    ///
    /// # Errors
    /// [`Error::Gone`] or a full shard.
    pub fn leave_all(&self, rooms: &[&str]) -> Result<(), Error> {
        self.space().leave(self.id, rooms, None)
    }

    /// Publishes to anybody of any namespace of this gateway.
    ///
    /// # Errors
    /// When a limit is met or the namespace is unknown; then nobody got it.
    pub fn publish(&self, publication: Publication) -> Result<Published, Error> {
        let namespace = self.shared.namespace(&publication.namespace);
        let namespace = namespace.ok_or_else(|| Error::NotFound {
            kind: "namespace",
            name: publication.namespace.clone(),
        })?;
        namespace.publish(publication)
    }

    /// Keeps a text with the session, which outlives its connections; the next event of the session sees it.
    ///
    /// # Errors
    /// When the memory account is full; the old text then stays.
    pub fn set_data(&self, data: Option<String>) -> Result<(), Error> {
        let data = data
            .map(|data| SessionData::new(data, &self.shared.ledger))
            .transpose()?;
        self.tell(|session| Command::SetData { session, data });
        Ok(())
    }

    /// Takes the session out of a room.
    ///
    /// # Errors
    /// [`Error::Gone`] or a full shard.
    pub fn leave(&self, room: &str) -> Result<(), Error> {
        self.space().leave(self.id, &[room], None)
    }

    /// Sends an event with one argument to this session.
    ///
    /// # Errors
    /// When `data` has no JSON form, or a limit is met.
    pub fn emit<T: Serialize + ?Sized>(&self, event: &str, data: &T) -> Result<Published, Error> {
        self.emit_args(event, Args::one(data)?)
    }

    /// Sends an event with any arguments to this session.
    ///
    /// # Errors
    /// When a limit is met.
    pub fn emit_args(&self, event: &str, args: Args) -> Result<Published, Error> {
        self.only().emit_args(event, args)
    }

    /// Sends an event and waits for the client's acknowledgement.
    ///
    /// # Errors
    /// [`Error::Timeout`] when none came in time, [`Error::Gone`] when the session is not connected.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the acknowledgement; the event has been sent.
    pub async fn emit_with_ack(&self, event: &str, args: Args, timeout: Duration) -> Result<Answer, Error> {
        let mut collected = self.only().emit_with_ack(event, args, timeout).await?;
        match collected.answers.pop() {
            Some(answer) => Ok(answer),
            None if collected.timed_out => Err(Error::Timeout(timeout)),
            None => Err(Error::Gone),
        }
    }

    fn only(&self) -> Emitter {
        let mut emitter = self.io();
        emitter
            .publication
            .to
            .push(Target::Session(self.id.as_str().to_owned()));
        emitter
    }

    /// Everybody in the namespace, this session included.
    pub fn io(&self) -> Emitter {
        Emitter::new(self.shared.clone(), self.namespace)
    }

    /// A room without this session.
    pub fn to(&self, room: &str) -> Emitter {
        self.broadcast().to(room)
    }

    /// Everybody in the namespace but this session.
    pub fn broadcast(&self) -> Emitter {
        let mut emitter = self.io();
        emitter
            .publication
            .except
            .push(Target::Session(self.id.as_str().to_owned()));
        emitter
    }

    /// Disconnects the session for good: standard clients stay away.
    pub fn disconnect(&self) {
        self.tell(|session| Command::Disconnect {
            who: Who::Session(session),
            reason: CloseReason::Kicked,
        });
    }

    /// Cuts the connection without a word, as a failing network would. For tests of recovery.
    pub fn cut(&self) {
        self.tell(|session| Command::Cut { session });
    }

    /// Writes what waits for this session at once, a collected batch included.
    pub fn flush(&self) {
        self.tell(|session| Command::Flush {
            session: Some(session),
        });
    }

    /// Names another identity for the session, for example the user whom a cookie proves.
    pub fn identify(&self, identity: Identity) {
        let identity = Arc::new(identity);
        self.tell(|session| Command::Identify { session, identity });
    }

    fn tell(&self, command: impl FnOnce(SessionRef) -> Command) {
        if let Some(at) = self.at() {
            // One command by the application's own decision; the shard takes it even when publishes are refused.
            self.shared.inboxes[usize::from(at.shard)].push_always(command(at));
        }
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("id", &self.id)
            .field("namespace", &self.namespace())
            .finish_non_exhaustive()
    }
}

/// Who receives an event, and how; ended by one of the `emit` methods.
#[derive(Clone)]
#[must_use = "nothing is sent before `emit`"]
pub struct Emitter {
    shared: Arc<Shared>,
    namespace: u16,
    publication: Publication,
}

impl Emitter {
    pub(crate) fn new(shared: Arc<Shared>, namespace: u16) -> Self {
        Self {
            shared,
            namespace,
            publication: Publication::new("", Args::new()),
        }
    }

    /// Adds a room.
    pub fn to(mut self, room: impl Into<String>) -> Self {
        self.publication.to.push(Target::Room(room.into()));
        self
    }

    /// Adds all sessions of a user.
    pub fn to_user(mut self, user: impl Into<String>) -> Self {
        self.publication.to.push(Target::User(user.into()));
        self
    }

    /// Adds one session.
    pub fn to_session(mut self, id: impl Into<String>) -> Self {
        self.publication.to.push(Target::Session(id.into()));
        self
    }

    /// Leaves out the members of a room.
    pub fn except(mut self, room: impl Into<String>) -> Self {
        self.publication.except.push(Target::Room(room.into()));
        self
    }

    /// Leaves out whomever a target names.
    pub fn except_target(mut self, target: Target) -> Self {
        self.publication.except.push(target);
        self
    }

    /// Drop it for those whose socket is not writable at once.
    pub fn volatile(mut self) -> Self {
        self.publication.volatile = true;
        self
    }

    /// Write it at once, not at the end of the flush window.
    pub fn urgent(mut self) -> Self {
        self.publication.urgent = true;
        self
    }

    /// For slow receivers a newer message of this key replaces an older one.
    pub fn conflate(mut self, key: impl Into<String>) -> Self {
        self.publication.when_slow = WhenSlow::Conflate(key.into());
        self
    }

    /// For slow receivers the oldest of this kind is dropped first.
    pub fn drop_oldest(mut self) -> Self {
        self.publication.when_slow = WhenSlow::DropOldest;
        self
    }

    /// Sends an event with one argument.
    ///
    /// # Errors
    /// When `data` has no JSON form, or a limit is met; then nobody got it.
    pub fn emit<T: Serialize + ?Sized>(self, event: &str, data: &T) -> Result<Published, Error> {
        let args = Args::one(data)?;
        self.emit_args(event, args)
    }

    /// Sends an event with any arguments.
    ///
    /// # Errors
    /// When a limit is met; then nobody got it.
    pub fn emit_args(mut self, event: &str, args: Args) -> Result<Published, Error> {
        event.clone_into(&mut self.publication.event);
        self.publication.args = args;
        self.shared.namespaces[usize::from(self.namespace)].publish(self.publication)
    }

    /// Puts all chosen sessions into rooms: what is sent to these after this returns reaches them. With a room, user or
    /// session chosen by [`Emitter::to`] and its like, else everybody in the namespace. Says of how many sessions it was
    /// asked at most; one that two targets choose may count twice.
    ///
    /// # Errors
    /// When a limit is met, or a room is a session's own; then nobody is in any of them.
    pub fn join(self, rooms: &[&str]) -> Result<usize, Error> {
        self.act(Action::Join(owned(rooms)))
    }

    /// Takes all chosen sessions out of rooms; what is sent to these after this returns does not reach them. Says of how
    /// many sessions it was asked, as [`Emitter::join`] does.
    ///
    /// # Errors
    /// When a limit is met; then nobody has left.
    pub fn leave(self, rooms: &[&str]) -> Result<usize, Error> {
        self.act(Action::Leave(owned(rooms)))
    }

    /// Disconnects all chosen sessions for good; with `close` the connections they are on as well, with the sessions of
    /// all other namespaces. Says of how many sessions it was asked, as [`Emitter::join`] does.
    ///
    /// # Errors
    /// When a limit is met; then nobody is disconnected.
    pub fn disconnect(self, close: bool) -> Result<usize, Error> {
        self.act(Action::Disconnect { close })
    }

    /// Takes all members out of a room, whatever else was chosen before. Says how many there were.
    ///
    /// # Errors
    /// As [`Emitter::leave`].
    pub fn close_room(mut self, room: &str) -> Result<usize, Error> {
        self.publication.to = vec![Target::Room(room.to_owned())];
        self.publication.except.clear();
        self.leave(&[room])
    }

    fn act(self, action: Action) -> Result<usize, Error> {
        let Publication { to, except, .. } = self.publication;
        self.shared.namespaces[usize::from(self.namespace)].act(&to, &except, action, None)
    }

    /// Sends an event to all receivers and collects their acknowledgements until all have answered or the time
    /// is over.
    ///
    /// # Errors
    /// When a limit is met; then nobody got it.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the acknowledgements; the event has been sent.
    pub async fn emit_with_ack(
        mut self,
        event: &str,
        args: Args,
        timeout: Duration,
    ) -> Result<Collected, Error> {
        event.clone_into(&mut self.publication.event);
        self.publication.args = args;
        let wanted = (timeout, ANSWERS_MAX);
        collect(&self.shared, self.namespace, self.publication, wanted).await
    }
}

fn owned(rooms: &[&str]) -> Vec<String> {
    rooms.iter().map(|room| (*room).to_owned()).collect()
}

/// Publishes and waits for all acknowledgements.
pub(crate) async fn collect(
    shared: &Arc<Shared>,
    namespace: u16,
    publication: Publication,
    (timeout, answers_max): (Duration, usize),
) -> Result<Collected, Error> {
    let namespace = &shared.namespaces[usize::from(namespace)];
    let (id, mut receiver) = namespace.publish_acked(publication, answers_max)?;
    let forget = Forget {
        namespace: namespace.clone(),
        id,
    };
    if let Ok(Ok(collected)) = tokio::time::timeout(timeout, &mut receiver).await {
        return Ok(collected);
    }
    match forget.namespace.ack_time_out(id) {
        Some(collected) => {
            shared.figures.ack_timeouts.inc();
            Ok(collected)
        }
        // Complete in the moment between.
        None => Ok(receiver.try_recv().unwrap_or_default()),
    }
}

/// Forgets a collector when nobody waits for it any more.
struct Forget {
    namespace: Arc<Namespace>,
    id: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let _already_done = self.namespace.ack_time_out(self.id);
    }
}
