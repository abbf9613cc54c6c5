//! No stale refill: what a commit made wrong is neither kept nor given to who comes after it.

use std::{convert::Infallible, sync::Arc};

use tidegate_cache::{Cache, Hit, Loaded, Policy};
use tokio::{sync::Notify, task::JoinHandle};

use crate::support::{Source, cache, key, policy, text};

/// A load that has read the database and now waits before it ends.
struct Slow {
    has_read: Arc<Notify>,
    may_end: Arc<Notify>,
    caller: JoinHandle<Hit>,
}

impl Slow {
    async fn start(cache: &Cache, policy: &Policy, loaded: Loaded) -> Self {
        let (has_read, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (Arc::clone(&has_read), Arc::clone(&may_end));
        let (cache, policy) = (cache.clone(), policy.clone());
        let caller = tokio::spawn(async move {
            let load = move || async move {
                tell.notify_one();
                wait.notified().await;
                Ok::<_, Infallible>(loaded)
            };
            cache.get_or_load(&key("a"), &policy, load).await.unwrap()
        });
        has_read.notified().await;
        Self {
            has_read,
            may_end,
            caller,
        }
    }

    async fn end(self) -> Hit {
        self.may_end.notify_one();
        drop(self.has_read);
        self.caller.await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_began_before_a_commit_and_ends_after_is_never_stored() {
    let (cache, _hand) = cache().await;
    let tagged = policy().tagged(&["ticks"]);
    let slow = Slow::start(&cache, &tagged, Loaded::of("old")).await;
    cache.invalidate_tags(&["ticks"], None);
    assert_eq!(text(&slow.end().await), "old", "who waited for it gets it");
    assert!(cache.get(&key("a")).is_none());
    let stats = cache.stats();
    assert_eq!(
        (stats.not_stored_invalidated, stats.inserts, stats.entries),
        (1, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn tags_known_only_from_the_value_count_too() {
    let (cache, _hand) = cache().await;
    let loaded = Loaded {
        tags: vec!["row:7".into()],
        ..Loaded::of("old")
    };
    let slow = Slow::start(&cache, &policy(), loaded).await;
    cache.invalidate_tags(&["row:7"], None);
    slow.end().await;
    assert!(cache.get(&key("a")).is_none());
}

#[tokio::test(start_paused = true)]
async fn another_tag_leaves_the_load_alone() {
    let (cache, _hand) = cache().await;
    let slow = Slow::start(&cache, &policy().tagged(&["ticks"]), Loaded::of("value")).await;
    cache.invalidate_tags(&["orders"], None);
    slow.end().await;
    assert_eq!(text(&cache.get(&key("a")).unwrap()), "value");
}

#[tokio::test(start_paused = true)]
async fn who_comes_after_a_commit_never_gets_what_was_read_before_it() {
    let (cache, _hand) = cache().await;
    let tagged = policy().tagged(&["ticks"]);
    let slow = Slow::start(&cache, &tagged, Loaded::of("old")).await;
    cache.invalidate_tags(&["ticks"], None);
    let (other, source) = (cache.clone(), Source::default());
    let late = tokio::spawn(async move { source.text(&other, &key("a"), &tagged).await });
    tokio::task::yield_now().await;
    assert_eq!(text(&slow.end().await), "old");
    assert_eq!(
        late.await.unwrap(),
        "1",
        "it joined the old load and then loaded anew"
    );
    assert_eq!(text(&cache.get(&key("a")).unwrap()), "1");
}

#[tokio::test(start_paused = true)]
async fn a_replica_fills_only_once_it_has_replayed_the_commit() {
    let (cache, _hand) = cache().await;
    let tagged = policy().tagged(&["ticks"]);
    cache.invalidate_tags(&["ticks"], Some(100));
    let check = async |position: Option<u64>, is_stored: bool| {
        let loaded = Loaded {
            position,
            ..Loaded::of("value")
        };
        let load = || async { Ok::<_, Infallible>(loaded) };
        let hit = cache.get_or_load(&key("a"), &tagged, load).await.unwrap();
        assert_eq!(text(&hit), "value");
        assert_eq!(cache.get(&key("a")).is_some(), is_stored, "{position:?}");
        cache.remove(&key("a"));
    };
    check(Some(99), false).await;
    check(Some(100), true).await;
    check(Some(101), true).await;
    check(None, true).await;
    assert_eq!(cache.stats().not_stored_behind, 1);
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_drops_its_tags_and_no_others() {
    let (cache, _hand) = cache().await;
    for (name, tags) in [("a", &["x", "y"][..]), ("b", &["y"]), ("c", &["z"]), ("d", &[])] {
        cache.insert(&key(name), &policy().tagged(tags), Loaded::of(name.to_owned()));
    }
    let left = || -> String {
        let here = ["a", "b", "c", "d"]
            .into_iter()
            .filter(|name| cache.get(&key(name)).is_some());
        here.collect()
    };
    assert_eq!(left(), "abcd");
    assert_eq!(cache.invalidate_tags(&["x", "unknown"], None), 2);
    assert_eq!(left(), "bcd");
    cache.invalidate_tags(&["y", "z"], None);
    assert_eq!(left(), "d");
    cache.clear();
    assert_eq!(left(), "");
}
