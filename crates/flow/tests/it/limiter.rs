//! Limiters: shares, the short line, and what an adaptive limit does to an overloaded server.

use std::time::Duration;

use proptest::prelude::*;
use tidegate_flow::limiter::simulate::{Phase, Simulation, summary};
use tidegate_flow::limiter::{
    Adaptive, Config, How, Limit, Limiter, Partition, Permit, Refusals, Share, Why,
};
use tidegate_vitals::{Clock, Id, Registry};
use tokio::task::JoinSet;
use tokio::time::Instant;

fn clock() -> Clock {
    Clock::manual().0
}

/// Ten places: half for `admin`, two for `user`, and `guest` never has more than two.
fn shared() -> Limiter {
    let guest = Share {
        most_per_mille: 200,
        ..Share::new("guest", 100)
    };
    let config = Config {
        shares: vec![Share::new("admin", 500), Share::new("user", 200), guest],
        ..Config::new("api", Limit::Fixed(10))
    };
    Limiter::new(config, clock())
}

fn fill(limiter: &Limiter, partition: Partition) -> Vec<Permit> {
    std::iter::from_fn(|| limiter.try_acquire(partition).ok()).collect()
}

#[test]
fn a_share_is_guaranteed_and_what_is_idle_is_lent() {
    let limiter = shared();
    let (admin, user) = (limiter.partition("admin"), limiter.partition("user"));
    let borrowed = fill(&limiter, user);
    assert_eq!(borrowed.len(), 10, "the idle rest is lent");
    let own = fill(&limiter, admin);
    assert_eq!(own.len(), 5, "the guarantee holds against borrowers");
    let refused = limiter.try_acquire(user).unwrap_err();
    assert_eq!((refused.why, refused.how), (Why::Server, How::AtOnce));
    assert_eq!((refused.limit, refused.in_flight), (10, 15));
    assert_eq!(
        refused.to_string(),
        "api full: 15 of 10 in flight for all, 0 waiting"
    );
    drop(borrowed);
    assert_eq!(fill(&limiter, user).len(), 5);
    assert_eq!(limiter.stats().in_flight, 5, "all permits of users came back");
    drop(own);
    assert_eq!(limiter.stats().in_flight, 0);
}

#[test]
fn a_partitions_own_limit_is_told_from_the_servers() {
    let limiter = shared();
    let guest = limiter.partition("guest");
    let _two = fill(&limiter, guest);
    let refused = limiter.try_acquire(guest).unwrap_err();
    assert!(refused.is_own());
    assert_eq!(
        (refused.limit, refused.in_flight, &*refused.partition),
        (2, 2, "guest")
    );
    assert_eq!(
        refused.to_string(),
        "api full: 2 of 2 in flight for guest, 0 waiting"
    );
    assert_eq!(limiter.partition("nobody"), Partition::OTHER);
    assert_eq!(fill(&limiter, Partition::OTHER).len(), 8);
    let registry = Registry::new();
    limiter.record(&registry);
    limiter.record(&registry);
    assert_eq!(registry.gauge(Id::LimiterLimit, &["api"]).get(), 10);
    assert_eq!(registry.counter(Id::LimiterAdmitted, &["api", "guest"]).get(), 2);
    assert_eq!(
        registry.counter(Id::LimiterRefused, &["api", "partition"]).get(),
        2
    );
    assert_eq!(registry.counter(Id::LimiterRefused, &["api", "server"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_line_is_served_in_order_and_bounded() {
    let config = Config {
        waiting_max: 3,
        wait_max: Duration::from_secs(1),
        ..Config::new("api", Limit::Fixed(1))
    };
    let limiter = Limiter::new(config, clock());
    let first = limiter.try_acquire(Partition::OTHER).unwrap();
    let (tell, mut told) = tokio::sync::mpsc::channel(3);
    let mut line = JoinSet::new();
    for number in 0..3 {
        let (limiter, tell) = (limiter.clone(), tell.clone());
        line.spawn(async move {
            let permit = limiter.acquire(Partition::OTHER).await.unwrap();
            tell.send(number).await.unwrap();
            permit.succeed();
        });
        tokio::task::yield_now().await;
    }
    let refused = limiter.acquire(Partition::OTHER).await.unwrap_err();
    assert_eq!((refused.how, refused.waiting), (How::QueueFull, 3));
    first.succeed();
    for number in 0..3 {
        assert_eq!(told.recv().await, Some(number));
    }
    line.join_all().await;
    let stats = limiter.stats();
    assert_eq!((stats.in_flight, stats.waiting, stats.admitted), (0, 0, 4));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_deadline_and_leaves_the_line() {
    let limiter = Limiter::fixed("api", 1, clock());
    let permit = limiter.try_acquire(Partition::OTHER).unwrap();
    let started = Instant::now();
    let refused = limiter.acquire(Partition::OTHER).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_millis(100));
    assert_eq!((refused.how, refused.waiting), (How::TimedOut, 0));
    {
        let mut waiting = Box::pin(limiter.acquire(Partition::OTHER));
        let poll = std::future::poll_fn(|context| std::task::Poll::Ready(waiting.as_mut().poll(context)));
        assert!(poll.await.is_pending());
        assert_eq!(limiter.stats().waiting, 1);
        permit.ignore();
        assert_eq!(
            limiter.stats().in_flight,
            1,
            "the place is on its way to the one who waits"
        );
    }
    let stats = limiter.stats();
    assert_eq!(
        (stats.in_flight, stats.waiting),
        (0, 0),
        "who leaves gives it back"
    );
    let expected = Refusals {
        timed_out: 1,
        ..Refusals::default()
    };
    assert_eq!(stats.refused, expected);
}

#[tokio::test]
async fn without_a_line_the_answer_comes_at_once() {
    for (waiting_max, wait_max) in [(0, Duration::from_secs(1)), (9, Duration::ZERO)] {
        let config = Config {
            waiting_max,
            wait_max,
            ..Config::new("api", Limit::Fixed(1))
        };
        let limiter = Limiter::new(config, clock());
        let _permit = limiter.acquire(Partition::OTHER).await.unwrap();
        let refused = limiter.acquire(Partition::OTHER).await.unwrap_err();
        assert_eq!((refused.why, refused.how), (Why::Server, How::AtOnce));
        assert!(refused.retry_after > Duration::ZERO);
    }
}

proptest! {
    /// Whatever comes and goes: nobody has more than the rules allow, and everything comes back.
    #[test]
    fn shares_hold_whatever_comes_and_goes(steps in prop::collection::vec((0..4_usize, any::<bool>()), 1..300)) {
        let limiter = shared();
        let names = ["other", "admin", "user", "guest"];
        let guaranteed = [0, 5, 2, 1];
        let mut held: [Vec<Permit>; 4] = Default::default();
        for (which, comes) in steps {
            if !comes {
                held[which].pop();
                continue;
            }
            let (own, all) = (held[which].len(), held.iter().map(Vec::len).sum::<usize>());
            let may = own < guaranteed[which] || (all < 10 && (which != 3 || own < 2));
            let permit = limiter.try_acquire(limiter.partition(names[which]));
            prop_assert_eq!(permit.is_ok(), may, "{} has {} of {}", names[which], own, all);
            held[which].extend(permit);
        }
        let stats = limiter.stats();
        for (part, held) in stats.partitions.iter().zip(&held) {
            prop_assert_eq!(part.in_flight, held.len());
        }
        drop(held);
        prop_assert_eq!(limiter.stats().in_flight, 0);
    }
}

#[test]
fn many_threads_never_pass_the_limit() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    let config = Config {
        waiting_max: 64,
        wait_max: Duration::from_secs(60),
        ..Config::new("api", Limit::Fixed(3))
    };
    let limiter = Limiter::new(config, Clock::real());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    let inside = std::sync::Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let mut callers = JoinSet::new();
        for _ in 0..16 {
            let (limiter, inside) = (limiter.clone(), std::sync::Arc::clone(&inside));
            callers.spawn(async move {
                for _ in 0..300 {
                    let permit = limiter.acquire(Partition::OTHER).await.unwrap();
                    assert!(inside.fetch_add(1, SeqCst) < 3);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, SeqCst);
                    permit.succeed();
                }
            });
        }
        callers.join_all().await;
    });
    let stats = limiter.stats();
    assert_eq!((stats.admitted, stats.in_flight, stats.waiting), (16 * 300, 0, 0));
}

const MINUTE: Duration = Duration::from_secs(60);

fn phase(minutes: u32, workers: usize, service_ms: u64, load: f64) -> Phase {
    Phase {
        lasts: MINUTE * minutes,
        workers,
        service: Duration::from_millis(service_ms),
        load,
    }
}

fn simulation(seed: u64, initial: usize) -> Simulation {
    let adaptive = Adaptive {
        initial,
        ..Adaptive::default()
    };
    Simulation::new(seed, |clock| Limiter::adaptive("simulated", adaptive, clock))
}

/// Ten minutes of twice the load, against the same server at a fifth of it.
fn check_overload(seed: u64, workers: usize, initial: usize) {
    let idle = simulation(seed, initial).run(phase(2, workers, 50, 0.2), MINUTE);
    let busy = simulation(seed, initial).run(phase(10, workers, 50, 2.0), MINUTE);
    let (idle, all, late) = (summary(&idle), summary(&busy), summary(&busy[1..]));
    let what = format!("seed {seed}, {workers} workers, from {initial}: {idle:?}, {all:?}, {late:?}");
    println!("{what}");
    assert!(all.goodput >= 0.97, "goodput: {what}");
    assert!(late.p99 <= idle.p99.mul_f64(1.5), "latency: {what}");
    assert!(late.drift <= 0.25, "drift: {what}");
}

#[test]
fn twice_the_load_costs_neither_throughput_nor_latency_and_the_limit_stays() {
    check_overload(1, 20, 20);
    check_overload(2, 20, 200);
    check_overload(3, 10, 20);
    check_overload(4, 40, 20);
}

/// The server loses half its workers, or takes twice as long, for three minutes.
fn check_recovery(seed: u64, worse: Phase) {
    let well = phase(3, 20, 50, 1.5);
    let mut simulation = simulation(seed, 20);
    let before = summary(&simulation.run(well, MINUTE)[1..]);
    let during = summary(&simulation.run(worse, MINUTE)[1..]);
    let after = summary(&simulation.run(well, MINUTE)[1..]);
    let what = format!("seed {seed}, {worse:?}: {before:?}, {during:?}, {after:?}");
    println!("{what}");
    assert!(during.goodput >= 0.9, "{what}");
    assert!(after.goodput >= 0.95, "{what}");
    assert!(after.p99 <= before.p99.mul_f64(1.3), "{what}");
}

#[test]
fn the_limit_follows_a_server_that_gets_worse_and_comes_back() {
    check_recovery(1, phase(3, 10, 50, 3.0));
    check_recovery(2, phase(3, 20, 100, 3.0));
}

#[test]
fn failures_by_overload_lower_the_limit_and_idleness_does_not_raise_it() {
    let (clock, hand) = Clock::manual();
    let adaptive = Adaptive {
        initial: 100,
        ..Adaptive::default()
    };
    let limiter = Limiter::adaptive("api", adaptive, clock);
    let one = |overloaded: bool| {
        let permit = limiter.try_acquire(Partition::OTHER).unwrap();
        hand.advance(Duration::from_millis(10));
        if overloaded {
            permit.fail();
        } else {
            permit.succeed();
        }
    };
    (0..1_000).for_each(|_| one(false));
    assert_eq!(limiter.stats().limit, 100, "one at a time proves nothing");
    (0..6_000).for_each(|_| one(true));
    let limit = limiter.stats().limit;
    assert!(limit <= 10, "{limit}");
    assert!(limit >= 4, "{limit}: the floor");
}
