//! Functions whose results are kept: `cargo run -p tidegate-cache --example cached`.

use std::{num::ParseIntError, time::Duration};

use tidegate_cache::{cached, memo};

/// Slow enough to be worth keeping; by its arguments.
#[cached(ttl = "5s", capacity = 100)]
fn sum_of_squares(from: u64, to: u64) -> u64 {
    (from..to).map(|n| n.wrapping_mul(n)).fold(0, u64::wrapping_add)
}

/// Only good results are kept; an error is tried again. The key is what matters of the argument.
#[cached(name = "volumes", key = "text.trim().to_owned()", key_type = "String")]
fn volume(text: &str) -> Result<u64, ParseIntError> {
    text.trim().parse()
}

#[cached(ttl = "1m")]
async fn quote(symbol: String) -> String {
    tokio::time::sleep(Duration::from_millis(10)).await;
    format!("{symbol} 1685.00")
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() {
    for _ in 0..1_000 {
        sum_of_squares(0, 10_000);
    }
    assert_eq!((volume(" 7 "), volume("7")), (Ok(7), Ok(7)));
    assert!(volume("many").is_err());
    for _ in 0..3 {
        println!("{}", quote("600519".to_owned()).await);
    }
    println!(
        "\n{:<16} {:>8} {:>8} {:>9} {:>9}",
        "function", "hits", "misses", "entries", "hit rate"
    );
    for stats in memo::list() {
        let rate = stats.hit_rate() * 100.0;
        println!(
            "{:<16} {:>8} {:>8} {:>9} {rate:>8.1}%",
            stats.name, stats.hits, stats.misses, stats.entries
        );
    }
    sum_of_squares_cache().clear();
    assert_eq!(sum_of_squares_cache().stats().entries, 0);
}
