//! The connection that reads streams, from the position where it stopped.
//!
//! A stream keeps what nobody has read yet, so nothing is lost while this server waits for its gateway or for Redis. What the
//! publishers' own limit (`MAXLEN`) cuts away before it was read is counted, from Redis 7 on, which numbers what was added.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    Shared,
    desk::Desk,
    figures::Link,
    formats::{self, Format, Refused},
    link::{Connection, Pauses},
    resp::{Item, Value, invalid},
    subscriber::not_read,
};

/// Entries that one command brings.
const READ_COUNT: usize = 100;
/// How long Redis waits for the next entry before it answers with nothing.
const BLOCK: Duration = Duration::from_secs(2);
/// For the answer to begin, and for each entry to come whole.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a stream was read to.
#[derive(Debug)]
struct Position {
    stream: String,
    /// Of the last entry that was carried out; none until the stream was seen for the first time.
    id: Option<EntryId>,
    /// Entries that had been added to the stream up to there, where Redis counts them.
    n_added: Option<u64>,
    /// Something may have been cut away unread: it was not read for a while, or is read behind.
    is_unsure: bool,
}

/// Milliseconds and number of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct EntryId(u64, u64);

/// What Redis says of a stream.
#[derive(Debug, Default)]
struct About {
    last: EntryId,
    n_added: Option<u64>,
}

/// Reads for as long as the server runs.
///
/// # Cancel safety
/// Dropped, the connection ends; the entry that waits for a place is not carried out.
pub(super) async fn run(shared: Arc<Shared>, mut desk: Desk) {
    let mut positions: Vec<Position> = shared
        .config
        .streams
        .iter()
        .map(|name| Position::new(name))
        .collect();
    let mut pauses = Pauses::new();
    loop {
        let error = match shared.connect().await {
            Ok(connection) => {
                let mut session = Session {
                    shared: &shared,
                    connection,
                    positions: &mut positions,
                };
                let Err(error) = session.read(&mut desk, &mut pauses).await;
                error
            }
            Err(error) => error,
        };
        shared.lost(Link::Streams, &error);
        pauses.wait().await;
    }
}

/// One life of the connection.
struct Session<'a> {
    shared: &'a Shared,
    connection: Connection,
    positions: &'a mut Vec<Position>,
}

// === impl Session ===

impl Session<'_> {
    async fn read(
        &mut self,
        desk: &mut Desk,
        pauses: &mut Pauses,
    ) -> Result<std::convert::Infallible, io::Error> {
        for at in 0..self.positions.len() {
            let about = self.about(at).await?;
            self.positions[at].found(&about);
        }
        pauses.reset();
        self.shared.up(Link::Streams);
        loop {
            let read = self.next(desk).await?;
            for (at, n_read) in read.into_iter().enumerate() {
                let position = &mut self.positions[at];
                position.is_unsure |= n_read == READ_COUNT;
                if position.is_unsure && n_read < READ_COUNT {
                    let about = self.about(at).await?;
                    let n_lost = self.positions[at].settle(&about);
                    if n_lost > 0 {
                        self.shared.figures.trimmed.add(n_lost);
                        let stream = &self.positions[at].stream;
                        tracing::warn!(stream, n_lost, "entries were cut away before they were read");
                    }
                }
            }
        }
    }

    /// Waits for entries and carries them out; how many came from each stream.
    async fn next(&mut self, desk: &mut Desk) -> io::Result<Vec<usize>> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(READ_COUNT);
        command.arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS");
        for position in self.positions.iter() {
            command.arg(&position.stream);
        }
        for position in self.positions.iter() {
            command.arg(position.id.unwrap_or_default().to_string());
        }
        self.connection.send(&command).await?;
        let mut read = vec![0; self.positions.len()];
        let n_streams = match within(self.connection.reader.item()).await? {
            Item::Nil => return Ok(read),
            Item::Array(len) => len,
            other => return Err(answer(&other)),
        };
        for _ in 0..n_streams {
            let reader = &mut self.connection.reader;
            within(reader.expect_array()).await?;
            let name = within(reader.expect_value()).await?;
            let n_entries = within(reader.expect_array()).await?;
            let at = self
                .positions
                .iter()
                .position(|position| name.bytes() == Some(position.stream.as_bytes()));
            let at = at.ok_or_else(|| invalid("a stream that nobody asked for"))?;
            for _ in 0..n_entries {
                self.entry(at, desk).await?;
            }
            read[at] = n_entries;
        }
        Ok(read)
    }

    /// Reads one entry and carries it out; then the position is behind it.
    async fn entry(&mut self, at: usize, desk: &mut Desk) -> io::Result<()> {
        let (id, bytes, read) = within(read_entry(self.shared, &mut self.connection)).await?;
        desk.take(Format::Streams, bytes, read).await;
        self.positions[at].passed(id);
        Ok(())
    }

    /// What Redis says of a stream; nothing where there is none.
    async fn about(&mut self, at: usize) -> io::Result<About> {
        let mut command = redis::cmd("XINFO");
        command.arg("STREAM").arg(&self.positions[at].stream);
        self.connection.send(&command).await?;
        let reader = &mut self.connection.reader;
        let mut left = match within(reader.item()).await? {
            Item::Array(len) => len,
            Item::Error(text) if text.contains("no such key") => {
                return Ok(About {
                    n_added: Some(0),
                    ..About::default()
                });
            }
            other => return Err(answer(&other)),
        };
        let mut about = About::default();
        while left >= 2 {
            left -= 2;
            let name = within(reader.expect_value()).await?;
            match name.bytes() {
                Some(b"last-generated-id") => {
                    let id = within(reader.expect_value()).await?;
                    about.last = EntryId::parse(id.bytes().unwrap_or_default())?;
                }
                Some(b"entries-added") => match within(reader.item()).await? {
                    Item::Plain(text) => about.n_added = text.parse().ok(),
                    other => return Err(answer(&other)),
                },
                _ => within(reader.skip(1)).await?,
            }
        }
        Ok(about)
    }
}

/// `[id, [name, value, …]]`: its id, its bytes, and what it asks for.
async fn read_entry(
    shared: &Shared,
    connection: &mut Connection,
) -> io::Result<(EntryId, u64, Result<formats::Ask, Refused>)> {
    let reader = &mut connection.reader;
    reader.expect_array().await?;
    let id = reader.expect_value().await?;
    let id = EntryId::parse(id.bytes().unwrap_or_default())?;
    let n_fields = match reader.item().await? {
        Item::Array(len) => len / 2,
        // Deleted between the command and its answer.
        Item::Nil => 0,
        other => return Err(answer(&other)),
    };
    let mut bytes = 0;
    let mut fields = VecDeque::new();
    let mut refused = None;
    for _ in 0..n_fields {
        let name = reader.expect_value().await?;
        let value = reader.expect_value().await?;
        bytes += name.len() + value.len();
        match (name.bytes(), &value) {
            (Some(b"nsp" | b"type" | b"data"), Value::Whole { .. }) => {
                fields.push_back((name, value));
                // Three count; an entry that repeats them must not add up.
                if fields.len() > 3 {
                    fields.pop_front();
                }
            }
            (Some(b"nsp" | b"type" | b"data"), value) => refused = Some(not_read(value)),
            _ => {}
        }
    }
    let fields = fields
        .iter()
        .filter_map(|(name, value)| Some((name.bytes()?, value.bytes()?)));
    let read = refused.map_or_else(
        || {
            let paid = shared.pay_reading(bytes as usize);
            paid.and_then(|_paid| formats::read_entry(fields))
        },
        Err,
    );
    Ok((id, bytes, read))
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let done = timeout(READ_TIMEOUT, work).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// An answer of another kind than was asked for; most often Redis says why.
fn answer(item: &Item) -> io::Error {
    match item {
        Item::Error(text) => io::Error::other(text.clone()),
        other => invalid(&format!("{other:?} as an answer")),
    }
}

// === impl Position ===

impl Position {
    fn new(stream: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            id: None,
            n_added: None,
            is_unsure: false,
        }
    }

    /// A connection was made: what the stream is now.
    fn found(&mut self, about: &About) {
        match self.id {
            // The first time: only what comes from now on is for the clients of this server.
            None => (self.id, self.n_added) = (Some(about.last), about.n_added),
            // It was removed and will begin anew: that is 0-0. Or a replica that lagged behind has taken over: what it still
            // has was delivered, and goes on from there. What came anew while nobody looked cannot be told from that.
            Some(id) if about.last < id => (self.id, self.n_added) = (Some(about.last), about.n_added),
            Some(_) => {}
        }
        self.is_unsure = true;
    }

    fn passed(&mut self, id: EntryId) {
        self.id = Some(id);
        self.n_added = self.n_added.map(|n| n + 1);
    }

    /// Everything was read that was there: what was added beyond that is lost. Unsure still, if more came meanwhile.
    fn settle(&mut self, about: &About) -> u64 {
        if Some(about.last) != self.id {
            // Removed and empty: it will be seen when it begins anew.
            self.is_unsure = about.last > self.id.unwrap_or_default();
            return 0;
        }
        let n_lost = match (about.n_added, self.n_added) {
            (Some(now), Some(then)) => now.saturating_sub(then),
            _ => 0,
        };
        self.n_added = about.n_added;
        self.is_unsure = false;
        n_lost
    }
}

// === impl EntryId ===

impl EntryId {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let parts = text
            .split_once('-')
            .and_then(|(ms, number)| Some(Self(ms.parse().ok()?, number.parse().ok()?)));
        parts.ok_or_else(|| invalid(&format!("{text:?} as the id of an entry")))
    }
}

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(last: u64, n_added: u64) -> About {
        About {
            last: EntryId(last, 0),
            n_added: Some(n_added),
        }
    }

    #[test]
    fn what_was_cut_away_unread_is_counted_once() {
        let mut position = Position::new("s");
        position.found(&about(10, 100));
        assert_eq!(position.settle(&about(10, 100)), 0);
        position.passed(EntryId(11, 0));
        // Away; twenty came, fifteen of them are gone.
        position.found(&about(31, 121));
        for id in 27..=31 {
            position.passed(EntryId(id, 0));
        }
        assert_eq!(position.settle(&about(31, 121)), 15);
        assert_eq!(position.settle(&about(31, 121)), 0);
    }

    #[test]
    fn a_stream_that_went_back_goes_on_where_it_is() {
        let check = |back: About, next: u64| {
            let mut position = Position::new("s");
            position.found(&about(10, 100));
            position.found(&back);
            assert_eq!(position.id, Some(back.last), "{back:?}");
            position.passed(EntryId(next, 0));
            let n_added = back.n_added.map(|n| n + 1);
            let now = About {
                last: EntryId(next, 0),
                n_added,
            };
            assert_eq!(position.settle(&now), 0, "{back:?}");
        };
        // A replica behind by two.
        check(about(8, 98), 9);
        // Removed: read from its beginning.
        check(about(0, 0), 1);
    }

    #[test]
    fn while_more_comes_nothing_is_settled() {
        let mut position = Position::new("s");
        position.found(&about(10, 100));
        assert_eq!(position.settle(&about(12, 102)), 0);
        assert!(position.is_unsure);
    }
}
