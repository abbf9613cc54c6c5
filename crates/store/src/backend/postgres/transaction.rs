//! A transaction on one session of PostgreSQL.

use std::sync::Arc;

use futures_util::TryStreamExt;
use tokio_postgres::{SimpleQueryMessage, types::Type as PgType};

use super::{
    Connection, Postgres, check_parameters,
    stream::{columns_of, values_of},
};
use crate::{
    error::{Error, Result},
    pool::{Claim, Pool},
    replica::InFlight,
    select::ReadToken,
    transaction::{Begin, Row},
    value::Value,
};

/// An open transaction. Dropped, its session is rolled back before its next use.
pub(crate) struct Transaction {
    claim: Claim<Postgres>,
    pool: Pool<Postgres>,
    is_read_only: bool,
    _in_flight: Option<InFlight>,
}

/// A statement that is refused once the transaction has failed, so that a commit cannot quietly become a rollback.
const PROBE: &str = "SELECT 1;";
/// Where the log is, and which history it belongs to.
const TOKEN: &str = ";SELECT pg_current_wal_lsn(), substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";

impl Transaction {
    pub(super) async fn begin(
        pool: &Pool<Postgres>,
        in_flight: Option<InFlight>,
        begin: Begin<'_>,
    ) -> Result<Self> {
        let claim = pool.acquire_for(begin.caller).await?;
        let transaction = Self {
            claim,
            pool: pool.clone(),
            is_read_only: begin.is_read_only,
            _in_flight: in_flight,
        };
        let connection = transaction.connection();
        // Said first: a session that is dropped while it begins is rolled back too.
        connection.set_in_transaction(true);
        let sql = transaction.begin_sql(&begin);
        let begun = connection.client().batch_execute(&sql).await;
        begun.map_err(|error| transaction.failed(error))?;
        Ok(transaction)
    }

    fn begin_sql(&self, begin: &Begin<'_>) -> String {
        let mut sql = "BEGIN".to_owned();
        if let Some(isolation) = begin.isolation {
            sql.push_str(" ISOLATION LEVEL ");
            sql.push_str(isolation.as_sql());
        }
        if begin.is_read_only {
            sql.push_str(" READ ONLY");
        }
        let limit = self.pool.connector().session().statement_timeout;
        if let Some(limit) = limit.filter(|_| self.connection().info().through_pooler) {
            sql.push_str(&format!(";SET LOCAL statement_timeout={}", limit.as_millis()));
        }
        sql
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.claim
    }

    pub(crate) async fn execute(&self, sql: &str, params: &[Value]) -> Result<u64> {
        check_parameters(params.len())?;
        let connection = self.connection();
        let client = connection.client();
        let done = if connection.info().through_pooler {
            let running = connection.running();
            let params: Vec<_> = params.iter().map(|value| (value as _, PgType::UNKNOWN)).collect();
            let done = client.execute_typed(sql, &params).await;
            running.finish();
            done
        } else {
            let statement = connection
                .prepare(sql)
                .await
                .map_err(|error| self.refused(sql, error))?;
            let running = connection.running();
            let done = client.execute_raw(&statement, params).await;
            running.finish();
            done
        };
        done.map_err(|error| self.refused(sql, self.failed(error)))
    }

    pub(crate) async fn query(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        check_parameters(params.len())?;
        let connection = self.connection();
        let client = connection.client();
        let rows = if connection.info().through_pooler {
            let running = connection.running();
            let typed = params.iter().map(|value| (value, PgType::UNKNOWN));
            let rows = async {
                client
                    .query_typed_raw(sql, typed)
                    .await?
                    .try_collect::<Vec<_>>()
                    .await
            }
            .await;
            running.finish();
            rows
        } else {
            let statement = connection
                .prepare(sql)
                .await
                .map_err(|error| self.refused(sql, error))?;
            let running = connection.running();
            let rows = async {
                client
                    .query_raw(&statement, params)
                    .await?
                    .try_collect::<Vec<_>>()
                    .await
            }
            .await;
            running.finish();
            rows
        };
        let rows = rows.map_err(|error| self.refused(sql, self.failed(error)))?;
        let Some(first) = rows.first() else {
            return Ok(Vec::new());
        };
        let columns = columns_of(first.columns())?;
        let read = |row| Ok(Row::new(Arc::clone(&columns), values_of(row)?));
        rows.iter().map(read).collect()
    }

    pub(crate) async fn batch(&self, sql: &str) -> Result<()> {
        let connection = self.connection();
        let running = connection.running();
        let done = connection.client().batch_execute(sql).await;
        running.finish();
        done.map_err(|error| self.failed(error))
    }

    pub(crate) async fn commit(self, token: bool) -> Result<Option<ReadToken>> {
        let connection = self.connection();
        let sql = format!(
            "{PROBE}{}COMMIT{}",
            // Through a pooler the next transaction of this server may be another client's.
            if connection.info().through_pooler {
                "DEALLOCATE ALL;"
            } else {
                ""
            },
            if token { TOKEN } else { "" },
        );
        match connection.client().simple_query(&sql).await {
            Ok(messages) => {
                connection.set_in_transaction(false);
                Ok(token.then(|| self.token_of(&messages)).flatten())
            }
            Err(error) => {
                let error = self.failed(error);
                match error.sqlstate() {
                    // An earlier statement had failed, and its error was passed over.
                    Some("25P02") => self.roll_back(&error).await,
                    // The server went away before it answered.
                    Some(code) if code.starts_with("57P") || code.starts_with("08") => {
                        return Err(unknown(&error.to_string()));
                    }
                    Some(_) => connection.set_in_transaction(false),
                    None => return Err(unknown(&error.to_string())),
                }
                Err(error)
            }
        }
    }

    pub(crate) async fn roll_back(self, error: &Error) {
        if matches!(error, Error::Lost(_)) || self.claim.drain().await.is_err() {
            self.claim.broken();
        }
    }

    fn token_of(&self, messages: &[SimpleQueryMessage]) -> Option<ReadToken> {
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = rows.last()?;
        Some(ReadToken {
            system_id: self.connection().info().system_id,
            timeline: u32::from_str_radix(row.get(1)?, 16).ok()?,
            lsn: lsn_of(row.get(0)?)?,
        })
    }

    /// The store's error; a session whose server went away takes the others of the pool with it.
    fn failed(&self, error: tokio_postgres::Error) -> Error {
        let error = self.connection().error(error);
        let is_demoted = error.sqlstate() == Some("25006") && !self.is_read_only;
        if is_demoted {
            self.connection().demoted();
        }
        if is_demoted || !self.connection().is_usable() {
            self.pool.report_broken();
        }
        error
    }

    /// Forgets a statement that no longer fits, so that the next run prepares it anew.
    fn refused(&self, sql: &str, error: Error) -> Error {
        if matches!(error.sqlstate(), Some("0A000" | "26000")) {
            self.connection().forget(sql);
        }
        error
    }
}

fn unknown(message: &str) -> Error {
    Error::Lost(format!(
        "{message}: no answer to COMMIT, so whether the transaction took effect is not known"
    ))
}

/// Bytes of log from its text form, such as `16/B374D848`.
pub(crate) fn lsn_of(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let (high, low) = (
        u32::from_str_radix(high, 16).ok()?,
        u32::from_str_radix(low, 16).ok()?,
    );
    Some(u64::from(high) << 32 | u64::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(lsn_of(text), expected, "{text}");
    }

    #[test]
    fn places_in_the_log_are_numbers() {
        check("16/B374D848", Some(0x16_B374_D848));
        check("0/0", Some(0));
        check("0", None);
        check("x/0", None);
    }
}
