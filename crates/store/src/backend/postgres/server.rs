//! PostgreSQL behind the façade: pool, pipeline and replicas of one URL.

use std::{panic::Location, time::Duration};

use tokio::time::Instant;
use tokio_postgres::SimpleQueryMessage;

use super::place;
use super::{Dsn, Postgres, Session, Stream, Transaction, check_parameters, lsn_of};
use crate::{
    database::{Config, Context, ServerInfo, Stats, TransactionStats},
    error::{self, Error, Result},
    kind::Kind,
    pipeline::{Answer, Pipeline},
    pool::{Connector, Pool},
    replica::Replicas,
    select::{ReadToken, Rows, Select, Source},
    statement::Timing,
    transaction::Begin,
};

/// How long sockets may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// The servers of one database.
pub(crate) struct Server {
    pool: Pool<Postgres>,
    pipeline: Option<Pipeline>,
    replicas: Replicas,
}

impl Server {
    pub(crate) fn open(config: &Config, context: &Context) -> Result<Self> {
        let session = Session {
            statement_timeout: config.statement_timeout,
            application_name: config.application_name.clone(),
            is_read_only: false,
        };
        let primary = Postgres::new(Dsn::parse(&config.url)?, session)?;
        let pipeline = config
            .pipeline
            .is_enabled
            .then(|| Pipeline::new(&primary, &config.pipeline, context));
        let pool = Pool::start(
            primary,
            config.pool.clone(),
            context.clock.clone(),
            &context.registry,
        )?;
        let replicas = Replicas::start(&pool, &config.replicas, context)?;
        Ok(Self {
            pool,
            pipeline: pipeline.transpose()?,
            replicas,
        })
    }

    pub(crate) fn pool(&self) -> &Pool<Postgres> {
        &self.pool
    }

    pub(crate) fn target(&self) -> &str {
        self.pool.connector().target()
    }

    pub(crate) async fn ping(&self, caller: &'static Location<'static>) -> Result<ServerInfo> {
        let claim = self.pool.acquire_for(caller).await?;
        claim.check().await?;
        let mut info = (**claim.info()).clone();
        let running = claim.running();
        info.is_on_tmpfs = place::is_on_tmpfs(&claim).await;
        running.finish();
        Ok(info)
    }

    pub(crate) async fn read_token(&self, caller: &'static Location<'static>) -> Result<ReadToken> {
        const SQL: &str = "SELECT pg_current_wal_lsn(), substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
        let claim = self.pool.acquire_for(caller).await?;
        let running = claim.running();
        let answer = claim.client().simple_query(SQL).await;
        running.finish();
        let messages = answer.map_err(|error| claim.error(error))?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let token = row.and_then(|row| {
            let timeline = u32::from_str_radix(row.get(1)?, 16).ok()?;
            Some(ReadToken {
                system_id: claim.info().system_id,
                timeline,
                lsn: lsn_of(row.get(0)?)?,
            })
        });
        token.ok_or_else(|| Error::Lost("the server did not say where its log is".to_owned()))
    }

    pub(crate) async fn begin(&self, begin: Begin<'_>) -> Result<Transaction> {
        if begin.replica
            && let Some(replica) = self.replicas.pick(begin.token)
        {
            let in_flight = replica.enter();
            match Transaction::begin(replica.pool(), Some(in_flight), begin).await {
                Ok(transaction) => return Ok(transaction),
                Err(error) => replica.failed(&error),
            }
        }
        if begin.is_read_only {
            self.replicas.count_primary();
        }
        Transaction::begin(&self.pool, None, begin).await
    }

    pub(crate) async fn select(
        &self,
        select: &Select<'_>,
        deadline: Instant,
        timing: Timing,
    ) -> Result<Rows> {
        let mut timing = Some(timing);
        let opened = self.open_stream(select, deadline, &mut timing).await;
        if let (Err(error), Some(timing)) = (&opened, timing) {
            timing.finish(0, Err(error::code(error)));
        }
        opened.map(|stream| Rows(Source::Postgres(stream)))
    }

    async fn open_stream(
        &self,
        select: &Select<'_>,
        deadline: Instant,
        timing: &mut Option<Timing>,
    ) -> Result<Stream> {
        check_parameters(select.params.len())?;
        if select.replica {
            if let Some(replica) = self.replicas.pick(select.token) {
                let in_flight = replica.enter();
                match Stream::open(replica.pool(), select, deadline, timing, Some(in_flight)).await {
                    Ok(stream) => return Ok(stream),
                    // The primary may do better where the replica is at fault.
                    Err(error) if error.is_retryable() => replica.failed(&error),
                    Err(error) => return Err(error),
                }
            }
            self.replicas.count_primary();
        }
        if let Some(pipeline) = self.pipeline.as_ref().filter(|_| select.pipeline)
            && let Answer::Rows(rows) = pipeline.run(select, timing).await?
        {
            return Ok(Stream::collected(rows, deadline, select.timeout));
        }
        Stream::open(&self.pool, select, deadline, timing, None).await
    }

    pub(crate) fn stats(&self, transactions: TransactionStats) -> Stats {
        Stats {
            kind: Kind::Postgres,
            target: self.target().to_owned(),
            pool: Some(self.pool.stats()),
            pipeline: self.pipeline.as_ref().map(Pipeline::stats),
            replicas: self.replicas.stats(),
            transactions,
        }
    }

    pub(crate) async fn close(&self) {
        self.replicas.close().await;
        if let Some(pipeline) = &self.pipeline {
            pipeline.close().await;
        }
        self.pool.close().await;
        self.pool.connector().finish(FAREWELL).await;
    }
}
