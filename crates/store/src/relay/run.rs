//! The reader's loop: take the place, read, make tags void, publish, write the position down.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_vitals::{Class, Counter, Guard, Ledger};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    Config, Entry, Outcome, Position, Sink, Stats,
    figures::Figures,
    read::{Outbox, Progress, Saved, Seen},
};
use crate::{database::Database, error::Result};

/// Between two looks at what is there; each also says that this node lives.
pub(super) const KEEP_EVERY: Duration = Duration::from_secs(5);
/// The position is written down at the latest after this, and while nothing is to be read.
const SAVE_EVERY: Duration = Duration::from_millis(50);
/// Between looks at rows that may not be read yet, or that found no room: it doubles from the first to the last.
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// A process that took our place and was not seen for so long has ended.
const SILENT: Duration = Duration::from_secs(15);
/// Between two looks at the tags of rows that may not be read yet.
const TAGS_EVERY: Duration = Duration::from_secs(1);
/// Rows put aside before the position is written down.
const DEAD_AT_ONCE: usize = 1_000;
/// Longest text kept with a row that was put aside, bytes.
const REASON_BYTES_MAX: usize = 500;

pub(super) struct Shared {
    outbox: Outbox,
    sink: Arc<dyn Sink>,
    figures: Figures,
    ledger: Ledger,
    wake: Arc<Notify>,
    stopping: AtomicBool,
    known: Mutex<Known>,
}

/// What others may ask for.
struct Known {
    state: State,
    position: Position,
    seen: Seen,
    alarm: bool,
    failure: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// To `Reading` once the place is taken.
    Starting,
    /// To `Superseded` when another process has taken it.
    Reading,
    /// To `Reading` once that process has ended.
    Superseded,
}

/// What only the loop knows.
struct Reader {
    state: State,
    /// Everything up to here was published, made void or put aside.
    position: Position,
    /// And this is written down.
    saved: Position,
    saved_at: Instant,
    kept_at: Option<Instant>,
    floor: Position,
    /// In which the position counts.
    history: Arc<str>,
    /// The highest that this process has published, and in which history.
    published: (Arc<str>, Position),
    /// Lost rows accounted for since the last save.
    lost: i64,
    dropped: i64,
    dead: Vec<(Position, String)>,
    /// Read, tags void, not published yet.
    pending: VecDeque<Entry>,
    /// Since when the first of them finds no memory.
    short_since: Option<Instant>,
    /// Pays for them.
    guard: Option<Guard>,
    read_at: Instant,
    /// When tags of rows that may not be read yet were looked at.
    tags_at: Option<Instant>,
    /// Since when nothing has failed.
    well_since: Instant,
    pause: Duration,
}

/// What to do after a turn.
enum Next {
    Now,
    /// Wait; a notification ends it, but not before the first duration.
    Wait(Duration, Duration),
    /// Wait, whatever is notified.
    Pause(Duration),
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(database: &Database, config: Config, sink: Arc<dyn Sink>, wake: Arc<Notify>) -> Self {
        Self {
            figures: Figures::new(&database.context().registry),
            ledger: database.context().ledger.clone(),
            outbox: Outbox::new(database, config),
            sink,
            wake,
            stopping: AtomicBool::new(false),
            known: Mutex::new(Known {
                state: State::Starting,
                position: Position::default(),
                seen: Seen::default(),
                alarm: false,
                failure: None,
            }),
        }
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn stats(&self) -> Stats {
        let known = self.known();
        let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
        Stats {
            node: self.outbox.config.node.clone(),
            state: match (known.state, &known.failure) {
                (_, Some(_)) => "failing",
                (State::Starting, None) => "starting",
                (State::Reading, None) => "reading",
                (State::Superseded, None) => "superseded",
            },
            position: known.position,
            waiting_rows: unsigned(known.seen.waiting),
            oldest_ms: known.seen.oldest.as_millis() as u64,
            bytes: unsigned(known.seen.bytes),
            nodes: unsigned(known.seen.nodes),
            dead_rows: unsigned(known.seen.dead),
            alarm: known.alarm,
            read: self.figures.read(),
            published: self.figures.published.get(),
            duplicates: self.figures.duplicates.get(),
            tags_only: self.figures.tags_only.get(),
            refused: self.figures.refused.get(),
            lost: self.figures.lost.get() + self.figures.expired.get(),
            dropped: self.figures.dropped.get(),
            failure: known.failure.clone(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Plain values: nothing under this lock can leave them half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads until it is stopped.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut reader = Reader::new();
    while !shared.stopping.load(Relaxed) {
        let turn = reader.turn(&shared).await;
        let next = turn.unwrap_or_else(|error| {
            reader.well_since = Instant::now();
            shared.failed(&error)
        });
        shared.show(&reader);
        match next {
            Next::Now => {}
            Next::Pause(pause) => shared.pause(pause).await,
            Next::Wait(least, most) => {
                sleep(least).await;
                // Either way it looks again.
                let _ = timeout(most.saturating_sub(least), shared.wake.notified()).await;
            }
        }
    }
    if reader.state == State::Reading
        && let Err(error) = reader.save(&shared).await
    {
        tracing::warn!(%error, "position in the outbox not written: its last publications come again");
    }
}

impl Shared {
    /// Memory for one read, before it is made; none while the accounts are full.
    fn reserve(&self) -> Option<Guard> {
        let config = &self.outbox.config;
        let bytes = config.batch_bytes_max.max(config.row_bytes_max);
        let guard = self
            .ledger
            .reserve(Class::Batches, usize::try_from(bytes).unwrap_or(usize::MAX));
        guard.inspect_err(|_| self.figures.full.inc()).ok()
    }

    /// Waits, but not for a stop.
    async fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.stopping.load(Relaxed) && Instant::now() < until {
            sleep(pause.min(PAUSE_MAX)).await;
        }
    }

    fn failed(&self, error: &crate::Error) -> Next {
        self.figures.failures.inc();
        let text = error.to_string();
        let mut known = self.known();
        if known.failure.is_none() {
            tracing::warn!(%error, "outbox cannot be read, tried again");
        }
        known.failure = Some(text);
        Next::Pause(self.outbox.config.poll)
    }

    fn show(&self, reader: &Reader) {
        let mut known = self.known();
        (known.state, known.position) = (reader.state, reader.position);
    }

    /// A turn went well.
    fn recovered(&self) {
        if self.known().failure.take().is_some() {
            tracing::info!("outbox is read again");
        }
    }

    /// Publications are gone, and what they would have made void is not known.
    fn lost(&self, n: i64, counter: &Counter, why: &'static str) {
        let Some(n) = u64::try_from(n).ok().filter(|n| *n > 0) else {
            return;
        };
        counter.add(n);
        tracing::warn!(n, why, "publications by SQL were lost");
        self.void(why);
    }

    fn void(&self, why: &'static str) {
        tracing::info!(
            why,
            "tags of publications are not known: every kept answer is void"
        );
        self.sink.invalidate_all();
    }

    fn seen(&self, seen: Seen) {
        let config = &self.outbox.config;
        let figures = &self.figures;
        figures.waiting.set(seen.waiting);
        figures
            .oldest
            .set(i64::try_from(seen.oldest.as_micros()).unwrap_or(i64::MAX));
        figures.bytes.set(seen.bytes);
        let is_full = u64::try_from(seen.bytes).unwrap_or(0) >= config.bytes_max;
        let alarm = u64::try_from(seen.waiting).unwrap_or(0) > config.alarm_rows
            || seen.oldest > config.alarm_age
            || is_full;
        figures.alarm.set(i64::from(alarm));
        let mut known = self.known();
        known.seen = seen;
        if alarm == known.alarm {
            return;
        }
        known.alarm = alarm;
        let (waiting, oldest_ms, bytes) = (seen.waiting, seen.oldest.as_millis() as u64, seen.bytes);
        match alarm {
            true => tracing::warn!(
                waiting,
                oldest_ms,
                bytes,
                "publications wait in the outbox: a transaction is open for long, or the gateway has no room"
            ),
            false => tracing::info!(waiting, oldest_ms, bytes, "outbox is as it should be again"),
        }
    }
}

// === impl Reader ===

impl Reader {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            state: State::Starting,
            position: Position::default(),
            saved: Position::default(),
            saved_at: now,
            kept_at: None,
            floor: Position::default(),
            history: Arc::from(""),
            published: (Arc::from(""), Position::default()),
            lost: 0,
            dropped: 0,
            dead: Vec::new(),
            pending: VecDeque::new(),
            short_since: None,
            guard: None,
            read_at: now,
            tags_at: None,
            well_since: now,
            pause: PAUSE,
        }
    }

    async fn turn(&mut self, shared: &Shared) -> Result<Next> {
        match self.state {
            State::Starting => self.claim(shared).await?,
            State::Superseded => {
                if !shared.outbox.is_free(SILENT).await? {
                    // What is published meanwhile makes nothing void here.
                    shared.sink.invalidate_all();
                    shared.recovered();
                    return Ok(Next::Pause(shared.outbox.config.poll));
                }
                self.claim(shared).await?;
                shared.void("another process read in the place of this one");
            }
            State::Reading => {}
        }
        if self.kept_at.is_none_or(|at| at.elapsed() >= KEEP_EVERY) {
            // Whatever goes wrong here must not keep anybody from reading.
            self.kept_at = Some(Instant::now());
            self.save(shared).await?;
            if self.state == State::Reading
                && let Err(error) = self.keep(shared).await
            {
                self.well_since = Instant::now();
                shared.figures.failures.inc();
                tracing::warn!(%error, "outbox not looked after, tried again; it is read all the same");
            }
        } else if self.is_save_due(shared) {
            self.save(shared).await?;
        }
        if self.state == State::Superseded {
            return Ok(Next::Pause(shared.outbox.config.poll));
        }
        if self.pending.is_empty() {
            let Some(guard) = shared.reserve() else {
                return Ok(Next::Pause(self.longer()));
            };
            self.read(shared).await?;
            self.guard = (!self.pending.is_empty()).then_some(guard);
        }
        let next = match (self.pending.is_empty(), self.publish(shared)) {
            (true, _) => self.idle(shared).await?,
            (false, true) => Next::Now,
            (false, false) => Next::Pause(self.longer()),
        };
        shared.recovered();
        Ok(next)
    }

    async fn claim(&mut self, shared: &Shared) -> Result<()> {
        let place = shared.outbox.claim(self.position, &self.history).await?;
        tracing::info!(
            node = shared.outbox.config.node,
            position = %place.position,
            "reading publications by SQL"
        );
        (self.position, self.saved) = (place.position, place.position);
        (self.lost, self.dropped, self.history) = (place.lost, place.dropped, place.history);
        // What was swept lies behind another position.
        self.floor = Position::default();
        self.pending.clear();
        self.short_since = None;
        self.state = State::Reading;
        shared.lost(
            place.lost,
            &shared.figures.lost,
            "too old or too many while this node was away",
        );
        Ok(())
    }

    /// This node was away for so long that the others forgot it, or the server crashed or another was promoted, whose own
    /// word on how far this node has read counts. Rows, and their tags, may be lost either way.
    async fn claim_again(&mut self, shared: &Shared) -> Result<()> {
        tracing::warn!(
            "place in the outbox lost: forgotten by other nodes, or the server crashed or was replaced"
        );
        self.dead.clear();
        self.claim(shared).await?;
        shared.void("place in the outbox lost");
        Ok(())
    }

    async fn read(&mut self, shared: &Shared) -> Result<()> {
        let batch = shared.outbox.read(self.position, &self.history).await?;
        self.read_at = Instant::now();
        if batch.is_empty() {
            return Ok(());
        }
        self.pause = PAUSE;
        shared.figures.batch.record(batch.len() as u64);
        // Whoever is told asks again at once, and must find nothing old.
        let tags: Vec<&str> = batch
            .iter()
            .flat_map(|entry| &entry.tags)
            .map(String::as_str)
            .collect();
        if !tags.is_empty() {
            shared.sink.invalidate(&tags);
        }
        self.pending = batch.into();
        Ok(())
    }

    /// Publishes what was read; `false` if there is no room for the next one.
    fn publish(&mut self, shared: &Shared) -> bool {
        while let Some(entry) = self.pending.front() {
            let age = entry.age + self.read_at.elapsed();
            match outcome(shared, entry, age, &self.published) {
                Outcome::Full => {
                    shared.figures.full.inc();
                    return false;
                }
                Outcome::Short { reason, message } => {
                    let since = *self.short_since.get_or_insert_with(Instant::now);
                    if since.elapsed() < shared.outbox.config.short_max {
                        shared.figures.full.inc();
                        return false;
                    }
                    self.dead.push(refused(shared, entry, reason, &message));
                }
                Outcome::Published => {
                    shared.figures.delay.record(age.as_nanos() as u64);
                    self.published = (Arc::clone(&entry.history), entry.position);
                }
                Outcome::Duplicate => {}
                Outcome::Refused { reason, message } => {
                    self.dead.push(refused(shared, entry, reason, &message));
                }
            }
            self.short_since = None;
            self.position = entry.position;
            self.pending.pop_front();
            if self.dead.len() >= DEAD_AT_ONCE {
                break;
            }
        }
        if self.pending.is_empty() {
            self.guard = None;
        }
        true
    }

    /// Nothing is to be read: now, or not yet.
    async fn idle(&mut self, shared: &Shared) -> Result<Next> {
        let poll = shared.outbox.config.poll;
        let unsaved = self.position != self.saved || !self.dead.is_empty();
        let has_more = shared.outbox.has_more(self.position, &self.history).await?;
        let Some(has_more) = has_more else {
            self.claim_again(shared).await?;
            return Ok(Next::Now);
        };
        if has_more {
            self.void_held(shared).await?;
            // A transaction that began before these rows were committed still runs. Its end tells nobody.
            return Ok(Next::Wait(PAUSE, self.longer().max(PAUSE)));
        }
        self.pause = PAUSE;
        Ok(Next::Wait(
            Duration::ZERO,
            if unsaved { SAVE_EVERY.min(poll) } else { poll },
        ))
    }

    /// Rows that may not be read yet are committed: whoever asks sees them, so kept answers are void, though nobody is told.
    async fn void_held(&mut self, shared: &Shared) -> Result<()> {
        if self.tags_at.is_some_and(|at| at.elapsed() < TAGS_EVERY) {
            return Ok(());
        }
        let Some(_guard) = shared.reserve() else {
            return Ok(());
        };
        let tags = shared.outbox.tags(self.position).await?;
        self.tags_at = Some(Instant::now());
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        if !tags.is_empty() {
            shared.sink.invalidate(&tags);
        }
        Ok(())
    }

    /// The next pause of those that double.
    fn longer(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }

    fn is_save_due(&self, shared: &Shared) -> bool {
        let unsaved = self.position != self.saved || !self.dead.is_empty();
        unsaved
            && (self.saved_at.elapsed() >= SAVE_EVERY
                || self.dead.len() >= DEAD_AT_ONCE
                || shared.stopping.load(Relaxed))
    }

    async fn save(&mut self, shared: &Shared) -> Result<()> {
        let progress = Progress {
            position: self.position,
            lost: self.lost,
            dropped: self.dropped,
            floor: self.floor,
            dead: &self.dead,
            history: &self.history,
        };
        match shared.outbox.save(progress).await? {
            Saved::Done { lost, floor } => {
                (self.saved, self.saved_at, self.floor) = (self.position, Instant::now(), floor);
                self.dead.clear();
                self.lost = lost;
                shared.lost(
                    lost,
                    &shared.figures.lost,
                    "too old or too many before this node had read them",
                );
            }
            Saved::Superseded => self.superseded(shared).await?,
        }
        Ok(())
    }

    async fn superseded(&mut self, shared: &Shared) -> Result<()> {
        let node = &shared.outbox.config.node;
        if shared.outbox.is_free(SILENT).await? {
            return self.claim_again(shared).await;
        }
        tracing::error!(
            node,
            "another process reads the outbox under the name of this node: give each its own store.data_dir or \
             store.relay.node; this one reads no more until the other has ended"
        );
        self.state = State::Superseded;
        shared.void("another process reads in the place of this one");
        shared.figures.alarm.set(1);
        shared.known().alarm = true;
        self.pending.clear();
        self.dead.clear();
        Ok(())
    }

    async fn keep(&mut self, shared: &Shared) -> Result<()> {
        let may_forget = self.well_since.elapsed() >= shared.outbox.config.forgets_after;
        let (seen, gone, n_expired) = shared.outbox.keep(self.position, may_forget).await?;
        for node in gone {
            tracing::warn!(
                node,
                "node was not seen for too long; it holds no publications back any more"
            );
        }
        if n_expired > 0 {
            tracing::warn!(n_expired, "publications given up: too old or too many");
        }
        shared.lost(
            seen.dropped - self.dropped,
            &shared.figures.dropped,
            "the outbox was full",
        );
        // A sequence that was made anew begins again.
        self.dropped = seen.dropped;
        shared.seen(seen);
        // Everything is swept once in a while: another node may have left something behind.
        self.floor = Position::default();
        Ok(())
    }
}

/// What becomes of one row; `published` is how far this process has published, and in which history.
fn outcome(shared: &Shared, entry: &Entry, age: Duration, published: &(Arc<str>, Position)) -> Outcome {
    let config = &shared.outbox.config;
    let figures = &shared.figures;
    // What is not to be sent is done with, as what was sent before.
    if entry.event.is_none() && entry.problem.is_none() {
        figures.tags_only.inc();
        return Outcome::Duplicate;
    }
    if age > config.retain {
        figures.expired.inc();
        return Outcome::Duplicate;
    }
    if let Some(problem) = &entry.problem {
        return known_problem(problem);
    }
    if entry.n_bytes > config.row_bytes_max {
        return Outcome::Refused {
            reason: "too_large",
            message: format!("{} bytes, at most {}", entry.n_bytes, config.row_bytes_max),
        };
    }
    if *published.0 == *entry.history && entry.position <= published.1 {
        figures.duplicates.inc();
        return Outcome::Duplicate;
    }
    let outcome = shared.sink.publish(entry);
    match outcome {
        Outcome::Published => figures.published.inc(),
        Outcome::Duplicate => figures.duplicates.inc(),
        Outcome::Full | Outcome::Short { .. } | Outcome::Refused { .. } => {}
    }
    outcome
}

/// What the function that wrote the row found wrong with it.
fn known_problem(problem: &str) -> Outcome {
    let (code, message) = problem.split_once(": ").unwrap_or(("invalid", problem));
    let reason = ["too_large", "no_target", "bad_options"]
        .into_iter()
        .find(|known| *known == code)
        .unwrap_or("invalid");
    Outcome::Refused {
        reason,
        message: message.to_owned(),
    }
}

fn refused(shared: &Shared, entry: &Entry, reason: &'static str, message: &str) -> (Position, String) {
    shared.figures.refused(reason);
    let mut text = format!("{reason}: {message}");
    if text.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    tracing::debug!(position = %entry.position, reason = text, "publication by SQL put aside");
    (entry.position, text)
}
