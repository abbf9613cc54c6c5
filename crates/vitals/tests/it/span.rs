//! `#[profiled]` functions of every shape, and what is known of them afterwards.
//!
//! Recording is a switch of the whole process and tests run side by side, so it is turned on and stays on; the one test
//! that turns it off holds the others out.

use std::cell::Cell;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};

use tidegate_vitals::span::{self, Figures, Site};
use tidegate_vitals::{process, profiled};

thread_local!(static ALLOCATED: Cell<u64> = const { Cell::new(0) });

static SWITCH: RwLock<()> = RwLock::new(());

fn on() -> RwLockReadGuard<'static, ()> {
    let guard = SWITCH.read().unwrap_or_else(PoisonError::into_inner);
    span::set_enabled(true);
    guard
}

fn figures(name: &str) -> Figures {
    let all = span::figures();
    let found = all.into_iter().find(|f| f.name.ends_with(name));
    found.unwrap_or_else(|| panic!("{name} has no figures"))
}

fn spin(n: u64) -> u64 {
    (0..n).fold(1, |x, i| black_box(x.wrapping_mul(31).wrapping_add(i)))
}

mod functions {
    use super::*;

    #[profiled(crate = tidegate_vitals)]
    pub(super) fn plain(x: u64) -> u64 {
        spin(x)
    }

    #[profiled(crate = tidegate_vitals, name = "given name")]
    pub(super) fn named() {}

    #[profiled(crate = tidegate_vitals)]
    pub(super) fn generic<T: Clone>(items: &[T], n: usize) -> impl Iterator<Item = T> + '_ {
        items.iter().take(n).cloned()
    }

    #[profiled(crate = tidegate_vitals)]
    pub(super) fn fallible(x: i32) -> Result<i32, String> {
        if x < 0 {
            return Err(format!("{x} is negative"));
        }
        let halved: i32 = (x / 2).to_string().parse().map_err(|_| "no number")?;
        Ok(halved)
    }

    #[profiled(crate = tidegate_vitals)]
    pub(super) fn recursive(depth: u32) -> u64 {
        let own = spin(2_000);
        if depth == 0 {
            own
        } else {
            own.wrapping_add(recursive(depth - 1))
        }
    }

    #[profiled(crate = tidegate_vitals)]
    pub(super) fn allocates(bytes: u64, depth: u32) {
        ALLOCATED.set(ALLOCATED.get() + bytes);
        if depth > 0 {
            allocates(bytes, depth - 1);
        }
    }

    #[profiled(crate = tidegate_vitals)]
    pub(super) fn panics() {
        panic!("on purpose");
    }

    #[profiled(crate = tidegate_vitals)]
    pub(super) fn switched() {}

    #[profiled(crate = tidegate_vitals)]
    pub(super) fn of_threads() -> u64 {
        spin(10)
    }

    pub(super) struct Thing(pub(super) u64);

    impl Thing {
        #[profiled(crate = tidegate_vitals)]
        pub(super) fn method(&mut self, by: u64) -> &u64 {
            self.0 += by;
            &self.0
        }

        #[profiled(crate = tidegate_vitals)]
        pub(super) async fn async_method(&self, name: &str) -> Result<String, std::num::ParseIntError> {
            let parsed: u64 = name.parse()?;
            yield_once().await;
            Ok(format!("{}", parsed + self.0))
        }
    }

    #[profiled(crate = tidegate_vitals)]
    pub(super) async fn three_polls() -> u64 {
        let mut sum = spin(1_000);
        for _ in 0..2 {
            yield_once().await;
            sum ^= spin(1_000);
        }
        sum
    }

    #[profiled(crate = tidegate_vitals)]
    pub(super) async fn dropped_early() {
        yield_once().await;
        unreachable!("the test drops it");
    }
}

/// Pending once, then ready.
async fn yield_once() {
    let mut polled = false;
    std::future::poll_fn(move |_| {
        if polled {
            return Poll::Ready(());
        }
        polled = true;
        Poll::Pending
    })
    .await;
}

/// Polls until ready; says how often that was.
fn block_on<F: Future>(future: F) -> (F::Output, u32) {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for polls in 1.. {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return (output, polls);
        }
    }
    unreachable!("the loop has no end")
}

#[test]
fn functions_of_every_shape_keep_their_meaning() {
    let _on = on();
    functions::named();
    assert_eq!(figures("given name").calls, 1);
    let taken: Vec<u8> = functions::generic(&[1, 2, 3], 2).collect();
    assert_eq!(taken, [1, 2]);
    let texts: Vec<&str> = functions::generic(&["a"], 1).collect();
    assert_eq!(texts, ["a"]);
    assert_eq!(figures("functions::generic").calls, 2, "one site for all types");
    assert_eq!(functions::fallible(8), Ok(4));
    assert!(functions::fallible(-1).is_err());
    assert_eq!(figures("functions::fallible").calls, 2, "an early return counts");
    let mut thing = functions::Thing(1);
    assert_eq!(*thing.method(2), 3);
    assert_eq!(figures("Thing::method").calls, 1);
}

#[test]
fn a_call_is_timed_and_placed() {
    let _on = on();
    for _ in 0..100 {
        functions::plain(10_000);
    }
    let f = figures("functions::plain");
    assert_eq!((f.calls, f.polls, f.awaiting_ns), (100, 0, 0));
    assert!(f.file.ends_with("span.rs") && f.line > 0, "{}:{}", f.file, f.line);
    assert!(
        f.p50_ns >= 1_000,
        "ten thousand dependent steps in {} ns",
        f.p50_ns
    );
    assert!(f.p50_ns <= f.p95_ns && f.p95_ns <= f.p99_ns && f.p99_ns <= f.max_ns);
    assert!(f.mean_ns * 100.0 <= f.total_ns as f64 + 1.0 && f.max_ns <= f.total_ns);
}

#[test]
fn percentiles_are_within_a_thirty_second() {
    let _on = on();
    static SITE: Site = Site::new(|| "percentiles", file!(), line!());
    for value in 1..=10_000 {
        SITE.record(value * 100);
    }
    let f = figures("percentiles");
    for (found, exact) in [(f.p50_ns, 500_000), (f.p95_ns, 950_000), (f.p99_ns, 990_000)] {
        let off = found.abs_diff(exact) as f64 / exact as f64;
        assert!(off <= 1.0 / 32.0, "{found} for {exact}");
    }
    assert_eq!((f.calls, f.max_ns), (10_000, 1_000_000));
    assert!((f.mean_ns - 500_050.0).abs() < 1e-6);
    let deviation = 100.0 * (10_000.0_f64.powi(2) / 12.0).sqrt();
    assert!(
        (f.deviation_ns - deviation).abs() / deviation < 0.02,
        "{}",
        f.deviation_ns
    );
}

#[test]
fn a_recursive_call_counts_once_in_the_total() {
    let _on = on();
    functions::recursive(9);
    let f = figures("functions::recursive");
    assert_eq!(f.calls, 10);
    assert!(f.max_ns <= f.total_ns, "the outermost call is the whole time");
    assert!(
        f.mean_ns * 10.0 > f.total_ns as f64,
        "the inner calls were timed too"
    );
}

#[test]
fn allocated_bytes_come_from_the_hook() {
    let _on = on();
    assert!(span::set_allocated_hook(|| ALLOCATED.get()));
    assert!(!span::set_allocated_hook(|| 0), "the first one stays");
    functions::allocates(100, 0);
    functions::allocates(10, 2);
    let f = figures("functions::allocates");
    assert_eq!((f.calls, f.allocated_bytes), (4, Some(130)), "each byte once");
}

#[test]
fn a_panic_is_recorded_as_a_call() {
    let _on = on();
    for _ in 0..2 {
        assert!(std::panic::catch_unwind(functions::panics).is_err());
    }
    assert_eq!(figures("functions::panics").calls, 2);
}

#[test]
fn async_functions_are_charged_by_poll() {
    let _on = on();
    let (_, polls) = block_on(functions::three_polls());
    assert_eq!(polls, 3);
    let f = figures("functions::three_polls");
    assert_eq!((f.calls, f.polls), (1, 3));
    assert!(
        f.max_ns > 0 && f.total_ns >= f.max_ns,
        "a call is the sum of its polls"
    );

    let thing = functions::Thing(1);
    assert_eq!(block_on(thing.async_method("41")).0, Ok("42".to_owned()));
    assert!(block_on(thing.async_method("x")).0.is_err());
    assert_eq!(figures("Thing::async_method").calls, 2);
}

#[test]
fn a_future_that_is_dropped_counts_with_what_it_took() {
    let _on = on();
    {
        let mut future = pin!(functions::dropped_early());
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    let f = figures("functions::dropped_early");
    assert_eq!((f.calls, f.polls), (1, 1));
}

#[test]
fn threads_that_end_hand_their_figures_over() {
    let _on = on();
    let work = || (0..1_000).for_each(|_| _ = functions::of_threads());
    let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(work)).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(figures("functions::of_threads").calls, 8_000);
}

#[test]
fn off_means_that_nothing_is_recorded() {
    let _no_profile = crate::alone();
    let _alone = SWITCH.write().unwrap_or_else(PoisonError::into_inner);
    span::set_enabled(true);
    functions::switched();
    span::set_enabled(false);
    functions::switched();
    assert_eq!(figures("functions::switched").calls, 1);
    let recording = span::record();
    functions::switched();
    span::set_enabled(false);
    functions::switched();
    assert_eq!(figures("functions::switched").calls, 3, "somebody still wants it");
    drop(recording);
    functions::switched();
    assert_eq!(figures("functions::switched").calls, 3);
    span::set_enabled(true);
}

#[test]
fn memory_is_constant_over_millions_of_calls() {
    let _no_profile = crate::alone();
    let _on = on();
    static SITE: Site = Site::new(|| "constant memory", file!(), line!());
    let call = |n: u64| (0..n).for_each(|_| drop(SITE.enter()));
    call(1_000);
    let before = process::rss_bytes().unwrap();
    call(8_000_000);
    let grown = process::rss_bytes().unwrap().saturating_sub(before);
    assert_eq!(figures("constant memory").calls, 8_001_000);
    // Other tests run beside this one; eight bytes kept of each call would be 61 MiB.
    assert!(grown < 48 << 20, "{grown} bytes more");
}

#[test]
fn a_difference_holds_only_what_came_between() {
    let _on = on();
    static SITE: Site = Site::new(|| "difference", file!(), line!());
    let reading = || span::readings().into_iter().find(|r| r.name() == "difference");
    SITE.record(1_000_000);
    let before = reading().unwrap();
    (0..10).for_each(|_| SITE.record(100));
    let f = reading().unwrap().since(&before).figures();
    assert_eq!(f.calls, 10);
    assert!(f.max_ns < 110, "{} is the earlier maximum", f.max_ns);
    assert!((f.mean_ns - 100.0).abs() < 1e-9);
}
