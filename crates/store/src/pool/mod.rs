//! The pool: connections opened off the caller's path, claimed in a few nanoseconds, handed over strictly in turn.
//!
//! ```text
//! acquire ─ gate open? ─▶ lowest idle bit ─▶ slot ─▶ Claim            (no pool-wide lock, no clock)
//!             └ no ─▶ queue (FIFO) ◀─ hand-off ─ release · drain · dial
//! keeper: coarse clock · dials 1-2-4, one prober while the server is down · lifetime · surplus · suspects · leaks
//! ```

mod claim;
mod config;
mod connector;
mod counts;
mod demand;
mod keeper;
mod ramp;
mod shared;
mod slot;
mod stats;

use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_flow::task::{self, Task};
use tidegate_vitals::{Clock, Level, Registry};
use tokio::time::{Instant, timeout_at};

pub use claim::Claim;
pub use config::{Config, REPLACEMENTS_MAX};
pub use connector::Connector;
pub use slot::State;
pub use stats::{Holder, Stats};

use crate::error::{Error, Result};
use keeper::{CONNECTION_BYTES, Keeper};
use shared::{Shared, gate};

/// A pool of connections to one server. Clones are the same pool; when the last one is dropped, the pool closes and
/// claims still out close their connection at their end.
pub struct Pool<C: Connector> {
    shared: Arc<Shared<C>>,
    owner: Arc<Owner<C>>,
}

/// Ends the pool with its last handle.
struct Owner<C: Connector> {
    shared: Arc<Shared<C>>,
    _keeper: Task<()>,
}

/// How long `close` lets background work end after the last claim came back.
const CLOSE_TASKS: Duration = Duration::from_secs(5);

impl<C: Connector> Pool<C> {
    /// Starts a pool. Nothing is opened in the caller's path: the first `min` connections come by themselves, and a
    /// server that is away is tried again until it is back.
    ///
    /// # Errors
    /// [`Error::Config`] if a setting is out of range.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(connector: C, config: Config, clock: Clock, registry: &Registry) -> Result<Self> {
        config.check()?;
        let shared = Arc::new(Shared::new(connector, config, clock, registry));
        let keeper = task::spawn("pool-keeper", Keeper::new(Arc::clone(&shared)).run());
        let owner = Arc::new(Owner {
            shared: Arc::clone(&shared),
            _keeper: keeper,
        });
        Ok(Self { shared, owner })
    }

    /// Claims a connection: the one used last if one is free, otherwise the next that comes free, strictly in turn.
    ///
    /// A server that is away fails no acquire before `acquire_timeout` is over.
    ///
    /// # Errors
    /// [`Error::PoolTimeout`] after `acquire_timeout`, naming who holds the connections, or at once when `waiting_max`
    /// tasks wait already; [`Error::PoolClosed`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and loses no connection.
    #[track_caller]
    #[inline]
    pub fn acquire(&self) -> Acquire<'_, C> {
        self.acquire_for(Location::caller())
    }

    /// Like [`Pool::acquire`], on behalf of the code at `location`: that is who statistics and errors name.
    #[inline]
    pub fn acquire_for(&self, location: &'static Location<'static>) -> Acquire<'_, C> {
        Acquire {
            pool: self,
            location,
            slow: None,
        }
    }

    /// Claims a connection if one is free that needs no check, now.
    #[track_caller]
    pub fn try_acquire(&self) -> Option<Claim<C>> {
        let location = Location::caller();
        self.shared.wake();
        while self.shared.is_open() {
            let claim = self.shared.take_idle(location)?;
            if claim.is_fresh() {
                return Some(claim);
            }
            claim.probe();
        }
        None
    }

    /// Gives nothing out and opens nothing until [`Pool::resume`]; acquires wait, up to their timeout.
    pub fn suspend(&self) {
        self.shared.set(gate::SUSPENDED);
    }

    /// Ends [`Pool::suspend`].
    pub fn resume(&self) {
        self.shared.clear(gate::SUSPENDED);
        self.shared.settle();
        self.shared.keeper.notify_one();
    }

    /// Says that the server dropped a connection: all others are checked before they are given out again.
    pub fn report_broken(&self) {
        self.shared.suspect(self.shared.generation());
    }

    /// Tells how short memory is. From high on, connections above `min` that nobody uses are closed, and not opened again
    /// before somebody waits for one; at critical, idle ones forget their prepared statements once. At normal everything
    /// is as before. Says how many bytes that will be, roughly.
    pub fn press(&self, level: Level) -> u64 {
        let shared = &self.shared;
        shared.force.set(level);
        if level < Level::High {
            return 0;
        }
        shared.keeper.notify_one();
        let survey = shared.survey();
        let n_surplus = survey
            .open()
            .saturating_sub(shared.config.min)
            .min(survey.n(State::Idle));
        n_surplus as u64 * CONNECTION_BYTES
    }

    /// The pool at this moment. It locks each slot in turn, for nanoseconds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// The settings it was started with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// What opens its connections.
    #[must_use]
    pub fn connector(&self) -> &C {
        &self.shared.connector
    }

    /// Refuses new acquires, sends waiters away with [`Error::PoolClosed`], and waits until every claim came back and
    /// every connection is closed, at most for `acquire_timeout`. Claims that come later close their connection.
    ///
    /// # Cancel safety
    /// The pool stays closed; only the waiting ends.
    pub async fn close(&self) {
        let shared = &self.shared;
        shared.shut();
        let deadline = Instant::now() + shared.config.acquire_timeout;
        loop {
            let vacated = shared.vacated.notified();
            tokio::pin!(vacated);
            vacated.as_mut().enable();
            if shared.inner().n_occupied == 0 || timeout_at(deadline, vacated).await.is_err() {
                break;
            }
        }
        if let Err(unfinished) = shared.tasks.finish(CLOSE_TASKS).await {
            tracing::warn!(%unfinished, "database pool closed without them");
        }
    }

    /// Waits in turn, and checks what it gets.
    async fn acquire_slowly(
        &self,
        location: &'static Location<'static>,
        mut claimed: Option<Claim<C>>,
    ) -> Result<Claim<C>> {
        let shared = &self.shared;
        shared.wake();
        let started = shared.refresh_now();
        let deadline = started + shared.config.acquire_timeout.as_nanos() as u64;
        // Whoever got a connection and finds it dead came before all who wait by then.
        let mut ticket = None;
        loop {
            let mut claim = match claimed.take() {
                Some(claim) => claim,
                None => self.wait(&mut ticket, location, deadline).await?,
            };
            if claim.is_fresh() || claim.prove().await {
                shared.counts.waited.fetch_add(1, Relaxed);
                shared.counts.acquire.record(shared.refresh_now() - started);
                return Ok(claim);
            }
            ticket.get_or_insert_with(|| shared.front_ticket());
            claim.broken();
        }
    }

    async fn wait(
        &self,
        ticket: &mut Option<i64>,
        location: &'static Location<'static>,
        deadline: u64,
    ) -> Result<Claim<C>> {
        let shared = &self.shared;
        if shared.is_open()
            && let Some(claim) = shared.take_idle(location)
        {
            return Ok(claim);
        }
        let Some(receiver) = shared.enqueue(ticket, location, deadline) else {
            return Err(shared.too_many_wait());
        };
        let mut place = Place {
            shared,
            ticket: *ticket,
        };
        if shared.has(gate::CLOSED) {
            return Err(Error::PoolClosed);
        }
        if !shared.mask.is_empty() {
            shared.settle();
        }
        let handed = receiver.await;
        // Whoever answered took us out of the queue.
        place.ticket = None;
        handed.map_err(|_sent_away| {
            if shared.has(gate::CLOSED) {
                return Error::PoolClosed;
            }
            shared.counts.timeouts.inc();
            shared.timed_out(shared.config.acquire_timeout)
        })
    }
}

/// An acquire under way: see [`Pool::acquire`].
#[must_use = "nothing happens until it is awaited"]
pub struct Acquire<'a, C: Connector> {
    pool: &'a Pool<C>,
    location: &'static Location<'static>,
    /// Set when no proven connection was free. Boxed, so that the usual case stays in registers.
    slow: Option<Slow<'a, C>>,
}

type Slow<'a, C> = Pin<Box<dyn Future<Output = Result<Claim<C>>> + Send + 'a>>;

impl<C: Connector> Future for Acquire<'_, C> {
    type Output = Result<Claim<C>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(slow) = &mut this.slow {
            return slow.as_mut().poll(context);
        }
        let shared = &this.pool.shared;
        if !shared.is_open() {
            return this.poll_slowly(None, context);
        }
        match shared.take_idle(this.location) {
            Some(claim) if claim.is_fresh() => Poll::Ready(Ok(claim)),
            unproven => this.poll_slowly(unproven, context),
        }
    }
}

impl<C: Connector> Acquire<'_, C> {
    #[cold]
    fn poll_slowly(
        &mut self,
        unproven: Option<Claim<C>>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Claim<C>>> {
        let slow = Box::pin(self.pool.acquire_slowly(self.location, unproven));
        self.slow.insert(slow).as_mut().poll(context)
    }
}

impl<C: Connector> fmt::Debug for Acquire<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Acquire({}, by {})",
            self.pool.connector().target(),
            self.location
        )
    }
}

/// A place in the queue; dropping it leaves the queue.
struct Place<'a, C: Connector> {
    shared: &'a Shared<C>,
    /// `None`: left already.
    ticket: Option<i64>,
}

impl<C: Connector> Drop for Place<'_, C> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared.leave(ticket);
        }
    }
}

impl<C: Connector> Drop for Owner<C> {
    fn drop(&mut self) {
        self.shared.shut();
    }
}

impl<C: Connector> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            owner: Arc::clone(&self.owner),
        }
    }
}

impl<C: Connector> fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({})", self.shared.connector.target())
    }
}
