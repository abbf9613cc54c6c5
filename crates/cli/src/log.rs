//! Where the log goes and how it looks. A thread of its own writes it, so that a reader that has stopped stops nobody else.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use tidegate::Settings;
use tidegate_flow::task::{self, Task};
use tidegate_vitals::{Id, Registry};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Lines that wait for whoever reads standard error. Beyond, lines are lost and counted.
const LINES_MAX: usize = 4_096;
/// Time between two looks at how many were lost.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How long the end of the program waits for the last lines to be written.
const END_MAX: Duration = Duration::from_secs(1);

/// The running log; what it holds is written when this is dropped, if somebody reads it.
pub(crate) struct Log(Lines);

/// The way of a line to the writing thread.
#[derive(Clone)]
struct Lines {
    queue: SyncSender<Word>,
    lost: Arc<AtomicU64>,
}

enum Word {
    Line(Vec<u8>),
    /// Everything before is written: say so.
    End(SyncSender<()>),
}

/// Starts the log on standard error: text with colours on a terminal, otherwise one JSON object a line.
/// The variable `TIDEGATE_LOG` overrides the level, also for single parts (`tidegate_gateway=debug`).
///
/// # Errors
/// What the system answers when a thread is started.
pub(crate) fn start(settings: &Settings) -> io::Result<Log> {
    let terminal = io::stderr().is_terminal();
    let json = match settings.log_format() {
        "json" => true,
        "text" => false,
        _ => !terminal,
    };
    let filter =
        EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| EnvFilter::new(settings.log_level()));
    let lines = Lines::start()?;
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines.clone());
    if json {
        base.json().flatten_event(true).init();
    } else {
        base.with_ansi(terminal).with_target(false).init();
    }
    Ok(Log(lines))
}

// === impl Log ===

impl Log {
    /// Counts lost lines among the figures, until the task is dropped.
    pub(crate) fn count_into(&self, registry: &Registry) -> Task<()> {
        let (lost, counter) = (Arc::clone(&self.0.lost), registry.counter(Id::LogLinesLost, &[]));
        task::spawn("log-count", async move {
            let mut counted = 0;
            let mut tick = tokio::time::interval(COUNT_EVERY);
            loop {
                tick.tick().await;
                let now = lost.load(Relaxed);
                counter.add(now - counted);
                counted = now;
            }
        })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (told, written) = sync_channel(1);
        // A full queue is one that nobody reads.
        if self.0.queue.try_send(Word::End(told)).is_ok() {
            let _late = written.recv_timeout(END_MAX);
        }
    }
}

// === impl Lines ===

impl Lines {
    fn start() -> io::Result<Self> {
        let (queue, lines) = sync_channel(LINES_MAX);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&lines))?;
        Ok(Self {
            queue,
            lost: Arc::default(),
        })
    }
}

/// Writes for as long as the program runs. What cannot be written has nobody else to be told to.
fn write_all(lines: &Receiver<Word>) {
    while let Ok(word) = lines.recv() {
        match word {
            Word::Line(line) => _ = io::stderr().write_all(&line),
            Word::End(told) => _ = told.try_send(()),
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Word::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
