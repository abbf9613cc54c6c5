//! The last lines a server said.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Older lines are forgotten: a server under test may say the same error for hours.
const BYTES_MAX: usize = 1 << 20;

/// The last mebibyte of a server's log, over all of its starts.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Log {
    pub(crate) fn push(&self, line: String) {
        let mut kept = self.lock();
        kept.bytes += line.len() + 1;
        kept.lines.push_back(line);
        while kept.bytes > BYTES_MAX {
            let oldest = kept.lines.pop_front().map_or(kept.bytes, |line| line.len() + 1);
            kept.bytes -= oldest;
        }
    }

    pub(crate) fn text(&self) -> String {
        self.lock()
            .lines
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A panic elsewhere leaves whole lines behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lines_are_forgotten() {
        let log = Log::default();
        for n in 0..3 {
            log.push(format!("{n}{}", "x".repeat(BYTES_MAX / 2 - 100)));
        }
        let text = log.text();
        assert!(
            text.starts_with("1x") && text.len() <= BYTES_MAX,
            "{}",
            text.len()
        );
    }
}
