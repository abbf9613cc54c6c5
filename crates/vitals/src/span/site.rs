//! One profiled function: its static, the guard of one call, and the table of all of them.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::figures::Reading;
use super::local::{self, Cells};
use super::{allocated_bytes, is_enabled, tick};

/// The most functions with figures: 2.5 MiB a thread if one thread called them all. What comes later is counted in
/// [`super::lost`] and not recorded.
pub const SITES_MAX: usize = 512;

/// The static of one profiled function, made by `#[profiled]`.
pub struct Site {
    /// Asked once, at the first recorded call.
    name: fn() -> &'static str,
    file: &'static str,
    line: u32,
    /// [`UNSET`], [`REFUSED`] or the place in the table.
    place: AtomicU32,
}

/// One running call; dropping it records the call, also when the function panics. It stays on its thread.
#[must_use = "the call ends when the span is dropped"]
pub struct Span {
    running: Option<Running>,
    not_send: PhantomData<*const ()>,
}

struct Running {
    place: usize,
    started: u64,
    allocated_start: u64,
    /// Not inside another call of the same function.
    outermost: bool,
    /// One poll of an async function: charged, but not a call.
    is_poll: bool,
}

/// What one measured stretch took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) ns: u64,
    pub(super) allocated_bytes: u64,
    pub(super) outermost: bool,
}

const UNSET: u32 = u32::MAX;
const REFUSED: u32 = u32::MAX - 1;

static TABLE: Mutex<Table> = Mutex::new(Table { rows: Vec::new() });
static SITES_REFUSED: AtomicU64 = AtomicU64::new(0);
static CALLS_LOST: AtomicU64 = AtomicU64::new(0);

/// All sites; it only grows, up to [`SITES_MAX`] rows.
struct Table {
    rows: Vec<Row>,
}

struct Row {
    site: &'static Site,
    name: String,
    /// Of the threads alive; a thread's end removes its cells.
    cells: Vec<Arc<Cells>>,
    /// What threads that ended handed over.
    gone: Reading,
}

// === impl Site ===

impl Site {
    /// A site that has not been called.
    pub const fn new(name: fn() -> &'static str, file: &'static str, line: u32) -> Self {
        Self {
            name,
            file,
            line,
            place: AtomicU32::new(UNSET),
        }
    }

    /// Begins a call.
    #[inline]
    pub fn enter(&'static self) -> Span {
        self.begin(false)
    }

    /// Begins one poll of an async function.
    #[inline]
    pub(super) fn enter_poll(&'static self) -> Span {
        self.begin(true)
    }

    /// Records a call that was timed elsewhere.
    pub fn record(&'static self, ns: u64) {
        if let Some(place) = self.place() {
            let cost = Cost {
                ns,
                allocated_bytes: 0,
                outermost: true,
            };
            local::with(place, |cells| {
                cells.charge(&cost);
                cells.call(ns);
            });
        }
    }

    #[inline]
    fn begin(&'static self, is_poll: bool) -> Span {
        let running = if is_enabled() { self.run(is_poll) } else { None };
        Span {
            running,
            not_send: PhantomData,
        }
    }

    #[inline]
    fn run(&'static self, is_poll: bool) -> Option<Running> {
        let place = self.place()?;
        let outermost = local::with(place, Cells::enter)?;
        Some(Running {
            place,
            outermost,
            is_poll,
            allocated_start: allocated_bytes(),
            started: tick::now(),
        })
    }

    #[inline]
    pub(super) fn place(&'static self) -> Option<usize> {
        match self.place.load(Relaxed) {
            UNSET => self.register(),
            REFUSED => None,
            place => Some(place as usize),
        }
    }

    #[cold]
    fn register(&'static self) -> Option<usize> {
        let mut table = table();
        // Another thread may have been first.
        match self.place.load(Relaxed) {
            UNSET => {}
            REFUSED => return None,
            place => return Some(place as usize),
        }
        if table.rows.len() == SITES_MAX {
            SITES_REFUSED.fetch_add(1, Relaxed);
            self.place.store(REFUSED, Relaxed);
            return None;
        }
        let name = plain((self.name)());
        let place = table.rows.len();
        table.rows.push(Row {
            gone: Reading::empty(&name, self.file, self.line),
            site: self,
            name,
            cells: Vec::new(),
        });
        self.place.store(place as u32, Relaxed);
        Some(place)
    }
}

/// `a::b::f` of `a::b::f::__SITE::{{closure}}::here`, the name that the macro asks the compiler for.
fn plain(name: &str) -> String {
    let name = name.strip_suffix("::here").unwrap_or(name);
    name.replace("::{{closure}}", "").replace("::__SITE", "")
}

// === impl Span ===

impl Span {
    /// Ends it and says what it took; nothing if it was not recorded.
    #[inline]
    pub(super) fn finish(mut self) -> Option<Cost> {
        let running = self.running.take()?;
        let cost = running.cost();
        running.record(&cost);
        Some(cost)
    }
}

impl Drop for Span {
    #[inline]
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.record(&running.cost());
        }
    }
}

impl Running {
    #[inline]
    fn cost(&self) -> Cost {
        Cost {
            ns: tick::ns_between(self.started, tick::now()),
            allocated_bytes: allocated_bytes().saturating_sub(self.allocated_start),
            outermost: self.outermost,
        }
    }

    #[inline]
    fn record(&self, cost: &Cost) {
        let recorded = local::with(self.place, |cells| {
            cells.leave();
            cells.charge(cost);
            if self.is_poll {
                cells.poll();
            } else {
                cells.call(cost.ns);
            }
        });
        if recorded.is_none() {
            CALLS_LOST.fetch_add(1, Relaxed);
        }
    }
}

// === The table ===

fn table() -> MutexGuard<'static, Table> {
    // Rows are whole after each statement, so a panic elsewhere leaves them usable.
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Enters the cells of a thread, once per function and thread.
pub(super) fn join(place: usize, cells: &Arc<Cells>) {
    table().rows[place].cells.push(Arc::clone(cells));
}

/// Takes over what a thread that ends has counted.
pub(super) fn hand_over(place: usize, cells: &Arc<Cells>) {
    let mut table = table();
    let row = &mut table.rows[place];
    cells.add_to(&mut row.gone);
    row.cells.retain(|other| !Arc::ptr_eq(other, cells));
}

pub(super) fn readings(with_allocated: bool) -> Vec<Reading> {
    let table = table();
    let rows = table.rows.iter().map(|row| {
        let mut reading = row.gone.clone();
        reading.name.clone_from(&row.name);
        reading.line = row.site.line;
        row.cells.iter().for_each(|cells| cells.add_to(&mut reading));
        reading.has_allocated = with_allocated;
        reading
    });
    rows.collect()
}

pub(super) fn n_sites() -> usize {
    table().rows.len()
}

pub(super) fn lost() -> super::Lost {
    super::Lost {
        sites: SITES_REFUSED.load(Relaxed),
        calls: CALLS_LOST.load(Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ended_leaves_its_figures_and_no_cells() {
        static SITE: Site = Site::new(|| "of a thread that ended", file!(), line!());
        let ended = std::thread::spawn(|| (0..100).for_each(|_| SITE.record(7))).join();
        assert!(ended.is_ok());
        let place = SITE.place().unwrap();
        assert_eq!(table().rows[place].cells.len(), 0);
        assert_eq!(table().rows[place].gone.figures().calls, 100);
    }
}
