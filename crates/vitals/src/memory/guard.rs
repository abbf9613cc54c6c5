//! A guard: reserved bytes that give themselves back.

use std::fmt;

use super::{Class, Full, Ledger};

/// Reserved bytes of one class; dropping it gives them back. Sixteen bytes itself.
#[must_use = "a guard that is dropped gives its bytes back at once"]
pub struct Guard {
    ledger: Ledger,
    /// The class in the highest eight bits, the bytes below: no process has 2⁵⁶ bytes.
    packed: u64,
}

const BYTES_BITS: u32 = 56;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;

// === impl Guard ===

impl Guard {
    pub(super) fn holding(ledger: Ledger, class: Class, bytes: usize) -> Self {
        debug_assert!(bytes as u64 <= BYTES_MASK, "{bytes} bytes in one guard");
        Self {
            ledger,
            packed: ((class as u64) << BYTES_BITS) | bytes as u64,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        (self.packed & BYTES_MASK) as usize
    }

    /// The class they are accounted under.
    pub fn class(&self) -> Class {
        Class::ALL[(self.packed >> BYTES_BITS) as usize]
    }

    /// Reserves `n` more bytes.
    ///
    /// # Errors
    /// [`Full`] if the limit does not allow it; what is held stays held.
    pub fn grow(&mut self, n: usize) -> Result<(), Full> {
        self.ledger.take(self.class(), n as u64)?;
        self.packed += n as u64;
        Ok(())
    }

    /// Like [`Guard::grow`], but a refusal is not counted.
    pub(super) fn try_grow(&mut self, n: usize) -> Result<(), Full> {
        self.ledger.try_take(self.class(), n as u64)?;
        self.packed += n as u64;
        Ok(())
    }

    /// Gives `n` bytes back.
    ///
    /// # Panics
    /// If it holds fewer: the account would be wrong for ever.
    pub fn shrink(&mut self, n: usize) {
        self.part_with(n);
        self.ledger.give_back(self.class(), n as u64);
    }

    /// Grows or shrinks to hold exactly `bytes`.
    ///
    /// # Errors
    /// [`Full`] if it had to grow and the limit does not allow it.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Full> {
        let held = self.bytes();
        if bytes > held {
            return self.grow(bytes - held);
        }
        self.shrink(held - bytes);
        Ok(())
    }

    /// Moves `n` of its bytes into a guard of their own.
    ///
    /// # Panics
    /// If it holds fewer.
    pub fn split(&mut self, n: usize) -> Self {
        self.part_with(n);
        Self::holding(self.ledger.clone(), self.class(), n)
    }

    /// Moves all its bytes to the account of another class; the sum over all classes stays as it is.
    pub fn move_to(&mut self, class: Class) {
        let bytes = self.packed & BYTES_MASK;
        self.ledger.reclassify(self.class(), class, bytes);
        self.packed = ((class as u64) << BYTES_BITS) | bytes;
    }

    /// Takes over the bytes of `other`.
    ///
    /// # Panics
    /// If the two are of different ledgers or classes.
    pub fn merge(&mut self, mut other: Self) {
        assert!(
            self.ledger.is_same(&other.ledger),
            "guards of two ledgers cannot merge"
        );
        assert!(
            self.class() == other.class(),
            "guards of {:?} and {:?} cannot merge",
            self.class(),
            other.class()
        );
        let n = other.bytes();
        other.part_with(n);
        self.packed += n as u64;
    }

    /// Lowers what it holds without telling the ledger.
    fn part_with(&mut self, n: usize) {
        let held = self.bytes();
        assert!(
            n <= held,
            "guard of {} holds {held} bytes, {n} asked back",
            self.class().name()
        );
        self.packed -= n as u64;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.ledger.give_back(self.class(), self.bytes() as u64);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({} bytes of {})", self.bytes(), self.class().name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_two_words() {
        assert_eq!(size_of::<Guard>(), 16);
        assert_eq!(size_of::<Option<Guard>>(), 16);
    }

    #[test]
    fn bytes_move_between_classes_and_are_given_back_by_the_last() {
        let ledger = Ledger::new(100);
        let mut guard = ledger.reserve(Class::Frames, 100).unwrap();
        guard.move_to(Class::Rings);
        let used = || {
            [
                ledger.used_by(Class::Frames),
                ledger.used_by(Class::Rings),
                ledger.used(),
            ]
        };
        assert_eq!((guard.class(), used()), (Class::Rings, [0, 100, 100]));
        drop(guard);
        assert_eq!(used(), [0; 3]);
    }
}
