//! What a shard tells the operator of its sessions.

use tokio::sync::oneshot;

use super::{
    Shard,
    conn::{NO_CONN, Transport},
};
use crate::{
    id::Id,
    inspect::{ConnectionInfo, SessionInfo},
    message::{Dests, SessionRef},
};

impl Shard {
    /// The first `limit` sessions after an id, in order of id.
    pub(super) fn on_inspect(
        &self,
        among: Option<(u16, Dests)>,
        after: Option<Id>,
        limit: usize,
        reply: oneshot::Sender<Vec<SessionInfo>>,
    ) {
        let is_next = |id: Id| after.is_none_or(|after| id > after);
        let mut found: Vec<(Id, u32)> = match among {
            None => self
                .sessions
                .iter()
                .filter(|(_, session)| session.opened && is_next(session.id))
                .map(|(index, session)| (session.id, index as u32))
                .collect(),
            Some((namespace, dests)) => self
                .receivers(namespace, &dests)
                .into_iter()
                .map(|member| (self.sessions[member.session as usize].id, member.session))
                .filter(|(id, _)| is_next(*id))
                .collect(),
        };
        if found.len() > limit {
            found.select_nth_unstable(limit);
            found.truncate(limit);
        }
        found.sort_unstable();
        let rows = found
            .into_iter()
            .map(|(_, index)| self.describe_whole(index))
            .collect();
        // Whoever asked may have hung up.
        let _unwanted = reply.send(rows);
    }

    pub(super) fn on_inspect_one(&self, at: SessionRef, reply: oneshot::Sender<Option<SessionInfo>>) {
        let row = self.slot(at).map(|index| self.describe_whole(index));
        let _unwanted = reply.send(row);
    }

    fn describe_whole(&self, index: u32) -> SessionInfo {
        let given = self.sessions[index as usize].given.as_ref();
        SessionInfo {
            connection: self.describe(index),
            data: given.and_then(|given| given.data.clone()),
        }
    }

    fn describe(&self, index: u32) -> ConnectionInfo {
        let session = &self.sessions[index as usize];
        let namespace = &self.shared.namespaces[usize::from(session.namespace)];
        let conn = if session.conn == NO_CONN {
            None
        } else {
            self.conns.get(session.conn as usize)
        };
        let now_ms = self.now.as_millis();
        let idle_ms = now_ms.saturating_sub(session.last_event_ms);
        let overdue = conn.is_some_and(|conn| conn.is_pong_overdue(now_ms));
        let rooms = session
            .rooms
            .iter()
            .filter_map(|membership| namespace.room_name(membership.id));
        ConnectionInfo {
            id: session.id.as_str().to_owned(),
            namespace: namespace.name.to_string(),
            state: session.state(&self.shared.config.sessions, now_ms, overdue),
            user: session.identity.user.to_string(),
            tenant: session.identity.tenant.as_ref().map(ToString::to_string),
            transport: match conn.map(|conn| &conn.transport) {
                Some(Transport::WebSocket(_)) => "websocket",
                Some(Transport::Polling(_)) => "polling",
                None => "none",
            },
            address: Some(session.address),
            rooms: rooms.map(|name| name.to_string()).collect(),
            age_s: now_ms.saturating_sub(session.connected_ms) / 1_000,
            idle_s: idle_ms / 1_000,
            last_activity_ms: self.shared.clock.wall_ms().saturating_sub(idle_ms),
            errors: session.errors,
            recovered: session.recovered,
            queued_messages: conn.map_or(0, |conn| conn.outbox.messages()),
            queued_bytes: conn.map_or(0, |conn| conn.outbox.bytes()),
            shard: usize::from(self.index),
        }
    }
}
