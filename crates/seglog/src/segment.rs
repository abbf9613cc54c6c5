//! Segment files: their names, making them, writing into them.

use std::{
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use crate::{
    error::{Error, Result},
    format::{
        ALIGN, BLOCK_BYTES, BLOCKS_AT, Block, DATA_AT, FRAME_BYTES, Frame, SEGMENT_KIND, SegmentHead,
        VERSION, Words, decode_block, encode_block,
    },
};

/// A segment of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) head: SegmentHead,
    /// Where its records end.
    pub(crate) end: u64,
    /// Bytes of its file: up to where it may grow while it is written, its length afterwards.
    pub(crate) bytes: u64,
}

const SUFFIX: &str = ".seg";

pub(crate) fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}{SUFFIX}"))
}

/// The sequence of a segment's file; none for other files.
pub(crate) fn sequence(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_ours = digits.len() == 16 && digits.bytes().all(is_digit);
    is_ours.then(|| u64::from_str_radix(digits, 16).ok())?
}

/// A number that nobody outside can guess, from the standard library's own random keys.
pub(crate) fn salt() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Makes the file of a segment, asks the disk for `wanted` bytes, or as many as it has but not fewer than `needed`, and
/// gives how far it may grow. When it fails, the file is gone again.
pub(crate) fn create(
    dir: &Path,
    head: &SegmentHead,
    wanted: u64,
    needed: u64,
    preallocate: bool,
) -> Result<(File, u64)> {
    let path = path(dir, head.sequence);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(Error::io("make", &path))?;
    let made = match preallocate {
        true => allocate(&file, wanted, needed),
        false => Ok(wanted),
    };
    let made = made.and_then(|bytes| write_blocks(&file, SEGMENT_KIND, head.words()).map(|()| bytes));
    match made {
        Ok(bytes) => Ok((file, bytes)),
        Err(error) => {
            let _ = fs::remove_file(&path);
            Err(Error::io("make", &path)(error))
        }
    }
}

fn allocate(file: &File, wanted: u64, needed: u64) -> io::Result<u64> {
    let mut bytes = wanted;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(bytes),
            Err(Errno::INTR) => {}
            // A nearly full disk still takes a smaller segment.
            Err(Errno::NOSPC | Errno::DQUOT) if bytes / 2 >= needed => {
                bytes /= 2;
                file.set_len(0)?;
            }
            // A disk that cannot reserve room is met record by record.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(wanted),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes a block in both places.
pub(crate) fn write_blocks(file: &File, kind: [u8; 8], words: Words) -> io::Result<()> {
    let mut bytes = [0; DATA_AT as usize];
    for at in BLOCKS_AT {
        bytes[at as usize..at as usize + BLOCK_BYTES].copy_from_slice(&encode_block(kind, words));
    }
    file.write_all_at(&bytes, 0)
}

/// Writes one record at byte `at`.
pub(crate) fn write_record(file: &File, at: u64, frame: &Frame, payload: &[u8]) -> io::Result<()> {
    let frame = frame.encode();
    let pad = [0; ALIGN as usize];
    let n_pad = (FRAME_BYTES + payload.len()).next_multiple_of(ALIGN as usize) - FRAME_BYTES - payload.len();
    let mut slices = [
        IoSlice::new(&frame),
        IoSlice::new(payload),
        IoSlice::new(&pad[..n_pad]),
    ];
    let mut rest = &mut slices[..];
    let mut at = at;
    while !rest.is_empty() {
        match rustix::io::pwritev(file, rest, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n_written) => {
                at += n_written as u64;
                IoSlice::advance_slices(&mut rest, n_written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What the first bytes of a segment's file say.
pub(crate) enum Beginning {
    Sound(SegmentHead),
    /// It was being made when the process or the machine stopped: no record of it was ever durable.
    Unwritten,
    Damaged,
}

/// Reads the head of segment `sequence`, whose file is `file`.
pub(crate) fn read_head(path: &Path, file: &File, sequence: u64) -> Result<Beginning> {
    let bytes = read_beginning(file).map_err(Error::io("read", path))?;
    for block in blocks(&bytes) {
        match decode_block(SEGMENT_KIND, &block) {
            Block::Valid(words) if words[0] == sequence => {
                return Ok(Beginning::Sound(SegmentHead::from_words(words)));
            }
            Block::OtherVersion(found) => {
                let path = path.to_owned();
                return Err(Error::Version {
                    path,
                    found,
                    known: VERSION,
                });
            }
            _ => {}
        }
    }
    Ok(match bytes.iter().any(|byte| *byte != 0) {
        true => Beginning::Damaged,
        false => Beginning::Unwritten,
    })
}

/// The first bytes of a file, with zeros where it is shorter.
pub(crate) fn read_beginning(file: &File) -> io::Result<[u8; DATA_AT as usize]> {
    let mut bytes = [0; DATA_AT as usize];
    let mut n_read = 0;
    while n_read < bytes.len() {
        match file.read_at(&mut bytes[n_read..], n_read as u64) {
            Ok(0) => break,
            Ok(n) => n_read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// The blocks at both places.
pub(crate) fn blocks(bytes: &[u8; DATA_AT as usize]) -> [[u8; BLOCK_BYTES]; 2] {
    BLOCKS_AT.map(|at| {
        bytes[at as usize..at as usize + BLOCK_BYTES]
            .try_into()
            .expect("a block has its length")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_segments() {
        let check = |name: &str, expected: Option<u64>| assert_eq!(sequence(name), expected, "{name}");
        check("00000000000000ff.seg", Some(255));
        check("00000000000000FF.seg", None);
        check("ff.seg", None);
        check("00000000000000ff.damaged", None);
        check("lock", None);
        check("+0000000000000ff.seg", None);
    }
}
