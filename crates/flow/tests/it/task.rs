//! Tasks: joined, counted, aborted by name.

use std::future::pending;
use std::time::Duration;

use tidegate_flow::task::{self, Count, Error, Group};
use tidegate_vitals::{Id, Registry};
use tokio::sync::oneshot;

fn count(name: &str) -> Count {
    task::counts()
        .into_iter()
        .find(|count| count.name == name)
        .expect("the name was used")
}

#[tokio::test]
async fn a_task_gives_its_result() {
    let task = task::spawn("result", async { 7 });
    assert_eq!(task.name(), "result");
    assert_eq!(task.finish().await, Ok(7));
    assert_eq!(
        count("result"),
        Count {
            name: "result",
            running: 0,
            started: 1,
            panicked: 0
        }
    );
}

#[tokio::test]
async fn a_panic_is_an_error_with_name_and_message() {
    let task = task::spawn("breaks", async { panic!("no {}", "luck") });
    let error: Result<(), _> = task.finish().await;
    let error = error.unwrap_err();
    assert_eq!(
        error,
        Error::Panicked {
            name: "breaks",
            message: "no luck".to_owned()
        }
    );
    assert_eq!(error.to_string(), "task breaks panicked: no luck");
    assert_eq!(
        count("breaks"),
        Count {
            name: "breaks",
            running: 0,
            started: 1,
            panicked: 1
        }
    );

    let registry = Registry::new();
    task::record(&registry);
    task::record(&registry);
    let snapshot = registry.snapshot();
    let panicked = snapshot
        .by_label(Id::TasksPanicked)
        .find(|(name, _)| *name == "breaks")
        .unwrap();
    assert_eq!(panicked.1.as_counter(), Some(1), "recording twice counts once");
}

#[tokio::test]
async fn dropping_a_task_aborts_it() {
    let (alive, gone) = oneshot::channel::<()>();
    let task = task::spawn("dropped", async move {
        let _alive = alive;
        pending::<()>().await;
    });
    drop(task);
    assert!(gone.await.is_err(), "the task's own values were dropped");
    let aborted = task::spawn("aborted", pending::<()>());
    aborted.abort();
    assert_eq!(aborted.finish().await, Err(Error::Aborted { name: "aborted" }));
}

#[tokio::test(start_paused = true)]
async fn a_group_joins_all() {
    let group = Group::new();
    for _ in 0..3 {
        assert!(group.spawn("member", tokio::time::sleep(Duration::from_secs(1))));
    }
    assert_eq!(group.n_running(), 3);
    assert_eq!(group.finish(Duration::from_secs(5)).await, Ok(()));
    assert!(!group.spawn("late", async {}), "a finished group takes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_group_names_what_did_not_end() {
    let group = Group::new();
    group.spawn("quick", async {});
    group.spawn("panics", async { panic!("ends too") });
    group.spawn("slow", pending());
    group.spawn("slow", pending());
    let unfinished = group.finish(Duration::from_millis(1500)).await.unwrap_err();
    assert_eq!(unfinished.names, ["slow", "slow"]);
    assert_eq!(
        unfinished.to_string(),
        "2 tasks did not end within 1500 ms: slow, slow"
    );
}

#[tokio::test]
async fn finished_tasks_leave_the_group() {
    let group = Group::new();
    for _ in 0..100 {
        let (tell, told) = oneshot::channel();
        group.spawn("short", async move {
            let _ = tell.send(());
        });
        told.await.unwrap();
        tokio::task::yield_now().await;
        assert!(group.n_running() <= 1);
    }
}

#[test]
fn tasks_start_from_any_thread() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let group = Group::new();
    let (tell, told) = oneshot::channel();
    assert!(group.spawn_on(runtime.handle(), "from outside", async move {
        let _ = tell.send(5);
    }));
    assert_eq!(told.blocking_recv(), Ok(5));
    let task = task::spawn_on(runtime.handle(), "from outside", async { 6 });
    assert_eq!(runtime.block_on(task.finish()), Ok(6));
}

#[test]
fn a_task_that_starts_another_when_it_is_dropped_may_outlive_its_runtime() {
    struct StartsAnother(std::sync::Arc<Group>, tokio::runtime::Handle);
    impl Drop for StartsAnother {
        fn drop(&mut self) {
            self.0.spawn_on(&self.1, "farewell", async {});
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let group = std::sync::Arc::new(Group::new());
    let handle = runtime.handle().clone();
    drop(runtime);
    let held = StartsAnother(std::sync::Arc::clone(&group), handle.clone());
    group.spawn_on(&handle, "too late", async move {
        let _held = held;
        pending::<()>().await;
    });
}
