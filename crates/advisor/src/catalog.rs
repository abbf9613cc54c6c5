//! Tables and indexes as the database's catalog has them.

use serde::Serialize;
use tokio_postgres::{Client, Row};

use crate::{
    error::{Error, Result},
    name::qualified,
    plan::{How, Index},
};

/// Options of a key column in `pg_index.indoption`: descending, and nulls first.
const DESCENDING: i32 = 3;

/// A table, or a partition of one.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) is_partitioned: bool,
    pub(crate) n_rows: f64,
    pub(crate) pages: f64,
    /// Share of pages on which every row is visible to all, 0 to 1.
    pub(crate) visible: f64,
    pub(crate) columns: Vec<Column>,
    pub(crate) indexes: Vec<Existing>,
}

/// A column with what is known of its values.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Mean width, bytes.
    pub(crate) width: f64,
    /// As in `pg_stats`: positive a number, negative a share of the rows, 0 unknown.
    pub(crate) n_distinct: f64,
    /// Whether a B-tree can hold it.
    pub(crate) is_ordered: bool,
}

/// An index that is there.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Existing {
    pub(crate) oid: u32,
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) is_unique: bool,
    pub(crate) is_valid: bool,
    /// Name of the constraint that stands on it.
    pub(crate) constraint: Option<String>,
    pub(crate) is_replica_identity: bool,
    /// Column or expression of each key.
    pub(crate) keys: Vec<String>,
    pub(crate) options: Vec<i32>,
    pub(crate) classes: Vec<u32>,
    pub(crate) collations: Vec<u32>,
    pub(crate) include: Vec<String>,
    pub(crate) filter: Option<String>,
    /// Whether operator classes and collations are those of the columns.
    pub(crate) is_plain: bool,
    pub(crate) has_expression: bool,
    /// The index of the partitioned table it belongs to.
    pub(crate) parent: Option<u32>,
    pub(crate) bytes: i64,
}

const TABLE: &str = "
    SELECT c.oid, n.nspname, c.relname, c.relkind = 'p' AS is_partitioned,
           greatest(c.reltuples, 0)::float8 AS n_rows, c.relpages::float8 AS pages,
           c.relallvisible::float8 AS visible, c.relkind IN ('r', 'p', 'm') AS can_have
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass($1)";

const COLUMNS: &str = "
    SELECT a.attname, coalesce(s.avg_width, CASE WHEN a.attlen > 0 THEN a.attlen ELSE 32 END)::float8 AS width,
           coalesce(s.n_distinct, 0)::float8 AS n_distinct,
           t.typname NOT IN ('json', 'xml', 'point', 'line', 'lseg', 'box', 'path', 'polygon', 'circle', 'xid', 'cid',
                             'aclitem', 'tsquery', 'jsonpath') AS is_ordered
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
                        AND s.inherited = (c.relkind = 'p')
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const INDEXES: &str = "
    SELECT i.indexrelid AS oid, x.relname AS name, am.amname AS method, i.indisunique AS is_unique,
           i.indisvalid AND i.indisready AND i.indislive AS is_valid, i.indisreplident AS is_replica_identity,
           (SELECT min(con.conname) FROM pg_constraint con WHERE con.conindid = i.indexrelid)::text AS constraint_name,
           ARRAY(SELECT CASE WHEN k.attnum = 0 THEN pg_get_indexdef(i.indexrelid, k.n::int, true) ELSE a.attname::text END
                 FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
                 LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.n) AS columns,
           i.indnkeyatts::int4 AS n_keys,
           i.indoption::int2[]::int4[] AS options, i.indclass::oid[] AS classes, i.indcollation::oid[] AS collations,
           pg_get_expr(i.indpred, i.indrelid) AS filter, i.indexprs IS NOT NULL AS has_expression,
           (SELECT bool_and(o.opcdefault) FROM unnest(i.indclass::oid[]) u(oid) JOIN pg_opclass o ON o.oid = u.oid)
           AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[], i.indcollation::oid[]) k(attnum, col)
                           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                           WHERE k.col IS NOT NULL AND k.col <> a.attcollation) AS is_plain,
           (SELECT inhparent FROM pg_inherits h WHERE h.inhrelid = i.indexrelid) AS parent,
           pg_relation_size(i.indexrelid) AS bytes
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am am ON am.oid = x.relam
    WHERE i.indrelid = $1 ORDER BY x.relname";

impl Table {
    /// Looks a table up as SQL would; none if it is not there or cannot have an index.
    pub(crate) async fn find(client: &Client, name: &str) -> Result<Option<Self>> {
        let row = client.query_opt(TABLE, &[&name]).await;
        let row = row.map_err(Error::database("looking a table up"))?;
        let Some(row) = row.filter(|row| row.get("can_have")) else {
            return Ok(None);
        };
        let oid: u32 = row.get("oid");
        let pages: f64 = row.get("pages");
        let visible: f64 = row.get("visible");
        let columns = client.query(COLUMNS, &[&oid]).await;
        let columns = columns.map_err(Error::database("reading columns"))?;
        Ok(Some(Self {
            oid,
            schema: row.get("nspname"),
            name: row.get("relname"),
            is_partitioned: row.get("is_partitioned"),
            n_rows: row.get("n_rows"),
            pages,
            visible: if pages > 0.0 { visible / pages } else { 0.0 },
            columns: columns.iter().map(column).collect(),
            indexes: indexes(client, oid).await?,
        }))
    }

    /// The table as it stands in SQL.
    pub(crate) fn sql(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The first column that `index` names and the table does not have.
    pub(crate) fn missing<'a>(&self, index: &'a Index) -> Option<&'a str> {
        index
            .all_columns()
            .into_iter()
            .find(|name| self.column(name).is_none())
    }
}

fn column(row: &Row) -> Column {
    Column {
        name: row.get("attname"),
        width: row.get("width"),
        n_distinct: row.get("n_distinct"),
        is_ordered: row.get("is_ordered"),
    }
}

/// The indexes of a table.
pub(crate) async fn indexes(client: &Client, table: u32) -> Result<Vec<Existing>> {
    let rows = client.query(INDEXES, &[&table]).await;
    let rows = rows.map_err(Error::database("reading indexes"))?;
    Ok(rows.iter().map(existing).collect())
}

fn existing(row: &Row) -> Existing {
    let mut keys: Vec<String> = row.get("columns");
    let n_keys: i32 = row.get("n_keys");
    let include = keys.split_off(usize::try_from(n_keys).unwrap_or_default().min(keys.len()));
    Existing {
        oid: row.get("oid"),
        name: row.get("name"),
        method: row.get("method"),
        is_unique: row.get("is_unique"),
        is_valid: row.get("is_valid"),
        constraint: row.get("constraint_name"),
        is_replica_identity: row.get("is_replica_identity"),
        keys,
        options: row.get("options"),
        classes: row.get("classes"),
        collations: row.get("collations"),
        include,
        filter: row.get("filter"),
        is_plain: row.get::<_, Option<bool>>("is_plain").unwrap_or(false),
        has_expression: row.get("has_expression"),
        parent: row.get("parent"),
        bytes: row.get("bytes"),
    }
}

impl Existing {
    /// Whether it is what `index` says; `filter` is the plan's own as the database writes it.
    pub(crate) fn is(&self, index: &Index, filter: Option<&str>) -> bool {
        self.has_keys_of(index)
            && sorted(&self.include) == sorted(&index.include)
            && self.is_unique == index.unique
            && self.filter.as_deref() == filter
    }

    /// Whether its keys begin with those of `index`, in the same directions.
    pub(crate) fn has_keys_of(&self, index: &Index) -> bool {
        self.keys.len() == index.columns.len() && self.begins_with_keys_of(index)
    }

    /// Whether the keys of `index` are the first of its own, in the same directions.
    pub(crate) fn begins_with_keys_of(&self, index: &Index) -> bool {
        let wanted = index.columns.iter();
        self.method == "btree"
            && self.is_plain
            && self.keys.len() >= index.columns.len()
            && wanted
                .zip(self.keys.iter().zip(&self.options))
                .all(|(key, (column, option))| {
                    key.column == *column && *option == if key.descending { DESCENDING } else { 0 }
                })
    }

    /// What it is, in one line.
    pub(crate) fn describe(&self) -> String {
        let direction = |option: &i32| match option {
            0 => "",
            1 => " DESC NULLS LAST",
            2 => " NULLS FIRST",
            _ => " DESC",
        };
        let keys: Vec<String> = self
            .keys
            .iter()
            .zip(&self.options)
            .map(|(key, option)| format!("{key}{}", direction(option)))
            .collect();
        let unique = if self.is_unique { "unique " } else { "" };
        let include = match self.include.as_slice() {
            [] => String::new(),
            columns => format!(" INCLUDE ({})", columns.join(", ")),
        };
        let filter = self
            .filter
            .as_ref()
            .map_or_else(String::new, |filter| format!(" WHERE {filter}"));
        format!("{unique}{} ({}){include}{filter}", self.method, keys.join(", "))
    }
}

fn sorted(columns: &[String]) -> Vec<&String> {
    let mut columns: Vec<&String> = columns.iter().collect();
    columns.sort();
    columns
}

/// The condition of `index` as the database would write it, so that texts can be compared.
pub(crate) async fn normal_filter(client: &Client, table: &Table, index: &Index) -> Result<Option<String>> {
    if index.filter.is_none() {
        return Ok(None);
    }
    // An empty copy of the table, gone with the transaction.
    let create = index.create("tidegate_advisor_filter", "tidegate_advisor_copy", How::Plain);
    let begin = format!(
        "BEGIN; CREATE TEMPORARY TABLE tidegate_advisor_copy (LIKE {}) ON COMMIT DROP; {create}",
        table.sql()
    );
    let made = client.batch_execute(&begin).await;
    let text = "SELECT pg_get_expr(indpred, indrelid) FROM pg_index \
                WHERE indrelid = 'pg_temp.tidegate_advisor_copy'::regclass";
    let read = match made {
        Ok(()) => client.query_one(text, &[]).await.map(|row| row.get(0)),
        Err(error) => Err(error),
    };
    let ended = client.batch_execute("ROLLBACK").await;
    ended.map_err(Error::database("ending a transaction"))?;
    read.map_err(|error| {
        index.wrong(&format!(
            "its where is refused: {}",
            Error::database("reading")(error)
        ))
    })
}
