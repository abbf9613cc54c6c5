//! Changed bytes, cut files, foreign files: never a panic, never a record that was not appended.

use std::{fs, os::unix::fs::FileExt};

use proptest::prelude::*;
use tidegate_seglog::{Config, Log, Reader};

use crate::support::{Dir, SMALL, payload, payloads, read_all};

/// Records synced in groups of three over several segments.
fn written(dir: &Dir, n_records: u64) -> Vec<Vec<u8>> {
    let mut log = Log::open(dir.path(), SMALL).unwrap();
    let written: Vec<Vec<u8>> = (0..n_records)
        .map(|i| payload(i, 60 + i as usize % 200))
        .collect();
    for (i, payload) in written.iter().enumerate() {
        log.append(payload).unwrap();
        if i % 3 == 2 {
            log.sync().unwrap();
        }
    }
    log.sync().unwrap();
    written
}

/// Opens and reads to the end; what comes must be a subsequence of `written`. Says how many came, and how many are known
/// to be lost.
fn read_back(dir: &Dir, written: &[Vec<u8>]) -> (usize, u64) {
    let log = Log::open(dir.path(), SMALL).unwrap();
    let mut reader = log.reader(log.head());
    let records = read_all(&mut reader);
    let mut rest = written.iter();
    for record in &records {
        assert!(
            rest.any(|payload| *payload == record.payload),
            "invented or out of order"
        );
    }
    (
        records.len(),
        reader.damage().records + log.recovery().lost_records,
    )
}

fn change(path: &std::path::Path, at: u64, change: impl Fn(u8) -> u8) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[change(byte[0])], at).unwrap();
}

proptest! {
    #[test]
    fn one_changed_byte_costs_one_record(segment in 0_usize..4, at in 0.0..1.0_f64, flip in 1_u8..=255) {
        let dir = Dir::quick();
        let written = written(&dir, 60);
        let segments = dir.segments();
        let path = &segments[segment % segments.len()];
        let at = (fs::metadata(path).unwrap().len() as f64 * at) as u64;
        change(path, at, |byte| byte ^ flip);
        let (n_read, n_lost) = read_back(&dir, &written);
        // The newest group may be cut as a torn tail would be: nothing behind it says that it was durable.
        prop_assert!(n_read >= written.len() - 3, "{n_read} read");
        prop_assert!(n_lost <= 1);
        // Damage stays what it was when the log is opened again and goes on.
        let mut log = Log::open(dir.path(), SMALL).unwrap();
        log.append(b"more").unwrap();
        log.sync().unwrap();
        drop(log);
        let again = payloads(&Log::open(dir.path(), SMALL).unwrap());
        prop_assert_eq!(again.len(), n_read + 1);
    }

    #[test]
    fn several_changed_bytes_invent_nothing(changes in prop::collection::vec((0_usize..8, 0.0..1.0_f64, any::<u8>()), 1..20)) {
        let dir = Dir::quick();
        let written = written(&dir, 60);
        let segments = dir.segments();
        for (segment, at, byte) in changes {
            let path = &segments[segment % segments.len()];
            let at = (fs::metadata(path).unwrap().len() as f64 * at) as u64;
            change(path, at, |_| byte);
        }
        read_back(&dir, &written);
    }

    #[test]
    fn cut_files_invent_nothing(segment in 0_usize..8, at in 0.0..1.0_f64) {
        let dir = Dir::quick();
        let written = written(&dir, 60);
        let segments = dir.segments();
        let path = &segments[segment % segments.len()];
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len((file.metadata().unwrap().len() as f64 * at) as u64).unwrap();
        read_back(&dir, &written);
    }

    #[test]
    fn random_files_are_no_records(
        files in prop::collection::vec((0_u64..4, prop::collection::vec(any::<u8>(), 0..3_000)), 1..4),
        head in prop::collection::vec(any::<u8>(), 0..1_100),
        sound_head: bool,
    ) {
        let dir = Dir::quick();
        let made = Dir::quick();
        written(&made, 1);
        let real = fs::read(&made.segments()[0]).unwrap();
        for (sequence, bytes) in &files {
            let mut bytes = bytes.clone();
            if sound_head && bytes.len() > 1_024 {
                bytes[..1_024].copy_from_slice(&real[..1_024]);
            }
            fs::write(dir.path().join(format!("{sequence:016x}.seg")), bytes).unwrap();
        }
        fs::write(dir.path().join("head"), head).unwrap();
        let peeked = read_all(&mut Reader::peek(dir.path()).unwrap());
        prop_assert!(peeked.is_empty());
        let mut log = Log::open(dir.path(), SMALL).unwrap();
        prop_assert!(payloads(&log).is_empty());
        log.append(b"goes on").unwrap();
        log.sync().unwrap();
        prop_assert_eq!(payloads(&log), [b"goes on"]);
    }

    #[test]
    fn a_damaged_head_file_repeats_but_loses_nothing(at in 0_u64..1_024, byte: u8) {
        let dir = Dir::quick();
        let written = written(&dir, 30);
        let mut log = Log::open(dir.path(), SMALL).unwrap();
        let records = read_all(&mut log.reader(log.head()));
        log.release(records[3].next).unwrap();
        log.release(records[4].next).unwrap();
        drop(log);
        change(&dir.path().join("head"), at, |_| byte);
        let (n_read, _) = read_back(&dir, &written);
        prop_assert!((25..=30).contains(&n_read), "{n_read}");
    }
}

#[test]
fn a_payload_that_imitates_a_record_is_none() {
    let dir = Dir::new();
    let other = Dir::new();
    let config = Config {
        segment_bytes: 64 << 10,
        record_bytes_max: 40_000,
        ..SMALL
    };
    // The bytes of another log's whole segment as a payload, at the same places and in the same segment number.
    let mut copied = Log::open(other.path(), config.clone()).unwrap();
    for i in 0..20 {
        copied.append(&payload(i, 500)).unwrap();
    }
    copied.sync().unwrap();
    let imitation = fs::read(&other.segments()[0]).unwrap()[1_044..12_000].to_vec();
    let mut log = Log::open(dir.path(), config.clone()).unwrap();
    log.append(&imitation).unwrap();
    log.append(b"behind").unwrap();
    log.sync().unwrap();
    log.append(b"proof").unwrap();
    log.sync().unwrap();
    drop(log);
    // The frame is lost, so the search goes through the payload.
    change(&dir.segments()[0], 1_024, |byte| byte ^ 1);
    let log = Log::open(dir.path(), config).unwrap();
    let mut reader = log.reader(log.head());
    let found: Vec<Vec<u8>> = read_all(&mut reader)
        .into_iter()
        .map(|record| record.payload)
        .collect();
    let expected: [&[u8]; 2] = [b"behind", b"proof"];
    assert_eq!(found, expected);
    assert_eq!(reader.damage().records, 1);
}

#[test]
fn a_segment_without_head_is_set_aside_and_counted() {
    let dir = Dir::new();
    let written = written(&dir, 60);
    let segments = dir.segments();
    let before = fs::metadata(&segments[1]).unwrap().len();
    fs::write(&segments[1], vec![7; before as usize]).unwrap();
    let log = Log::open(dir.path(), SMALL).unwrap();
    let set_aside = &log.recovery().set_aside;
    assert_eq!(set_aside.len(), 1);
    assert!(set_aside[0].exists());
    let mut reader = log.reader(log.head());
    let n_read = read_all(&mut reader).len();
    assert_eq!(reader.damage().records, (written.len() - n_read) as u64);
    assert!(n_read > 20);
}

#[test]
fn files_of_another_version_are_refused_not_removed() {
    let dir = Dir::new();
    written(&dir, 3);
    let path = &dir.segments()[0];
    let mut bytes = fs::read(path).unwrap();
    for at in [0, 512] {
        bytes[at + 8] = 2;
        let check = crc32c::crc32c(&bytes[at..at + 56]);
        bytes[at + 56..at + 60].copy_from_slice(&check.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
    let refused = Log::open(dir.path(), SMALL).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("{} has format 2, known is 1", path.display())
    );
    assert!(path.exists());
}
