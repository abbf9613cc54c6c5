//! An fsync that runs while its log is free for others.

use std::{fs::File, io, sync::Arc};

use rustix::{
    fs::{fdatasync, fsync},
    io::retry_on_intr,
};

use crate::position::Position;

/// An fsync that [`crate::Log::start_sync`] prepared. Run it on any thread and give the outcome to
/// [`crate::Log::finish_sync`]; dropping it is as if it had not been started.
#[derive(Debug)]
#[must_use = "nothing is durable before it is run and finished"]
pub struct Syncing {
    pub(crate) file: Arc<File>,
    /// The folder, when names in it changed.
    pub(crate) dir: Option<Arc<File>>,
    pub(crate) mark: Mark,
}

/// What was there when it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) end: Position,
    /// How often records had been taken back.
    pub(crate) withdrawals: u64,
    pub(crate) dir_changes: u64,
}

/// How an fsync ended; for [`crate::Log::finish_sync`].
#[derive(Debug)]
#[must_use = "the log must learn how its fsync ended"]
pub struct Synced {
    pub(crate) mark: Mark,
    pub(crate) result: io::Result<()>,
}

/// What a sync made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Durable {
    /// Records.
    pub records: u64,
    /// Everything before this place is durable.
    pub end: Position,
}

// === impl Syncing ===

impl Syncing {
    /// Waits for the disk.
    pub fn run(self) -> Synced {
        // The records first: a name without them does no harm, records without a name are lost.
        let result = retry_on_intr(|| fdatasync(&self.file)).and_then(|()| {
            self.dir
                .as_ref()
                .map_or(Ok(()), |dir| retry_on_intr(|| fsync(dir)))
        });
        Synced {
            mark: self.mark,
            result: result.map_err(io::Error::from),
        }
    }

    /// The outcome as if the disk had refused; for owners that test what they do then.
    pub fn refused(self, error: io::Error) -> Synced {
        Synced {
            mark: self.mark,
            result: Err(error),
        }
    }
}
