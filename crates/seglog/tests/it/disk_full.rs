//! A real file system of one MiB that fills up, and is given room again.

use std::{fs, io, path::Path, process::Command};

use tidegate_seglog::{Config, Error, Log};

use crate::support::{Dir, payload, payloads};

/// A mounted file system in memory; unmounted with this.
struct Mount(Dir);

impl Mount {
    /// None where this process may not mount, or there is no such command.
    fn new() -> Option<Self> {
        let dir = Dir::new();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "none"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        status.is_ok_and(|status| status.success()).then(|| Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn is_disk_full(error: &Error) -> bool {
    let Error::Io { source, .. } = error else {
        return false;
    };
    source.kind() == io::ErrorKind::StorageFull && error.is_retryable()
}

fn check(preallocate: bool) {
    let Some(mount) = Mount::new() else {
        println!("disk full, preallocate {preallocate}: not run, this process may not mount a file system");
        return;
    };
    println!("disk full, preallocate {preallocate}: run on a tmpfs of 1 MiB");
    let dir = mount.path().join("log");
    let config = Config {
        segment_bytes: 256 << 10,
        bytes_max: 1 << 30,
        record_bytes_max: 10_000,
        preallocate,
    };
    let mut log = Log::open(&dir, config.clone()).unwrap();
    fs::write(mount.path().join("ballast"), vec![1; 300 << 10]).unwrap();
    let mut synced = Vec::new();
    let full = loop {
        let payload = payload(synced.len() as u64, 5_000);
        match log.append(&payload) {
            Ok(_) => synced.push(payload),
            Err(error) => break error,
        }
        log.sync().unwrap();
    };
    assert!(is_disk_full(&full), "{full}");
    assert!(synced.len() > 110, "{} records in 700 KiB", synced.len());
    assert!(is_disk_full(&log.append(&payload(9, 5_000)).unwrap_err()));
    assert_eq!(payloads(&log), synced, "what was synced stays");

    fs::remove_file(mount.path().join("ballast")).unwrap();
    for i in 0..20 {
        let payload = payload(1_000 + i, 6_000);
        log.append(&payload).unwrap();
        synced.push(payload);
    }
    log.sync().unwrap();
    assert_eq!(payloads(&log), synced, "it goes on when there is room again");
    drop(log);
    let log = Log::open(&dir, config).unwrap();
    assert_eq!(payloads(&log), synced);
    assert_eq!(log.recovery().lost_records, 0);
}

#[test]
fn a_full_disk_is_met_when_a_segment_is_made() {
    check(true);
}

#[test]
fn a_full_disk_is_met_in_the_middle_of_a_record() {
    check(false);
}

/// While nothing can be written, what is there can still be read and released, and that gives room.
#[test]
fn releasing_gives_room_on_a_full_disk() {
    let Some(mount) = Mount::new() else {
        println!("release on a full disk: not run, this process may not mount a file system");
        return;
    };
    let config = Config {
        segment_bytes: 128 << 10,
        bytes_max: 1 << 30,
        record_bytes_max: 10_000,
        preallocate: true,
    };
    let mut log = Log::open(mount.path().join("log"), config).unwrap();
    let full = (0..).map(|i| log.append(&payload(i, 5_000)));
    let full = full.filter_map(Result::err).next().unwrap();
    assert!(is_disk_full(&full), "{full}");
    log.sync().unwrap();
    let mut reader = log.reader(log.head());
    for _ in 0..60 {
        let record = reader.read().unwrap().unwrap();
        log.release(record.next).unwrap();
    }
    log.append(&payload(7, 5_000)).unwrap();
    log.sync().unwrap();
}
