//! The bounded books of the monitor: figures per fingerprint, figures per table, and texts seen before.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustc_hash::{FxBuildHasher, FxHasher};

use super::figures::{Figures, Run, Split};
use super::shape::Shape;
use super::tables::Verb;

/// The figures of one fingerprint.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) shape: Arc<Shape>,
    /// A text of it as it came, for whoever explains it; kept only if it is short. Never shown: it may hold literals.
    pub(super) sample: Option<Arc<str>>,
    pub(super) tables: Box<[Arc<Table>]>,
    /// Busy nanoseconds, readable without the lock when a place is needed.
    busy_ns: AtomicU64,
    /// Whether its place was given away; then its figures went to `other`.
    gone: AtomicBool,
    figures: Split,
}

/// The figures of one table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: Box<str>,
    figures: Split,
}

/// Figures per fingerprint and per table.
#[derive(Debug)]
pub(super) struct Book {
    entries: Mutex<HashMap<u64, Arc<Entry>, FxBuildHasher>>,
    tables: Mutex<HashMap<Box<str>, Arc<Table>, FxBuildHasher>>,
    /// What had no place.
    pub(super) other: Arc<Entry>,
    other_table: Arc<Table>,
    fingerprints_max: usize,
    tables_max: usize,
}

/// A text seen before and where its figures are.
#[derive(Debug)]
pub(super) struct Seen {
    text: Arc<str>,
    pub(super) entry: Arc<Entry>,
}

/// Texts seen before: 1,024 sets of four. A hash finds the set; the whole text decides.
#[derive(Debug)]
pub(super) struct Texts(Box<[RwLock<Set>]>);

#[derive(Debug, Default)]
struct Set {
    ways: [Option<(u64, Arc<Seen>)>; WAYS],
    /// Where the next new text goes.
    next: usize,
}

const SETS: usize = 1024;
const WAYS: usize = 4;
/// Longer texts are read each time they come: with this the texts stay below 16 MiB together.
const SEEN_BYTES_MAX: usize = 4 << 10;

/// A panic under these locks leaves figures that are still figures.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Book ===

impl Book {
    pub(super) fn new(fingerprints_max: usize, tables_max: usize) -> Self {
        let other_table = Arc::new(Table::new("other"));
        let shape = Shape {
            fingerprint: 0,
            text: "other".into(),
            verb: Verb::Other,
            tables: Box::default(),
        };
        Self {
            entries: Mutex::default(),
            tables: Mutex::default(),
            other: Arc::new(Entry::new(Arc::new(shape), None, Box::default())),
            other_table,
            fingerprints_max: fingerprints_max.max(1),
            tables_max,
        }
    }

    /// The entry of this shape; if there is no place for a new one, that with the least time makes room.
    pub(super) fn entry(&self, shape: &Arc<Shape>, sample: Option<Arc<str>>) -> Arc<Entry> {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get(&shape.fingerprint) {
            return Arc::clone(entry);
        }
        while entries.len() >= self.fingerprints_max {
            let least = entries.values().min_by_key(|entry| entry.busy_ns.load(Relaxed));
            let Some(gone) = least.map(Arc::clone) else { break };
            entries.remove(&gone.shape.fingerprint);
            gone.give_away(&self.other);
        }
        let tables = shape.tables.iter().map(|name| self.table(name)).collect();
        let entry = Arc::new(Entry::new(Arc::clone(shape), sample, tables));
        entries.insert(shape.fingerprint, Arc::clone(&entry));
        entry
    }

    fn table(&self, name: &str) -> Arc<Table> {
        let mut tables = lock(&self.tables);
        if let Some(table) = tables.get(name) {
            return Arc::clone(table);
        }
        if tables.len() >= self.tables_max {
            return Arc::clone(&self.other_table);
        }
        let table = Arc::new(Table::new(name));
        tables.insert(name.into(), Arc::clone(&table));
        table
    }

    /// Counts a statement that ended: for its fingerprint, or `other` if that lost its place, and for its tables.
    pub(super) fn record(&self, entry: &Entry, run: &Run) {
        if !entry.record(run) {
            self.other.record(run);
        }
        for table in &entry.tables {
            table.figures.record(run, || false);
        }
    }

    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        lock(&self.entries).values().map(Arc::clone).collect()
    }

    pub(super) fn n_entries(&self) -> usize {
        lock(&self.entries).len()
    }

    pub(super) fn tables(&self) -> Vec<Arc<Table>> {
        let mut tables: Vec<_> = lock(&self.tables).values().map(Arc::clone).collect();
        if self.other_table.figures().calls > 0 {
            tables.push(Arc::clone(&self.other_table));
        }
        tables
    }
}

// === impl Entry ===

impl Entry {
    fn new(shape: Arc<Shape>, sample: Option<Arc<str>>, tables: Box<[Arc<Table>]>) -> Self {
        Self {
            shape,
            sample,
            tables,
            busy_ns: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            figures: Split::new(),
        }
    }

    /// Counts a run; false if the entry's place was given away meanwhile.
    fn record(&self, run: &Run) -> bool {
        let is_counted = self.figures.record(run, || self.is_gone());
        if is_counted {
            self.busy_ns.fetch_add(run.busy_ns(), Relaxed);
        }
        is_counted
    }

    fn give_away(&self, other: &Self) {
        let figures = self.figures.take(|| self.gone.store(true, Relaxed));
        other.figures.merge(&figures);
    }

    /// Its figures as they are now.
    pub(super) fn figures(&self) -> Figures {
        self.figures.take(|| {})
    }

    pub(super) fn busy_ns(&self) -> u64 {
        self.busy_ns.load(Relaxed)
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }
}

// === impl Table ===

impl Table {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            figures: Split::new(),
        }
    }

    pub(super) fn figures(&self) -> Figures {
        self.figures.take(|| {})
    }
}

// === impl Texts ===

impl Texts {
    pub(super) fn new() -> Self {
        Self((0..SETS).map(|_| RwLock::default()).collect())
    }

    /// Where statements of this text are counted; a text not seen before is read.
    pub(super) fn find(&self, sql: &str, book: &Book) -> Arc<Seen> {
        let hash = hash(sql);
        let set = &self.0[(hash >> 48) as usize % SETS];
        let known = set.read().unwrap_or_else(PoisonError::into_inner).find(hash, sql);
        if let Some(seen) = &known
            && !seen.entry.is_gone()
        {
            return Arc::clone(seen);
        }
        let text: Option<Arc<str>> = (sql.len() <= SEEN_BYTES_MAX).then(|| Arc::from(sql));
        // A text whose entry lost its place need not be read again.
        let shape = known.map_or_else(|| Arc::new(Shape::of(sql)), |seen| Arc::clone(&seen.entry.shape));
        let entry = book.entry(&shape, text.clone());
        let keeps = text.is_some();
        let text = text.unwrap_or_else(|| Arc::from(""));
        let seen = Arc::new(Seen { text, entry });
        if keeps {
            set.write()
                .unwrap_or_else(PoisonError::into_inner)
                .put(hash, &seen);
        }
        seen
    }
}

impl Seen {
    /// The text as it came, if it is short enough to be kept.
    pub(super) fn text(&self) -> Option<&Arc<str>> {
        Some(&self.text).filter(|text| !text.is_empty())
    }
}

impl Set {
    fn find(&self, hash: u64, sql: &str) -> Option<Arc<Seen>> {
        self.ways
            .iter()
            .flatten()
            .find(|(known, seen)| *known == hash && *seen.text == *sql)
            .map(|(_, seen)| Arc::clone(seen))
    }

    fn put(&mut self, hash: u64, seen: &Arc<Seen>) {
        let same = |way: &Option<(u64, Arc<Seen>)>| way.as_ref().is_some_and(|(known, _)| *known == hash);
        let at = self.ways.iter().position(same).unwrap_or(self.next);
        if at == self.next {
            self.next = (self.next + 1) % WAYS;
        }
        self.ways[at] = Some((hash, Arc::clone(seen)));
    }
}

#[inline]
fn hash(sql: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(sql.as_bytes());
    hasher.finish()
}
