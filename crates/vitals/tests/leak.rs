//! A real leak, end to end: jemalloc samples the heap, the alarm names the function that leaks.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::ffi::c_char;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use tidegate_vitals::leak::{AllocatorSampler, Config, Detector, Sample};
use tidegate_vitals::{Clock, Registry, allocator};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads at its start: a pointer to a C string under this name.
#[repr(transparent)]
struct Options(*const c_char);

// SAFETY: the pointer is to a constant that nobody writes.
unsafe impl Sync for Options {}

// SAFETY: the one name that jemalloc looks for, with the type that it has there; nothing else defines it.
#[unsafe(no_mangle)]
#[used]
static _rjem_malloc_conf: Options =
    Options(c"prof:true,prof_active:false,lg_prof_sample:16,dirty_decay_ms:5000".as_ptr());

const PART_BYTES: usize = 4096;

#[inline(never)]
fn forget_to_give_back(kept: &mut Vec<Box<[u8]>>) {
    kept.push(black_box(vec![1_u8; PART_BYTES]).into_boxed_slice());
}

#[inline(never)]
fn give_back() {
    drop(black_box(vec![1_u8; PART_BYTES]));
}

#[test]
fn a_real_leak_is_found_and_named() {
    assert!(allocator::heap_profile_available());
    let config = Config::short();
    let (clock, hand) = Clock::manual();
    let mut detector = Detector::new(config, Arc::new(AllocatorSampler), &Registry::new());
    let mut kept = Vec::new();
    let mut alarm = None;
    while alarm.is_none() && kept.len() < 10_000 {
        for _ in 0..8 {
            forget_to_give_back(&mut kept);
            give_back();
        }
        hand.advance(config.bucket / 4);
        alarm = detector.sample(&Sample {
            at: clock.now(),
            live_bytes: allocator::stats().unwrap().allocated,
            accounted_bytes: 0,
            load: 1.0,
        });
    }
    let alarm = alarm.unwrap_or_else(|| panic!("no alarm: {:?}", detector.stats()));
    let functions = alarm.top_functions();
    assert!(
        functions.iter().any(|name| name.contains("forget_to_give_back")),
        "{functions:#?}"
    );
    let leaked = (kept.len() * PART_BYTES) as u64;
    assert!(
        alarm.sites[0].bytes > leaked / 4 && alarm.sites[0].bytes < leaked,
        "{}",
        alarm.sites[0].bytes
    );
    assert_eq!(
        allocator::heap_profile_active(),
        Some(false),
        "off again after the alarm"
    );
    the_allocator_answers_and_obeys();
}

/// In the same test, because both look at the one heap of the process.
fn the_allocator_answers_and_obeys() {
    let before = allocator::stats().unwrap();
    assert!(before.allocated > 0 && before.resident >= before.active && before.active >= before.allocated);
    allocator::set_decay(Duration::from_secs(60)).unwrap();
    let much: Vec<Vec<u8>> = (0..1000).map(|_| black_box(vec![1; 32 << 10])).collect();
    drop(much);
    let freed = allocator::purge().unwrap();
    assert!(freed > 8 << 20, "{freed}");
    allocator::decay().unwrap();
    allocator::set_background_thread(true).unwrap();
    assert_eq!(allocator::background_thread(), Some(true));
    allocator::set_background_thread(false).unwrap();
}

#[test]
fn bytes_of_a_thread_are_counted_for_functions() {
    let before = allocator::thread_allocated_bytes();
    let kept = vec![1_u8; 100_000];
    let grown = allocator::thread_allocated_bytes() - before;
    assert!(grown >= 100_000, "{grown}");
    drop(kept);
    assert!(
        allocator::thread_allocated_bytes() - before >= grown,
        "what is freed stays counted"
    );
    assert!(allocator::count_for_functions());
    let other = std::thread::spawn(allocator::thread_allocated_bytes)
        .join()
        .unwrap();
    assert!(other < 100_000, "each thread has its own count: {other}");
}
