//! The other pools: deadpool and bb8 with connections that do nothing, and deadpool, bb8 and sqlx on PostgreSQL.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use deadpool::managed::{self, Metrics, RecycleResult};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, Postgres};
use tokio::task::yield_now;
use tokio_postgres::NoTls;

use super::subject::Subject;

const URL: &str = "the cluster's own URL";

/// Counts the attempts of the manager inside.
#[derive(Debug)]
pub(super) struct Counted<M> {
    inner: M,
    dials: Arc<AtomicU64>,
}

/// A pool with the attempts of its manager.
#[derive(Clone)]
pub(super) struct Peer<P> {
    pool: P,
    dials: Option<Arc<AtomicU64>>,
}

/// Connections that do nothing.
#[derive(Debug)]
pub(super) struct Bare;

impl<M> Counted<M> {
    fn new(inner: M) -> (Self, Arc<AtomicU64>) {
        let dials = Arc::new(AtomicU64::new(0));
        let counted = Self {
            inner,
            dials: Arc::clone(&dials),
        };
        (counted, dials)
    }
}

impl<P> Peer<P> {
    fn dials(&self) -> Option<u64> {
        self.dials.as_ref().map(|dials| dials.load(Relaxed))
    }
}

// === deadpool ===

impl managed::Manager for Bare {
    type Type = u64;
    type Error = Infallible;

    async fn create(&self) -> Result<u64, Infallible> {
        Ok(1)
    }

    async fn recycle(&self, _: &mut u64, _: &Metrics) -> RecycleResult<Infallible> {
        Ok(())
    }
}

impl<M: managed::Manager> managed::Manager for Counted<M> {
    type Type = M::Type;
    type Error = M::Error;

    async fn create(&self) -> Result<M::Type, M::Error> {
        self.dials.fetch_add(1, Relaxed);
        self.inner.create().await
    }

    async fn recycle(&self, held: &mut M::Type, metrics: &Metrics) -> RecycleResult<M::Error> {
        self.inner.recycle(held, metrics).await
    }

    fn detach(&self, held: &mut M::Type) {
        self.inner.detach(held);
    }
}

type DeadpoolBare = managed::Pool<Bare>;
type DeadpoolPostgres = managed::Pool<Counted<deadpool_postgres::Manager>>;

pub(super) fn deadpool_bare(size: usize) -> Peer<DeadpoolBare> {
    let pool = managed::Pool::builder(Bare).max_size(size).build();
    Peer {
        pool: pool.expect("no timeout is set, so no runtime is needed"),
        dials: None,
    }
}

pub(super) fn deadpool_postgres(url: &str, size: usize) -> Peer<DeadpoolPostgres> {
    let config = tokio_postgres::Config::from_str(url).expect(URL);
    // The default, and the cheapest: it only asks whether the socket is closed.
    let fast = deadpool_postgres::ManagerConfig {
        recycling_method: deadpool_postgres::RecyclingMethod::Fast,
    };
    let (manager, dials) = Counted::new(deadpool_postgres::Manager::from_config(config, NoTls, fast));
    let pool = managed::Pool::builder(manager).max_size(size).build();
    Peer {
        pool: pool.expect("no timeout is set, so no runtime is needed"),
        dials: Some(dials),
    }
}

impl Subject for Peer<DeadpoolBare> {
    type Held = managed::Object<Bare>;

    async fn get(&self) -> Option<Self::Held> {
        self.pool.get().await.ok()
    }

    async fn once(&self) -> bool {
        self.pool.get().await.is_ok()
    }

    async fn run(_: &mut Self::Held, _: &str) -> bool {
        yield_now().await;
        true
    }

    fn dials(&self) -> Option<u64> {
        self.dials()
    }
}

impl Subject for Peer<DeadpoolPostgres> {
    type Held = managed::Object<Counted<deadpool_postgres::Manager>>;

    async fn get(&self) -> Option<Self::Held> {
        self.pool.get().await.ok()
    }

    async fn once(&self) -> bool {
        self.pool.get().await.is_ok()
    }

    async fn run(held: &mut Self::Held, sql: &str) -> bool {
        held.batch_execute(sql).await.is_ok()
    }

    fn dials(&self) -> Option<u64> {
        self.dials()
    }
}

// === bb8 ===

impl bb8::ManageConnection for Bare {
    type Connection = u64;
    type Error = Infallible;

    async fn connect(&self) -> Result<u64, Infallible> {
        Ok(1)
    }

    async fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

impl<M: bb8::ManageConnection> bb8::ManageConnection for Counted<M> {
    type Connection = M::Connection;
    type Error = M::Error;

    async fn connect(&self) -> Result<M::Connection, M::Error> {
        self.dials.fetch_add(1, Relaxed);
        self.inner.connect().await
    }

    async fn is_valid(&self, held: &mut M::Connection) -> Result<(), M::Error> {
        self.inner.is_valid(held).await
    }

    fn has_broken(&self, held: &mut M::Connection) -> bool {
        self.inner.has_broken(held)
    }
}

type Bb8Bare = bb8::Pool<Bare>;
type Bb8Manager = Counted<bb8_postgres::PostgresConnectionManager<NoTls>>;

/// Without the check at every claim, which is its default: the cost of the pool itself.
pub(super) fn bb8_bare(size: usize) -> Peer<Bb8Bare> {
    let builder = bb8::Pool::builder()
        .max_size(size as u32)
        .test_on_check_out(false);
    Peer {
        pool: builder.build_unchecked(Bare),
        dials: None,
    }
}

/// With its defaults: a round trip at every claim.
pub(super) fn bb8_postgres(url: &str, size: usize) -> Peer<bb8::Pool<Bb8Manager>> {
    let config = tokio_postgres::Config::from_str(url).expect(URL);
    let (manager, dials) = Counted::new(bb8_postgres::PostgresConnectionManager::new(config, NoTls));
    Peer {
        pool: bb8::Pool::builder()
            .max_size(size as u32)
            .build_unchecked(manager),
        dials: Some(dials),
    }
}

impl Subject for Peer<Bb8Bare> {
    type Held = bb8::PooledConnection<'static, Bare>;

    async fn get(&self) -> Option<Self::Held> {
        self.pool.get_owned().await.ok()
    }

    async fn once(&self) -> bool {
        self.pool.get().await.is_ok()
    }

    async fn run(_: &mut Self::Held, _: &str) -> bool {
        yield_now().await;
        true
    }

    fn dials(&self) -> Option<u64> {
        self.dials()
    }
}

impl Subject for Peer<bb8::Pool<Bb8Manager>> {
    type Held = bb8::PooledConnection<'static, Bb8Manager>;

    async fn get(&self) -> Option<Self::Held> {
        self.pool.get_owned().await.ok()
    }

    async fn once(&self) -> bool {
        self.pool.get().await.is_ok()
    }

    async fn run(held: &mut Self::Held, sql: &str) -> bool {
        held.batch_execute(sql).await.is_ok()
    }

    fn dials(&self) -> Option<u64> {
        self.dials()
    }
}

// === sqlx ===

/// With its defaults: a round trip at every claim. Its attempts cannot be counted from outside.
pub(super) fn sqlx(url: &str, size: usize) -> Peer<PgPool> {
    let options = PgConnectOptions::from_str(url).expect(URL);
    Peer {
        pool: PgPoolOptions::new()
            .max_connections(size as u32)
            .connect_lazy_with(options),
        dials: None,
    }
}

impl Subject for Peer<PgPool> {
    type Held = sqlx::pool::PoolConnection<Postgres>;

    async fn get(&self) -> Option<Self::Held> {
        self.pool.acquire().await.ok()
    }

    async fn once(&self) -> bool {
        self.pool.acquire().await.is_ok()
    }

    async fn run(held: &mut Self::Held, sql: &str) -> bool {
        use sqlx::{AssertSqlSafe, Executor};
        held.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())))
            .await
            .is_ok()
    }

    fn dials(&self) -> Option<u64> {
        self.dials()
    }
}
