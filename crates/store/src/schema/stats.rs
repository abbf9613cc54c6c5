//! Tables as their operator sees them: rows, bytes, scans, dead rows, last clean-up.

use std::time::Duration;

use crate::{
    database::Database,
    error::Result,
    kind::Kind,
    schema::session::{Session, TextRow, number},
    transaction::Options,
};

/// Most tables listed, the largest first.
const TABLES_MAX: usize = 1000;

/// One table. What SQLite does not know is none.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TableStats {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Rows, as estimated by the last ANALYZE; counted on SQLite.
    pub rows: i64,
    /// Bytes of the table itself.
    pub table_bytes: Option<i64>,
    /// Bytes of its indexes.
    pub index_bytes: Option<i64>,
    /// Bytes of values kept outside their rows.
    pub toast_bytes: Option<i64>,
    /// Scans of the whole table since the statistics began.
    pub seq_scans: Option<i64>,
    /// Rows read by those.
    pub seq_rows: Option<i64>,
    /// Scans by an index.
    pub index_scans: Option<i64>,
    /// Rows that are dead and not yet cleaned up.
    pub dead_rows: Option<i64>,
    /// Rows inserted, updated and deleted since the statistics began.
    pub changed_rows: Option<i64>,
    /// When it was last vacuumed, in milliseconds since 1970.
    pub vacuumed_ms: Option<i64>,
    /// When it was last analyzed, in milliseconds since 1970.
    pub analyzed_ms: Option<i64>,
    /// Transactions since its oldest row was frozen; the server stops writing long before 2,147,483,648.
    pub frozen_age: Option<i64>,
    /// Whether it is a partition of another.
    pub is_partition: bool,
}

const POSTGRES: &str = "SELECT n.nspname, c.relname, greatest(c.reltuples, 0)::int8, pg_relation_size(c.oid), \
     pg_indexes_size(c.oid), coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0), s.seq_scan, s.seq_tup_read, \
     coalesce(s.idx_scan, 0), s.n_dead_tup, s.n_tup_ins + s.n_tup_upd + s.n_tup_del, \
     (extract(epoch FROM greatest(s.last_vacuum, s.last_autovacuum)) * 1000)::int8, \
     (extract(epoch FROM greatest(s.last_analyze, s.last_autoanalyze)) * 1000)::int8, age(c.relfrozenxid), \
     c.relispartition FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid \
     WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
     AND n.nspname NOT LIKE 'pg_toast%' AND n.nspname NOT LIKE 'pg_temp%' \
     ORDER BY pg_total_relation_size(c.oid) DESC, 1, 2";

/// The tables of the database, the largest first, 1,000 at most.
///
/// # Errors
/// What the database says.
///
/// # Cancel safety
/// It only reads.
pub async fn tables(database: &Database) -> Result<Vec<TableStats>> {
    let options = Options {
        is_on_primary: true,
        ..Options::default()
    };
    database
        .read_with(options, async |transaction| read(Session::of(transaction)?).await)
        .await
}

/// As [`tables`], on a connection.
///
/// # Errors
/// What the database says.
///
/// # Cancel safety
/// It only reads.
pub async fn read(session: Session<'_>) -> Result<Vec<TableStats>> {
    match session.kind() {
        Kind::Postgres => {
            let rows = session.rows(&format!("{POSTGRES} LIMIT {TABLES_MAX}")).await?;
            Ok(rows.iter().map(postgres_row).collect())
        }
        Kind::Sqlite => read_sqlite(session).await,
    }
}

fn postgres_row(row: &TextRow) -> TableStats {
    let figure = |at: usize| number(row[at].as_ref());
    TableStats {
        schema: row[0].clone().unwrap_or_default(),
        name: row[1].clone().unwrap_or_default(),
        rows: figure(2).unwrap_or(0),
        table_bytes: figure(3),
        index_bytes: figure(4),
        toast_bytes: figure(5),
        seq_scans: figure(6),
        seq_rows: figure(7),
        index_scans: figure(8),
        dead_rows: figure(9),
        changed_rows: figure(10),
        vacuumed_ms: figure(11),
        analyzed_ms: figure(12),
        frozen_age: figure(13),
        is_partition: row[14].as_deref() == Some("t"),
    }
}

async fn read_sqlite(session: Session<'_>) -> Result<Vec<TableStats>> {
    let names = session
        .rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name")
        .await?;
    let mut tables = Vec::new();
    for name in names
        .into_iter()
        .filter_map(|mut row| row.swap_remove(0))
        .take(TABLES_MAX)
    {
        let count = format!("SELECT count(*) FROM {}", crate::schema::sql::quote(&name));
        let rows = number(session.value(&count).await?.as_ref()).unwrap_or(0);
        tables.push(TableStats {
            schema: "main".to_owned(),
            name,
            rows,
            table_bytes: None,
            index_bytes: None,
            toast_bytes: None,
            seq_scans: None,
            seq_rows: None,
            index_scans: None,
            dead_rows: None,
            changed_rows: None,
            vacuumed_ms: None,
            analyzed_ms: None,
            frozen_age: None,
            is_partition: false,
        });
    }
    Ok(tables)
}

impl TableStats {
    /// Dead rows of all rows, 0 to 1; 0 where it is not known.
    #[must_use]
    pub fn dead_ratio(&self) -> f64 {
        let dead = self.dead_rows.unwrap_or(0).max(0);
        match dead + self.rows.max(0) {
            0 => 0.0,
            all => dead as f64 / all as f64,
        }
    }

    /// How long ago it was vacuumed.
    #[must_use]
    pub fn vacuumed_ago(&self, now_ms: u64) -> Option<Duration> {
        let at = u64::try_from(self.vacuumed_ms?).ok()?;
        Some(Duration::from_millis(now_ms.saturating_sub(at)))
    }
}
