//! Rows of a read-only statement, from a session of its own or collected by the pipeline.

use std::{borrow::Cow, future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use futures_util::{StreamExt, future::join3, stream::Fuse};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Column, Row, RowStream, Statement, types::Type as PgType};

use super::{
    Connection, Postgres,
    value::{unknown_type, value_from},
};
use crate::{
    error::{self, Error, Result},
    pool::{Claim, Pool},
    replica::InFlight,
    select::{ColumnInfo, Select},
    statement::Timing,
    value::{Type, Value},
};

/// Rows as they come. Dropping it ends the statement.
pub(crate) struct Stream {
    columns: Arc<[ColumnInfo]>,
    source: Source,
    timing: Option<Timing>,
    n_rows: u64,
    deadline: Instant,
    limit: Duration,
    in_flight: Option<InFlight>,
}

enum Source {
    Session(Box<Session>),
    Collected(std::vec::IntoIter<Row>),
    Ended,
}

/// An answer that came whole.
pub(crate) struct Collected {
    pub(crate) columns: Arc<[ColumnInfo]>,
    pub(crate) rows: Vec<Row>,
}

/// A session that runs one statement in a read-only transaction. The commit is sent right behind the statement, so that
/// the whole takes one round trip.
struct Session {
    first: Option<Row>,
    /// Fused: the client library takes a second look at the end for a lost connection.
    rows: Pin<Box<Fuse<RowStream>>>,
    commit: Commit,
    claim: Claim<Postgres>,
}

/// How far our deadline and the server's may be apart.
const SLACK: Duration = Duration::from_millis(20);

type Commit = Pin<Box<dyn Future<Output = std::result::Result<(), tokio_postgres::Error>> + Send>>;

// === impl Stream ===

impl Stream {
    /// Runs `select` on a session of `pool`. `timing` is taken when the statement has ended one way or the other.
    pub(super) async fn open(
        pool: &Pool<Postgres>,
        select: &Select<'_>,
        deadline: Instant,
        timing: &mut Option<Timing>,
        in_flight: Option<InFlight>,
    ) -> Result<Self> {
        let opened = Self::start(pool, select, deadline, timing).await;
        let (columns, session) = opened.map_err(|error| match error.sqlstate() {
            Some("57014") if is_due(deadline) => select.timed_out(),
            _ => error,
        })?;
        Ok(Self {
            columns,
            source: Source::Session(Box::new(session)),
            timing: timing.take(),
            n_rows: 0,
            deadline,
            limit: select.timeout,
            in_flight,
        })
    }

    async fn start(
        pool: &Pool<Postgres>,
        select: &Select<'_>,
        deadline: Instant,
        timing: &mut Option<Timing>,
    ) -> Result<(Arc<[ColumnInfo]>, Session)> {
        let mut claim = pool.acquire_for(select.caller).await?;
        if let Some(timing) = timing {
            timing.acquired();
        }
        let mut outcome = run(&claim, select, deadline).await;
        if let Err(error) = &outcome {
            if is_stale(error) {
                claim.forget(select.sql);
                if !claim.is_usable() {
                    // Behind a pooler it lacks a type that was made since; a new session knows it.
                    drop(std::mem::replace(
                        &mut claim,
                        pool.acquire_for(select.caller).await?,
                    ));
                }
                outcome = run(&claim, select, deadline).await;
            } else if !claim.is_usable() {
                pool.report_broken();
            }
        }
        let (columns, first, rows, commit) = outcome?;
        if let Some(timing) = timing {
            timing.executed();
        }
        Ok((
            columns,
            Session {
                first,
                rows,
                commit,
                claim,
            },
        ))
    }

    pub(crate) fn collected(answer: Collected, deadline: Instant, limit: Duration) -> Self {
        Self {
            columns: answer.columns,
            source: Source::Collected(answer.rows.into_iter()),
            timing: None,
            n_rows: 0,
            deadline,
            limit,
            in_flight: None,
        }
    }

    pub(crate) fn columns(&self) -> &[ColumnInfo] {
        &self.columns
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Value>>> {
        let next = match &mut self.source {
            Source::Ended => return Ok(None),
            Source::Collected(rows) => Ok(rows.next()),
            Source::Session(session) => match timeout_at(self.deadline, session.next()).await {
                Ok(next) => next,
                Err(_) => Err(self.timed_out()),
            },
        };
        let next = next.map_err(|error| match error.sqlstate() {
            Some("57014") if is_due(self.deadline) => self.timed_out(),
            _ => error,
        });
        let next = next.and_then(|row| row.as_ref().map(values_of).transpose());
        match next {
            Ok(Some(values)) => {
                self.n_rows += 1;
                if let Some(timing) = &mut self.timing {
                    timing.rows(self.n_rows);
                }
                Ok(Some(values))
            }
            Ok(None) => {
                self.end(Ok(()));
                Ok(None)
            }
            Err(error) => {
                self.end(Err(error::code(&error)));
                Err(error)
            }
        }
    }

    fn timed_out(&self) -> Error {
        Error::Timeout {
            what: "statement".to_owned(),
            after: self.limit,
        }
    }

    /// Gives the session back. One that has not come to its end is cleaned by the pool.
    fn end(&mut self, result: std::result::Result<(), &str>) {
        self.source = Source::Ended;
        self.in_flight = None;
        if let Some(timing) = self.timing.take() {
            timing.finish(self.n_rows, result);
        }
    }
}

// === impl Session ===

impl Session {
    async fn next(&mut self) -> Result<Option<Row>> {
        if let Some(row) = self.first.take() {
            return Ok(Some(row));
        }
        match self.rows.next().await {
            Some(Ok(row)) => Ok(Some(row)),
            Some(Err(error)) => {
                let error = self.claim.error(error);
                self.settle().await?;
                Err(error)
            }
            None => {
                self.settle().await?;
                Ok(None)
            }
        }
    }

    /// Waits for the end of the transaction, after which the session is clean.
    async fn settle(&mut self) -> Result<()> {
        (&mut self.commit)
            .await
            .map_err(|error| self.claim.error(error))?;
        self.claim.set_in_transaction(false);
        Ok(())
    }
}

type Started = (Arc<[ColumnInfo]>, Option<Row>, Pin<Box<Fuse<RowStream>>>, Commit);

/// Sends `BEGIN READ ONLY`, the statement and `COMMIT` in one go, and waits for the first row.
async fn run(connection: &Connection, select: &Select<'_>, deadline: Instant) -> Result<Started> {
    let statement = match connection.info().through_pooler {
        true => None,
        false => Some(connection.prepare(select.sql).await?),
    };
    let mut columns = statement
        .as_ref()
        .map_or_else(|| Ok([].into()), |known| columns_of(known.columns()))?;
    let begin = begin_sql(connection, deadline);
    // Said first: whatever happens from here on, the session is cleaned before its next use.
    connection.set_in_transaction(true);
    let client = connection.client();
    let sender = connection.shared_client();
    let mut commit: Commit = Box::pin(async move { sender.batch_execute("COMMIT").await });
    let mut committed = None;
    let (begun, rows, ()) = join3(
        client.batch_execute(&begin),
        start(client, statement.as_ref(), select),
        poll_fn(|cx| {
            // Sent behind the two above, which were polled before it; its answer is waited for at the end.
            if let Poll::Ready(done) = commit.as_mut().poll(cx) {
                committed = Some(done);
            }
            Poll::Ready(())
        }),
    )
    .await;
    if let Some(done) = committed {
        commit = Box::pin(std::future::ready(done));
    }
    begun.map_err(|error| connection.error(error))?;
    let first = match rows {
        Ok(mut rows) => match rows.next().await {
            Some(Ok(row)) => Ok((Some(row), rows)),
            None => Ok((None, rows)),
            Some(Err(error)) => Err(error),
        },
        Err(error) => Err(error),
    };
    match first {
        Ok((first, rows)) => {
            if let (None, Some(row)) = (&statement, &first) {
                columns = columns_of(row.columns())?;
            }
            Ok((columns, first, rows, commit))
        }
        Err(error) => {
            let error = connection.error(error);
            commit.await.map_err(|error| connection.error(error))?;
            connection.set_in_transaction(false);
            Err(error)
        }
    }
}

/// A session of our own notices by itself that we are gone, and the deadline is kept by us; setting it costs a third of a
/// short statement. The server behind a pooler does not notice.
fn begin_sql(connection: &Connection, deadline: Instant) -> Cow<'static, str> {
    const BEGIN: &str = "BEGIN READ ONLY";
    if !connection.info().through_pooler {
        return BEGIN.into();
    }
    let left = deadline
        .saturating_duration_since(Instant::now())
        .as_millis()
        .max(1);
    format!("{BEGIN};SET LOCAL statement_timeout={left}").into()
}

/// Whether the server, whose clock began a little later or earlier than ours, may have ended a statement for its time.
fn is_due(deadline: Instant) -> bool {
    Instant::now() + SLACK >= deadline
}

async fn start(
    client: &Client,
    statement: Option<&Statement>,
    select: &Select<'_>,
) -> std::result::Result<Pin<Box<Fuse<RowStream>>>, tokio_postgres::Error> {
    let rows = match statement {
        Some(statement) => client.query_raw(statement, select.params).await?,
        None => {
            let params = select.params.iter().map(|value| (value, PgType::UNKNOWN));
            client.query_typed_raw(select.sql, params).await?
        }
    };
    Ok(Box::pin(rows.fuse()))
}

/// The prepared form no longer fits its tables, or the server forgot it.
pub(crate) fn is_stale(error: &Error) -> bool {
    match error {
        Error::Database {
            sqlstate, message, ..
        } => sqlstate == "26000" || sqlstate == "0A000" && message.contains("cached plan"),
        _ => false,
    }
}

/// Names and types of columns.
///
/// # Errors
/// [`Error::BadRequest`] naming the first column of a type that is not ours.
pub(crate) fn columns_of(columns: &[Column]) -> Result<Arc<[ColumnInfo]>> {
    let known = columns
        .iter()
        .map(|column| match Type::from_postgres(column.type_()) {
            Some(kind) => Ok(ColumnInfo {
                name: column.name().to_owned(),
                kind,
            }),
            None => Err(Error::BadRequest(format!(
                "column {}: {}",
                column.name(),
                unknown_type(column.type_())
            ))),
        });
    known.collect()
}

pub(super) fn values_of(row: &Row) -> Result<Vec<Value>> {
    (0..row.len()).map(|at| value_from(row, at)).collect()
}
