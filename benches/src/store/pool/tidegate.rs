//! Our pool as it is measured: with connections that do nothing, and on PostgreSQL.

use tidegate_store::backend::postgres::{Dsn, Postgres, Session};
use tidegate_store::error::Result;
use tidegate_store::pool::{Claim, Config, Connector, Pool};
use tidegate_vitals::{Clock, Registry};
use tokio::task::yield_now;

use super::subject::Subject;

/// Connections that do nothing.
pub(super) struct Bare;

impl Connector for Bare {
    type Connection = u64;

    async fn connect(&self) -> Result<u64> {
        Ok(1)
    }

    fn is_usable(&self, _: &u64) -> bool {
        true
    }

    async fn check(&self, _: &mut u64) -> Result<()> {
        Ok(())
    }

    fn needs_drain(&self, _: &u64) -> bool {
        false
    }

    async fn drain(&self, _: &mut u64) -> Result<()> {
        Ok(())
    }

    fn target(&self) -> &str {
        "nothing"
    }
}

fn start<C: Connector>(connector: C, size: usize) -> Pool<C> {
    let config = Config {
        min: size,
        size,
        overflow: 0,
        ..Config::default()
    };
    Pool::start(connector, config, Clock::real(), &Registry::new()).expect("the settings are in range")
}

pub(super) fn bare(size: usize) -> Pool<Bare> {
    start(Bare, size)
}

pub(super) fn postgres(url: &str, size: usize) -> Pool<Postgres> {
    let session = Session {
        statement_timeout: None,
        application_name: "bench".into(),
        is_read_only: false,
    };
    let dsn = Dsn::parse(url).expect("the cluster's own URL");
    start(
        Postgres::new(dsn, session).expect("no certificates are read"),
        size,
    )
}

impl Subject for Pool<Bare> {
    type Held = Claim<Bare>;

    async fn get(&self) -> Option<Claim<Bare>> {
        self.acquire().await.ok()
    }

    async fn once(&self) -> bool {
        self.acquire().await.is_ok()
    }

    async fn run(_: &mut Claim<Bare>, _: &str) -> bool {
        yield_now().await;
        true
    }

    fn dials(&self) -> Option<u64> {
        None
    }
}

impl Subject for Pool<Postgres> {
    type Held = Claim<Postgres>;

    async fn get(&self) -> Option<Claim<Postgres>> {
        self.acquire().await.ok()
    }

    async fn once(&self) -> bool {
        self.acquire().await.is_ok()
    }

    async fn run(held: &mut Claim<Postgres>, sql: &str) -> bool {
        let running = held.running();
        let ran = held.client().batch_execute(sql).await;
        running.finish();
        ran.is_ok()
    }

    fn dials(&self) -> Option<u64> {
        let stats = self.stats();
        Some(stats.connects + stats.connect_errors)
    }
}
