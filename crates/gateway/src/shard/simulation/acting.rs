//! The application acts on many sessions of a simulation at once.

use std::collections::BTreeMap;

use super::{
    World,
    client::Client,
    oracle::{Hit, Member},
    setup::room_name,
};
use crate::{Action, Target};

impl World {
    /// The application puts several sessions into a room or takes them out at once, but for one. Only sessions that are not
    /// on their way to another connection, as above.
    pub(super) fn act(&mut self) {
        let room = self.rng.room();
        let join = self.rng.percent(60);
        let mut chosen: BTreeMap<usize, Target> = BTreeMap::new();
        for _ in 0..1 + self.rng.below(6) {
            let client = self.rng.index(self.clients.len());
            let known = |sid: &&str| self.space().session(sid).is_some();
            if let Some(sid) = self.clients[client].sid().filter(known)
                && self.clients[client].is_in()
                && self.clients[client].is_settled(room)
            {
                chosen.insert(client, Target::Session(sid.to_owned()));
            }
        }
        let to: Vec<Target> = chosen.values().cloned().collect();
        if to.is_empty() {
            return;
        }
        let left_out = self.rng.percent(30).then(|| chosen.pop_first()).flatten();
        let except: Vec<Target> = left_out.into_iter().map(|(_, target)| target).collect();
        let rooms = vec![room_name(room)];
        let action = if join {
            Action::Join(rooms)
        } else {
            Action::Leave(rooms)
        };
        let asked = self.space().act(&to, &except, action, None).unwrap();
        assert_eq!(asked, to.len(), "each target is one session");
        for client in chosen.into_keys() {
            let client = &mut self.clients[client];
            client.say(format_args!(
                "is acted on, join {join}: {room} after {}",
                self.sent.len()
            ));
            if join {
                client.oracle.on_joined(room, self.sent.len());
            } else {
                client.oracle.rooms[room] = Member::Out;
                let sid = client.sid().unwrap().to_owned();
                client.oracle.on_doubt(&self.sent, Some(&sid));
            }
        }
    }

    /// The application moves the members of a room, wherever they are: connected, away, or on their way to another
    /// connection.
    pub(super) fn act_on_room(&mut self) {
        let (from, room) = (self.rng.room(), self.rng.room());
        let except = self.rng.percent(30).then(|| self.rng.room());
        let join = self.rng.percent(60);
        let hits: Vec<Hit> = self
            .clients
            .iter()
            .map(|client| hit(client, from, except))
            .collect();
        // The order of an action and of a wish that is on its way is open.
        let mut both = self.clients.iter().zip(&hits);
        if both.any(|(client, hit)| *hit != Hit::No && !client.is_settled(room)) {
            return;
        }
        let rooms = vec![room_name(room)];
        let action = if join {
            Action::Join(rooms)
        } else {
            Action::Leave(rooms)
        };
        let to = [Target::Room(room_name(from))];
        let except: Vec<Target> = except
            .map(|room| Target::Room(room_name(room)))
            .into_iter()
            .collect();
        self.space().act(&to, &except, action, None).unwrap();
        for (client, hit) in self.clients.iter_mut().zip(hits) {
            if let Some(line) = client.line.as_mut().filter(|line| !line.confirmed) {
                // It may have missed the action, and starts afresh then.
                line.owed = false;
            }
            if hit != Hit::No {
                client.say(format_args!(
                    "in {from} is acted on, {hit:?} join {join}: {room} after {}",
                    self.sent.len()
                ));
                note(client, hit, (room, join), &self.sent);
            }
        }
    }
}

/// Whether an action on the members of a room is done to a client, as it knows itself.
fn hit(client: &Client, from: usize, except: Option<usize>) -> Hit {
    let rooms = &client.oracle.rooms;
    let (Some(_), Some(hit)) = (client.sid(), membership(rooms[from])) else {
        return Hit::No;
    };
    match except.and_then(|room| membership(rooms[room])) {
        Some(Hit::Yes) => Hit::No,
        Some(_) => Hit::Maybe,
        None if client.doomed => Hit::Maybe,
        None => hit,
    }
}

fn membership(member: Member) -> Option<Hit> {
    match member {
        Member::Out => None,
        Member::In => Some(Hit::Yes),
        Member::Joining | Member::Leaving => Some(Hit::Maybe),
    }
}

/// What a client knows of a room after an action. What was in doubt stays so: an older wish may still be on its way.
fn note(client: &mut Client, hit: Hit, (room, join): (usize, bool), sent: &[super::Sent]) {
    let was = client.oracle.rooms[room];
    let sure = hit == Hit::Yes && matches!(was, Member::In | Member::Out);
    match (join, was) {
        (true, _) if sure => client.oracle.on_joined(room, sent.len()),
        (true, Member::Out) => client.oracle.rooms[room] = Member::Joining,
        (true, _) | (false, Member::Out) => {}
        (false, _) => {
            client.oracle.rooms[room] = if sure { Member::Out } else { Member::Leaving };
            let sid = client.sid().map(str::to_owned);
            client.oracle.on_doubt(sent, sid.as_deref());
        }
    }
}
