//! What one simulated client must, may and must not receive, judged by what it knows itself.

use std::collections::{BTreeMap, HashMap};

/// Rooms of a simulation.
pub(super) const ROOMS: usize = 8;

/// One published message, by its number in order of publication.
pub(super) struct Sent {
    pub(super) n: usize,
    /// Its position in the namespace's order.
    pub(super) seq: u64,
    pub(super) to: Vec<Aim>,
    pub(super) except: Vec<Aim>,
    pub(super) key: Option<u8>,
    /// Volatile or drop-oldest: it may go missing.
    pub(super) droppable: bool,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    Room(usize),
    User(String),
    Session(String),
}

/// A room as the client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// Never asked to join, or heard that it has left.
    Out,
    /// Asked to join and not yet answered.
    Joining,
    /// Heard that it has joined.
    In,
    /// Asked to leave and not yet answered.
    Leaving,
}

/// How sure a client can be of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has none and asks for none.
    Nobody,
    /// It asks for its first.
    Entering,
    /// It has one, connected or waiting for recovery.
    Certain,
    /// It has one and asks for it on a new connection: it may get another.
    Asking,
    /// It has one that is being ended from outside.
    Doomed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hit {
    No,
    Maybe,
    Yes,
}

/// Whether a message may come. The order counts: less is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Never,
    /// Only by a room or a session id, which a fresh session does not have.
    Session,
    /// By something that a fresh session has as well.
    Anybody,
}

/// The judge of one client.
pub(super) struct Oracle {
    user: Option<String>,
    pub(super) rooms: [Member; ROOMS],
    /// For rooms it is in: how many messages had been published when that was certain.
    since: [usize; ROOMS],
    verdicts: Vec<Verdict>,
    /// Messages that must still come, with their conflation key.
    due: BTreeMap<usize, Option<u8>>,
    by_key: HashMap<u8, usize>,
    /// The first number that may still come.
    next: usize,
    pub(super) received: usize,
}

impl Oracle {
    pub(super) fn new(user: Option<String>) -> Self {
        Self {
            user,
            rooms: [Member::Out; ROOMS],
            since: [0; ROOMS],
            verdicts: Vec::new(),
            due: BTreeMap::new(),
            by_key: HashMap::new(),
            next: 0,
            received: 0,
        }
    }

    /// A message is published.
    pub(super) fn on_publish(&mut self, sent: &Sent, standing: Standing, sid: Option<&str>) {
        let (verdict, must) = self.judge(sent, standing, sid);
        self.verdicts.push(verdict);
        if let Some(key) = sent.key
            && verdict != Verdict::Never
            && let Some(old) = self.by_key.remove(&key)
        {
            self.due.remove(&old);
        }
        if must {
            self.due.insert(sent.n, sent.key);
            if let Some(key) = sent.key {
                self.by_key.insert(key, sent.n);
            }
        }
    }

    fn judge(&self, sent: &Sent, standing: Standing, sid: Option<&str>) -> (Verdict, bool) {
        let best = |aims: &[Aim], standing| aims.iter().map(|aim| self.hit(aim, sent.n, standing, sid)).max();
        // What it had is owed to it until it gets another session; nobody is left out for what it had.
        let owed = if standing == Standing::Asking {
            Standing::Certain
        } else {
            standing
        };
        let to = if sent.to.is_empty() {
            Some(everybody(owed))
        } else {
            best(&sent.to, owed)
        };
        let to = to.unwrap_or(Hit::No);
        let except = best(&sent.except, standing).unwrap_or(Hit::No);
        if to == Hit::No || except == Hit::Yes {
            return (Verdict::Never, false);
        }
        let users = sent
            .to
            .iter()
            .any(|aim| matches!(aim, Aim::User(name) if Some(name) == self.user.as_ref()));
        let verdict = if sent.to.is_empty() || users {
            Verdict::Anybody
        } else {
            Verdict::Session
        };
        (verdict, to == Hit::Yes && except == Hit::No && !sent.droppable)
    }

    fn hit(&self, aim: &Aim, n: usize, standing: Standing, sid: Option<&str>) -> Hit {
        match aim {
            Aim::User(name) if Some(name) == self.user.as_ref() => everybody(standing),
            Aim::Session(id) if Some(id.as_str()) == sid => sure(standing),
            Aim::User(_) | Aim::Session(_) => Hit::No,
            Aim::Room(room) => match self.rooms[*room] {
                Member::Out => Hit::No,
                Member::In if self.since[*room] <= n => sure(standing),
                Member::In => Hit::Maybe,
                Member::Joining | Member::Leaving => Hit::Maybe,
            },
        }
    }

    /// A join is certain when `n` messages have been published.
    pub(super) fn on_joined(&mut self, room: usize, n: usize) {
        self.rooms[room] = Member::In;
        self.since[room] = n;
    }

    /// A message has come; says what is wrong with that.
    pub(super) fn on_message(&mut self, n: usize) -> Result<(), String> {
        if n < self.next {
            return Err(format!(
                "message {n} after {}: a duplicate or out of order",
                self.next - 1
            ));
        }
        if self
            .verdicts
            .get(n)
            .is_none_or(|verdict| *verdict == Verdict::Never)
        {
            return Err(format!("message {n} is not for this client, {:?}", self.rooms));
        }
        self.next = n + 1;
        self.received += 1;
        if self
            .due
            .remove(&n)
            .flatten()
            .is_some_and(|key| self.by_key.get(&key) == Some(&n))
        {
            self.by_key.retain(|_, due| *due != n);
        }
        match self.due.first_key_value() {
            Some((gap, _)) if *gap < n => Err(format!("message {n} came, but {gap} before it did not")),
            _ => Ok(()),
        }
    }

    /// A leave is confirmed that was asked for when `asked_at` messages had been published.
    pub(super) fn on_left(&mut self, room: usize, asked_at: usize, all: &[Sent]) -> Result<(), String> {
        let aimed = |n: usize| all[n].to.contains(&Aim::Room(room));
        if let Some((&n, _)) = self.due.iter().find(|&(&n, _)| n < asked_at && aimed(n)) {
            return Err(format!(
                "room {room} is left, but message {n} from before did not come"
            ));
        }
        self.rooms[room] = Member::Out;
        // Nothing of it comes any more, whenever it was published.
        let only = |sent: &&Sent| !sent.to.is_empty() && sent.to.iter().all(|aim| *aim == Aim::Room(room));
        for sent in all.iter().skip(self.next).filter(only) {
            self.verdicts[sent.n] = Verdict::Never;
        }
        Ok(())
    }

    /// What hangs on a membership that is in doubt need not come any more.
    pub(super) fn on_doubt(&mut self, all: &[Sent], sid: Option<&str>) {
        let due = std::mem::take(&mut self.due);
        let kept = due
            .into_iter()
            .filter(|(n, _)| self.judge(&all[*n], Standing::Certain, sid).1);
        self.due = kept.collect();
    }

    /// The session is being ended: nothing is owed to it any more.
    pub(super) fn on_end(&mut self) {
        self.due.clear();
        self.by_key.clear();
    }

    /// The session is gone.
    pub(super) fn on_gone(&mut self) {
        self.rooms = [Member::Out; ROOMS];
        self.on_end();
    }

    /// A fresh session, which was asked for when `asked_at` messages had been published.
    pub(super) fn on_fresh(&mut self, asked_at: usize) {
        self.on_gone();
        self.next = self.next.max(asked_at);
        for verdict in self.verdicts.iter_mut().skip(self.next) {
            if *verdict == Verdict::Session {
                *verdict = Verdict::Never;
            }
        }
    }

    /// The first message that should have come by now.
    pub(super) fn missing(&self) -> Option<usize> {
        self.due.first_key_value().map(|(n, _)| *n)
    }
}

/// How sure it is that what is for everybody reaches the client.
fn everybody(standing: Standing) -> Hit {
    match standing {
        Standing::Nobody => Hit::No,
        Standing::Entering | Standing::Doomed => Hit::Maybe,
        Standing::Certain | Standing::Asking => Hit::Yes,
    }
}

/// How sure it is that what the session has still counts.
fn sure(standing: Standing) -> Hit {
    match standing {
        Standing::Nobody | Standing::Entering => Hit::No,
        Standing::Doomed | Standing::Asking => Hit::Maybe,
        Standing::Certain => Hit::Yes,
    }
}
