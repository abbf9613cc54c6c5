//! What a hit and an insert cost, with statistics, beside a map with its order behind a mutex.
//!
//! `cargo run --release -p tidegate-cache --example cache_cost`

use std::{
    collections::HashMap,
    hint::black_box,
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_cache::{Cache, Key, Loaded, Policy, trace};

const KEYS: usize = 10_000;
const ROUNDS: usize = 200;

/// The usual home-made cache: a map from key to value, place in the order of use and time of its end.
#[derive(Default)]
struct Lru {
    places: HashMap<Vec<u8>, (Bytes, u64, Instant)>,
    order: std::collections::BTreeMap<u64, Vec<u8>>,
    next: u64,
}

impl Lru {
    fn get(&mut self, key: &[u8]) -> Option<Bytes> {
        let now = Instant::now();
        let (value, place, until) = self.places.get_mut(key)?;
        if *until < now {
            return None;
        }
        let name = self.order.remove(place)?;
        self.next += 1;
        *place = self.next;
        self.order.insert(self.next, name);
        Some(value.clone())
    }

    fn insert(&mut self, key: Vec<u8>, value: Bytes) {
        self.next += 1;
        self.order.insert(self.next, key.clone());
        let until = Instant::now() + Duration::from_secs(60);
        if let Some((_, place, _)) = self.places.insert(key, (value, self.next, until)) {
            self.order.remove(&place);
        }
        if self.places.len() > KEYS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.places.remove(&oldest);
        }
    }
}

/// Nanoseconds a call, the best of five runs of `n` calls.
fn cost(n: usize, mut run: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_nanos() as f64 / n as f64);
    }
    best
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = Cache::builder("cost").memory(256 << 20, KEYS * 2).build().await?;
    let lru = Mutex::new(Lru::default());
    let value = Bytes::from(vec![7; 100]);
    let tagged = Policy::of_ttl(Duration::from_secs(600)).tagged(&["ticks:600519"]);
    let keys: Vec<Key> = (0..KEYS).map(|i| Key::new("cost", &i.to_le_bytes())).collect();
    let names: Vec<Vec<u8>> = (0..KEYS).map(|i| i.to_le_bytes().to_vec()).collect();
    let wanted: Vec<usize> = trace::zipf(KEYS, 0.9, KEYS, 1)
        .into_iter()
        .map(|rank| rank as usize)
        .collect();

    let ours = cost(KEYS, || {
        for key in &keys {
            cache.insert(key, &tagged, Loaded::of(value.clone()));
        }
    });
    let theirs = cost(KEYS, || {
        for name in &names {
            lru.lock()
                .expect("nobody panicked")
                .insert(name.clone(), value.clone());
        }
    });
    println!("insert  {ours:6.1} ns   map behind a mutex {theirs:6.1} ns");
    let ours = cost(KEYS * ROUNDS, || {
        for _ in 0..ROUNDS {
            for at in &wanted {
                assert!(black_box(cache.get(&keys[*at])).is_some());
            }
        }
    });
    let theirs = cost(KEYS * ROUNDS, || {
        for _ in 0..ROUNDS {
            for at in &wanted {
                assert!(black_box(lru.lock().expect("nobody panicked").get(&names[*at])).is_some());
            }
        }
    });
    println!("hit     {ours:6.1} ns   map behind a mutex {theirs:6.1} ns   (one tag, figures counted)");
    println!("{:?}", cache.stats().hit);
    Ok(())
}
