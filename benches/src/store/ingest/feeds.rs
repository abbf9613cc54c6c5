//! Our side: COPY straight from values, and feeds that get their rows as JSON, as producers send them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_store::database::{self, Context, Database};
use tidegate_store::feed::{Aggregate, Bucket, Column, Feed, Measure, Rollup};
use tidegate_store::ingest::{self, Hooks, Ingest, Request, Rows};
use tidegate_store::row::{Format, Reader, Table};
use tidegate_store::schema::rollup;
use tidegate_store::{Kind, OnConflict, Operation, Type};
use tidegate_vitals::{Clock, Registry};

use super::{failed, json_row};
use crate::error::Result;

/// A feed as it is measured.
pub(super) struct Subject {
    url: String,
    feed: Feed,
    commit: u64,
}

impl Subject {
    pub(super) fn plain(url: &str, commit: u64) -> Self {
        Self {
            url: url.to_owned(),
            feed: feed(&[]),
            commit,
        }
    }

    pub(super) fn keyed(url: &str, commit: u64, is_summed: bool) -> Self {
        let mut feed = feed(&["id"]);
        feed.on_conflict = OnConflict::Ignore;
        if is_summed {
            feed.rollups.push(hourly());
        }
        Self {
            url: url.to_owned(),
            feed,
            commit,
        }
    }

    /// Makes the tables of the roll-ups anew.
    pub(super) fn rollup_tables(&self) -> String {
        let one = |rollup: &Rollup| {
            let made = rollup::create_sql(Kind::Postgres, &self.feed, rollup).join(";");
            format!("DROP TABLE IF EXISTS {};{made}", rollup.table)
        };
        self.feed.rollups.iter().map(one).collect::<Vec<_>>().join(";")
    }

    /// What psql does for the roll-ups, behind the rows.
    pub(super) fn rollup_steps(&self) -> String {
        let one = |(at, rollup): (usize, &Rollup)| {
            let apply = rollup::apply_sql(Kind::Postgres, &self.feed, rollup, "done");
            format!(", rollup_{at} AS ({apply})")
        };
        self.feed.rollups.iter().enumerate().map(one).collect()
    }

    /// Sends rows in requests of `size`, so many at a time; the time until all are acknowledged.
    pub(super) async fn send(&self, n_rows: u64, size: u64, at_a_time: u64) -> Result<Duration> {
        let broken = |error| failed("feed", error);
        let context = context();
        let database = Database::open(database::Config::new(self.url.clone()), context.clone())
            .await
            .map_err(broken)?;
        let config = ingest::Config {
            batch_rows_max: self.commit as usize,
            writers: 1,
            ..ingest::Config::default()
        };
        let feeds = vec![self.feed.clone()];
        let ingest = Ingest::start(database.clone(), feeds, config, Hooks::default(), context)
            .await
            .map_err(broken)?;
        ingest.validate(&self.feed.name).await.map_err(broken)?;
        checkpoint(&database).await?;
        let bodies: Arc<Vec<Bytes>> = Arc::new((0..n_rows / size).map(|at| body(at * size, size)).collect());
        let next = Arc::new(AtomicU64::new(0));
        let since = Instant::now();
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..at_a_time {
            senders.spawn(send_all(ingest.clone(), Arc::clone(&bodies), Arc::clone(&next)));
        }
        while let Some(sent) = senders.join_next().await {
            sent.map_err(|error| failed("sender", error))??;
        }
        let took = since.elapsed();
        ingest.finish(Duration::from_secs(10)).await.map_err(broken)?;
        database.close().await;
        Ok(took)
    }
}

async fn send_all(ingest: Ingest, bodies: Arc<Vec<Bytes>>, next: Arc<AtomicU64>) -> Result<()> {
    while let Some(body) = bodies.get(next.fetch_add(1, Relaxed) as usize) {
        let request = Request {
            feed: "ticks".to_owned(),
            principal: "bench".to_owned(),
            id: None,
            operation: None,
            rows: Rows::Json(body.clone()),
            first_row: 0,
        };
        let outcome = ingest
            .submit(request)
            .await
            .map_err(|error| failed("feed", error))?;
        if !outcome.rejected.is_empty() || !outcome.dead_lettered.is_empty() {
            return Err(failed("feed", format!("rows refused: {outcome:?}")));
        }
    }
    Ok(())
}

/// All rows by our COPY, in one transaction; the rows are values already, as psql's are bytes already.
pub(super) async fn copy(url: &str, n_rows: u64) -> Result<Duration> {
    let broken = |error| failed("COPY", error);
    let feed = feed(&[]);
    let reader = Reader::new(&feed, Operation::Insert);
    let mut table = Table::new(feed.columns.len());
    let parsed = reader.read(Format::Json, &body(0, n_rows), 0).map_err(broken)?;
    for chunk in &parsed.chunks {
        for row in chunk.table.rows() {
            table.push(row.to_vec());
        }
    }
    let database = Database::open(database::Config::new(url), context())
        .await
        .map_err(broken)?;
    database.ping().await.map_err(broken)?;
    checkpoint(&database).await?;
    let since = Instant::now();
    let copied = database.write(async |transaction| ingest::copy(transaction, &feed, &table).await);
    copied.await.map_err(broken)?;
    let took = since.elapsed();
    database.close().await;
    Ok(took)
}

/// What is left of earlier rows is written down, so that it does not weigh on these.
async fn checkpoint(database: &Database) -> Result<()> {
    let done = database.write(async |transaction| transaction.batch("CHECKPOINT").await);
    done.await.map_err(|error| failed("checkpoint", error))
}

fn context() -> Context {
    Context::new(Clock::real(), Registry::new())
}

fn body(first: u64, n_rows: u64) -> Bytes {
    let mut text = String::with_capacity(n_rows as usize * 100);
    for id in first..first + n_rows {
        text.push(if id == first { '[' } else { ',' });
        json_row(id, &mut text);
    }
    text.push(']');
    text.into()
}

fn feed(key: &[&str]) -> Feed {
    let column = |(name, kind, not_null): (&str, Type, bool)| Column {
        name: name.to_owned(),
        kind,
        not_null,
    };
    let columns = [
        ("id", Type::Int8, true),
        ("symbol", Type::Text, true),
        ("at", Type::Timestamptz, true),
        ("price", Type::Float8, false),
        ("volume", Type::Int8, false),
    ];
    Feed {
        name: "ticks".to_owned(),
        table: "ticks".to_owned(),
        columns: columns.map(column).into(),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        on_conflict: OnConflict::Error,
        tags: Vec::new(),
        retain: None,
        manage: false,
        partition: None,
        rollups: Vec::new(),
        row_bytes_max: 64 << 10,
        rows_per_second_max: None,
    }
}

fn hourly() -> Rollup {
    let measure = |how, column: Option<&str>, into: &str| Measure {
        how,
        column: column.map(ToOwned::to_owned),
        into: into.to_owned(),
    };
    Rollup {
        name: "hourly".to_owned(),
        table: "ticks_hourly".to_owned(),
        group: vec!["symbol".to_owned()],
        bucket: Some(Bucket {
            column: "at".to_owned(),
            every: Duration::from_secs(3_600),
        }),
        measures: vec![
            measure(Aggregate::Count, None, "n"),
            measure(Aggregate::Sum, Some("volume"), "volume_sum"),
            measure(Aggregate::Max, Some("price"), "high"),
        ],
    }
}
