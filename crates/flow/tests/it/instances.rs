//! Instances: created once, bounded, freed, listed.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use tidegate_flow::instances::{self, Config, Failed, Instances, WhenFull};
use tidegate_flow::once;
use tidegate_vitals::{Id, Registry};
use tokio::task::JoinSet;

type Error = std::io::Error;

/// All parameters of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    address: String,
    size: usize,
}

fn key(n: usize) -> Key {
    Key {
        address: format!("db{n}"),
        size: n,
    }
}

fn small(name: &'static str, when_full: WhenFull) -> Config {
    Config {
        instances_max: 2,
        when_full,
        ..Config::new(name)
    }
}

fn make(pools: &Instances<Key, usize>, n: usize) -> Result<Arc<usize>, Failed> {
    pools.get_or_create(&key(n), || Ok::<_, Error>(n))
}

#[test]
fn a_strong_registry_keeps_and_a_weak_one_frees() {
    let (strong, weak) = (
        Instances::strong(Config::new("s")),
        Instances::weak(Config::new("w")),
    );
    for pools in [&strong, &weak] {
        let first = make(pools, 1).unwrap();
        assert!(Arc::ptr_eq(&first, &make(pools, 1).unwrap()));
        assert!(!Arc::ptr_eq(&first, &make(pools, 2).unwrap()));
    }
    assert_eq!(strong.get(&key(1)).as_deref(), Some(&1));
    assert_eq!(weak.get(&key(1)), None);
    assert_eq!(make(&weak, 1).as_deref().unwrap(), &1, "it is made anew");
    assert_eq!((strong.stats().created, weak.stats().created), (2, 3));
    let removed = strong.remove(&key(1)).unwrap();
    assert_eq!(
        (*removed, Arc::strong_count(&removed)),
        (1, 1),
        "nothing holds on to it"
    );
    assert_eq!(strong.get(&key(1)), None);
    assert_eq!(strong.stats().alive, 1);
}

#[test]
fn under_contention_one_is_created_and_all_get_it() {
    let pools = Instances::<Key, usize>::strong(Config::new("contended"));
    let created = AtomicUsize::new(0);
    for n in 0..50 {
        let barrier = Barrier::new(4);
        let ask = || {
            barrier.wait();
            pools
                .get_or_create(&key(n), || Ok::<_, Error>(created.fetch_add(1, SeqCst)))
                .unwrap()
        };
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])));
    }
    let stats = pools.stats();
    assert_eq!((created.load(SeqCst), stats.created, stats.alive), (50, 50, 50));
    assert_eq!(stats.hits, 150);
}

/// Whoever has a weak instance has a live one, and the counts stay exact.
#[test]
fn weak_instances_come_and_go_under_many_threads() {
    struct Alive<'a>(&'a AtomicUsize);
    impl Drop for Alive<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }
    static ALIVE: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let pools = Instances::<usize, Alive<'static>>::weak(Config::new("come and go"));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let pools = &pools;
            scope.spawn(move || {
                for turn in 0..3_000 {
                    let n = (thread + turn) % 2;
                    let create = || {
                        ALIVE[n].fetch_add(1, SeqCst);
                        Ok::<_, Error>(Alive(&ALIVE[n]))
                    };
                    let held = pools.get_or_create(&n, create).unwrap();
                    assert!(ALIVE[n].load(SeqCst) >= 1);
                    drop(held);
                }
            });
        }
    });
    assert!(pools.stats().alive <= 2);
    assert_eq!(ALIVE.each_ref().map(|alive| alive.load(SeqCst)), [0, 0]);
}

#[test]
fn a_creation_that_fails_leaves_no_trace() {
    let pools = Instances::<Key, usize>::strong(Config::new("failing"));
    let failed = pools
        .get_or_create(&key(1), || Err(Error::other("no route")))
        .unwrap_err();
    assert_eq!(failed.to_string(), "an instance of failing could not be created");
    assert_eq!(
        std::error::Error::source(&failed).unwrap().to_string(),
        "no route"
    );
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pools.get_or_create(&key(1), || -> Result<usize, Error> { panic!("no luck") })
    }));
    assert!(panics.is_err());
    assert_eq!((pools.stats().alive, pools.stats().failed), (0, 1));
    assert_eq!(*make(&pools, 1).unwrap(), 1);
}

#[test]
fn a_full_registry_refuses_or_drops_what_is_idle() {
    let pools = Instances::strong(small("refuses", WhenFull::Reject));
    let _held = (make(&pools, 1).unwrap(), make(&pools, 2).unwrap());
    let refused = make(&pools, 3).unwrap_err();
    assert_eq!(refused.to_string(), "too many instances of refuses: 2 of 2");
    assert!(refused.is_retryable());
    assert_eq!(pools.stats().refused, 1);

    let pools = Instances::strong(small("drops", WhenFull::DropIdle));
    let held = make(&pools, 1).unwrap();
    make(&pools, 2).unwrap();
    make(&pools, 3).unwrap();
    assert!(
        Arc::ptr_eq(&held, &make(&pools, 1).unwrap()),
        "what is held stays"
    );
    assert_eq!(pools.get(&key(2)), None);
    assert_eq!(pools.stats().alive, 2);

    let pools = Instances::weak(small("clears", WhenFull::Reject));
    for n in 0..10 {
        make(&pools, n).unwrap();
    }
    assert_eq!(
        (pools.stats().created, pools.stats().refused),
        (10, 0),
        "the dead make room"
    );
}

#[tokio::test(start_paused = true)]
async fn an_asynchronous_creation_runs_once_for_all_and_also_fails_once() {
    let pools = Instances::<Key, usize>::weak(Config::new("async"));
    let calls = Arc::new(AtomicUsize::new(0));
    let ask = |works: bool| {
        let mut callers = JoinSet::new();
        for _ in 0..50 {
            let (pools, calls) = (pools.clone(), Arc::clone(&calls));
            callers.spawn(async move {
                let create = || async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    calls.fetch_add(1, SeqCst);
                    if works { Ok(7) } else { Err(Error::other("down")) }
                };
                pools.get_or_create_async(&key(1), create).await
            });
        }
        callers.join_all()
    };
    let failed = ask(false).await;
    assert!(failed.iter().all(|one| matches!(one, Err(Failed::Create { .. }))));
    assert_eq!((calls.load(SeqCst), pools.stats().alive), (1, 0));
    let all = ask(true).await;
    let first = all[0].as_ref().unwrap();
    assert!(all.iter().all(|one| Arc::ptr_eq(one.as_ref().unwrap(), first)));
    assert_eq!((calls.load(SeqCst), pools.stats().created), (2, 1));
    assert_eq!(pools.stats().waited, 98);
}

#[tokio::test(start_paused = true)]
async fn an_asynchronous_creation_that_hangs_or_panics_gives_its_place_back() {
    let config = Config {
        create_max: Duration::from_secs(5),
        ..Config::new("hangs")
    };
    let pools = Instances::<Key, usize>::strong(config);
    let hung = pools
        .get_or_create_async(&key(1), std::future::pending::<Result<usize, Error>>)
        .await;
    assert!(
        matches!(
            hung,
            Err(Failed::Ended {
                why: once::Failed::TimedOut(_),
                ..
            })
        ),
        "{hung:?}"
    );
    let panicked = pools
        .get_or_create_async(&key(1), || async { panic!("no luck") as Result<usize, Error> })
        .await;
    assert!(matches!(
        panicked,
        Err(Failed::Ended {
            why: once::Failed::Panicked(_),
            ..
        })
    ));
    assert_eq!(pools.stats().alive, 0);
}

#[test]
fn registries_are_listed_while_they_live() {
    let find = || {
        instances::list()
            .into_iter()
            .find(|listed| listed.name == "listed")
    };
    let pools = Instances::strong(Config::new("listed"));
    make(&pools, 1).unwrap();
    make(&pools, 1).unwrap();
    let listed = find().unwrap();
    assert!(listed.is_strong);
    assert_eq!((listed.stats.alive, listed.stats.hits), (1, 1));
    assert!(listed.stats.creation_max <= listed.stats.creation);
    let registry = Registry::new();
    instances::record(&registry);
    assert_eq!(registry.gauge(Id::Instances, &["listed"]).get(), 1);
    assert_eq!(registry.counter(Id::InstancesCalls, &["listed", "hit"]).get(), 1);
    let clone = pools.clone();
    drop(pools);
    assert!(find().is_some());
    drop(clone);
    assert_eq!(find(), None);
}
