//! Single records by their places: before they are synced, after others were dropped, and when they are damaged.

use std::{fs, os::unix::fs::FileExt};

use tidegate_seglog::{Config, Log};

use crate::support::Dir;

fn config() -> Config {
    Config {
        segment_bytes: 4_096,
        bytes_max: 3 * 4_096,
        record_bytes_max: 1_000,
        preallocate: true,
    }
}

#[test]
fn a_record_is_found_at_its_place_until_its_segment_is_dropped() {
    let dir = Dir::new();
    let mut log = Log::open(dir.path(), config()).unwrap();
    let fetcher = log.fetcher();
    let payload = |i: u8| vec![i; 700];
    let places: Vec<_> = (0..8).map(|i| log.append(&payload(i)).unwrap()).collect();
    for (i, place) in (0..).zip(&places) {
        assert_eq!(
            fetcher.fetch(*place).unwrap(),
            Some(payload(i)),
            "record {i}, synced or not"
        );
    }
    log.drop_oldest().unwrap().unwrap();
    fetcher.forget_before(log.head().segment());
    for (i, place) in (0..).zip(&places) {
        let is_left = place.segment() >= log.head().segment();
        assert_eq!(
            fetcher.fetch(*place).unwrap(),
            is_left.then(|| payload(i)),
            "record {i}"
        );
    }
}

#[test]
fn a_damaged_record_is_not_found_and_its_neighbours_are() {
    let dir = Dir::new();
    let mut log = Log::open(dir.path(), config()).unwrap();
    let fetcher = log.fetcher();
    let places: Vec<_> = (0..3_u8).map(|i| log.append(&[i; 500]).unwrap()).collect();
    let file = fs::File::options().write(true).open(&dir.segments()[0]).unwrap();
    file.write_all_at(b"?", places[1].offset() + 300).unwrap();
    let found = places
        .iter()
        .map(|place| fetcher.fetch(*place).unwrap().is_some());
    assert_eq!(found.collect::<Vec<_>>(), [true, false, true]);
}
