//! A query behind the cache: one load for a hundred callers, a commit that drops it, and what the figures say.
//!
//! `cargo run -p tidegate-cache --example cache`

use std::{io, time::Duration};

use tidegate_cache::{Cache, DiskConfig, Key, Loaded, Policy};

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("tidegate-cache-example-{}", std::process::id()));
    let builder = Cache::builder("latest").memory(16 << 20, 10_000);
    let cache = builder.disk(DiskConfig::new(&dir)).build().await?;

    // Whatever the answer depends on is in the key: the query, the tenant, the parameters.
    let key = Key::new("latest", b"tenant-7/600519");
    let policy = Policy {
        stale_on_error: Duration::from_secs(60),
        ..Policy::of_ttl(Duration::from_secs(5)).tagged(&["ticks:600519"])
    };
    let load = || async {
        tokio::time::sleep(Duration::from_millis(20)).await; // the database
        Ok::<_, io::Error>(Loaded::of(r#"{"symbol":"600519","price":1685.0}"#))
    };

    let callers: Vec<_> = (0..100)
        .map(|_| {
            let (cache, key, policy) = (cache.clone(), key.clone(), policy.clone());
            tokio::spawn(async move {
                cache
                    .get_or_load(&key, &policy, load)
                    .await
                    .map(|hit| hit.source())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    println!("100 callers, {} load", cache.stats().loads_ok);

    // A feed has stored a new row: after its commit, and before anybody hears of it.
    cache.invalidate_tags(&["ticks:600519"], None);
    println!("after the commit: {:?}", cache.get(&key));
    println!("asked again: {:?}", cache.get_or_load(&key, &policy, load).await?);
    println!("asked again: {:?}", cache.get_or_load(&key, &policy, load).await?);

    let stats = cache.stats();
    println!(
        "hit rate {:.3}, mean load {:?}, {} bytes in memory",
        stats.hit_rate(),
        stats.load.mean,
        stats.bytes
    );
    cache.finish().await;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
