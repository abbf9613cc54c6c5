//! What `#[cached]` makes of functions, against a memo of the same shape as the cache crate's.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tidegate_macros::cached;

/// Keeps everything and remembers how it was made; the real one is in the cache crate.
mod memo {
    use std::collections::HashMap;
    use std::future::Future;
    use std::hash::Hash;
    use std::sync::{Mutex, MutexGuard};
    use std::time::Duration;

    pub(crate) struct MemoConfig {
        pub(crate) capacity: usize,
        pub(crate) ttl: Option<Duration>,
    }

    pub(crate) struct Memo<K, V> {
        pub(crate) name: &'static str,
        pub(crate) config: MemoConfig,
        values: Mutex<HashMap<K, V>>,
    }

    impl<K: Hash + Eq + Clone, V: Clone> Memo<K, V> {
        pub(crate) fn new(name: &'static str, config: MemoConfig) -> Self {
            let values = Mutex::default();
            Self { name, config, values }
        }

        fn values(&self) -> MutexGuard<'_, HashMap<K, V>> {
            self.values.lock().expect("no test panics while it is held")
        }

        pub(crate) fn len(&self) -> usize {
            self.values().len()
        }

        pub(crate) fn get_or_insert_with(&self, key: &K, make: impl FnOnce() -> V) -> V {
            let kept = self.values().get(key).cloned();
            kept.unwrap_or_else(|| self.keep(key, make()))
        }

        pub(crate) fn try_get_or_insert_with<E>(
            &self,
            key: &K,
            make: impl FnOnce() -> Result<V, E>,
        ) -> Result<V, E> {
            let kept = self.values().get(key).cloned();
            kept.map_or_else(|| make().map(|value| self.keep(key, value)), Ok)
        }

        pub(crate) async fn get_or_insert_async(&self, key: &K, make: impl Future<Output = V>) -> V {
            let kept = self.values().get(key).cloned();
            match kept {
                Some(value) => value,
                None => self.keep(key, make.await),
            }
        }

        pub(crate) async fn try_get_or_insert_async<E>(
            &self,
            key: &K,
            make: impl Future<Output = Result<V, E>>,
        ) -> Result<V, E> {
            let kept = self.values().get(key).cloned();
            match kept {
                Some(value) => Ok(value),
                None => make.await.map(|value| self.keep(key, value)),
            }
        }

        fn keep(&self, key: &K, value: V) -> V {
            self.values().insert(key.clone(), value.clone());
            value
        }
    }
}

thread_local!(static CALLS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

fn called(what: impl Into<String>) {
    CALLS.with_borrow_mut(|calls| calls.push(what.into()));
}

fn calls() -> Vec<String> {
    CALLS.take()
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

#[cached(crate = memo, ttl = "5s", capacity = 10)]
fn joined(a: &str, b: u32, list: &[u8]) -> String {
    called(format!("{a}{b}"));
    format!("{a}{b}{list:?}")
}

#[cached(crate = memo, name = "halves")]
fn half(x: i32) -> Result<i32, String> {
    called("half");
    if x % 2 != 0 {
        return Err(format!("{x} is odd"));
    }
    let text = (x / 2).to_string();
    text.parse().map_err(|_| "no number".to_owned())
}

#[cached(crate = memo, cache_err)]
fn refused(x: i32) -> Result<i32, String> {
    called("refused");
    Err(format!("{x} is refused"))
}

#[cached(crate = memo, key = "x.rem_euclid(10)", key_type = "i64")]
fn by_last_digit(x: i64) -> i64 {
    called("by_last_digit");
    x
}

#[cached(crate = memo)]
async fn doubled(mut x: u64) -> u64 {
    called("doubled");
    x *= 2;
    std::future::ready(x).await
}

#[cached(crate = memo)]
async fn parsed(text: String) -> Result<u64, std::num::ParseIntError> {
    called("parsed");
    let value: u64 = text.parse()?;
    Ok(value)
}

struct Tenant {
    id: u32,
    reads: AtomicU32,
}

impl Tenant {
    /// Keyed by the tenant and the table.
    #[cached(crate = memo, key = "format!(\"{}/{table}\", self.id)")]
    pub fn rows(&self, table: &str) -> u32 {
        self.reads.fetch_add(1, Relaxed) + table.len() as u32
    }
}

#[test]
fn arguments_tell_calls_apart() {
    assert_eq!(joined("x", 1, &[7]), "x1[7]");
    assert_eq!(joined("x", 1, &[7]), "x1[7]");
    assert_eq!(joined("x", 1, &[8]), "x1[8]");
    assert_eq!(calls(), ["x1", "x1"]);
    assert_eq!(joined_cache().len(), 2);
}

#[test]
fn settings_reach_the_memo() {
    let memo = joined_cache();
    assert_eq!((memo.name, memo.config.capacity), ("it::cached::joined", 10));
    assert_eq!(memo.config.ttl, Some(Duration::from_secs(5)));
    let memo = half_cache();
    assert_eq!(
        (memo.name, memo.config.capacity, memo.config.ttl),
        ("halves", 1_000, None)
    );
}

#[test]
fn errors_are_kept_only_when_asked_for() {
    for _ in 0..2 {
        assert_eq!(half(3), Err("3 is odd".to_owned()));
        assert_eq!(half(8), Ok(4));
        assert_eq!(refused(1), Err("1 is refused".to_owned()));
    }
    assert_eq!(calls(), ["half", "half", "refused", "half"]);
}

#[test]
fn an_expression_may_be_the_key() {
    assert_eq!(by_last_digit(13), 13);
    assert_eq!(by_last_digit(23), 13);
    assert_eq!(calls(), ["by_last_digit"]);
}

#[test]
fn async_functions_are_cached() {
    for _ in 0..2 {
        assert_eq!(block_on(doubled(21)), 42);
        assert_eq!(block_on(parsed("7".to_owned())), Ok(7));
        assert!(block_on(parsed("x".to_owned())).is_err());
    }
    assert_eq!(calls(), ["doubled", "parsed", "parsed", "parsed"]);
}

#[test]
fn a_method_is_cached_by_its_key() {
    let tenant = |id| Tenant {
        id,
        reads: AtomicU32::new(0),
    };
    let (one, two) = (tenant(1), tenant(2));
    assert_eq!((one.rows("ab"), one.rows("ab"), one.rows("abc")), (2, 2, 4));
    assert_eq!(two.rows("ab"), 2);
    assert_eq!(one.reads.load(Relaxed), 2);
    assert_eq!(Tenant::rows_cache().len(), 3);
}
