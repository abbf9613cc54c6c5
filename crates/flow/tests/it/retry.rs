//! Retries on paused time: limits, pauses, the budget.

use std::cell::RefCell;
use std::time::Duration;

use tidegate_flow::retry::{Budget, Counts, End, Random, Retry};
use tokio::time::Instant;

const RETRY: Retry = Retry {
    attempts_max: 5,
    pause: Duration::from_millis(100),
    pause_max: Duration::from_millis(400),
    deadline: Duration::from_secs(60),
};

/// Attempts fail with the given texts, then work; `gone` is not retryable.
async fn check(retry: Retry, budget: &Budget, failures: &[&'static str], expected: (u32, End)) {
    let run = retry
        .run(
            budget,
            &mut Random::seeded(1),
            |error: &&str| *error != "gone",
            async |attempt| match failures.get(attempt as usize - 1) {
                Some(failure) => Err(*failure),
                None => Ok(attempt),
            },
        )
        .await;
    assert_eq!((run.attempts, run.end), expected, "{failures:?}");
    assert_eq!(run.result.is_ok(), expected.1 == End::Done);
    assert_eq!(run.retries(), expected.0 - 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_at_success_at_a_permanent_error_or_at_a_limit() {
    let budget = Budget::new(100, 1.0);
    check(RETRY, &budget, &[], (1, End::Done)).await;
    check(RETRY, &budget, &["busy"; 3], (4, End::Done)).await;
    check(RETRY, &budget, &["busy", "gone"], (2, End::Permanent)).await;
    check(RETRY, &budget, &["busy"; 9], (5, End::Attempts)).await;
    let once = Retry {
        attempts_max: 1,
        ..RETRY
    };
    check(once, &budget, &["busy"], (1, End::Attempts)).await;
}

#[tokio::test(start_paused = true)]
async fn no_attempt_starts_after_the_deadline() {
    let budget = Budget::new(1_000, 1.0);
    let retry = Retry {
        attempts_max: u32::MAX,
        deadline: Duration::from_secs(2),
        ..RETRY
    };
    let started = Instant::now();
    let last = RefCell::new(started);
    let run = retry
        .run(
            &budget,
            &mut Random::seeded(3),
            |_: &()| true,
            async |_| -> Result<(), ()> {
                *last.borrow_mut() = Instant::now();
                Err(())
            },
        )
        .await;
    assert_eq!(run.end, End::Deadline);
    assert!(run.attempts > 5, "{run:?}");
    assert!(*last.borrow() - started <= retry.deadline);
    // The runtime's timers round up to milliseconds.
    let beyond = (Instant::now() - started) - run.paused;
    assert!(
        beyond <= Duration::from_millis(u64::from(run.attempts)),
        "{beyond:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_shared_budget_keeps_retries_from_multiplying_load() {
    let budget = Budget::new(10, 0.1);
    for _ in 0..1_000 {
        let _failed = RETRY
            .run(
                &budget,
                &mut Random::seeded(5),
                |_: &()| true,
                async |_| -> Result<(), ()> { Err(()) },
            )
            .await;
    }
    let Counts {
        runs,
        retries,
        refused,
    } = budget.counts();
    assert_eq!(runs, 1_000);
    assert!((100..=110).contains(&retries), "{retries}");
    assert!(refused > 800, "{refused}");
}

#[test]
fn pauses_double_with_full_jitter_up_to_their_limit() {
    let mut random = Random::seeded(9);
    for (attempt, most_ms) in [(1, 100), (2, 200), (3, 400), (4, 400), (40, 400)] {
        let pauses: Vec<_> = (0..2_000)
            .map(|_| RETRY.pause_before(attempt, &mut random).as_millis())
            .collect();
        let mean = pauses.iter().sum::<u128>() / 2_000;
        assert!(pauses.iter().all(|pause| *pause <= most_ms));
        assert!(mean.abs_diff(most_ms / 2) < most_ms / 20, "{attempt}: {mean}");
    }
}

#[test]
fn a_seed_repeats_and_the_system_does_not() {
    let numbers = |mut random: Random| -> Vec<u64> { (0..8).map(|_| random.next_u64()).collect() };
    assert_eq!(numbers(Random::seeded(4)), numbers(Random::seeded(4)));
    assert_ne!(numbers(Random::from_system()), numbers(Random::from_system()));
    let mut random = Random::seeded(4);
    assert!(
        (0..10_000)
            .map(|_| random.unit())
            .all(|x| (0.0..1.0).contains(&x))
    );
}
