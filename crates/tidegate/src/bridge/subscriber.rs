//! The connection that hears channels: classic and sharded adapters, and python-socketio's managers.
//!
//! Everything that a publisher sends while this connection is away is lost to this server, as it is to every subscriber of
//! Redis; what was sent before and after it keeps its order.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use redis::Cmd;
use tidegate_gateway::{RoomChange, RoomWatch};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::{
    Shared,
    desk::Desk,
    figures::Link,
    formats::{self, Format, Reason, Refused},
    link::{Connection, Pauses},
    resp::{Item, Value, invalid},
};

/// A quiet connection is tried so often; twice without an answer, it is given up.
const PING: Duration = Duration::from_secs(5);
/// For what has begun to come to come whole.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Commands sent before the answers to earlier ones have come.
const UNANSWERED_MAX: usize = 256;

/// Listens for as long as the server runs.
///
/// # Cancel safety
/// Dropped, the connection ends; a message that waits for a place is not carried out.
pub(super) async fn run(shared: Arc<Shared>, mut desk: Desk, mut rooms: Option<RoomWatch>) {
    let mut pauses = Pauses::new();
    loop {
        let error = match shared.connect().await {
            Ok(connection) => {
                let mut session = Session::new(&shared, connection, &mut pauses);
                let Err(error) = session.listen(&mut desk, rooms.as_mut()).await;
                error
            }
            Err(error) => error,
        };
        shared.lost(Link::PubSub, &error);
        pauses.wait().await;
    }
}

/// One life of the connection.
struct Session<'a> {
    shared: &'a Shared,
    connection: Connection,
    pauses: &'a mut Pauses,
    /// What was subscribed to, in the order in which answers come; none for a ping.
    unanswered: VecDeque<Option<(Format, String)>>,
    /// Until the channels that do not depend on rooms are all heard.
    starting: usize,
    /// Commands of rooms that wait for answers to earlier ones.
    later: VecDeque<Cmd>,
    n_rooms: usize,
    /// Sharded pub/sub is not there, so channels of rooms need not be asked for.
    no_sharded: bool,
    pings: u32,
}

/// Which way a message came.
enum Came {
    Broadcast,
    Request,
    Sharded,
    Python,
}

// === impl Session ===

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, connection: Connection, pauses: &'a mut Pauses) -> Self {
        Self {
            shared,
            connection,
            pauses,
            unanswered: VecDeque::new(),
            starting: 0,
            later: VecDeque::new(),
            n_rooms: 0,
            no_sharded: false,
            pings: 0,
        }
    }

    async fn listen(
        &mut self,
        desk: &mut Desk,
        mut rooms: Option<&mut RoomWatch>,
    ) -> Result<std::convert::Infallible, io::Error> {
        self.subscribe(rooms.as_deref_mut()).await?;
        let mut ticks = interval(PING);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            tokio::select! {
                ready = self.connection.reader.ready() => {
                    if !ready? {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.pings = 0;
                    ticks.reset();
                    self.read(desk).await?;
                }
                _ = tick(&mut ticks) => self.ping().await?,
                // What changes meanwhile is noted where rooms are, once for each.
                changes = changed(rooms.as_deref_mut()), if self.later.is_empty() => self.follow(changes).await?,
            }
        }
    }

    /// Asks for every channel; the answers are read like everything else.
    async fn subscribe(&mut self, rooms: Option<&mut RoomWatch>) -> io::Result<()> {
        let config = &self.shared.config;
        self.shared.channels_refused.store(0, Relaxed);
        if config.hears(Format::Classic) {
            // By pattern, so that servers that count subscribers before they wait for answers do not count this one.
            for pattern in [self.shared.broadcasts.clone(), self.shared.requests.clone()] {
                self.ask("PSUBSCRIBE", Format::Classic, pattern).await?;
            }
        }
        if config.hears(Format::Python) {
            for channel in config.python_channels.clone() {
                self.ask("SUBSCRIBE", Format::Python, channel).await?;
            }
        }
        if config.hears(Format::Sharded) {
            for namespace in self.shared.namespaces.clone() {
                let channel = self.shared.channel(&namespace);
                self.ask("SSUBSCRIBE", Format::Sharded, channel).await?;
            }
        }
        self.starting = self.unanswered.len();
        if self.starting == 0 {
            self.shared.up(Link::PubSub);
        }
        if let Some(rooms) = rooms {
            let all = rooms.restart();
            self.follow(all).await?;
        }
        Ok(())
    }

    async fn ask(&mut self, verb: &str, format: Format, channel: String) -> io::Result<()> {
        let mut command = redis::cmd(verb);
        command.arg(&channel);
        self.connection.send(&command).await?;
        self.unanswered.push_back(Some((format, channel)));
        Ok(())
    }

    /// Subscribes to the channels of rooms that came and leaves those of rooms that went.
    async fn follow(&mut self, changes: Vec<RoomChange>) -> io::Result<()> {
        if self.no_sharded {
            return Ok(());
        }
        for RoomChange {
            namespace,
            room,
            exists,
        } in changes
        {
            let channel = format!("{}{room}#", self.shared.channel(&namespace));
            let mut command = redis::cmd(if exists { "SSUBSCRIBE" } else { "SUNSUBSCRIBE" });
            command.arg(channel);
            self.n_rooms = if exists {
                self.n_rooms + 1
            } else {
                self.n_rooms.saturating_sub(1)
            };
            self.later.push_back(command);
        }
        self.shared.figures.rooms.set(self.n_rooms as i64);
        self.send_later().await
    }

    /// Sends what waits, as far as the answers to earlier commands have come: they are read by who sends these.
    async fn send_later(&mut self) -> io::Result<()> {
        while self.unanswered.len() < UNANSWERED_MAX
            && let Some(command) = self.later.pop_front()
        {
            self.connection.send(&command).await?;
            let channel = "a room's channel".to_owned();
            self.unanswered.push_back(Some((Format::Sharded, channel)));
        }
        Ok(())
    }

    async fn ping(&mut self) -> io::Result<()> {
        if self.pings == 2 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.pings += 1;
        self.unanswered.push_back(None);
        self.connection.send(&redis::cmd("PING")).await
    }

    /// Reads one item, which has begun to come, and carries it out.
    async fn read(&mut self, desk: &mut Desk) -> io::Result<()> {
        let message = timeout(READ_TIMEOUT, self.message()).await;
        let Some((came, channel, payload)) =
            message.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?
        else {
            return self.send_later().await;
        };
        let format = match came {
            Came::Broadcast | Came::Request => Format::Classic,
            Came::Sharded => Format::Sharded,
            Came::Python => Format::Python,
        };
        let key = &self.shared.config.key;
        let read = match (channel.bytes(), payload.bytes()) {
            (Some(channel), Some(payload)) => {
                let paid = self.shared.pay_reading(payload.len());
                paid.and_then(|_paid| match came {
                    Came::Broadcast => formats::read_broadcast(key, channel, payload),
                    Came::Request => formats::read_request(key, channel, payload),
                    Came::Sharded => formats::read_sharded(payload),
                    Came::Python => formats::read_python(payload),
                })
            }
            _ => Err(not_read(&payload)),
        };
        desk.take(format, payload.len(), read).await;
        Ok(())
    }

    /// A message; none for an answer to a command.
    async fn message(&mut self) -> io::Result<Option<(Came, Value, Value)>> {
        let reader = &mut self.connection.reader;
        let len = match reader.item().await? {
            Item::Array(len) => len,
            // What was refused is not heard, the rest is.
            Item::Error(text) => {
                self.refused(&text);
                return Ok(None);
            }
            // To a ping, where no channel was granted.
            Item::Plain(_) => {
                self.answered();
                return Ok(None);
            }
            other => return Err(invalid(&format!("{other:?} on a connection that listens"))),
        };
        let kind = reader.expect_value().await?;
        let came = match (kind.bytes().unwrap_or_default(), len) {
            (b"pmessage", 4) => {
                let pattern = reader.expect_value().await?;
                match pattern.bytes() == Some(self.shared.broadcasts.as_bytes()) {
                    true => Came::Broadcast,
                    false => Came::Request,
                }
            }
            (b"message", 3) => Came::Python,
            (b"smessage", 3) => Came::Sharded,
            (b"pong" | b"subscribe" | b"psubscribe" | b"ssubscribe" | b"sunsubscribe", _) => {
                reader.skip(len.saturating_sub(1)).await?;
                self.answered();
                return Ok(None);
            }
            (kind, len) => {
                return Err(invalid(&format!(
                    "{:?} of {len}",
                    kind.escape_ascii().to_string()
                )));
            }
        };
        let channel = reader.expect_value().await?;
        let payload = reader.expect_value().await?;
        Ok(Some((came, channel, payload)))
    }

    fn answered(&mut self) -> Option<(Format, String)> {
        let answered = self.unanswered.pop_front().flatten();
        if answered.is_some() && self.starting > 0 {
            self.starting -= 1;
            if self.starting == 0 {
                self.pauses.reset();
                self.shared.up(Link::PubSub);
            }
        }
        answered
    }

    fn refused(&mut self, text: &str) {
        // A ping may be refused too: it has an answer, and that is what it was for.
        let Some((format, channel)) = self.answered() else {
            return;
        };
        let is_first = self.shared.channels_refused.fetch_add(1, Relaxed) == 0;
        if format == Format::Sharded {
            self.no_sharded = true;
            self.later.clear();
            self.n_rooms = 0;
            self.shared.figures.rooms.set(0);
        }
        // One line for each connection; the figures have the number.
        if is_first {
            let format = format.as_str();
            tracing::error!(format, channel, answer = text, "redis refuses a channel");
        }
    }
}

async fn tick(ticks: &mut Interval) {
    ticks.tick().await;
}

async fn changed(rooms: Option<&mut RoomWatch>) -> Vec<RoomChange> {
    match rooms {
        Some(rooms) => rooms.changed().await,
        None => std::future::pending().await,
    }
}

/// A value that was passed over.
pub(super) fn not_read(value: &Value) -> Refused {
    match value {
        Value::NoMemory(len) => Refused::new(Reason::Memory, format!("no memory for {len} bytes")),
        value => Refused::new(
            Reason::TooLarge,
            format!("{} bytes, over bridge.message_bytes_max", value.len()),
        ),
    }
}
