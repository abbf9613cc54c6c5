//! A simulated client: a real socket, the client's side of the protocols, and what it holds against the server.

use std::{
    collections::HashMap,
    fmt::Display,
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
};

use serde::Deserialize;
use tidegate_wire::{
    deflate::Inflater,
    engineio,
    socketio::{self, Kind, Limits},
    websocket::{OpCode, Reader, ReaderConfig, Role, WsEvent, put_masked_frame},
};

use super::oracle::{Member, Oracle, Sent, Standing};
use crate::offset::Epoch;

/// What a client is for the whole of a simulation.
pub(super) struct Traits {
    pub(super) user: Option<String>,
    pub(super) batch: bool,
    /// It knows recovery, and the server offers it.
    pub(super) recovers: bool,
    pub(super) window_bits: Option<u8>,
}

/// One connection of a client.
pub(super) struct Line {
    pub(super) stream: UnixStream,
    reader: Reader,
    /// The server has answered CONNECT.
    pub(super) confirmed: bool,
    /// Messages published when CONNECT was sent.
    asked_at: usize,
    /// The session must be recovered, unless something is broken.
    pub(super) owed: bool,
    /// An event whose attachment is still coming.
    partial: Option<(usize, Option<u64>)>,
}

/// A session as its client knows it.
pub(super) struct Known {
    pub(super) sid: String,
    pub(super) pid: Option<String>,
}

/// What was asked for and is not yet answered.
pub(super) struct Wish {
    rooms: Vec<usize>,
    join: bool,
    asked_at: usize,
}

/// What a client sees of the simulation around it.
pub(super) struct Around<'a> {
    pub(super) sent: &'a [Sent],
    pub(super) epoch: Epoch,
    pub(super) now_ms: u64,
    pub(super) inflater: &'a mut Inflater,
    pub(super) scratch: &'a mut [u8],
}

/// One client.
pub(super) struct Client {
    pub(super) name: usize,
    pub(super) traits: Traits,
    pub(super) line: Option<Line>,
    pub(super) session: Option<Known>,
    pub(super) oracle: Oracle,
    pub(super) waiting: HashMap<u64, Wish>,
    next_ack: u64,
    /// The last offset, as clients keep it: across sessions.
    offset: Option<String>,
    position: u64,
    /// It does not read before this.
    pub(super) deaf_until_ms: u64,
    /// It comes back at this time when it has no connection.
    pub(super) back_at_ms: u64,
    /// When its connection was last known to be open at the server.
    pub(super) alive_at_ms: u64,
    /// Its last connection was welcomed, so that nothing of its session is on its way.
    pub(super) stable: bool,
    /// Its session is being ended from outside.
    pub(super) doomed: bool,
    pub(super) recovered: usize,
    pub(super) fresh: usize,
    /// Where packets are written down instead of judged.
    pub(super) diary: Option<Vec<String>>,
    pub(super) trace: bool,
}

#[derive(Deserialize)]
struct Datum {
    n: usize,
}

#[derive(Deserialize)]
struct Batch {
    batch_size: usize,
    messages: Vec<Batched>,
}

#[derive(Deserialize)]
struct Batched {
    event: String,
    data: Box<serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Welcome {
    sid: String,
    pid: Option<String>,
}

// === impl Line ===

impl Line {
    pub(super) fn new(stream: UnixStream, asked_at: usize, owed: bool) -> Self {
        Self {
            stream,
            reader: Reader::new(),
            confirmed: false,
            asked_at,
            owed,
            partial: None,
        }
    }

    /// Sends the text of an Engine.IO packet. A server that has closed does not hear it.
    pub(super) fn send(&mut self, text: &str) {
        self.send_frame(OpCode::Text, text.as_bytes());
    }

    pub(super) fn send_frame(&mut self, op: OpCode, payload: &[u8]) {
        let mut bytes = Vec::new();
        put_masked_frame(&mut bytes, op, true, false, [7, 1, 8, 2], payload);
        match self.stream.write_all(&bytes) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(error) => panic!("the client's socket takes what it sends: {error}"),
        }
    }
}

// === impl Client ===

impl Client {
    pub(super) fn new(name: usize, traits: Traits) -> Self {
        Self {
            name,
            oracle: Oracle::new(traits.user.clone()),
            traits,
            line: None,
            session: None,
            waiting: HashMap::new(),
            next_ack: 0,
            offset: None,
            position: 0,
            deaf_until_ms: 0,
            back_at_ms: 0,
            alive_at_ms: 0,
            stable: false,
            doomed: false,
            recovered: 0,
            fresh: 0,
            diary: None,
            trace: false,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        match (&self.session, &self.line) {
            (None, None) => Standing::Nobody,
            (None, Some(_)) => Standing::Entering,
            (Some(_), _) if self.doomed => Standing::Doomed,
            (Some(_), Some(line)) if !line.confirmed => Standing::Asking,
            (Some(_), _) => Standing::Certain,
        }
    }

    pub(super) fn sid(&self) -> Option<&str> {
        self.session.as_ref().map(|session| session.sid.as_str())
    }

    pub(super) fn is_in(&self) -> bool {
        self.session.is_some() && self.line.as_ref().is_some_and(|line| line.confirmed) && !self.doomed
    }

    /// CONNECT, with what the client knows of its last session.
    pub(super) fn connect_packet(&self) -> String {
        let mut auth = serde_json::Map::new();
        if self.traits.batch {
            auth.insert("batch".into(), true.into());
        }
        if self.traits.recovers {
            if let Some(pid) = self.session.as_ref().and_then(|session| session.pid.clone()) {
                auth.insert("pid".into(), pid.into());
            }
            if let Some(offset) = &self.offset {
                auth.insert("offset".into(), offset.clone().into());
            }
        } else {
            auth.insert("recovery".into(), false.into());
        }
        format!("40{}", serde_json::Value::Object(auth))
    }

    /// Asks to join or leave rooms.
    pub(super) fn wish(&mut self, rooms: Vec<usize>, join: bool, asked_at: usize) {
        let ack = self.next_ack;
        self.next_ack += 1;
        let names: Vec<String> = rooms.iter().map(|&room| super::room_name(room)).collect();
        let arg = match &names[..] {
            [one] => serde_json::json!(one),
            many => serde_json::json!(many),
        };
        let event = if join { "join" } else { "leave" };
        self.say(format_args!("asks {event} {arg} after {asked_at}"));
        let line = self.line.as_mut().expect("only a connected client asks");
        line.send(&format!(r#"42{ack}["{event}",{arg}]"#));
        for &room in &rooms {
            self.oracle.rooms[room] = if join { Member::Joining } else { Member::Leaving };
        }
        self.waiting.insert(
            ack,
            Wish {
                rooms,
                join,
                asked_at,
            },
        );
    }

    /// Rooms that no open wish is about.
    pub(super) fn is_settled(&self, room: usize) -> bool {
        self.waiting.values().all(|wish| !wish.rooms.contains(&room))
    }

    /// The connection is gone, by whoever's doing.
    pub(super) fn on_lost(&mut self, sent: &[Sent]) {
        self.line = None;
        self.waiting.clear();
        if !self.traits.recovers {
            self.forget();
        } else if let Some(session) = &self.session {
            self.oracle.on_doubt(sent, Some(&session.sid));
        }
    }

    /// The session is given up.
    pub(super) fn forget(&mut self) {
        self.session = None;
        self.doomed = false;
        self.waiting.clear();
        self.oracle.on_gone();
    }

    /// Reads what has come, unless the client is deaf.
    pub(super) fn pump(&mut self, around: &mut Around<'_>) {
        if around.now_ms < self.deaf_until_ms {
            return;
        }
        let Some(mut line) = self.line.take() else { return };
        if self.read(&mut line, around) {
            self.alive_at_ms = around.now_ms;
            self.line = Some(line);
        } else {
            self.say("lost");
            self.back_at_ms = around.now_ms;
            self.on_lost(around.sent);
        }
    }

    fn read(&mut self, line: &mut Line, around: &mut Around<'_>) -> bool {
        let mut scratch = std::mem::take(&mut around.scratch);
        let open = loop {
            match line.stream.read(scratch) {
                Ok(0) => break false,
                Ok(n) => {
                    if !self.feed(line, &mut scratch[..n], around) {
                        break false;
                    }
                }
                Err(error) => break error.kind() == ErrorKind::WouldBlock,
            }
        };
        std::mem::swap(&mut around.scratch, &mut scratch);
        open
    }

    fn feed(&mut self, line: &mut Line, bytes: &mut [u8], around: &mut Around<'_>) -> bool {
        let deflate = self.traits.window_bits.is_some();
        let config = ReaderConfig {
            message_bytes_max: 1 << 20,
            deflate,
            role: Role::Client,
        };
        let mut reader = std::mem::take(&mut line.reader);
        let mut at = 0;
        let mut open = true;
        while at < bytes.len() && open {
            let step = reader.step(&mut bytes[at..], &config, around.inflater);
            let step = step.expect("the server's frames are legal");
            at += step.consumed;
            match step.event {
                Some(WsEvent::Text(text)) => open = self.on_text(line, &text, around),
                Some(WsEvent::Binary(data)) => self.on_binary(line, &data, around),
                Some(WsEvent::Close { .. }) => open = false,
                Some(WsEvent::Ping(_) | WsEvent::Pong(_)) | None => {}
            }
        }
        line.reader = reader;
        open
    }

    /// False when the connection is over.
    fn on_text(&mut self, line: &mut Line, text: &str, around: &mut Around<'_>) -> bool {
        match engineio::decode_text(text).expect("the server's packets are legal") {
            engineio::Packet::Ping(_) => line.send("3"),
            engineio::Packet::Message(text) => return self.on_packet(line, &text, around),
            engineio::Packet::Close => return false,
            _ => {}
        }
        true
    }

    fn on_packet(&mut self, line: &mut Line, text: &str, around: &mut Around<'_>) -> bool {
        let packet = socketio::decode(text, &Limits::default()).expect("the server's packets are legal");
        self.check(line.partial.is_none(), "an attachment is missing", text);
        if let Some(diary) = self.diary.as_mut().filter(|_| packet.kind != Kind::Connect) {
            diary.push(text.to_owned());
            return true;
        }
        match packet.kind {
            Kind::Connect => self.on_connected(line, packet.data),
            Kind::Event => self.on_event(line, packet.data, false, around),
            Kind::BinaryEvent => self.on_event(line, packet.data, true, around),
            Kind::Ack => self.on_ack(packet.id.unwrap(), packet.data, around),
            Kind::Disconnect => {
                self.check(self.doomed, "disconnected for no reason", text);
                self.forget();
                return false;
            }
            Kind::ConnectError | Kind::BinaryAck => self.check(false, "not asked for", text),
        }
        true
    }

    fn on_connected(&mut self, line: &mut Line, data: &str) {
        let welcome: Welcome = serde_json::from_str(data).unwrap();
        self.check(!line.confirmed, "welcomed twice", data);
        self.check(
            welcome.pid.is_some() == self.traits.recovers,
            "pid as agreed",
            data,
        );
        line.confirmed = true;
        self.stable = true;
        if self.sid() == Some(&welcome.sid) {
            self.say("recovered");
            self.recovered += 1;
            let old = self.session.as_ref().and_then(|session| session.pid.as_ref());
            self.check(old == welcome.pid.as_ref(), "the same secret", data);
            return;
        }
        self.say("fresh");
        self.check(!line.owed || self.doomed, "should have been recovered", data);
        self.fresh += 1;
        self.forget();
        self.oracle.on_fresh(line.asked_at);
        self.session = Some(Known {
            sid: welcome.sid,
            pid: welcome.pid,
        });
    }

    fn on_event(&mut self, line: &mut Line, data: &str, binary: bool, around: &mut Around<'_>) {
        let event = socketio::event(data).unwrap();
        self.check(line.confirmed, "an event before the welcome", data);
        let n_args = 1 + usize::from(self.traits.recovers);
        self.check(
            event.args.len() == n_args,
            "one argument, and the offset where agreed",
            data,
        );
        let offset = self.traits.recovers.then(|| self.read_offset(data, around));
        let first = event.args[0].get();
        match &*event.name {
            "presence" => {}
            "batch" => self.on_batch(first, offset, around),
            "m" => {
                let n = serde_json::from_str::<Datum>(first).unwrap().n;
                if binary {
                    line.partial = Some((n, offset));
                    return;
                }
                self.on_message(n, around);
                self.check_offset(n, offset, around);
            }
            other => self.check(false, "an unknown event", other),
        }
        if let Some(position) = offset {
            self.keep_offset(position, around);
        }
    }

    fn on_binary(&mut self, line: &mut Line, data: &[u8], around: &mut Around<'_>) {
        let (n, offset) = line.partial.take().expect("binary data belongs to an event");
        self.check(data == super::attachment(n), "another message's attachment", n);
        self.on_message(n, around);
        self.check_offset(n, offset, around);
        if let Some(position) = offset {
            self.keep_offset(position, around);
        }
    }

    fn on_batch(&mut self, data: &str, offset: Option<u64>, around: &mut Around<'_>) {
        let batch: Batch = serde_json::from_str(data).unwrap();
        self.check(self.traits.batch, "a batch that nobody asked for", data);
        self.check(
            batch.batch_size == batch.messages.len() && batch.batch_size > 0,
            "batch_size",
            data,
        );
        for one in &batch.messages {
            if one.event == "m" {
                let n = serde_json::from_str::<Datum>(one.data.get()).unwrap().n;
                self.on_message(n, around);
            }
        }
        let last = batch.messages.last().filter(|one| one.event == "m");
        if let Some(last) = last {
            let n = serde_json::from_str::<Datum>(last.data.get()).unwrap().n;
            self.check_offset(n, offset, around);
        }
    }

    fn on_message(&mut self, n: usize, around: &Around<'_>) {
        self.say(format_args!("message {n} at {}", around.now_ms));
        if let Err(wrong) = self.oracle.on_message(n) {
            self.check(false, &wrong, "");
        }
    }

    fn read_offset(&self, data: &str, around: &Around<'_>) -> u64 {
        let offset = socketio::last_string(data).and_then(|text| around.epoch.position(&text));
        self.check(offset.is_some(), "ends with an offset", data);
        offset.unwrap()
    }

    fn check_offset(&self, n: usize, offset: Option<u64>, around: &Around<'_>) {
        let right = offset.is_none_or(|position| position == around.sent[n].seq);
        self.check(right, "another message's offset", n);
    }

    fn keep_offset(&mut self, position: u64, around: &Around<'_>) {
        self.check(position > self.position, "offsets only grow", position);
        self.position = position;
        self.offset = Some(around.epoch.offset_string(position));
    }

    fn on_ack(&mut self, ack: u64, data: &str, around: &Around<'_>) {
        let wish = self.waiting.remove(&ack).expect("each wish is answered once");
        self.check(data == r#"[{"ok":true}]"#, "refused", data);
        self.say(format_args!("done {:?} join={}", wish.rooms, wish.join));
        for room in wish.rooms {
            if wish.join {
                self.oracle.on_joined(room, around.sent.len());
            } else if let Err(wrong) = self.oracle.on_left(room, wish.asked_at, around.sent) {
                self.check(false, &wrong, "");
            }
        }
    }

    #[track_caller]
    pub(super) fn check(&self, right: bool, what: &str, at: impl Display) {
        assert!(right, "client {} of {:?}: {what}: {at}", self.name, self.sid());
    }

    pub(super) fn say(&self, what: impl Display) {
        if self.trace {
            eprintln!("client {}: {what}", self.name);
        }
    }
}
