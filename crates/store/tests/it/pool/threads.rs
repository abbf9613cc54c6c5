//! The pool under real threads: no waiter is lost, no connection is shared, whatever the interleaving.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_flow::retry::Random;
use tidegate_store::pool::{Config, Pool};
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use super::model::poll_once;
use super::world::World;

/// Connections in use right now.
type InUse = Arc<Mutex<BTreeSet<u64>>>;

async fn user(pool: Pool<World>, in_use: InUse, seed: u64, rounds: usize) -> usize {
    let mut random = Random::seeded(seed);
    let mut served = 0;
    for _ in 0..rounds {
        let chance = random.next_u64() % 100;
        if chance < 10 {
            // Gives up at once, or after it was handed one.
            let mut acquire = Box::pin(pool.acquire());
            let _ready = poll_once(&mut acquire).await;
            yield_now().await;
            continue;
        }
        let mut claim = pool.acquire().await.unwrap();
        assert!(
            in_use.lock().unwrap().insert(claim.id),
            "two users of one connection"
        );
        if chance < 40 {
            yield_now().await;
        }
        assert!(in_use.lock().unwrap().remove(&claim.id));
        served += 1;
        match chance {
            97 => claim.broken(),
            98 => claim.is_dirty = true,
            _ => drop(claim),
        }
    }
    served
}

async fn check(size: usize, users: u64, rounds: usize) {
    let world = World::new();
    {
        let mut server = world.server();
        server.connect_ms = 0;
        server.drain_ms = 0;
    }
    let config = Config {
        min: size,
        size,
        overflow: 0,
        ..Config::default()
    };
    let pool = world.pool(config);
    let in_use = InUse::default();
    let mut tasks = JoinSet::new();
    for seed in 0..users {
        tasks.spawn(user(pool.clone(), Arc::clone(&in_use), seed, rounds));
    }
    let all = timeout(Duration::from_secs(60), tasks.join_all()).await;
    let served: usize = all
        .unwrap_or_else(|_| panic!("a waiter was lost: {:?}", pool.stats()))
        .into_iter()
        .sum();
    let stats = pool.stats();
    assert!(stats.acquires >= served as u64 && stats.waiting == 0, "{stats:?}");
    assert_eq!(stats.timeouts, 0);
    assert!(world.server().open_max <= size, "{}", world.server().open_max);
    assert!(timeout(Duration::from_secs(10), pool.close()).await.is_ok());
    assert_eq!(world.n_open(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_on_few_connections() {
    check(3, 32, 400).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_on_enough_connections() {
    check(40, 32, 400).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_threads_on_one_connection() {
    check(1, 2, 4_000).await;
}
