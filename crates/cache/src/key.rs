//! A key: a namespace and what tells values apart inside it, hashed once.

use std::{
    fmt,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher},
    sync::{Arc, OnceLock},
};

/// Names a value: a namespace (usually the name of a query) and bytes, often the digest of its parameters.
///
/// Whatever the value depends on belongs into it, the tenant above all: two callers with the same key get the same
/// value. It is hashed when it is made, so looking it up costs no more for a long key. Cloning shares the bytes.
#[derive(Clone)]
pub struct Key {
    hash: u64,
    /// The namespace's length in one byte, the namespace, the rest: so that no two pairs look alike.
    bytes: Arc<[u8]>,
}

/// Longest namespace, bytes: its length has one byte.
pub const NAMESPACE_BYTES_MAX: usize = 255;

/// Hands a hash through that was made before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Identity(u64);

/// Builds [`Identity`].
pub(crate) type BuildIdentity = BuildHasherDefault<Identity>;

/// The hash of `bytes` in this process; seeded at random, so that nobody outside can make keys collide.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    static SEED: OnceLock<foldhash::quality::RandomState> = OnceLock::new();
    let mut hasher = SEED.get_or_init(Default::default).build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

// === impl Key ===

impl Key {
    /// The key of `rest` in `namespace`.
    ///
    /// # Panics
    /// If the namespace is longer than [`NAMESPACE_BYTES_MAX`]: namespaces are names in a configuration, checked there.
    #[must_use]
    pub fn new(namespace: &str, rest: &[u8]) -> Self {
        let len = u8::try_from(namespace.len()).expect("a namespace has at most 255 bytes");
        let mut bytes = Vec::with_capacity(1 + namespace.len() + rest.len());
        bytes.push(len);
        bytes.extend_from_slice(namespace.as_bytes());
        bytes.extend_from_slice(rest);
        Self {
            hash: hash(&bytes),
            bytes: bytes.into(),
        }
    }

    /// The key of a digest, such as SHA-256 over a query's parameters.
    ///
    /// # Panics
    /// As [`Key::new`].
    #[must_use]
    pub fn of_digest(namespace: &str, digest: &[u8; 32]) -> Self {
        Self::new(namespace, digest)
    }

    /// The key whose bytes [`Key::as_bytes`] gave; none if they are no key's.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&len, rest) = bytes.split_first()?;
        let namespace = rest.get(..usize::from(len))?;
        std::str::from_utf8(namespace).ok()?;
        Some(Self {
            hash: hash(bytes),
            bytes: bytes.into(),
        })
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let end = 1 + usize::from(self.bytes[0]);
        std::str::from_utf8(&self.bytes[1..end]).expect("it was made from a str, or checked")
    }

    /// What tells it apart inside its namespace.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[1 + usize::from(self.bytes[0])..]
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) const fn hashed(&self) -> u64 {
        self.hash
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.bytes, &other.bytes) || self.bytes == other.bytes)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {} bytes)", self.namespace(), self.rest().len())
    }
}

// === impl Identity ===

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(bytes);
    }

    fn write_u64(&mut self, hashed: u64) {
        self.0 = hashed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_and_rest_never_run_into_each_other() {
        let check = |a: (&str, &[u8]), b: (&str, &[u8]), equal: bool| {
            assert_eq!(Key::new(a.0, a.1) == Key::new(b.0, b.1), equal, "{a:?} {b:?}");
        };
        check(("ab", b"c"), ("a", b"bc"), false);
        check(("", b"abc"), ("abc", b""), false);
        check(("ab", b"c"), ("ab", b"c"), true);
        check(("ab", b"c"), ("ab", b"d"), false);
    }

    #[test]
    fn a_key_comes_back_from_its_bytes() {
        let key = Key::of_digest("latest", &[7; 32]);
        let again = Key::from_bytes(key.as_bytes()).unwrap();
        assert_eq!(again, key);
        assert_eq!((again.namespace(), again.rest()), ("latest", &[7_u8; 32][..]));
        for bytes in [&b""[..], b"\x05abc", b"\x01\xff"] {
            assert!(Key::from_bytes(bytes).is_none(), "{bytes:?}");
        }
    }
}
