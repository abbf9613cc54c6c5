//! Who may hold a log, what others may read of it, and how quickly it comes back.

use std::{io, time::Instant};

use tidegate_seglog::{Config, Error, Log, Position, Reader};

use crate::support::{Dir, SMALL, payload, payloads, read_all};

#[test]
fn what_is_synced_is_read_in_order_and_released_once() {
    let dir = Dir::new();
    let mut log = Log::open(dir.path(), SMALL).unwrap();
    let expected: Vec<Vec<u8>> = (0..100).map(|i| payload(i, 100)).collect();
    for payload in &expected {
        log.append(payload).unwrap();
    }
    log.sync().unwrap();
    assert_eq!(payloads(&log), expected);
    assert!(log.stats().segments > 2);

    let records = read_all(&mut log.reader(log.head()));
    let numbers: Vec<u64> = records.iter().map(|record| record.position.number()).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    let released = log.release(records[59].next).unwrap();
    assert_eq!(released.records, 60);
    assert!(released.bytes > 0, "whole segments are given back");
    drop(log);

    let mut log = Log::open(dir.path(), SMALL).unwrap();
    assert_eq!(log.recovery().records, 40);
    assert_eq!(payloads(&log), expected[60..]);
    log.release(log.end()).unwrap();
    log.shrink().unwrap();
    assert_eq!((log.stats().bytes, dir.bytes()), (0, 0));
    drop(log);

    let mut log = Log::open(dir.path(), SMALL).unwrap();
    assert!(log.is_empty());
    let position = log.append(b"next").unwrap();
    assert_eq!(position.number(), 100, "numbers go on");
}

#[test]
fn readers_see_only_what_is_durable_and_follow() {
    let dir = Dir::new();
    let mut log = Log::open(dir.path(), SMALL).unwrap();
    let mut reader = log.reader(Position::START);
    log.append(b"one").unwrap();
    assert_eq!(reader.read().unwrap(), None);
    log.sync().unwrap();
    assert_eq!(reader.read().unwrap().unwrap().payload, b"one");
    log.append(b"two").unwrap();
    assert_eq!(reader.read().unwrap(), None);
    log.sync().unwrap();
    let record = reader.read().unwrap().unwrap();
    assert_eq!(record.payload, b"two");
    log.release(record.next).unwrap();
    log.shrink().unwrap();
    for i in 0..50 {
        log.append(&payload(i, 200)).unwrap();
    }
    log.sync().unwrap();
    assert_eq!(read_all(&mut reader).len(), 50);
    assert!(reader.damage().is_none());
}

#[test]
fn a_second_owner_is_refused_and_may_only_peek() {
    let dir = Dir::new();
    let mut log = Log::open(dir.path(), SMALL).unwrap();
    log.append(b"mine").unwrap();
    log.sync().unwrap();
    let refused = Log::open(dir.path(), SMALL).unwrap_err();
    let expected = format!(
        "{} is in use by process {}",
        dir.path().display(),
        std::process::id()
    );
    assert_eq!(refused.to_string(), expected);
    assert!(refused.is_retryable());

    let mut peek = Reader::peek(dir.path()).unwrap();
    assert_eq!(peek.read().unwrap().unwrap().payload, b"mine");
    assert_eq!(peek.read().unwrap(), None);
    drop(log);
    assert!(Log::open(dir.path(), SMALL).is_ok());
}

/// The other process is this test binary, run for one test that only tries the folder it is told.
#[test]
fn a_second_process_is_refused() {
    const DIR: &str = "SEGLOG_TEST_DIR";
    if let Some(dir) = std::env::var_os(DIR) {
        let refused = Log::open(dir, SMALL).unwrap_err();
        println!("other process: {refused}");
        return;
    }
    let dir = Dir::new();
    let _log = Log::open(dir.path(), SMALL).unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owners::a_second_process_is_refused", "--nocapture"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains(&format!("is in use by process {}", std::process::id())),
        "{text}"
    );
}

#[test]
fn the_size_bound_is_exact() {
    let dir = Dir::new();
    let config = Config {
        bytes_max: 10_000,
        ..SMALL
    };
    let mut log = Log::open(dir.path(), config).unwrap();
    let mut n_records = 0;
    let refused = loop {
        match log.append(&payload(n_records, 300)) {
            Ok(_) => n_records += 1,
            Err(error) => break error,
        }
        assert_eq!(log.bytes(), dir.bytes());
        assert!(dir.bytes() <= 10_000);
    };
    // Three heads of 1,024 bytes and records of 320: 9 and 9 in whole segments, 2 in what is left of the bound.
    assert_eq!(n_records, 21);
    assert!(
        matches!(
            refused,
            Error::Full {
                limit: 10_000,
                needed: 1_344,
                ..
            }
        ),
        "{refused}"
    );
    log.sync().unwrap();
    assert_eq!(payloads(&log).len(), 21);
    let first = log.reader(log.head()).read().unwrap().unwrap();
    log.release(first.next).unwrap();
    assert!(log.append(&payload(1, 300)).is_err(), "no file is free yet");
    let dropped = log.drop_oldest().unwrap().unwrap();
    assert_eq!(dropped.records, 8);
    log.append(&payload(1, 300)).unwrap();
    log.sync().unwrap();
    assert_eq!(payloads(&log).len(), 13);
    let stats = log.stats();
    assert_eq!(
        (stats.records, stats.released_records, stats.dropped_records),
        (13, 1, 8)
    );
    let dropped: u64 = std::iter::from_fn(|| log.drop_oldest().unwrap())
        .map(|dropped| dropped.records)
        .sum();
    assert_eq!((dropped, log.bytes()), (13, 0));
    assert!(matches!(
        log.append(&[0; 1_001]),
        Err(Error::TooLarge {
            size: 1_001,
            limit: 1_000
        })
    ));
}

#[test]
fn a_failed_fsync_takes_back_what_was_not_durable_and_the_log_goes_on() {
    let dir = Dir::new();
    let mut log = Log::open(dir.path(), SMALL).unwrap();
    log.append(b"durable").unwrap();
    log.sync().unwrap();
    log.append(b"lost").unwrap();
    let first = log.start_sync().unwrap();
    let second = log.start_sync().unwrap();
    log.append(b"lost too").unwrap();
    let error = log
        .finish_sync(first.refused(io::Error::other("disk on fire")))
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Withdrawn {
                records: 2,
                source: Some(_)
            }
        ),
        "{error}"
    );
    // The system may well report success for the same bytes when it is asked again.
    let error = log.finish_sync(second.run()).unwrap_err();
    assert!(matches!(
        error,
        Error::Withdrawn {
            records: 0,
            source: None
        }
    ));
    assert_eq!(payloads(&log), [b"durable"]);
    log.append(b"again").unwrap();
    log.sync().unwrap();
    let expected: [&[u8]; 2] = [b"durable", b"again"];
    assert_eq!(payloads(&log), expected);
    drop(log);
    assert_eq!(payloads(&Log::open(dir.path(), SMALL).unwrap()), expected);
}

#[test]
fn a_first_segment_that_was_never_durable_is_given_up() {
    let dir = Dir::new();
    let mut log = Log::open(dir.path(), SMALL).unwrap();
    log.append(b"lost").unwrap();
    let syncing = log.start_sync().unwrap();
    // As if its file could not even be removed.
    let kept = dir.copy();
    log.finish_sync(syncing.refused(io::ErrorKind::StorageFull.into()))
        .unwrap_err();
    assert_eq!(dir.bytes(), 0);
    std::fs::copy(&kept.segments()[0], dir.path().join("0000000000000001.seg")).unwrap();
    log.append(b"again").unwrap();
    log.sync().unwrap();
    drop(log);
    let log = Log::open(dir.path(), SMALL).unwrap();
    assert_eq!(payloads(&log), [b"again"]);
    assert_eq!(log.recovery().lost_records, 0);
}

/// Opening reads one segment whatever there is, so it takes no longer with many.
#[test]
fn recovery_does_not_read_sealed_segments() {
    let dir = Dir::new();
    let config = Config {
        segment_bytes: 1 << 20,
        bytes_max: 64 << 20,
        record_bytes_max: 100_000,
        preallocate: true,
    };
    let mut log = Log::open(dir.path(), config.clone()).unwrap();
    for i in 0..400 {
        log.append(&payload(i, 100_000)).unwrap();
    }
    log.sync().unwrap();
    drop(log);
    let started = Instant::now();
    let log = Log::open(dir.path(), config).unwrap();
    let opened = started.elapsed();
    let n_read = payloads(&log).len();
    println!(
        "opened {} bytes in {opened:?}, read in {:?}",
        log.bytes(),
        started.elapsed()
    );
    assert_eq!((n_read, log.recovery().records), (400, 400));
    assert!(opened.as_millis() < 2_000, "{opened:?}");
}
