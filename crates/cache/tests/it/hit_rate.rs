//! How well the memory level chooses what to keep, and how well the curve foretells it.

use tidegate_cache::{Cache, Ghost, Key, Loaded, Policy, trace};

const KEYS: usize = 50_000;
const REQUESTS: usize = 400_000;
const CAPACITY: usize = 2_500;

/// The hit rate of a cache that holds `capacity` values, over the whole stream from empty.
async fn ours(requests: &[u64], capacity: usize) -> f64 {
    let cache = Cache::builder("test")
        .memory(capacity as u64 * 4_096, capacity)
        .build()
        .await
        .unwrap();
    let policy = Policy::default();
    for request in requests {
        let key = Key::new("trace", &request.to_le_bytes());
        if cache.get(&key).is_none() {
            cache.insert(&key, &policy, Loaded::of(""));
        }
    }
    assert!(cache.stats().entries <= capacity);
    cache.stats().hit_rate()
}

async fn check(name: &str, requests: &[u64]) {
    let (bound, lru) = (
        trace::clairvoyant(requests, CAPACITY),
        trace::lru(requests, CAPACITY),
    );
    let ours = ours(requests, CAPACITY).await;
    println!("{name}: {ours:.4}, least recently used {lru:.4}, clairvoyant {bound:.4}");
    assert!(
        ours >= lru,
        "{name}: {ours:.4} below least recently used {lru:.4}"
    );
    assert!(
        ours >= bound - 0.12,
        "{name}: {ours:.4} more than 12 points below {bound:.4}"
    );
}

#[tokio::test]
async fn popular_keys_are_kept() {
    check("zipf 0.9", &trace::zipf(KEYS, 0.9, REQUESTS, 1)).await;
}

#[tokio::test]
async fn scans_do_not_flush_it() {
    let requests = trace::with_scans(&trace::zipf(KEYS, 0.9, REQUESTS, 2), 20_000, 2_500);
    check("zipf 0.9 with scans", &requests).await;
}

/// Ten ranks move on every 2,000 requests, so that a cache full of the most popular keys is renewed once in 500,000
/// requests. (At 25 the distance to the bound is 13 points.)
#[tokio::test]
async fn it_follows_what_becomes_popular() {
    let requests = trace::drifting(&trace::zipf(KEYS, 0.9, REQUESTS, 3), KEYS as u64, 2_000, 10);
    check("zipf 0.9 drifting", &requests).await;
}

/// The same policy at full size is the exact simulation that the sampled copies are compared with.
fn exact(requests: &[u64], capacity: usize) -> f64 {
    let mut map: quick_cache::unsync::Cache<u64, ()> = quick_cache::unsync::Cache::new(capacity);
    let mut hits = 0_u64;
    for request in requests {
        if map.get(request).is_some() {
            hits += 1;
        } else {
            map.insert(*request, ());
        }
    }
    hits as f64 / requests.len() as f64
}

#[test]
fn the_curve_is_within_one_and_a_half_points_of_an_exact_simulation() {
    const LARGE: usize = 1_000_000;
    let capacity = 100_000;
    let requests = trace::zipf(LARGE, 0.9, 4_000_000, 7);
    let ghost = Ghost::new(capacity as u64, capacity, 0.01);
    assert!((ghost.rate() - 0.01).abs() < 1e-9);
    let before = ghost.bytes();
    for request in &requests {
        ghost.access(trace::mixed(*request), 1);
    }
    assert!(ghost.bytes() <= before.max(4 << 20), "{} bytes", ghost.bytes());
    let mut worst: f64 = 0.0;
    for expected in ghost.curve() {
        let exact = exact(&requests, (capacity as f64 * expected.scale) as usize);
        println!(
            "{}x: expected {:.4}, exact {exact:.4}",
            expected.scale, expected.hit_rate
        );
        worst = worst.max((expected.hit_rate - exact).abs());
    }
    assert!(worst <= 0.015, "{worst:.4} off");
}

#[tokio::test]
async fn a_working_cache_knows_its_curve() {
    let cache = Cache::builder("test")
        .memory(4_096 * 2_000, 2_000)
        .sample_rate(0.5)
        .build()
        .await
        .unwrap();
    for request in trace::zipf(20_000, 0.9, 200_000, 5) {
        let key = Key::new("trace", &request.to_le_bytes());
        if cache.get(&key).is_none() {
            cache.insert(&key, &Policy::default(), Loaded::of(""));
        }
    }
    let stats = cache.stats();
    let at = |scale: f64| {
        stats
            .curve
            .iter()
            .find(|expected| expected.scale == scale)
            .unwrap()
            .hit_rate
    };
    assert!(
        (at(1.0) - stats.hit_rate()).abs() < 0.05,
        "{:?} against {}",
        stats.curve,
        stats.hit_rate()
    );
    assert!(at(0.25) < at(1.0) && at(1.0) < at(4.0));
}
