//! Where the log goes and how it looks. A thread of its own writes it, so that a reader that has stopped stops nobody else.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
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
        const PAUSE: Duration = Duration::from_millis(5);
        let (told, written) = sync_channel(1);
        let (began, mut end) = (Instant::now(), Word::End(told));
        // The queue may be full because lines come fast, or because nobody reads them: then it stays so.
        while let Err(TrySendError::Full(again)) = self.0.queue.try_send(end) {
            if began.elapsed() >= END_MAX {
                return;
            }
            end = again;
            std::thread::sleep(PAUSE);
        }
        let _late = written.recv_timeout(END_MAX.saturating_sub(began.elapsed()));
    }
}

// === impl Lines ===

impl Lines {
    fn start() -> io::Result<Self> {
        let (queue, lines) = sync_channel(LINES_MAX);
        let lost = Arc::<AtomicU64>::default();
        let unwritten = Arc::clone(&lost);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&lines, &mut io::stderr(), &unwritten))?;
        Ok(Self { queue, lost })
    }
}

/// Writes for as long as the program runs. What cannot be written has nobody else to be told to, so it is counted as lost.
fn write_all(lines: &Receiver<Word>, out: &mut impl Write, lost: &AtomicU64) {
    while let Ok(word) = lines.recv() {
        match word {
            Word::Line(line) => {
                if out.write_all(&line).is_err() {
                    lost.fetch_add(1, Relaxed);
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one line, then nothing more: a pipe whose reader has gone.
    struct Closing(Vec<u8>);

    impl Write for Closing {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if !self.0.is_empty() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.0.write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_as_lost() {
        let (queue, lines) = sync_channel(8);
        for line in ["one\n", "two\n", "three\n"] {
            queue.try_send(Word::Line(line.into())).unwrap();
        }
        drop(queue);
        let (mut out, lost) = (Closing(Vec::new()), AtomicU64::new(0));
        write_all(&lines, &mut out, &lost);
        assert_eq!((&*out.0, lost.load(Relaxed)), (&b"one\n"[..], 2));
    }

    #[test]
    fn the_end_waits_for_a_place_behind_lines_that_are_being_written() {
        let (queue, lines) = sync_channel(1);
        let log = Log(Lines {
            queue: queue.clone(),
            lost: Arc::default(),
        });
        queue.try_send(Word::Line(b"last\n".to_vec())).unwrap();
        let ending = std::thread::spawn(move || drop(log));
        let mut words = Vec::new();
        while words.len() < 2 {
            words.push(lines.recv().unwrap());
        }
        let Some(Word::End(told)) = words.pop() else {
            panic!("the end was not said");
        };
        told.try_send(()).unwrap();
        ending.join().unwrap();
    }
}
