//! Snapshots of memory: what they hold, how many are kept, what lies between two.

use std::time::Duration;

use tidegate_vitals::memory::snapshot::{SNAPSHOTS_MAX, Snapshots};
use tidegate_vitals::{Class, Clock, Ledger, Level};

#[test]
fn two_labels_show_what_changed_between_them() {
    let (clock, hand) = Clock::manual();
    let ledger = Ledger::new(10_000);
    let snapshots = Snapshots::new(ledger.clone(), clock);
    let rings = ledger.reserve(Class::Rings, 700).unwrap();
    let before = snapshots.take("before", Level::Normal);
    assert!(before.rss_bytes > 0 && before.virtual_bytes >= before.rss_bytes);
    assert_eq!(before.accounted_bytes(), 700);
    drop(rings);
    let _spool = ledger.reserve(Class::Spool, 50).unwrap();
    hand.advance(Duration::from_secs(90));
    let after = snapshots.take("after", Level::High);
    assert_eq!((after.number, after.level), (2, Level::High));
    let difference = snapshots.between("before", "after").unwrap();
    assert_eq!((difference.from, difference.to, difference.seconds), (1, 2, 90.0));
    assert_eq!(difference.accounted, [(Class::Rings, -700), (Class::Spool, 50)]);
    assert_eq!(snapshots.between("before", "never"), None);
}

#[test]
fn the_list_and_its_labels_are_bounded() {
    let (clock, hand) = Clock::manual();
    let snapshots = Snapshots::new(Ledger::new(1), clock);
    assert_eq!(snapshots.growth(), None);
    for _ in 0..SNAPSHOTS_MAX + 10 {
        snapshots.take(&"ä".repeat(100), Level::Normal);
        hand.advance(Duration::from_secs(60));
    }
    let kept = snapshots.list();
    assert_eq!((kept.len(), kept[0].number), (SNAPSHOTS_MAX, 11));
    assert_eq!(&*kept[0].label, "ä".repeat(32));
    let growth = snapshots.growth().unwrap();
    assert_eq!((growth.snapshots, growth.seconds), (SNAPSHOTS_MAX, 255.0 * 60.0));
}
