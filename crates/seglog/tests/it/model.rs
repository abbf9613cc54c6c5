//! Random use with crashes and damage: what was synced is read back in order, and nothing is invented.

use std::{fs, path::Path};

use proptest::prelude::*;
use tidegate_seglog::Log;

use crate::support::{Dir, SMALL, payload, read_all};

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Sync,
    FailSync,
    /// Releases this many of the durable records.
    Release(usize),
    Shrink,
    Checkpoint,
    /// Closes and opens.
    Reopen,
    /// Cuts the last segment at this share of what is not durable, and opens.
    Crash(f64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0_usize..900).prop_map(Step::Append),
        4 => Just(Step::Sync),
        1 => Just(Step::FailSync),
        3 => (0_usize..8).prop_map(Step::Release),
        1 => Just(Step::Shrink),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        2 => (0.0..1.0).prop_map(Step::Crash),
    ]
}

/// What must be there, and what may.
#[derive(Default)]
struct Model {
    durable: Vec<Vec<u8>>,
    pending: Vec<Vec<u8>>,
    n_appended: u64,
}

impl Model {
    fn run(&mut self, log: &mut Option<Log>, dir: &Dir, step: &Step) {
        let open = log.as_mut().unwrap();
        match step {
            Step::Append(len) => {
                let payload = payload(self.n_appended, *len);
                self.n_appended += 1;
                let before = open.synced();
                if open.append(&payload).is_ok() {
                    if open.synced() > before {
                        // A full segment was sealed, which syncs it.
                        self.durable.append(&mut self.pending);
                    }
                    self.pending.push(payload);
                }
            }
            Step::Sync => {
                open.sync().unwrap();
                self.durable.append(&mut self.pending);
            }
            Step::FailSync => {
                if let Some(syncing) = open.start_sync() {
                    open.finish_sync(syncing.refused(std::io::ErrorKind::Other.into()))
                        .unwrap_err();
                    self.pending.clear();
                }
            }
            Step::Release(n) => {
                let mut reader = open.reader(open.head());
                let n = (*n).min(self.durable.len());
                for _ in 0..n {
                    let record = reader.read().unwrap().unwrap();
                    open.release(record.next).unwrap();
                }
                self.durable.drain(..n);
            }
            Step::Shrink => drop(open.shrink().unwrap()),
            Step::Checkpoint => open.checkpoint().unwrap(),
            Step::Reopen => {
                *log = None;
                self.recover(log, dir);
            }
            Step::Crash(share) => {
                let (synced, end) = (open.synced(), open.end());
                *log = None;
                if end > synced {
                    let from = if synced.segment() == end.segment() {
                        synced.offset()
                    } else {
                        1_024
                    };
                    let cut = from + ((end.offset() - from) as f64 * share) as u64;
                    cut_at(&dir.path().join(format!("{:016x}.seg", end.segment())), cut);
                }
                self.recover(log, dir);
            }
        }
    }

    /// Opens again: all that was durable is there, then perhaps a beginning of what was pending.
    fn recover(&mut self, log: &mut Option<Log>, dir: &Dir) {
        let opened = Log::open(dir.path(), SMALL).unwrap();
        assert_eq!(opened.recovery().lost_records, 0);
        let found = payloads(&opened);
        let n_durable = self.durable.len();
        assert!(found.len() >= n_durable, "{} of {n_durable} durable", found.len());
        assert_eq!(found[..n_durable], self.durable);
        let n_more = found.len() - n_durable;
        assert_eq!(found[n_durable..], self.pending[..n_more]);
        self.durable = found;
        self.pending.clear();
        *log = Some(opened);
    }
}

fn cut_at(path: &Path, len: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    // A preallocated file stays as long as it was: what was not written is zeros.
    let before = file.metadata().unwrap().len();
    file.set_len(len).unwrap();
    file.set_len(before).unwrap();
}

fn payloads(log: &Log) -> Vec<Vec<u8>> {
    let records = read_all(&mut log.reader(log.head()));
    records.into_iter().map(|record| record.payload).collect()
}

proptest! {
    #[test]
    fn a_log_behaves_as_its_model(steps in prop::collection::vec(step(), 1..80)) {
        let dir = Dir::quick();
        let mut model = Model::default();
        let mut log = Some(Log::open(dir.path(), SMALL).unwrap());
        for step in &steps {
            model.run(&mut log, &dir, step);
            let open = log.as_ref().unwrap();
            prop_assert_eq!(open.bytes(), dir.bytes(), "after {:?}", step);
            prop_assert!(dir.bytes() <= SMALL.bytes_max);
            let waiting = model.durable.len() + model.pending.len();
            prop_assert_eq!(open.stats().records, waiting as u64, "after {:?}", step);
            prop_assert_eq!(payloads(open), model.durable.clone(), "after {:?}", step);
        }
    }
}
