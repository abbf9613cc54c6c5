//! The databases behind the store: one folder each, with the same words.

#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// File systems that live in memory, by the `statfs` magic of the kernel's `magic.h`: tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Whether what lies at `path` is gone after a restart of the machine; none where it cannot be known.
pub(crate) fn is_in_memory(path: &std::path::Path) -> Option<bool> {
    let status = rustix::fs::statfs(path).ok()?;
    Some(IN_MEMORY.contains(&(status.f_type as u64)))
}
