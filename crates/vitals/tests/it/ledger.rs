//! The ledger: never above its limit, back to zero at the end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use proptest::prelude::*;
use tidegate_vitals::{Class, Full, Guard, Ledger};

#[derive(Debug, Clone)]
enum Step {
    Reserve(usize, usize),
    Grow(usize, usize),
    Shrink(usize, usize),
    Split(usize, usize),
    Merge(usize, usize),
    Drop(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..Class::ALL.len(), 0_usize..400).prop_map(|(class, n)| Step::Reserve(class, n)),
        (any::<usize>(), 0_usize..400).prop_map(|(at, n)| Step::Grow(at, n)),
        (any::<usize>(), 0_usize..400).prop_map(|(at, n)| Step::Shrink(at, n)),
        (any::<usize>(), 0_usize..400).prop_map(|(at, n)| Step::Split(at, n)),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Step::Merge(a, b)),
        any::<usize>().prop_map(Step::Drop),
    ]
}

fn apply(ledger: &Ledger, guards: &mut Vec<Guard>, step: &Step) {
    let n_guards = guards.len();
    match *step {
        Step::Reserve(class, n) => guards.extend(ledger.reserve(Class::ALL[class], n)),
        _ if n_guards == 0 => {}
        Step::Grow(at, n) => {
            let _ = guards[at % n_guards].grow(n);
        }
        Step::Shrink(at, n) => {
            let guard = &mut guards[at % n_guards];
            guard.shrink(n.min(guard.bytes()));
        }
        Step::Split(at, n) => {
            let guard = &mut guards[at % n_guards];
            let part = guard.split(n.min(guard.bytes()));
            guards.push(part);
        }
        Step::Merge(a, b) => {
            let taken = guards.swap_remove(a % n_guards);
            match guards.iter_mut().find(|guard| guard.class() == taken.class()) {
                Some(into) => into.merge(taken),
                None => guards.insert(b % n_guards, taken),
            }
        }
        Step::Drop(at) => drop(guards.swap_remove(at % n_guards)),
    }
}

proptest! {
    #[test]
    fn accounts_are_the_sum_of_the_guards(steps in prop::collection::vec(any_step(), 0..100)) {
        let ledger = Ledger::new(1000);
        let mut guards = Vec::new();
        for step in &steps {
            apply(&ledger, &mut guards, step);
            prop_assert!(ledger.used() <= 1000);
            prop_assert_eq!(ledger.used(), guards.iter().map(|guard| guard.bytes() as u64).sum::<u64>());
            for &class in Class::ALL {
                let held = guards.iter().filter(|guard| guard.class() == class).map(|guard| guard.bytes() as u64);
                prop_assert_eq!(ledger.used_by(class), held.sum::<u64>());
            }
        }
        guards.clear();
        prop_assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn a_local_account_settles(charges in prop::collection::vec(1_usize..500, 1..100), chunk in 0_usize..1000) {
        let ledger = Ledger::new(20_000);
        let mut local = ledger.local(Class::Outboxes, chunk);
        let mut charged = Vec::new();
        for (at, &n) in charges.iter().enumerate() {
            if local.charge(n).is_ok() {
                charged.push(n);
            }
            if at % 3 == 2 {
                local.release(charged.pop().unwrap_or(0));
            }
            prop_assert_eq!(local.charged(), charged.iter().sum::<usize>());
            prop_assert_eq!(ledger.used(), local.reserved() as u64);
            prop_assert!(local.reserved() - local.charged() <= 2 * chunk);
        }
        local.settle();
        prop_assert_eq!(ledger.used_by(Class::Outboxes), local.charged() as u64);
        drop(local);
        prop_assert_eq!(ledger.used(), 0);
    }
}

#[test]
fn a_refusal_names_class_and_numbers() {
    let ledger = Ledger::new(100);
    let _held = ledger.reserve(Class::Rings, 90).unwrap();
    let full = ledger.reserve(Class::Frames, 20).unwrap_err();
    assert_eq!(
        full,
        Full {
            class: Class::Frames,
            asked: 20,
            used: 90,
            limit: 100
        }
    );
    assert_eq!(
        full.to_string(),
        "memory account frames full: 20 bytes asked, 90 of 100 used"
    );
    assert!(full.is_retryable());
    assert_eq!(ledger.refused(), 1);
}

#[test]
fn a_lower_limit_takes_nothing_back() {
    let ledger = Ledger::new(100);
    let mut held = ledger.reserve(Class::Frames, 80).unwrap();
    ledger.set_limit(50);
    assert!(ledger.reserve(Class::Frames, 1).is_err());
    assert!(
        ledger.reserve(Class::Frames, 0).is_ok(),
        "nothing is always allowed"
    );
    held.resize(40).unwrap();
    assert_eq!((ledger.used(), ledger.limit()), (40, 50));
    held.resize(50).unwrap();
    assert!(held.resize(51).is_err());
    assert_eq!(held.bytes(), 50);
}

#[test]
fn a_local_account_takes_the_last_bytes_without_a_whole_chunk() {
    let ledger = Ledger::new(150);
    let mut local = ledger.local(Class::ReadBuffers, 100);
    local.charge(90).unwrap();
    local.charge(50).unwrap();
    assert_eq!((local.charged(), ledger.used(), ledger.refused()), (140, 140, 0));
    assert!(local.charge(11).is_err());
    assert_eq!((local.charged(), ledger.refused()), (140, 1));
}

#[test]
#[should_panic(expected = "guard of frames holds 5 bytes, 6 asked back")]
fn giving_back_more_than_held_is_a_mistake_in_code() {
    let ledger = Ledger::new(100);
    let mut held = ledger.reserve(Class::Frames, 5).unwrap();
    held.shrink(6);
}

#[test]
fn threads_never_pass_the_limit() {
    // Less than what one thread asks for, so that it is met however the threads are scheduled.
    const LIMIT: u64 = 2_000;
    let ledger = Ledger::new(LIMIT);
    std::thread::scope(|scope| {
        for seed in 0..4_usize {
            let ledger = ledger.clone();
            scope.spawn(move || {
                let mut guards = Vec::new();
                for i in 0..20_000_usize {
                    match ledger.reserve(Class::ALL[i % 3], (i * 31 + seed * 97) % 700) {
                        Ok(guard) => guards.push(guard),
                        Err(_) => drop(guards.pop()),
                    }
                    assert!(ledger.used() <= LIMIT);
                    if guards.len() > 8 {
                        drop(guards.swap_remove(i % 8));
                    }
                }
            });
        }
    });
    assert_eq!(ledger.used(), 0);
    assert!(Class::ALL.iter().all(|&class| ledger.used_by(class) == 0));
    assert!(ledger.refused() > 0, "the limit was never met");
}

#[test]
fn the_alarm_goes_off_once_and_also_for_what_is_refused() {
    let ledger = Ledger::new(100);
    let rung = Arc::new(AtomicU64::new(0));
    let ringing = rung.clone();
    ledger.on_alarm(move || {
        ringing.fetch_add(1, Relaxed);
    });
    let rings = || rung.load(Relaxed);
    let held = ledger.reserve(Class::Caches, 50).unwrap();
    assert_eq!(rings(), 0, "no alarm is set");
    ledger.set_alarm(60);
    let more = ledger.reserve(Class::Caches, 9).unwrap();
    assert_eq!(rings(), 0);
    ledger.reserve(Class::Caches, 60).unwrap_err();
    assert_eq!(rings(), 1, "what would have passed it counts");
    ledger.reserve(Class::Caches, 60).unwrap_err();
    assert_eq!(rings(), 1, "once, until it is set again");
    ledger.set_alarm(59);
    assert_eq!(rings(), 2, "it is there already");
    drop((held, more));
    ledger.set_alarm(59);
    assert_eq!(rings(), 2);
}
