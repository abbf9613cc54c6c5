//! What kind of disk a folder lies on.

use std::{io, path::Path};

/// What a folder's contents survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disk {
    /// A file system on a device, or one that is not known here.
    Ordinary,
    /// Memory (tmpfs, ramfs): gone when the machine restarts, whatever fsync says.
    Memory,
    /// The writable layer of a container: gone with the container.
    Overlay,
    /// A network share, whose fsync and locks depend on its server.
    Network,
}

// The magic numbers of statfs(2).
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;
const OVERLAYFS: u32 = 0x794c_7630;
const NFS: u32 = 0x6969;
const SMB2: u32 = 0xfe53_4d42;
const CIFS: u32 = 0xff53_4d42;
const CEPH: u32 = 0x00c3_6400;

impl Disk {
    /// The kind of disk that `path` lies on.
    ///
    /// # Errors
    /// When `path` is not there or cannot be asked.
    pub fn of(path: &Path) -> io::Result<Self> {
        let kind = rustix::fs::statfs(path)?.f_type;
        // The numbers have 32 bits, though the field is wider and signed on some machines.
        Ok(Self::of_magic(kind as u32))
    }

    const fn of_magic(magic: u32) -> Self {
        match magic {
            TMPFS | RAMFS => Self::Memory,
            OVERLAYFS => Self::Overlay,
            NFS | SMB2 | CIFS | CEPH => Self::Network,
            _ => Self::Ordinary,
        }
    }

    /// `ordinary`, `memory`, `overlay` or `network`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Memory => "memory",
            Self::Overlay => "overlay",
            Self::Network => "network",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_recognised() {
        // Linux mounts a tmpfs here; where it does not, there is nothing to compare.
        if Path::new("/dev/shm").is_dir() {
            assert_eq!(Disk::of(Path::new("/dev/shm")).unwrap(), Disk::Memory);
        }
        assert_ne!(Disk::of(Path::new("/proc")).unwrap(), Disk::Memory);
        assert!(Disk::of(Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn magic_numbers_have_names() {
        let check = |magic: u32, expected: &str| assert_eq!(Disk::of_magic(magic).as_str(), expected);
        check(0x0102_1994, "memory");
        check(0x794c_7630, "overlay");
        check(0x6969, "network");
        check(0xef53, "ordinary");
    }
}
