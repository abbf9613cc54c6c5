//! The file that keeps a folder to one owner.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::error::{Error, Result};

/// A folder that is ours until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

const NAME: &str = "lock";

impl Lock {
    /// Makes `dir` if need be and takes it.
    ///
    /// # Errors
    /// [`Error::Locked`] when somebody has it, in this process or another; [`Error::Io`] otherwise.
    pub fn take(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io("make", dir))?;
        let path = dir.join(NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Locked {
                    dir: dir.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Err(error) => return Err(Error::io("lock", &path)(error.into())),
        }
        // The number only serves the message that another process gives; on a full disk the lock holds without it.
        let _ = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is being started by another thread shares the open file until it runs
        // its own program, and would keep the folder that long.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
