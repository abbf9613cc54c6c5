//! The worker of one key: flushes until nothing is left, then ends.

use std::hash::Hash;
use std::sync::Arc;

use super::Shared;
use super::queues::Turn;
use crate::task::{self, catch_panic};

/// Starts the worker of a key that has just got its first item. Its end is known by [`super::Batcher::finish`], which
/// returns only when every key is gone.
pub(super) fn start<K, T>(shared: Arc<Shared<K, T>>, key: K)
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Send + 'static,
{
    let runtime = shared.runtime.clone();
    let name = shared.config.name;
    task::spawn_unowned(&runtime, name, async move { run(&shared, &key).await });
}

/// Gives its key up if the worker is dropped before its end, as when the runtime shuts down: who waits for a flush must
/// not wait for ever.
struct Worker<'a, K: Clone + Eq + Hash, T> {
    shared: &'a Shared<K, T>,
    key: &'a K,
    ended: bool,
}

impl<K: Clone + Eq + Hash, T> Drop for Worker<'_, K, T> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.queues().abandon(self.key);
        }
    }
}

async fn run<K: Clone + Eq + Hash, T>(shared: &Shared<K, T>, key: &K) {
    let mut worker = Worker {
        shared,
        key,
        ended: false,
    };
    while flush_once(shared, key).await {
        wait_for_company(shared, key).await;
    }
    worker.ended = true;
}

/// Flushes one batch; `false` if nothing is left and the key is gone.
async fn flush_once<K: Clone + Eq + Hash, T>(shared: &Shared<K, T>, key: &K) -> bool {
    let permit = shared
        .flushes
        .acquire()
        .await
        .expect("the semaphore is never closed");
    let Some(batch) = shared.queues().take(key) else {
        return false;
    };
    shared.room.notify_one();
    let n_items = batch.len();
    // One bad batch must not leave its key without a worker.
    let panicked = catch_panic((shared.flush)(key.clone(), batch)).await.is_err();
    drop(permit);
    shared.queues().flushed(key, n_items, panicked)
}

/// Waits until the next batch is full, is asked for, or has waited long enough.
async fn wait_for_company<K: Clone + Eq + Hash, T>(shared: &Shared<K, T>, key: &K) {
    loop {
        let turn = shared.queues().turn(key);
        let Turn::Wait(wake, deadline) = turn else { return };
        if tokio::time::timeout_at(deadline, wake.notified()).await.is_err() {
            return;
        }
    }
}
