//! SQLite behind the façade: one writer and some readers of one file.

use std::{panic::Location, sync::Arc, time::Duration};

use tidegate_vitals::Registry;
use tokio::time::{Instant, timeout_at};

use super::{Access, Connection, Rows, Sqlite};
use crate::{
    backend::is_in_memory,
    database::{Config, Context, ServerInfo, Stats, TransactionStats},
    error::{self, Error, Result},
    kind::Kind,
    pool::{self, Claim, Connector, Pool},
    select::{ColumnInfo, Select},
    statement::Timing,
    transaction::{Begin, Row},
    value::Value,
};

/// Most connections that read at a time; each has a thread.
const READERS_MAX: usize = 8;

/// One file with its connections.
pub(crate) struct Server {
    /// SQLite lets one connection write at a time; the others would only wait for its lock.
    writer: Pool<Sqlite>,
    readers: Pool<Sqlite>,
}

/// An open transaction. Dropped, it is rolled back before the connection's next use.
pub(crate) struct Transaction(Claim<Sqlite>);

/// Rows as they come. Dropping it ends the statement.
pub(crate) struct Stream {
    // Before the claim: the statement ends while the connection is still ours.
    rows: Option<Rows>,
    claim: Option<Claim<Sqlite>>,
    columns: Arc<[ColumnInfo]>,
    timing: Option<Timing>,
    n_rows: u64,
    deadline: Instant,
    limit: Duration,
}

// === impl Server ===

impl Server {
    pub(crate) async fn open(config: &Config, context: &Context) -> Result<Self> {
        let path = Sqlite::path_of(&config.url)?;
        let (write, read) = (
            Sqlite::new(&path, Access::Write),
            Sqlite::new(&path, Access::Read),
        );
        // Made at once: readers need the file, and a folder that cannot be written is a mistake of the settings.
        drop(write.open().await?);
        let one = pool::Config {
            min: 1,
            size: 1,
            overflow: 0,
            ..config.pool.clone()
        };
        let some = pool::Config {
            min: 1,
            size: config.pool.size.clamp(1, READERS_MAX),
            overflow: 0,
            ..config.pool.clone()
        };
        let clock = || context.clock.clone();
        Ok(Self {
            writer: Pool::start(write, one, clock(), &context.registry)?,
            // The figures of the pool are those of the writer, which is where waits come from.
            readers: Pool::start(read, some, clock(), &Registry::new())?,
        })
    }

    pub(crate) fn writer(&self) -> &Pool<Sqlite> {
        &self.writer
    }

    pub(crate) fn target(&self) -> &str {
        self.writer.connector().target()
    }

    pub(crate) async fn ping(&self, caller: &'static Location<'static>) -> Result<ServerInfo> {
        let claim = self.readers.acquire_for(caller).await?;
        claim
            .call(|c| c.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())))
            .await?;
        let path = self.writer.connector().path();
        Ok(ServerInfo {
            kind: Kind::Sqlite,
            version: rusqlite::version().to_owned(),
            version_number: u32::try_from(rusqlite::version_number()).unwrap_or_default(),
            host: path.display().to_string(),
            is_replica: false,
            through_pooler: false,
            system_id: 0,
            timeline: 0,
            is_on_tmpfs: is_in_memory(path),
        })
    }

    pub(crate) async fn begin(&self, begin: Begin<'_>) -> Result<Transaction> {
        let (pool, sql) = match begin.is_read_only {
            true => (&self.readers, "BEGIN"),
            // The lock is taken at once: a transaction that reads first and writes later could be refused in between.
            false => (&self.writer, "BEGIN IMMEDIATE"),
        };
        let claim = pool.acquire_for(begin.caller).await?;
        claim.call(move |c| c.execute_batch(sql)).await?;
        Ok(Transaction(claim))
    }

    pub(crate) async fn select(
        &self,
        select: &Select<'_>,
        deadline: Instant,
        mut timing: Timing,
    ) -> Result<Stream> {
        match self.open_stream(select, &mut timing).await {
            Ok((claim, rows, columns)) => Ok(Stream {
                rows: Some(rows),
                claim: Some(claim),
                columns,
                timing: Some(timing),
                n_rows: 0,
                deadline,
                limit: select.timeout,
            }),
            Err(error) => {
                timing.finish(0, Err(error::code(&error)));
                Err(error)
            }
        }
    }

    async fn open_stream(
        &self,
        select: &Select<'_>,
        timing: &mut Timing,
    ) -> Result<(Claim<Sqlite>, Rows, Arc<[ColumnInfo]>)> {
        let claim = self.readers.acquire_for(select.caller).await?;
        timing.acquired();
        let rows = claim.query(select.sql, select.params, select.returns).await?;
        timing.executed();
        let columns = rows.columns().to_vec().into();
        Ok((claim, rows, columns))
    }

    pub(crate) fn stats(&self, transactions: TransactionStats) -> Stats {
        Stats {
            kind: Kind::Sqlite,
            target: self.target().to_owned(),
            pool: Some(self.writer.stats()),
            #[cfg(feature = "postgres")]
            pipeline: None,
            #[cfg(feature = "postgres")]
            replicas: Vec::new(),
            transactions,
        }
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

// === impl Transaction ===

impl Transaction {
    pub(crate) fn connection(&self) -> &Connection {
        &self.0
    }

    pub(crate) async fn execute(&self, sql: &str, params: &[Value]) -> Result<u64> {
        self.0.execute(sql, params).await
    }

    pub(crate) async fn query(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        let mut rows = self.0.query(sql, params, &[]).await?;
        let columns: Arc<[ColumnInfo]> = rows.columns().to_vec().into();
        let mut all = Vec::new();
        while let Some(values) = rows.next().await? {
            all.push(Row::new(Arc::clone(&columns), values));
        }
        Ok(all)
    }

    pub(crate) async fn batch(&self, sql: &str) -> Result<()> {
        let sql = sql.to_owned();
        self.0.call(move |c| c.execute_batch(&sql)).await
    }

    pub(crate) async fn commit(self) -> Result<()> {
        let committed = self.0.call(|c| c.execute_batch("COMMIT")).await;
        // What was not committed is rolled back when the claim is given back.
        committed.map_err(|error| match error {
            Error::Lost(message) => Error::Lost(format!(
                "{message}: no answer to COMMIT, so whether the transaction took effect is not known"
            )),
            other => other,
        })
    }

    pub(crate) async fn roll_back(self) {
        // Where this fails, the pool drains the connection or drops it.
        let _ = self.0.call(|c| c.execute_batch("ROLLBACK")).await;
    }
}

// === impl Stream ===

impl Stream {
    pub(crate) fn columns(&self) -> &[ColumnInfo] {
        &self.columns
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Value>>> {
        let Some(rows) = &mut self.rows else {
            return Ok(None);
        };
        let next = match timeout_at(self.deadline, rows.next()).await {
            Ok(next) => next,
            Err(_) => Err(Error::Timeout {
                what: "statement".to_owned(),
                after: self.limit,
            }),
        };
        match &next {
            Ok(Some(_)) => self.n_rows += 1,
            Ok(None) => self.end(Ok(())),
            Err(error) => self.end(Err(error::code(error))),
        }
        next
    }

    fn end(&mut self, outcome: std::result::Result<(), &str>) {
        self.rows = None;
        self.claim = None;
        if let Some(timing) = self.timing.take() {
            timing.finish(self.n_rows, outcome);
        }
    }
}
