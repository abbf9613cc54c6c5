//! The file that remembers what is released.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    format::{BLOCKS_AT, Block, HEAD_KIND, VERSION, decode_block, encode_block},
    position::Position,
    segment,
};

/// The released position, written to two places in turn, so that a torn write leaves the older one.
#[derive(Debug)]
pub(crate) struct Head {
    path: PathBuf,
    file: File,
    generation: u64,
    /// Whether a written position is not durable yet.
    is_dirty: bool,
}

const NAME: &str = "head";

/// What the file said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) position: Option<Position>,
    generation: u64,
    /// Whether there was something that could not be read.
    pub(crate) is_damaged: bool,
}

/// What `dir` says is released. Does not change it.
pub(crate) fn read(dir: &Path) -> Result<Saved> {
    let path = dir.join(NAME);
    match File::open(&path) {
        Ok(file) => read_file(&path, &file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Saved {
            position: None,
            generation: 0,
            is_damaged: false,
        }),
        Err(error) => Err(Error::io("open", &path)(error)),
    }
}

fn read_file(path: &Path, file: &File) -> Result<Saved> {
    let bytes = segment::read_beginning(file).map_err(Error::io("read", path))?;
    let mut saved = Saved {
        position: None,
        generation: 0,
        is_damaged: false,
    };
    for block in segment::blocks(&bytes) {
        match decode_block(HEAD_KIND, &block) {
            Block::Valid([generation, segment, offset, number, _]) if generation > saved.generation => {
                saved.generation = generation;
                saved.position = Some(Position {
                    segment,
                    offset,
                    number,
                });
            }
            Block::Valid(_) => {}
            Block::OtherVersion(found) => {
                return Err(Error::Version {
                    path: path.to_owned(),
                    found,
                    known: VERSION,
                });
            }
            Block::Invalid => saved.is_damaged |= block.iter().any(|byte| *byte != 0),
        }
    }
    Ok(saved)
}

// === impl Head ===

impl Head {
    /// Opens or makes the file, with all its bytes, so that later writes need no new room.
    pub(crate) fn open(dir: &Path, saved: &Saved) -> Result<Self> {
        let path = dir.join(NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let position = saved.position.unwrap_or(Position::START);
        let mut head = Self {
            path,
            file,
            generation: saved.generation,
            is_dirty: false,
        };
        if saved.position.is_none() {
            let end = BLOCKS_AT[1] + 512;
            head.file.set_len(end).map_err(Error::io("make", &head.path))?;
            // Both places, so that neither is ever taken for damage.
            head.write(position)?;
            head.write(position)?;
            head.sync()?;
        }
        Ok(head)
    }

    /// Writes `position`; it is durable after [`Head::sync`].
    pub(crate) fn write(&mut self, position: Position) -> Result<()> {
        self.generation += 1;
        let Position {
            segment,
            offset,
            number,
        } = position;
        let block = encode_block(HEAD_KIND, [self.generation, segment, offset, number, 0]);
        self.is_dirty = true;
        let at = BLOCKS_AT[(self.generation % 2) as usize];
        self.file
            .write_all_at(&block, at)
            .map_err(Error::io("write", &self.path))
    }

    /// Makes the written position durable. After a failure the position must be written again: the system may have
    /// forgotten that it was not.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if !self.is_dirty {
            return Ok(());
        }
        rustix::fs::fdatasync(&self.file).map_err(|error| Error::io("sync", &self.path)(error.into()))?;
        self.is_dirty = false;
        Ok(())
    }

    pub(crate) const fn is_dirty(&self) -> bool {
        self.is_dirty
    }
}
