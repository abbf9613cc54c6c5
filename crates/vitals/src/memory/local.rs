//! A single-thread account that reserves from the ledger in chunks.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use super::{Class, Full, Guard};

/// An account for one thread: charging and releasing are plain additions most of the time.
///
/// It may hold up to two chunks more than is charged; that slack is what its owner pays for having no atomics.
/// It can move to another thread but not be shared. What is left is given back on drop.
pub struct Local {
    reserved: Guard,
    charged_bytes: usize,
    chunk_bytes: usize,
    not_sync: PhantomData<Cell<()>>,
}

// === impl Local ===

impl Local {
    pub(super) fn new(reserved: Guard, chunk_bytes: usize) -> Self {
        Self {
            reserved,
            charged_bytes: 0,
            chunk_bytes,
            not_sync: PhantomData,
        }
    }

    /// Charges `bytes`, from the chunk at hand or a new one.
    ///
    /// # Errors
    /// [`Full`] if the ledger gives neither a chunk nor just what is missing; nothing is charged then.
    #[inline]
    pub fn charge(&mut self, bytes: usize) -> Result<(), Full> {
        if self.spare() < bytes {
            self.fetch(bytes - self.spare())?;
        }
        self.charged_bytes += bytes;
        Ok(())
    }

    /// Releases `bytes` charged before; whole spare chunks go back to the ledger.
    ///
    /// # Panics
    /// In debug builds, if less was charged; in release builds the account stops at zero.
    #[inline]
    pub fn release(&mut self, bytes: usize) {
        debug_assert!(
            bytes <= self.charged_bytes,
            "{bytes} bytes released, {} charged",
            self.charged_bytes
        );
        self.charged_bytes = self.charged_bytes.saturating_sub(bytes);
        if self.spare() > 2 * self.chunk_bytes {
            self.settle_to(self.chunk_bytes);
        }
    }

    /// Gives all spare bytes back, keeping just what is charged.
    pub fn settle(&mut self) {
        self.settle_to(0);
    }

    /// Bytes charged now.
    pub fn charged(&self) -> usize {
        self.charged_bytes
    }

    /// Bytes reserved from the ledger: what is charged and the slack.
    pub fn reserved(&self) -> usize {
        self.reserved.bytes()
    }

    /// The class it charges.
    pub fn class(&self) -> Class {
        self.reserved.class()
    }

    fn spare(&self) -> usize {
        self.reserved.bytes() - self.charged_bytes
    }

    #[cold]
    fn fetch(&mut self, missing: usize) -> Result<(), Full> {
        // Near the limit a whole chunk may not fit while the bytes themselves do.
        if missing < self.chunk_bytes && self.reserved.try_grow(self.chunk_bytes).is_ok() {
            return Ok(());
        }
        self.reserved.grow(missing)
    }

    #[cold]
    fn settle_to(&mut self, slack: usize) {
        let surplus = self.spare().saturating_sub(slack);
        self.reserved.shrink(surplus);
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Local({} charged, {:?})", self.charged_bytes, self.reserved)
    }
}
