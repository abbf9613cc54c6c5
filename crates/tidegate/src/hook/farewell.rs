//! Disconnects on their way to the application: noted at once, on disk before they are told, told until heard.
//!
//! ```text
//! push ─▶ queue ─▶ writer: append all, one fsync ─▶ log ─▶ teller: POST, again until heard ─▶ release
//! ```

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tidegate_flow::{Task, task};
use tidegate_seglog::{self as seglog, Config, Log, Reader, disk::Disk};
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::{Instant, interval, sleep, timeout_at},
};

use super::{
    asking::{Asking, Unanswered},
    client::Failed,
    figures::outcome,
    request::{Asked, Kind},
};
use crate::settings::AppSpool;

/// Disconnects that wait for the disk, or without a spool for the application; more are lost, and counted.
const QUEUE_MAX: usize = 65_536;

/// Their bytes, at most.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Written with one fsync.
const WRITE_MAX: usize = 4_096;

/// Told at the same time.
const TELL_MAX: usize = 32;

/// Those, and those that are told behind one that is not: their records are released in order.
const WINDOW_MAX: usize = 1_024;

/// A disk that fails is tried so often.
const WRITE_ATTEMPTS: usize = 3;

/// An application that fails at one disconnect, and at no other, hears it so often.
const FAILED_ATTEMPTS: u32 = 5;

/// Pause before it is told again; it doubles up to the second.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often to look whether all are told, when the server ends.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What stands in a disconnect beside the data of the session, at most, bytes.
const FRAME_BYTES: usize = 16 << 10;

const SEGMENT_BYTES: u64 = 1 << 20;

/// All disconnects of one server.
pub(super) struct Farewell {
    shared: Arc<Shared>,
    tasks: Mutex<Option<Tasks>>,
    closing: watch::Sender<bool>,
}

struct Tasks {
    /// None without a spool.
    writer: Option<Task<()>>,
    teller: Task<()>,
}

struct Shared {
    asking: Arc<Asking>,
    queue: Mutex<Queue>,
    /// Noted, and neither told nor lost.
    left: AtomicU64,
    /// Something came into the queue.
    queued: Notify,
    /// Something can be told.
    tellable: Notify,
    log: Option<Arc<Mutex<Log>>>,
}

#[derive(Default)]
struct Queue {
    bodies: VecDeque<Bytes>,
    bytes: usize,
}

/// Most bytes of one record.
pub(crate) const fn record_bytes_max(data_bytes_max: usize) -> usize {
    data_bytes_max + FRAME_BYTES
}

/// Bytes of one file of the spool.
pub(crate) const fn segment_bytes(data_bytes_max: usize) -> u64 {
    let four = 4 * record_bytes_max(data_bytes_max) as u64;
    if four > SEGMENT_BYTES { four } else { SEGMENT_BYTES }
}

// === impl Farewell ===

impl Farewell {
    pub(super) fn open(spool: Option<&AppSpool>, asking: Arc<Asking>) -> io::Result<Self> {
        let log = spool
            .map(|spool| open_log(spool, asking.config.data_bytes_max))
            .transpose()?;
        let reader = log.as_ref().map(|log| log.reader(log.head()));
        let shared = Arc::new(Shared {
            asking,
            queue: Mutex::default(),
            left: AtomicU64::new(log.as_ref().map_or(0, |log| log.stats().records)),
            queued: Notify::new(),
            tellable: Notify::new(),
            log: log.map(|log| Arc::new(Mutex::new(log))),
        });
        shared
            .asking
            .figures
            .spool_records
            .set(shared.left.load(Relaxed) as i64);
        let (closing, closed) = watch::channel(false);
        let writer = shared.log.as_ref().map(|log| {
            task::spawn(
                "app-farewell-writer",
                write(Arc::clone(&shared), Arc::clone(log), closed.clone()),
            )
        });
        let (written, whole) = watch::channel(false);
        let writer = writer.map(|writer| {
            task::spawn("app-farewell-disk", async move {
                // A writer that panicked has written all it could.
                let _ended = writer.finish().await;
                let _nobody_waits = written.send(true);
            })
        });
        let ends = if writer.is_some() { whole } else { closed };
        let teller = task::spawn("app-farewell-teller", tell(Arc::clone(&shared), reader, ends));
        Ok(Self {
            shared,
            tasks: Mutex::new(Some(Tasks { writer, teller })),
            closing,
        })
    }

    /// Takes one disconnect. Never waits, and never meets the disk: shards call it.
    pub(super) fn push(&self, body: Bytes) {
        let shared = &self.shared;
        shared.left.fetch_add(1, Relaxed);
        shared.asking.figures.spool_records.add(1);
        if !shared.queue().put(body) {
            return shared.lost("queue_full", 1);
        }
        shared.queued.notify_one();
        if shared.log.is_none() {
            shared.tellable.notify_one();
        }
    }

    pub(super) async fn settle(&self, deadline: Instant) {
        let all_told = async {
            let mut tick = interval(LOOK_EVERY);
            while self.shared.left.load(Relaxed) > 0 {
                tick.tick().await;
            }
        };
        // What is late stays for the end.
        let _late = timeout_at(deadline, all_told).await;
    }

    pub(super) async fn finish(&self, deadline: Instant) {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Tasks { writer, teller }) = tasks else {
            return;
        };
        // Both tasks listen as long as they live.
        let _both_ended = self.closing.send(true);
        if let Some(writer) = writer {
            // What is on its way to the disk is not given up for want of time.
            let _ended = writer.finish().await;
        }
        let told = timeout_at(deadline, teller.finish()).await.is_ok();
        let left = self.shared.left.load(Relaxed);
        if told && left == 0 {
            return;
        }
        match self.shared.log {
            Some(_) => tracing::warn!(left, "disconnects wait on disk for the next start"),
            None => self.shared.lost("stopped", left),
        }
    }
}

fn open_log(spool: &AppSpool, data_bytes_max: usize) -> io::Result<Log> {
    std::fs::create_dir_all(&spool.dir)?;
    if Disk::of(&spool.dir)? == Disk::Memory {
        let problem =
            "the folder lies in memory (tmpfs): disconnects would not survive a restart of the machine";
        return Err(io::Error::other(problem));
    }
    let config = Config {
        segment_bytes: segment_bytes(data_bytes_max),
        bytes_max: spool.bytes_max,
        record_bytes_max: record_bytes_max(data_bytes_max),
        preallocate: true,
    };
    let log = Log::open(&spool.dir, config).map_err(io::Error::other)?;
    if log.stats().records > 0 {
        tracing::info!(
            disconnects = log.stats().records,
            "disconnects of an earlier run are told now"
        );
    }
    Ok(log)
}

// === impl Shared ===

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many need not be told any more.
    fn done(&self, n: u64) {
        // One that the disk kept twice is told twice.
        let less = |left: u64| Some(left.saturating_sub(n));
        let before = self
            .left
            .fetch_update(Relaxed, Relaxed, less)
            .unwrap_or_else(|left| left);
        let figure = &self.asking.figures.spool_records;
        figure.set(before.saturating_sub(n) as i64);
    }

    /// Counts anew by what the log says: records that a disk lost are never told.
    fn recount(&self, log: &Log) {
        let left = log.stats().records + self.queue().bodies.len() as u64;
        self.left.store(left, Relaxed);
        let figures = &self.asking.figures;
        figures.spool_records.set(left as i64);
        figures.spool_bytes.set(log.bytes() as i64);
    }

    fn lost(&self, reason: &'static str, n: u64) {
        self.asking.figures.lost(reason, n);
        self.done(n);
    }
}

impl Queue {
    /// False if it is full.
    fn put(&mut self, body: Bytes) -> bool {
        let fits = self.bodies.len() < QUEUE_MAX && self.bytes + body.len() <= QUEUE_BYTES_MAX;
        if fits {
            self.bytes += body.len();
            self.bodies.push_back(body);
        }
        fits
    }

    fn take(&mut self, n: usize) -> Vec<Bytes> {
        let n = n.min(self.bodies.len());
        let taken: Vec<Bytes> = self.bodies.drain(..n).collect();
        self.bytes -= taken.iter().map(Bytes::len).sum::<usize>();
        taken
    }
}

/// A log whose holder panicked is as good as its files.
fn locked(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

// === to the disk ===

async fn write(shared: Arc<Shared>, log: Arc<Mutex<Log>>, mut closed: watch::Receiver<bool>) {
    loop {
        let batch = shared.queue().take(WRITE_MAX);
        if batch.is_empty() {
            if *closed.borrow() {
                return;
            }
            tokio::select! {
                () = shared.queued.notified() => {}
                // Closed by its end as well.
                _ = closed.changed() => {}
            }
            continue;
        }
        let (n, log, of_disk) = (batch.len() as u64, Arc::clone(&log), Arc::clone(&shared));
        let written = spawn_blocking(move || {
            let mut log = locked(&log);
            let written = append(&mut log, &batch);
            of_disk.recount(&log);
            written
        });
        let (lost, error) = written.await.unwrap_or((n, None));
        if lost > 0 {
            tracing::error!(
                lost,
                error = error.map(|error| error.to_string()),
                "disconnects could not be kept"
            );
            shared.asking.figures.lost("disk", lost);
        }
        shared.tellable.notify_one();
    }
}

/// How many could not be written, and why.
fn append(log: &mut Log, batch: &[Bytes]) -> (u64, Option<seglog::Error>) {
    let mut last = None;
    for _ in 0..WRITE_ATTEMPTS {
        let mut kept = 0;
        for body in batch {
            match log.append(body) {
                Ok(_) => kept += 1,
                Err(error @ seglog::Error::Withdrawn { .. }) => {
                    // What was appended before is gone too.
                    kept = 0;
                    last = Some(error);
                    break;
                }
                Err(error) => last = Some(error),
            }
        }
        match log.sync() {
            Ok(_) if kept == batch.len() => return (0, None),
            // A full log stays full for now.
            Ok(_) if !matches!(last, Some(seglog::Error::Withdrawn { .. })) => {
                return ((batch.len() - kept) as u64, last);
            }
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    (batch.len() as u64, last)
}

// === to the application ===

async fn tell(shared: Arc<Shared>, mut reader: Option<Reader>, mut ends: watch::Receiver<bool>) {
    let (mut window, mut telling) = (Window::default(), FuturesUnordered::new());
    loop {
        // Looked at before reading, so that nothing comes in between.
        let is_last = *ends.borrow();
        let room = window.room().min(TELL_MAX - telling.len());
        let read = next(&shared, reader, room).await;
        reader = read.reader;
        for (body, up_to) in read.records {
            let (place, shared) = (window.open(up_to), &shared);
            telling.push(async move {
                tell_one(shared, body).await;
                place
            });
        }
        if telling.is_empty() && is_last {
            return;
        }
        tokio::select! {
            Some(place) = telling.next() => {
                window.close(place);
                while let Some(Some(place)) = telling.next().now_or_never() {
                    window.close(place);
                }
                if let Some(up_to) = window.release() {
                    release(&shared, up_to).await;
                }
            }
            () = shared.tellable.notified(), if room > 0 => {}
            _ = ends.changed(), if !is_last => {}
            () = sleep(PAUSE_MAX), if read.has_failed => {}
        }
    }
}

/// What is being told, and what is told behind it, in the order of the log.
#[derive(Default)]
struct Window {
    /// Up to where the log may be released with each, and whether it is done with.
    places: VecDeque<(Option<seglog::Position>, bool)>,
    /// The number of the first of them.
    first: u64,
}

impl Window {
    fn room(&self) -> usize {
        WINDOW_MAX - self.places.len()
    }

    /// The number of its place.
    fn open(&mut self, up_to: Option<seglog::Position>) -> u64 {
        self.places.push_back((up_to, false));
        self.first + self.places.len() as u64 - 1
    }

    fn close(&mut self, place: u64) {
        self.places[(place - self.first) as usize].1 = true;
    }

    /// Forgets those before the first that is still told; up to where they lie in the log.
    fn release(&mut self) -> Option<seglog::Position> {
        let mut up_to = None;
        while let Some((end, _)) = self.places.pop_front_if(|(_, is_done)| *is_done) {
            self.first += 1;
            up_to = end.or(up_to);
        }
        up_to
    }
}

async fn release(shared: &Arc<Shared>, up_to: seglog::Position) {
    let Some(log) = shared.log.clone() else { return };
    let of_disk = Arc::clone(shared);
    let released = spawn_blocking(move || {
        let mut log = locked(&log);
        let released = log.release(up_to);
        of_disk.recount(&log);
        released
    });
    if let Ok(Err(error)) = released.await {
        tracing::warn!(%error, "disconnects that were told may be told again after a restart");
    }
}

/// What is to be told next.
#[derive(Default)]
struct Read {
    /// With each, how far the log may be released then.
    records: Vec<(Bytes, Option<seglog::Position>)>,
    /// There may be more, which the disk does not give now.
    has_failed: bool,
    reader: Option<Reader>,
}

async fn next(shared: &Shared, reader: Option<Reader>, room: usize) -> Read {
    let Some(mut reader) = reader else {
        let bodies = shared.queue().take(room).into_iter();
        return Read {
            records: bodies.map(|body| (body, None)).collect(),
            ..Read::default()
        };
    };
    if room == 0 {
        return Read {
            reader: Some(reader),
            ..Read::default()
        };
    }
    let known = reader.damage().records;
    let read = spawn_blocking(move || {
        let mut read = Read::default();
        while read.records.len() < room {
            match reader.read() {
                Ok(Some(record)) => read
                    .records
                    .push((Bytes::from(record.payload), Some(record.next))),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "disconnects cannot be read from disk");
                    read.has_failed = true;
                    break;
                }
            }
        }
        read.reader = Some(reader);
        read
    });
    let read = read.await.expect("reading a log does not panic");
    let now = read
        .reader
        .as_ref()
        .map_or(known, |reader| reader.damage().records);
    if now > known {
        tracing::error!(lost = now - known, "disconnects on disk are damaged");
        shared.asking.figures.lost("damaged", now - known);
    }
    read
}

/// Tells one until it is heard.
async fn tell_one(shared: &Shared, body: Bytes) {
    let (mut pause, mut failures) = (PAUSE, 0);
    loop {
        let n_answered = shared.asking.n_answered();
        match shared.asking.ask(Asked::kept(body.clone())).await {
            Ok(_) => {
                shared.asking.figures.ended(Kind::Disconnect, outcome::OK);
                return shared.done(1);
            }
            Err(unanswered) => {
                let others_were = shared.asking.n_answered() > n_answered;
                failures += u32::from(is_its_own_failure(&unanswered, others_were));
                if was_heard(&unanswered) || failures == FAILED_ATTEMPTS {
                    let status = matches!(unanswered, Unanswered::Failed(Failed::Status(_)));
                    let reason = if status || was_heard(&unanswered) {
                        "refused"
                    } else {
                        "unanswered"
                    };
                    let session = session_of(&body);
                    tracing::error!(session, error = %unanswered, reason, "a disconnect is given up");
                    return shared.lost(reason, 1);
                }
            }
        }
        sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

fn session_of(body: &[u8]) -> Option<&str> {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        session: &'a str,
    }
    serde_json::from_slice::<Named<'_>>(body)
        .ok()
        .map(|named| named.session)
}

/// Whether the application heard it and will not like it better another time.
fn was_heard(unanswered: &Unanswered) -> bool {
    match unanswered {
        Unanswered::Failed(Failed::Status(status)) => {
            (300..500).contains(status) && !matches!(status, 408 | 425 | 429)
        }
        Unanswered::Failed(Failed::TooLarge(_)) | Unanswered::Wrong(_) => true,
        _ => false,
    }
}

/// Whether the application fails at this one and at no other: it says so, or others were answered while this one was not.
fn is_its_own_failure(unanswered: &Unanswered, others_were: bool) -> bool {
    match unanswered {
        Unanswered::Failed(Failed::Status(500 | 501 | 505..)) => true,
        // A moment in which it has no time.
        Unanswered::Failed(Failed::Status(408 | 425 | 429 | 503) | Failed::Memory(_)) => false,
        _ => others_were && unanswered.may_have_been_heard(),
    }
}
