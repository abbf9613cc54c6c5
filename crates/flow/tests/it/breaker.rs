//! Breakers on a clock moved by hand: when they open, probe and close.

use std::time::Duration;

use tidegate_flow::breaker::{Breaker, Config, Failed, State};
use tidegate_vitals::{Clock, Id, ManualClock, Registry};

const CONFIG: Config = Config {
    seed: Some(1),
    calls_min: 10,
    failures_in_row_max: 5,
    ..Config::new("replica")
};

fn breaker(config: Config) -> (Breaker, ManualClock) {
    let (clock, hand) = Clock::manual();
    (Breaker::new(config, clock), hand)
}

/// Calls that work (`+`) or fail (`-`), with a tenth of a second between them.
fn play(breaker: &Breaker, hand: &ManualClock, script: &str) {
    for call in script.chars() {
        hand.advance(Duration::from_millis(100));
        let permit = breaker.acquire().expect("it is closed");
        if call == '+' {
            permit.succeed();
        } else {
            permit.fail();
        }
    }
}

fn check(script: &str, expected: State) {
    let (breaker, hand) = breaker(CONFIG);
    play(&breaker, &hand, script);
    assert_eq!(breaker.state(), expected, "{script}");
}

#[test]
fn it_opens_on_a_rate_over_enough_calls_or_on_failures_in_a_row() {
    check("++++++++++++", State::Closed);
    check("----", State::Closed);
    check("-----", State::Open);
    check("+-+-+-+-", State::Closed);
    check("+-+-+-+-+-", State::Open);
    check("++-++-++-++-++-", State::Closed);
    check("----+----+", State::Closed);
    check("----+----+-", State::Open);
}

#[test]
fn old_calls_are_forgotten() {
    let (breaker, hand) = breaker(CONFIG);
    play(&breaker, &hand, "+--+--+--");
    hand.advance(Duration::from_secs(11));
    play(&breaker, &hand, "+-+++++++");
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn one_probe_goes_at_a_time_and_decides() {
    let (breaker, hand) = breaker(CONFIG);
    play(&breaker, &hand, "-----");
    let refused = breaker.acquire().unwrap_err();
    assert!(
        refused.retry_after >= Duration::from_millis(500) && refused.retry_after <= Duration::from_secs(1)
    );
    hand.advance(refused.retry_after);
    let probe = breaker.acquire().unwrap();
    assert_eq!(breaker.state(), State::HalfOpen);
    assert!(breaker.acquire().is_err(), "one at a time");
    probe.succeed();
    assert_eq!(breaker.state(), State::Closed);
    let stats = breaker.stats();
    assert_eq!((stats.opened, stats.probes, stats.closed), (1, 1, 1));
    assert_eq!((stats.succeeded, stats.failed, stats.refused), (1, 5, 2));

    let registry = Registry::new();
    breaker.record(&registry);
    breaker.record(&registry);
    assert_eq!(registry.gauge(Id::BreakerState, &["replica"]).get(), 0);
    assert_eq!(
        registry.counter(Id::BreakerCalls, &["replica", "failed"]).get(),
        5
    );
    assert_eq!(
        registry.counter(Id::BreakerChanges, &["replica", "open"]).get(),
        1
    );
}

#[test]
fn pauses_double_up_to_their_limit_and_begin_anew() {
    let (breaker, hand) = breaker(CONFIG);
    play(&breaker, &hand, "-----");
    for most_s in [1, 2, 4, 8, 16, 32, 60, 60] {
        let pause = breaker.acquire().unwrap_err().retry_after;
        let most = Duration::from_secs(most_s);
        assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
        hand.advance(pause);
        breaker.acquire().unwrap().fail();
    }
    hand.advance(Duration::from_secs(60));
    breaker.acquire().unwrap().succeed();
    play(&breaker, &hand, "-----");
    assert!(breaker.acquire().unwrap_err().retry_after <= Duration::from_secs(1));
}

#[test]
fn a_dropped_probe_failed_and_a_late_answer_says_nothing() {
    let (breaker, hand) = breaker(CONFIG);
    let late = breaker.acquire().unwrap();
    drop(breaker.acquire().unwrap());
    assert_eq!(breaker.state(), State::Closed, "only a probe must tell");
    play(&breaker, &hand, "-----");
    hand.advance(Duration::from_secs(1));
    let probe = breaker.acquire().unwrap();
    late.succeed();
    assert_eq!(
        breaker.state(),
        State::HalfOpen,
        "a call from before does not count"
    );
    drop(probe);
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test]
async fn calls_give_their_result_or_are_not_made() {
    let (breaker, _hand) = breaker(CONFIG);
    assert_eq!(breaker.call(async { Ok::<_, &str>(7) }).await, Ok(7));
    for _ in 0..5 {
        let failed = breaker.call(async { Err::<(), _>("gone") }).await;
        assert_eq!(failed, Err(Failed::Work("gone")));
    }
    let open = breaker.call(async { unreachable!("not made") }).await;
    let open: Failed<&str> = Result::<(), _>::unwrap_err(open);
    assert!(open.is_retryable());
    assert!(
        open.to_string()
            .starts_with("breaker replica is open: worth a try in "),
        "{open}"
    );
}
