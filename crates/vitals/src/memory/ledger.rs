//! The ledger: bytes reserved before they are used, against one limit.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::{Class, Guard, Local};

/// Accounts of all bounded memory of a process. Clones are the same ledger.
///
/// The sum over all classes never exceeds the limit through a reservation; lowering the limit takes nothing back.
#[derive(Clone)]
pub struct Ledger(Arc<Accounts>);

/// A reservation that the limit did not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("memory account {} full: {asked} bytes asked, {used} of {limit} used", class.name())]
pub struct Full {
    /// The account that asked.
    pub class: Class,
    /// Bytes asked for.
    pub asked: u64,
    /// Bytes used by all classes at that moment.
    pub used: u64,
    /// The limit on all classes, bytes.
    pub limit: u64,
}

struct Accounts {
    limit: Line,
    used: Line,
    refused: Line,
    /// From how many bytes on the bell is rung, once; beside it nothing that is written often.
    alarm: Line,
    bell: OnceLock<Bell>,
    by_class: [Line; Class::ALL.len()],
}

type Bell = Box<dyn Fn() + Send + Sync>;

/// No alarm is set.
const UNSET: u64 = u64::MAX;

/// A number on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

// === impl Ledger ===

impl Ledger {
    /// A ledger that allows `limit_bytes` over all classes.
    pub fn new(limit_bytes: u64) -> Self {
        let accounts = Accounts {
            limit: Line(AtomicU64::new(limit_bytes)),
            used: Line::default(),
            refused: Line::default(),
            alarm: Line(AtomicU64::new(UNSET)),
            bell: OnceLock::new(),
            by_class: std::array::from_fn(|_| Line::default()),
        };
        Self(Arc::new(accounts))
    }

    /// Reserves `bytes` for `class`; the guard gives them back when it is dropped.
    ///
    /// # Errors
    /// [`Full`] if the sum of all accounts would pass the limit; counted in [`Ledger::refused`].
    pub fn reserve(&self, class: Class, bytes: usize) -> Result<Guard, Full> {
        self.take(class, bytes as u64)?;
        Ok(Guard::holding(self.clone(), class, bytes))
    }

    /// A guard that holds nothing yet and can grow.
    pub fn empty(&self, class: Class) -> Guard {
        Guard::holding(self.clone(), class, 0)
    }

    /// An account for one thread that reserves `chunk_bytes` at a time, so that a hot path pays no atomics.
    pub fn local(&self, class: Class, chunk_bytes: usize) -> Local {
        Local::new(self.empty(class), chunk_bytes)
    }

    /// Changes the limit, in bytes. Below what is used, nothing is taken back but nothing new is given.
    pub fn set_limit(&self, limit_bytes: u64) {
        self.0.limit.0.store(limit_bytes, Relaxed);
    }

    /// Has `ring` called when the alarm goes off: on the thread that reserves, so it must be short and not wait. The first
    /// one stays.
    pub fn on_alarm(&self, ring: impl Fn() + Send + Sync + 'static) {
        // One bell: whoever watches a ledger watches it for its whole life.
        let _first_stays = self.0.bell.set(Box::new(ring));
    }

    /// Sets the alarm: it goes off once, when a reservation brings or would bring the sum to `bytes`, at once if it is there.
    pub fn set_alarm(&self, bytes: u64) {
        self.0.alarm.0.store(bytes, Relaxed);
        self.look(self.used());
    }

    /// The limit on all classes, bytes.
    pub fn limit(&self) -> u64 {
        self.0.limit.0.load(Relaxed)
    }

    /// Bytes reserved by all classes.
    pub fn used(&self) -> u64 {
        self.0.used.0.load(Relaxed)
    }

    /// Bytes reserved by one class.
    pub fn used_by(&self, class: Class) -> u64 {
        self.account(class).load(Relaxed)
    }

    /// How many reservations were refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.0.load(Relaxed)
    }

    /// Takes `asked` bytes; a refusal is counted.
    pub(super) fn take(&self, class: Class, asked: u64) -> Result<(), Full> {
        self.try_take(class, asked).inspect_err(|_| {
            self.0.refused.0.fetch_add(1, Relaxed);
        })
    }

    /// Takes `asked` bytes; a refusal is not counted, because its caller has something smaller to try.
    pub(super) fn try_take(&self, class: Class, asked: u64) -> Result<(), Full> {
        let limit = self.limit();
        // Compare and swap instead of add and take back: a reservation that fails must never make another fail.
        let fits = |used: u64| used.checked_add(asked).filter(|&sum| sum <= limit || asked == 0);
        let taken = self.0.used.0.fetch_update(Relaxed, Relaxed, fits);
        let (Ok(used) | Err(used)) = taken;
        self.look(used.saturating_add(asked));
        taken.map_err(|used| Full {
            class,
            asked,
            used,
            limit,
        })?;
        self.account(class).fetch_add(asked, Relaxed);
        Ok(())
    }

    /// Whether the alarm goes off at so many bytes.
    #[inline]
    fn look(&self, bytes: u64) {
        if bytes >= self.0.alarm.0.load(Relaxed) {
            self.ring(bytes);
        }
    }

    #[cold]
    fn ring(&self, bytes: u64) {
        let armed = |alarm: u64| (bytes >= alarm && alarm != UNSET).then_some(UNSET);
        if self.0.alarm.0.fetch_update(Relaxed, Relaxed, armed).is_ok()
            && let Some(ring) = self.0.bell.get()
        {
            ring();
        }
    }

    pub(super) fn give_back(&self, class: Class, bytes: u64) {
        if bytes == 0 {
            return;
        }
        // The class first: it never shows more than the whole for longer than a reader can see.
        let of_class = self.account(class).fetch_sub(bytes, Relaxed);
        let of_all = self.0.used.0.fetch_sub(bytes, Relaxed);
        debug_assert!(
            of_class >= bytes && of_all >= bytes,
            "{} gave back {bytes}, had {of_class}",
            class.name()
        );
    }

    /// Moves bytes from one account to another; the sum is not touched.
    pub(super) fn reclassify(&self, from: Class, to: Class, bytes: u64) {
        self.account(to).fetch_add(bytes, Relaxed);
        self.account(from).fetch_sub(bytes, Relaxed);
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn account(&self, class: Class) -> &AtomicU64 {
        &self.0.by_class[class as usize].0
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({} of {} bytes)", self.used(), self.limit())
    }
}

// === impl Full ===

impl Full {
    /// Always: memory comes back as others finish.
    pub const fn is_retryable(&self) -> bool {
        true
    }
}
