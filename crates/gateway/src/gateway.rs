//! A running gateway, and the handles it gives out.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use tidegate_auth::Authenticator;
use tidegate_vitals::{Registry, pressure::Shed, profiled};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::Instant,
};

use crate::{
    ANSWERS_MAX, Acted, Action, Builder, Collected, Config, Error, Publication, Published, Target,
    act::Report,
    broker::{Broker, Local},
    close::CloseReason,
    id::Id,
    inspect::{ConnectionInfo, HistoryItem, Page, Presence, RoomInfo, SessionInfo},
    listener::{HTTP_CONNECTIONS_MAX, tls::TlsAcceptor},
    message::Dests,
    namespace::Namespace,
    relief::GatewayShed,
    shard::command::{Command, Who},
    shared::Shared,
    socket::{Emitter, collect},
    watch::RoomWatch,
};

/// How long the answers under way may take when the listener ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A running gateway. Clones are handles on the same one; it ends with [`Gateway::shutdown`].
#[derive(Clone)]
pub struct Gateway {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<TlsAcceptor>,
    /// Set to true, the listener stops accepting, and connections end after the answer under way.
    pub(crate) stop: watch::Sender<bool>,
    /// One for each connection that is no WebSocket may be taken.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Gateway {
    /// Starts to build one.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.address
    }

    /// Publishes, from any thread.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher {
            inner: self.inner.clone(),
        }
    }

    /// Asks and disconnects, from any thread.
    #[must_use]
    pub fn inspector(&self) -> Inspector {
        Inspector {
            shared: self.inner.shared.clone(),
        }
    }

    /// Everybody in `/`; narrowed with [`Emitter::to`].
    pub fn io(&self) -> Emitter {
        Emitter::new(self.inner.shared.clone(), 0)
    }

    /// A room of `/`.
    pub fn to(&self, room: impl Into<String>) -> Emitter {
        self.io().to(room)
    }

    /// Everybody in another namespace.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn of(&self, namespace: &str) -> Result<Emitter, Error> {
        let found = find(&self.inner.shared, namespace)?;
        Ok(Emitter::new(self.inner.shared.clone(), found.index))
    }

    /// The names of its namespaces, in the order in which they were added.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let names = self.inner.shared.namespaces.iter();
        names.map(|namespace| namespace.name.to_string()).collect()
    }

    /// Follows which rooms there are, from now on. There is one watch at a time: a new one ends the one before.
    #[must_use]
    pub fn watch_rooms(&self) -> RoomWatch {
        RoomWatch::new(self.inner.shared.clone())
    }

    /// The figures it counts into.
    #[must_use]
    pub fn metrics(&self) -> Registry {
        self.inner.shared.registry.clone()
    }

    /// Adopts changed limits and room options; what needs a restart is left as it is.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first value out of range; then nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<(), Error> {
        config.validate()?;
        let shared = &self.inner.shared;
        shared.live.replace(config)?;
        shared.namespaces.iter().for_each(|namespace| namespace.reload());
        shared
            .inboxes
            .iter()
            .for_each(|inbox| inbox.push_always(Command::Reload));
        Ok(())
    }

    /// Adopts changed roles, keys and secrets; live sessions are asked by the new ones from now on.
    pub fn set_auth(&self, auth: Arc<Authenticator>) {
        self.inner.shared.live.set_auth(auth);
    }

    /// Reads the certificate files again. True if they had changed.
    ///
    /// # Errors
    /// When a file cannot be used; then the old certificate stays in force.
    pub fn reload_tls(&self) -> Result<bool, Error> {
        match &self.inner.tls {
            Some(tls) => tls.reload().map_err(|error| Error::BadRequest(error.to_string())),
            None => Ok(false),
        }
    }

    /// Gives memory back when asked: rings, storage, new connections, silent ones and slow ones, in this order. It
    /// tells the shards and never waits for them.
    #[must_use]
    pub fn shed(&self) -> Arc<dyn Shed> {
        Arc::new(GatewayShed(self.inner.shared.clone()))
    }

    /// Whether it is shutting down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.shared.is_draining()
    }

    /// Connections now.
    #[must_use]
    pub fn n_connections(&self) -> usize {
        self.inner.shared.admission.connections()
    }

    /// Lets no new client in and closes every connection retryably at the configured pace; returns when all are gone
    /// or the drain timeout is over. The HTTP service is still reached.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the drain.
    pub async fn drain(&self) {
        let shared = &self.inner.shared;
        shared.draining.store(true, Ordering::Relaxed);
        let drain = &shared.config.drain;
        let per_second = drain.closes_per_second.div_ceil(shared.inboxes.len() as u32);
        shared
            .inboxes
            .iter()
            .for_each(|inbox| inbox.push_always(Command::Drain { per_second }));
        let emptied = until(|| shared.admission.connections() == 0);
        if tokio::time::timeout(drain.timeout, emptied).await.is_err() {
            tracing::warn!(
                connections = shared.admission.connections(),
                "drain timed out, the rest is cut"
            );
        }
    }

    /// Ends the sessions that a drain has left, those that wait for recovery among them, while handlers may still publish
    /// and act; returns when every end has been told ([`crate::NamespaceBuilder::on_end`]) or the deadline is there.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the ends.
    pub async fn end_sessions(&self, deadline: Instant) {
        let shared = &self.inner.shared;
        let ended: Vec<_> = shared
            .inboxes
            .iter()
            .map(|inbox| {
                let (done, ended) = oneshot::channel();
                inbox.push_always(Command::EndAll { done });
                ended
            })
            .collect();
        let told = async {
            for shard in ended {
                // One that ended by itself has told what it had.
                let _ended = shard.await;
            }
            until(|| shared.n_asked.load(Ordering::Relaxed) == 0 && shared.endings().is_empty()).await;
        };
        if tokio::time::timeout_at(deadline, told).await.is_err() {
            tracing::warn!(
                connects = shared.n_asked.load(Ordering::Relaxed),
                sessions = shared.endings().len(),
                "the application has not answered what ends"
            );
        }
    }

    /// Drains, stops listening, then ends the shards.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the gateway draining; call it again to finish.
    pub async fn shutdown(&self) {
        self.drain().await;
        // The listener may have ended by itself.
        let _ended = self.inner.stop.send(true);
        let answered = until(|| self.inner.places.available_permits() == HTTP_CONNECTIONS_MAX);
        if tokio::time::timeout(LAST_ANSWERS, answered).await.is_err() {
            tracing::warn!("requests that are still not answered are cut");
        }
        self.inner
            .shared
            .inboxes
            .iter()
            .for_each(|inbox| inbox.push_always(Command::Stop));
        let threads = std::mem::take(&mut *self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let join = move || {
            threads
                .into_iter()
                .filter_map(|thread| thread.join().err())
                .count()
        };
        match tokio::task::spawn_blocking(join).await {
            Ok(0) => {}
            Ok(panicked) => tracing::error!(panicked, "shards had panicked"),
            Err(error) => tracing::error!(%error, "shards could not be joined"),
        }
        self.inner.shared.end_all();
    }
}

/// Looks until it is so; what it waits for keeps its own pace.
async fn until(is_so: impl Fn() -> bool) {
    const LOOK_EVERY: Duration = Duration::from_millis(10);
    let mut tick = tokio::time::interval(LOOK_EVERY);
    while !is_so() {
        tick.tick().await;
    }
}

fn find<'a>(shared: &'a Arc<Shared>, name: &str) -> Result<&'a Arc<Namespace>, Error> {
    shared.namespace(name).ok_or_else(|| Error::NotFound {
        kind: "namespace",
        name: name.to_owned(),
    })
}

/// Publishes. Cheap to clone, Send and Sync.
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
}

impl Publisher {
    /// Gives the publication its place and hands it to all receivers. Never waits.
    ///
    /// # Errors
    /// When a limit is met or the namespace is unknown; then nobody got it.
    #[profiled(name = "gateway::publish")]
    pub fn publish(&self, publication: Publication) -> Result<Published, Error> {
        self.inner.broker.publish(publication, &Here(&self.inner.shared))
    }

    /// Publishes and collects acknowledgements until all receivers have answered or the time is over.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    ///
    /// # Cancel safety
    /// Dropping the future forgets the acknowledgements; the event has been sent.
    pub async fn publish_collect(
        &self,
        publication: Publication,
        timeout: Duration,
    ) -> Result<Collected, Error> {
        self.publish_collect_first(publication, timeout, ANSWERS_MAX)
            .await
    }

    /// As [`Publisher::publish_collect`], and ends with the first `answers_max` acknowledgements.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    ///
    /// # Cancel safety
    /// As [`Publisher::publish_collect`].
    pub async fn publish_collect_first(
        &self,
        publication: Publication,
        timeout: Duration,
        answers_max: usize,
    ) -> Result<Collected, Error> {
        let namespace = find(&self.inner.shared, &publication.namespace)?.index;
        let wanted = (timeout, answers_max.clamp(1, ANSWERS_MAX));
        collect(&self.inner.shared, namespace, publication, wanted).await
    }

    /// Does something to all sessions that targets choose, at this point of the order: a publication after it finds the
    /// rooms changed. No target is everybody in the namespace. Says of how many sessions of this node it was asked at
    /// most: one that two targets choose may count twice, and one that is left out counts as well. Never waits.
    ///
    /// A session that waits for recovery joins, leaves and ends as its rooms say. One that is moving to another
    /// connection at this very moment starts afresh if a join or leave may be meant for it (`acted` among the reasons
    /// of `gateway_recover_missed`), so that it never goes on in rooms that it should not be in; or it ends (`kicked`).
    ///
    /// # Errors
    /// When a limit is met, the namespace is unknown, or a room is a session's own; then nothing was done to anybody.
    pub fn act(
        &self,
        namespace: &str,
        to: &[Target],
        except: &[Target],
        action: Action,
    ) -> Result<usize, Error> {
        find(&self.inner.shared, namespace)?.act(to, except, action, None)
    }

    /// As [`Publisher::act`], and waits until it is done: then says exactly to how many sessions.
    ///
    /// # Errors
    /// As [`Publisher::act`]; [`Error::Timeout`] when the shards have not come to it within ten seconds, or have ended.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the report; what was asked is done all the same.
    pub async fn act_reported(
        &self,
        namespace: &str,
        to: &[Target],
        except: &[Target],
        action: Action,
    ) -> Result<Acted, Error> {
        let (report, done) = Report::new();
        find(&self.inner.shared, namespace)?.act(to, except, action, Some(&report))?;
        drop(report);
        match tokio::time::timeout(REPORT_WITHIN, done).await {
            Ok(report) => Ok(report.unwrap_or_default()),
            Err(_) => Err(Error::Timeout(REPORT_WITHIN)),
        }
    }

    /// Writes what waits for all sessions at once, collected batches included.
    pub fn flush_all(&self) {
        for inbox in self.inner.shared.inboxes.iter() {
            inbox.push_always(Command::Flush { session: None });
        }
    }
}

/// How long an action may take before whoever waits for its report hears of it.
const REPORT_WITHIN: Duration = Duration::from_secs(10);

struct Here<'a>(&'a Arc<Shared>);

impl Local for Here<'_> {
    fn deliver(&self, publication: Publication) -> Result<Published, Error> {
        find(self.0, &publication.namespace)?.publish(publication)
    }
}

/// Asks a running gateway, and ends sessions. Cheap to clone, Send and Sync.
#[derive(Clone)]
pub struct Inspector {
    shared: Arc<Shared>,
}

/// Most rows of one page.
const PAGE_MAX: usize = 1_000;

impl Inspector {
    /// Sessions in order of id, after `after`.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn connections(&self, after: Option<&str>, limit: usize) -> Page<ConnectionInfo> {
        let page = self.page(None, after, limit).await;
        Page {
            items: page.items.into_iter().map(|session| session.connection).collect(),
            next: page.next,
        }
    }

    /// Sessions of a namespace that a target names, in order of id, after `after`.
    ///
    /// # Errors
    /// When there is no namespace of that name.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn sessions(
        &self,
        namespace: &str,
        target: &Target,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<SessionInfo>, Error> {
        let namespace = find(&self.shared, namespace)?;
        let among = namespace.find(target)?;
        Ok(self.page(Some((namespace.index, among)), after, limit).await)
    }

    async fn page(
        &self,
        among: Option<(u16, Dests)>,
        after: Option<&str>,
        limit: usize,
    ) -> Page<SessionInfo> {
        let limit = limit.clamp(1, PAGE_MAX);
        let after = after.and_then(Id::parse);
        let mut answers = Vec::new();
        for inbox in self.shared.inboxes.iter() {
            let (reply, answer) = oneshot::channel();
            inbox.push_always(Command::Inspect {
                among: among.clone(),
                after,
                limit: limit + 1,
                reply,
            });
            answers.push(answer);
        }
        let mut items: Vec<SessionInfo> = Vec::new();
        for answer in answers {
            items.extend(answer.await.unwrap_or_default());
        }
        items.sort_unstable_by(|a, b| a.connection.id.cmp(&b.connection.id));
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let next = last.map(|session| session.connection.id.clone());
        Page { items, next }
    }

    /// One session, if it is here.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn connection(&self, id: &str) -> Option<ConnectionInfo> {
        self.session(id).await.map(|session| session.connection)
    }

    /// One session with what the application keeps with it, if it is here.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn session(&self, id: &str) -> Option<SessionInfo> {
        let session = self
            .shared
            .namespaces
            .iter()
            .find_map(|namespace| namespace.session(id))?;
        let (reply, answer) = oneshot::channel();
        let inbox = &self.shared.inboxes[usize::from(session.shard)];
        inbox.push_always(Command::InspectOne { session, reply });
        answer.await.ok().flatten()
    }

    /// The namespace that a session is in, if it is here.
    #[must_use]
    pub fn namespace_of(&self, id: &str) -> Option<&str> {
        let mut namespaces = self.shared.namespaces.iter();
        let found = namespaces.find(|namespace| namespace.session(id).is_some());
        found.map(|namespace| &*namespace.name)
    }

    /// Rooms of a namespace in order of name, after `after`.
    #[must_use]
    pub fn rooms(&self, namespace: &str, after: Option<&str>, limit: usize) -> Page<RoomInfo> {
        match self.shared.namespace(namespace) {
            Some(namespace) => namespace.rooms(after, limit.clamp(1, PAGE_MAX)),
            None => Page {
                items: Vec::new(),
                next: None,
            },
        }
    }

    /// Users with sessions in order of name, and how many each has, after `after`.
    #[must_use]
    pub fn users(&self, after: Option<&str>, limit: usize) -> Page<(String, usize)> {
        let mut counts = std::collections::BTreeMap::<Arc<str>, usize>::new();
        for namespace in &self.shared.namespaces {
            for (name, n) in namespace.users() {
                *counts.entry(name).or_default() += n;
            }
        }
        let limit = limit.clamp(1, PAGE_MAX);
        let rest = counts
            .into_iter()
            .filter(|(name, _)| after.is_none_or(|after| &**name > after));
        let mut items: Vec<(String, usize)> = rest
            .take(limit + 1)
            .map(|(name, n)| (name.to_string(), n))
            .collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more {
            items.last().map(|(name, _)| name.clone())
        } else {
            None
        };
        Page { items, next }
    }

    /// Who is in a room, by name; none where the room does not exist or keeps no presence.
    #[must_use]
    pub fn presence(&self, namespace: &str, room: &str, limit: usize) -> Option<Presence> {
        self.shared.namespace(namespace)?.presence(room, limit)
    }

    /// The newest messages of a room's history, oldest first; none where the room does not exist.
    #[must_use]
    pub fn history(&self, namespace: &str, room: &str, limit: usize) -> Option<Vec<HistoryItem>> {
        self.shared.namespace(namespace)?.history(room, limit)
    }

    /// Disconnects a session for good. False if it is not here.
    #[must_use]
    pub fn disconnect_session(&self, id: &str) -> bool {
        let session = self
            .shared
            .namespaces
            .iter()
            .find_map(|namespace| namespace.session(id));
        if let Some(session) = session {
            self.end(session);
        }
        session.is_some()
    }

    /// Disconnects all sessions of a user for good; says how many there were.
    #[must_use]
    pub fn disconnect_user(&self, user: &str) -> usize {
        let sessions: Vec<_> = self
            .shared
            .namespaces
            .iter()
            .flat_map(|namespace| namespace.user_sessions(user))
            .collect();
        sessions.iter().for_each(|session| self.end(*session));
        sessions.len()
    }

    /// Disconnects all members of a room for good; says how many there were.
    #[must_use]
    pub fn disconnect_room(&self, namespace: &str, room: &str) -> usize {
        let Some(namespace) = self.shared.namespace(namespace) else {
            return 0;
        };
        let Some((id, shards)) = namespace.room_shards(room) else {
            return 0;
        };
        let n = namespace.room_members(id);
        for (shard, inbox) in self
            .shared
            .inboxes
            .iter()
            .enumerate()
            .filter(|(shard, _)| shards & 1 << shard != 0)
        {
            debug_assert!(shard < 64, "a shard is one bit");
            let who = Who::Room {
                namespace: namespace.index,
                room: id,
            };
            inbox.push_always(Command::Disconnect {
                who,
                reason: CloseReason::Kicked,
            });
        }
        n
    }

    fn end(&self, session: crate::message::SessionRef) {
        let who = Who::Session(session);
        let command = Command::Disconnect {
            who,
            reason: CloseReason::Kicked,
        };
        self.shared.inboxes[usize::from(session.shard)].push_always(command);
    }
}
