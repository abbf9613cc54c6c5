//! Redis between nodes: shared values, invalidations that reach everybody, and faults that fail nobody.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tidegate_cache::{Cache, Hit, Loaded, Policy, RemoteConfig, RemoteStats, Source as From};
use tidegate_cluster::Redis;
use tidegate_vitals::{Clock, ManualClock};
use tokio::sync::Notify;

use crate::support::{Source, key, policy, text};

fn config(redis: &Redis) -> RemoteConfig {
    RemoteConfig {
        prefix: Some("test:".to_owned()),
        // A busy machine may be slow; the tests are about what happens beyond it.
        deadline: Duration::from_millis(300),
        ping: Duration::from_millis(20),
        pause_min: Duration::from_millis(5),
        pause_max: Duration::from_millis(20),
        ..RemoteConfig::new(redis.url())
    }
}

async fn node(config: RemoteConfig) -> (Cache, ManualClock) {
    let (clock, hand) = Clock::manual();
    let cache = Cache::builder("test")
        .memory(1 << 20, 1_000)
        .clock(clock)
        .remote(config)
        .build()
        .await
        .unwrap();
    (cache, hand)
}

async fn connected(redis: &Redis) -> (Cache, ManualClock) {
    let (cache, hand) = node(config(redis)).await;
    until("it is connected", || remote(&cache).is_connected).await;
    (cache, hand)
}

fn remote(cache: &Cache) -> RemoteStats {
    cache.stats().remote.expect("there is a remote level")
}

/// Waits for an event; fails if it does not come at all.
async fn until(what: &str, mut happens: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happens() {
        assert!(start.elapsed() < Duration::from_secs(60), "not seen: {what}");
        tokio::task::yield_now().await;
    }
}

fn tagged() -> Policy {
    policy().tagged(&["ticks", "users"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_loads_the_others_find() {
    let redis = Redis::start().unwrap();
    let ((a, _), (b, _)) = (connected(&redis).await, connected(&redis).await);
    let source = Source::default();
    assert_eq!(source.ask(&a, &key("k"), &tagged()).await.source(), From::Load);
    until("it is stored", || remote(&a).puts == 1).await;
    let hit = source.ask(&b, &key("k"), &tagged()).await;
    assert_eq!((text(&hit).as_str(), hit.source()), ("1", From::Remote));
    assert_eq!(
        (source.loads(), b.stats().hits_remote, b.stats().promotions),
        (1, 1, 1)
    );
    assert_eq!(b.get(&key("k")).map(|hit| hit.source()), Some(From::Memory));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_reaches_the_memory_of_every_node() {
    let redis = Redis::start().unwrap();
    let ((a, _), (b, _), (c, _)) = (
        connected(&redis).await,
        connected(&redis).await,
        connected(&redis).await,
    );
    let source = Source::default();
    for cache in [&a, &b, &c] {
        source.ask(cache, &key("k"), &tagged()).await;
    }
    assert!(a.invalidate_everywhere(&["users"], None).await);
    for cache in [&a, &b, &c] {
        until("it is dropped", || cache.get(&key("k")).is_none()).await;
    }
    assert!(remote(&b).pushed > 0 && remote(&c).pushed > 0);
    let loads = source.loads();
    assert_eq!(
        source.ask(&b, &key("k"), &tagged()).await.source(),
        From::Load,
        "the old value does not count"
    );
    assert_eq!(source.loads(), loads + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_began_before_an_invalidation_elsewhere_refills_nothing() {
    let redis = Redis::start().unwrap();
    let ((a, _), (b, _)) = (connected(&redis).await, connected(&redis).await);
    let (has_read, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait, slow) = (Arc::clone(&has_read), Arc::clone(&may_end), a.clone());
    let caller = tokio::spawn(async move {
        let load = move || async move {
            tell.notify_one();
            wait.notified().await;
            Ok::<_, Infallible>(Loaded::of("old"))
        };
        slow.get_or_load(&key("k"), &tagged(), load).await.unwrap()
    });
    has_read.notified().await;
    assert!(b.invalidate_everywhere(&["ticks"], None).await);
    until("it was pushed", || remote(&a).pushed > 0).await;
    may_end.notify_one();
    assert_eq!(text(&caller.await.unwrap()), "old", "who waited for it gets it");
    for cache in [&a, &b] {
        assert_ne!(
            text(&Source::default().ask(cache, &key("k"), &tagged()).await),
            "old"
        );
    }
    assert_eq!(a.stats().not_stored_invalidated, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_values_count_for_the_bound_and_no_request_fails() {
    let mut redis = Redis::start().unwrap();
    let (cache, hand) = connected(&redis).await;
    let source = Source::default();
    source.ask(&cache, &key("k"), &tagged()).await;
    source.ask(&cache, &key("plain"), &policy()).await;
    redis.kill().unwrap();
    until("the loss is noticed", || !remote(&cache).is_connected).await;
    assert_eq!(
        source.ask(&cache, &key("k"), &tagged()).await.source(),
        From::Memory
    );
    hand.advance(Duration::from_millis(4_999));
    assert_eq!(
        source.ask(&cache, &key("k"), &tagged()).await.source(),
        From::Memory
    );
    hand.advance(Duration::from_millis(1));
    assert_eq!(
        source.ask(&cache, &key("k"), &tagged()).await.source(),
        From::Load
    );
    assert_eq!(
        source.ask(&cache, &key("k"), &tagged()).await.source(),
        From::Memory,
        "it counts from its own load"
    );
    assert_eq!(
        source.ask(&cache, &key("plain"), &policy()).await.source(),
        From::Memory,
        "it has no tags"
    );
    assert!(!cache.invalidate_everywhere(&["ticks"], None).await);
    assert_eq!(remote(&cache).pending, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_nothing_old_counts_and_late_invalidations_arrive() {
    let mut redis = Redis::start().unwrap();
    let ((a, _), (b, _)) = (connected(&redis).await, connected(&redis).await);
    let source = Source::default();
    source.ask(&b, &key("k"), &tagged()).await;
    until("it is stored", || remote(&b).puts == 1).await;
    redis.kill().unwrap();
    until("both notice", || {
        !remote(&a).is_connected && !remote(&b).is_connected
    })
    .await;
    a.invalidate_tags(&["ticks"], None);
    assert_eq!(
        source.ask(&b, &key("k"), &tagged()).await.source(),
        From::Memory,
        "within the bound"
    );
    redis.start_again().unwrap();
    until("both are back", || {
        remote(&a).is_connected && remote(&b).is_connected
    })
    .await;
    assert_eq!(remote(&a).pending, 0);
    assert_eq!(
        source.ask(&b, &key("k"), &tagged()).await.source(),
        From::Load,
        "it may have missed a push"
    );
    let start = Instant::now();
    while remote(&b).puts < 2 {
        // A push that arrives late drops what was just loaded, and the next one is stored.
        source.ask(&b, &key("k"), &tagged()).await;
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "not seen: it is stored"
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(
        source.ask(&a, &key("k"), &tagged()).await.source(),
        From::Remote,
        "all works as before"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_costs_its_deadline_a_few_times_and_then_nothing() {
    let redis = Redis::start().unwrap();
    let patient = RemoteConfig {
        deadline: Duration::from_millis(50),
        ping: Duration::from_secs(3_600),
        ..config(&redis)
    };
    let (cache, _) = node(patient).await;
    until("it is connected", || remote(&cache).is_connected).await;
    redis.pause().unwrap();
    let ask = async |name: &str| -> Hit { Source::default().ask(&cache, &key(name), &tagged()).await };
    for name in ["a", "b", "c"] {
        assert_eq!(ask(name).await.source(), From::Load);
    }
    let timeouts = remote(&cache).timeouts;
    assert!(
        timeouts >= 3 && !remote(&cache).is_connected,
        "{:?}",
        remote(&cache)
    );
    for name in ["d", "e", "f"] {
        assert_eq!(ask(name).await.source(), From::Load);
    }
    assert_eq!(cache.stats().loads_ok, 6);
    redis.resume().unwrap();
    until("it is back", || remote(&cache).is_connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_yet_is_found_later() {
    let mut redis = Redis::start().unwrap();
    redis.kill().unwrap();
    let (cache, _) = node(config(&redis)).await;
    assert_eq!(
        Source::default().ask(&cache, &key("k"), &tagged()).await.source(),
        From::Load
    );
    assert!(!remote(&cache).is_connected);
    redis.start_again().unwrap();
    until("it is connected", || remote(&cache).is_connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_too_large_or_not_ours_are_not_taken() {
    let redis = Redis::start().unwrap();
    let small = RemoteConfig {
        value_bytes_max: 10,
        ..config(&redis)
    };
    let (a, _) = node(small).await;
    until("it is connected", || remote(&a).is_connected).await;
    let load = || async { Ok::<_, Infallible>(Loaded::of("longer than ten bytes")) };
    a.get_or_load(&key("k"), &tagged(), load).await.unwrap();
    assert_eq!((remote(&a).puts, remote(&a).puts_dropped), (0, 1));
    let mut name = b"test:v:".to_vec();
    name.extend_from_slice(b"\x04testalien");
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let set = redis::cmd("SET")
        .arg(name)
        .arg("what is this")
        .exec(&mut connection);
    set.unwrap();
    // The first request makes the tags' tokens, so it looks at no value.
    Source::default().ask(&a, &key("other"), &tagged()).await;
    assert_eq!(
        Source::default().ask(&a, &key("alien"), &tagged()).await.source(),
        From::Load
    );
    assert_eq!(remote(&a).refused, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_server_drops_all_tags() {
    let redis = Redis::start().unwrap();
    let (cache, _) = connected(&redis).await;
    let source = Source::default();
    source.ask(&cache, &key("k"), &tagged()).await;
    let mut connection = redis::Client::open(redis.url())
        .unwrap()
        .get_connection()
        .unwrap();
    redis::cmd("FLUSHALL").exec(&mut connection).unwrap();
    until("it is dropped", || cache.get(&key("k")).is_none()).await;
    assert_eq!(
        source.ask(&cache, &key("k"), &tagged()).await.source(),
        From::Load
    );
}
