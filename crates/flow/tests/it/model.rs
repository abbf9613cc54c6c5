//! The batcher against a model: random pushes from many tasks, order per key, nothing lost that was not counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tidegate_flow::{Batcher, BatcherConfig, WhenFull};

#[derive(Debug, Clone)]
struct Push {
    key: u8,
    bytes: usize,
    pause_ms: u64,
}

fn any_push() -> impl Strategy<Value = Push> {
    (0_u8..4, 1_usize..40, prop_oneof![4 => Just(0_u64), 1 => 1_u64..8])
        .prop_map(|(key, bytes, pause_ms)| Push { key, bytes, pause_ms })
}

fn any_when_full() -> impl Strategy<Value = WhenFull> {
    prop_oneof![
        Just(WhenFull::Wait),
        Just(WhenFull::Reject),
        Just(WhenFull::DropOldest),
        Just(WhenFull::Conflate)
    ]
}

type Log = Arc<Mutex<HashMap<u8, Vec<usize>>>>;

async fn run(pushes: Vec<Push>, when_full: WhenFull, delay_ms: u64) {
    let config = BatcherConfig {
        name: "model",
        batch_items_max: 5,
        batch_bytes_max: 100,
        delay: Duration::from_millis(delay_ms),
        queue_items_max: 8,
        queue_bytes_max: 150,
        flushes_max: 2,
        when_full,
    };
    let log = Log::default();
    let seen = Arc::clone(&log);
    let batcher = Batcher::new(
        config,
        |item: &(usize, usize)| item.1,
        move |key: u8, batch: Vec<(usize, usize)>| {
            assert!(
                batch.len() <= 5
                    && (batch.len() == 1 || batch.iter().map(|item| item.1).sum::<usize>() <= 100)
            );
            seen.lock()
                .expect("no test panics inside")
                .entry(key)
                .or_default()
                .extend(batch.iter().map(|item| item.0));
            tokio::time::sleep(Duration::from_millis(3))
        },
    );
    let mut n_accepted = 0;
    for (number, push) in pushes.iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(push.pause_ms)).await;
        n_accepted += u64::from(batcher.push(push.key, (number, push.bytes)).await.is_ok());
        let stats = batcher.stats();
        assert!(
            stats.waiting_items <= 8 && stats.waiting_bytes <= 150,
            "{stats:?}"
        );
    }
    batcher.finish().await;
    let stats = batcher.stats();
    assert_eq!(
        (
            stats.waiting_items,
            stats.waiting_bytes,
            stats.keys,
            stats.panicked
        ),
        (0, 0, 0, 0)
    );
    assert_eq!(
        stats.flushed_items + stats.dropped + stats.conflated,
        n_accepted,
        "{stats:?}"
    );
    assert_eq!(stats.rejected + n_accepted, pushes.len() as u64, "{stats:?}");
    for (key, order) in &*log.lock().expect("no test panics inside") {
        assert!(order.is_sorted(), "key {key}: {order:?}");
        let last = pushes.iter().rposition(|push| push.key == *key);
        // Waiting loses nothing, so the last of a key must be there.
        assert!(
            when_full != WhenFull::Wait || order.last().copied() == last,
            "key {key}: {order:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_and_counts_hold(
        pushes in prop::collection::vec(any_push(), 0..80), when_full in any_when_full(), delay_ms in 0_u64..10
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(run(pushes, when_full, delay_ms));
    }
}
