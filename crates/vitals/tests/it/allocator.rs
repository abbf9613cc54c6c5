//! The allocator in a build without jemalloc: no figures, clear errors, and a purger that promises nothing.
#![cfg(not(feature = "jemalloc"))]

use std::time::Duration;

use tidegate_vitals::allocator::{self, PurgeStats, Purger};
use tidegate_vitals::pressure::{Ask, Level, Shed};
use tidegate_vitals::{Clock, Error, Registry};

#[test]
fn without_jemalloc_every_answer_is_none_or_an_error() {
    assert_eq!(allocator::stats(), None);
    assert_eq!(
        (allocator::background_thread(), allocator::heap_profile_active()),
        (None, None)
    );
    assert!(!allocator::heap_profile_available());
    let absent = Error::AllocatorAbsent;
    assert_eq!(allocator::purge(), Err(absent.clone()));
    assert_eq!(allocator::set_decay(Duration::ZERO), Err(absent.clone()));
    assert_eq!(allocator::set_heap_profile(true), Err(absent.clone()));
    assert_eq!(allocator::heap_profile_dump(), Err(absent.clone()));
    assert!(!absent.is_retryable());
}

#[test]
fn the_purger_promises_only_what_it_measured() {
    let (clock, hand) = Clock::manual();
    let purger = Purger::new(&Registry::new(), clock);
    hand.advance(Duration::from_secs(600));
    purger.tick();
    let ask = Ask {
        level: Level::Critical,
        within: 1.0,
        bytes_wanted: 1000,
    };
    assert_eq!(purger.shed(&ask), 0);
    assert_eq!(purger.stats(), PurgeStats::default());
}
