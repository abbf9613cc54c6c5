//! Async functions: charged for each poll; the time between polls is awaiting.

use std::future::{Future, poll_fn};
use std::pin::pin;

use super::site::Site;
use super::{is_enabled, local, tick};

/// One call of an async function, from its first poll to its end or its drop.
struct Call {
    site: &'static Site,
    /// When it was first polled while recording was on.
    started: Option<u64>,
    busy_ns: u64,
}

/// Runs `future` as a call of `site`: each poll is charged to the thread that polls, and the call is counted with
/// the sum of its polls when it ends. The time in between is awaiting. This is what `#[profiled]` makes of an async fn.
///
/// # Cancel safety
/// As that of `future`; a call that is dropped counts with what it took until then.
pub async fn polled<T>(site: &'static Site, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut call = Call {
        site,
        started: None,
        busy_ns: 0,
    };
    poll_fn(|context| {
        call.started = call.started.or_else(|| is_enabled().then(tick::now));
        let span = site.enter_poll();
        let polled = future.as_mut().poll(context);
        call.busy_ns += span.finish().map_or(0, |cost| cost.ns);
        polled
    })
    .await
}

impl Drop for Call {
    fn drop(&mut self) {
        let (Some(started), Some(place)) = (self.started, self.site.place()) else {
            return;
        };
        let elapsed_ns = tick::ns_between(started, tick::now());
        local::with(place, |cells| {
            cells.call(self.busy_ns);
            cells.awaited(elapsed_ns.saturating_sub(self.busy_ns));
        });
    }
}
