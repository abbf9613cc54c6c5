//! Tasks that are named, counted and joined.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tidegate_vitals::profile::poll;
use tidegate_vitals::{Id, Registry};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

/// A running task. [`Task::finish`] joins it; dropping it aborts it, so that no task outlives its owner unseen.
#[must_use = "a task that is dropped is aborted; keep it, or give it to a Group"]
pub struct Task<T> {
    name: &'static str,
    handle: JoinHandle<T>,
}

/// Why a task gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It panicked.
    #[error("task {name} panicked: {message}")]
    Panicked {
        /// Its name.
        name: &'static str,
        /// What the panic said.
        message: String,
    },
    /// It was aborted, or its runtime was shut down.
    #[error("task {name} was aborted")]
    Aborted {
        /// Its name.
        name: &'static str,
    },
}

/// An owner of tasks that end together. Finished tasks leave it whenever a new one comes, so it holds no more than what
/// runs; how much that may be is its user's limit. Dropping it aborts all.
pub struct Group {
    members: Mutex<Members>,
}

/// Tasks that did not end in time, and were aborted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} tasks did not end within {} ms: {}", names.len(), timeout.as_millis(), names.join(", "))]
pub struct Unfinished {
    /// Their names, sorted, once for each task.
    pub names: Vec<&'static str>,
    /// How long they were given.
    pub timeout: Duration,
}

/// How many tasks of one name there are and were, in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// The name.
    pub name: &'static str,
    /// Running now.
    pub running: u64,
    /// Started so far.
    pub started: u64,
    /// Ended by a panic so far.
    pub panicked: u64,
}

#[derive(Default)]
struct Members {
    tasks: JoinSet<()>,
    names: HashMap<tokio::task::Id, &'static str>,
    closed: bool,
}

/// Starts `future` as a task of the current runtime.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    future: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    spawn_on(&Handle::current(), name, future)
}

/// Starts `future` as a task of `runtime`, from any thread.
pub fn spawn_on<T: Send + 'static>(
    runtime: &Handle,
    name: &'static str,
    future: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    Task {
        name,
        handle: runtime.spawn(counted(name, future)),
    }
}

/// Starts `future` without an owner; its caller must know by other means that it ends.
pub(crate) fn spawn_unowned(
    runtime: &Handle,
    name: &'static str,
    future: impl Future<Output = ()> + Send + 'static,
) {
    drop(runtime.spawn(counted(name, future)));
}

/// The counts of every name used so far, by rising name. Names are written in code, so their number is bounded.
pub fn counts() -> Vec<Count> {
    lock(&COUNTS)
        .iter()
        .map(|(name, cells)| cells.read(name))
        .collect()
}

/// Writes the counts into `registry`; its owner calls it once a second.
pub fn record(registry: &Registry) {
    for count in counts() {
        registry
            .gauge(Id::TasksRunning, &[count.name])
            .set(count.running as i64);
        crate::raise(
            &registry.counter(Id::TasksPanicked, &[count.name]),
            count.panicked,
        );
    }
}

// === impl Task ===

impl<T> Task<T> {
    /// The name it was started with.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Ends it at its next await.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Waits for its end and gives its result.
    ///
    /// # Errors
    /// [`Error::Panicked`] or [`Error::Aborted`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the task, which aborts it.
    pub async fn finish(mut self) -> Result<T, Error> {
        (&mut self.handle)
            .await
            .map_err(|error| Error::of(self.name, error))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Task({}, {})",
            self.name,
            if self.is_finished() { "finished" } else { "running" }
        )
    }
}

// === impl Error ===

impl Error {
    /// Never: the same code would end the same way.
    pub const fn is_retryable(&self) -> bool {
        false
    }

    fn of(name: &'static str, error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(panic) => Self::Panicked {
                name,
                message: message_of(&*panic),
            },
            Err(_) => Self::Aborted { name },
        }
    }
}

// === impl Group ===

impl Group {
    /// An empty group.
    pub fn new() -> Self {
        Self {
            members: Mutex::default(),
        }
    }

    /// Starts `future` as a task of the current runtime that the group owns.
    /// `false`: [`Group::finish`] has begun and the future was dropped instead.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> bool {
        self.spawn_on(&Handle::current(), name, future)
    }

    /// Like [`Group::spawn`], on `runtime` and from any thread.
    pub fn spawn_on(
        &self,
        runtime: &Handle,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> bool {
        // A runtime that ends drops what it is given at once, and dropping it may start a task here: this function holds
        // the future as well, until the lock is open again.
        let held = Arc::new(Mutex::new(Some(Box::pin(future))));
        let taken = Arc::clone(&held);
        let started = async move {
            let future = lock(&taken).take();
            drop(taken);
            if let Some(future) = future {
                future.await;
            }
        };
        let mut members = lock(&self.members);
        if members.closed {
            return false;
        }
        members.reap();
        let id = members.tasks.spawn_on(counted(name, started), runtime).id();
        members.names.insert(id, name);
        drop(members);
        drop(held);
        true
    }

    /// How many tasks have not ended.
    pub fn n_running(&self) -> usize {
        let mut members = lock(&self.members);
        members.reap();
        members.tasks.len()
    }

    /// Takes no more tasks and waits until all have ended; those that have not after `timeout` are aborted.
    /// A task that panicked has ended; [`counts`] tells.
    ///
    /// # Errors
    /// [`Unfinished`] with the names of the tasks that were aborted.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the tasks that have not ended.
    pub async fn finish(&self, timeout: Duration) -> Result<(), Unfinished> {
        let deadline = Instant::now() + timeout;
        let (mut tasks, mut names) = {
            let mut members = lock(&self.members);
            members.closed = true;
            (
                std::mem::take(&mut members.tasks),
                std::mem::take(&mut members.names),
            )
        };
        while let Ok(ended) = tokio::time::timeout_at(deadline, tasks.join_next_with_id()).await {
            match ended {
                Some(ended) => names.remove(&id_of(&ended)),
                None => return Ok(()),
            };
        }
        tasks.abort_all();
        let mut names: Vec<_> = names.into_values().collect();
        names.sort_unstable();
        Err(Unfinished { names, timeout })
    }
}

impl Default for Group {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("n_running", &self.n_running())
            .finish_non_exhaustive()
    }
}

// === impl Members ===

impl Members {
    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.names.remove(&id_of(&ended));
        }
    }
}

// === impl Unfinished ===

impl Unfinished {
    /// Never: the tasks are gone.
    pub const fn is_retryable(&self) -> bool {
        false
    }
}

fn id_of(ended: &Result<(tokio::task::Id, ()), JoinError>) -> tokio::task::Id {
    ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id)
}

/// What a panic said, if it said text.
pub(crate) fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
        .to_owned()
}

/// Runs `future` to its end or to its panic; it is not polled again after one.
pub(crate) async fn catch_panic<T>(future: impl Future<Output = T>) -> std::thread::Result<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)))
            .map_or_else(|panic| Poll::Ready(Err(panic)), |poll| poll.map(Ok))
    })
    .await
}

// === Counting ===

/// One entry per name in code; nothing is removed.
static COUNTS: Mutex<BTreeMap<&'static str, Arc<CountCells>>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct CountCells {
    running: AtomicU64,
    started: AtomicU64,
    panicked: AtomicU64,
}

/// Counts a task as running until it is dropped: at its end, by abort, or by a panic.
struct Running(Arc<CountCells>);

pub(crate) fn counted<T>(name: &'static str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let running = Running::start(name);
    async move {
        let _running = running;
        // While a profile is taken, the polls of each name are timed.
        poll::watch_recording(name, future).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can leave the maps in a bad state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CountCells {
    fn read(&self, name: &'static str) -> Count {
        let read = |cell: &AtomicU64| cell.load(Relaxed);
        Count {
            name,
            running: read(&self.running),
            started: read(&self.started),
            panicked: read(&self.panicked),
        }
    }
}

impl Running {
    fn start(name: &'static str) -> Self {
        let cells = Arc::clone(lock(&COUNTS).entry(name).or_default());
        cells.started.fetch_add(1, Relaxed);
        cells.running.fetch_add(1, Relaxed);
        Self(cells)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
        if std::thread::panicking() {
            self.0.panicked.fetch_add(1, Relaxed);
        }
    }
}
