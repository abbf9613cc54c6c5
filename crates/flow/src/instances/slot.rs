//! The place of one instance: empty, filled once, or gone.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};

/// What a slot holds; which kind is the registry's choice.
pub(super) enum Held<T> {
    Strong(Arc<T>),
    Weak(Weak<T>),
}

/// Read without a lock; filled and given up under one.
pub(super) struct Slot<T> {
    held: OnceLock<Held<T>>,
    /// `true` once the slot has left the table: whoever waited for it must look again.
    gone: Mutex<bool>,
}

// === impl Slot ===

impl<T> Slot<T> {
    pub(super) fn new() -> Self {
        Self {
            held: OnceLock::new(),
            gone: Mutex::new(false),
        }
    }

    /// The instance, if it is there and alive.
    #[inline]
    pub(super) fn get(&self) -> Option<Arc<T>> {
        match self.held.get()? {
            Held::Strong(instance) => Some(Arc::clone(instance)),
            Held::Weak(instance) => instance.upgrade(),
        }
    }

    /// Fills it; the caller holds the lock and found it empty.
    pub(super) fn fill(&self, held: Held<T>) {
        assert!(
            self.held.set(held).is_ok(),
            "a slot is filled once, under its lock"
        );
    }

    /// Whether it was filled, and its instance has died since.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.held.get(), Some(Held::Weak(instance)) if instance.strong_count() == 0)
    }

    /// Whether it is filled and nobody else holds its instance.
    pub(super) fn is_idle(&self) -> bool {
        match self.held.get() {
            Some(Held::Strong(instance)) => Arc::strong_count(instance) == 1,
            Some(Held::Weak(_)) => self.is_dead(),
            None => false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.get().is_none()
    }

    /// The lock, unless another has it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, bool>> {
        match self.gone.try_lock() {
            Ok(gone) => Some(gone),
            Err(TryLockError::Poisoned(gone)) => Some(gone.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The lock, and whether another had it.
    pub(super) fn lock(&self) -> (MutexGuard<'_, bool>, bool) {
        match self.try_lock() {
            Some(gone) => (gone, false),
            // A panic while creating leaves the slot empty, and the next one tries.
            None => (self.gone.lock().unwrap_or_else(PoisonError::into_inner), true),
        }
    }
}
