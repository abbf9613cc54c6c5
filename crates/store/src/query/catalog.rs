//! What the database says of the tables that queries read, and of the queries themselves.

use std::{collections::BTreeMap, time::Duration};

use super::{
    declaration::{Query, Sound},
    outline::{Table, TableInfo},
    page,
};
use crate::{
    database::Database,
    error::{Error, Result},
    kind::Kind,
    schema::sql::quote,
    select::Select,
    value::{Type, Value},
};

/// The catalog answers at once or is away.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Columns by place, name and whether they refuse null.
const POSTGRES_COLUMNS: &str = "SELECT t.n::int8, a.attname::text, a.attnotnull \
     FROM unnest($1::text[]) WITH ORDINALITY AS t (name, n) \
     JOIN pg_catalog.pg_attribute a ON a.attrelid = to_regclass(t.name) \
     WHERE a.attnum > 0 AND NOT a.attisdropped";
/// Columns of unique indexes that hold for every row at the end of every statement. Columns behind `INCLUDE` are not part
/// of the key.
const POSTGRES_KEYS: &str = "SELECT t.n::int8, array_agg(a.attname::text ORDER BY k.at) \
     FROM unnest($1::text[]) WITH ORDINALITY AS t (name, n) \
     JOIN pg_catalog.pg_index i ON i.indrelid = to_regclass(t.name) \
     CROSS JOIN LATERAL unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, at) \
     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
     WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL \
     GROUP BY t.n, i.indexrelid";
const SQLITE_COLUMNS: &str = "SELECT name, \"notnull\", pk, upper(type) FROM pragma_table_info($1)";
const SQLITE_KEYS: &str = "SELECT il.name, ii.name FROM pragma_index_list($1) il, pragma_index_info(il.name) ii \
     WHERE il.\"unique\" = 1 AND il.partial = 0 ORDER BY il.seq, ii.seqno";

/// Checks everything of a query that only its database can say.
pub(super) async fn verify(database: &Database, sound: &Sound) -> Result<()> {
    if let Some(outline) = &sound.outline {
        let infos = tables(database, &outline.tables).await?;
        for (table, info) in outline.tables.iter().zip(&infos) {
            if info.columns.is_empty() {
                let name = table.path.join(".");
                return Err(sound.query.broken(format!("table {name} does not exist")));
            }
        }
        outline
            .check_key(&sound.query.page, &infos)
            .map_err(|problem| sound.query.broken(problem))?;
    }
    match database.kind() {
        #[cfg(feature = "postgres")]
        Kind::Postgres => describe(database, sound).await,
        _ => Ok(()),
    }
}

async fn tables(database: &Database, tables: &[Table]) -> Result<Vec<TableInfo>> {
    match database.kind() {
        Kind::Postgres => postgres_tables(database, tables).await,
        Kind::Sqlite => {
            let mut infos = Vec::new();
            for table in tables {
                infos.push(sqlite_table(database, table).await?);
            }
            Ok(infos)
        }
    }
}

async fn postgres_tables(database: &Database, tables: &[Table]) -> Result<Vec<TableInfo>> {
    let name = |table: &Table| {
        let path: Vec<_> = table.path.iter().map(|part| quote(part)).collect();
        Value::Text(path.join(".").into())
    };
    let names = [Value::Array(tables.iter().map(name).collect())];
    let types = [Type::Array(Box::new(Type::Text))];
    let mut infos = vec![TableInfo::default(); tables.len()];
    let place = |value: &Value| match value {
        Value::Int(n) => usize::try_from(*n - 1).ok().filter(|at| *at < tables.len()),
        _ => None,
    };
    for row in rows(database, POSTGRES_COLUMNS, &names, &types, &[]).await? {
        if let [n, Value::Text(column), Value::Bool(not_null)] = row.as_slice()
            && let Some(at) = place(n)
        {
            infos[at].columns.insert(column.to_string(), *not_null);
        }
    }
    for row in rows(database, POSTGRES_KEYS, &names, &types, &[]).await? {
        if let [n, Value::Array(columns)] = row.as_slice()
            && let Some(at) = place(n)
        {
            infos[at].keys.push(columns.iter().filter_map(text).collect());
        }
    }
    Ok(infos)
}

async fn sqlite_table(database: &Database, table: &Table) -> Result<TableInfo> {
    let name = [Value::Text(table.path.last().map_or("", String::as_str).into())];
    let types = [Type::Text];
    let returns = |columns: &[(&str, Type)]| -> Vec<(String, Type)> {
        columns
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), kind.clone()))
            .collect()
    };
    let mut info = TableInfo::default();
    let mut primary = BTreeMap::new();
    let mut is_row_id = false;
    let columns = returns(&[
        ("name", Type::Text),
        ("notnull", Type::Int8),
        ("pk", Type::Int8),
        ("type", Type::Text),
    ]);
    for row in rows(database, SQLITE_COLUMNS, &name, &types, &columns).await? {
        if let [
            Value::Text(column),
            Value::Int(not_null),
            Value::Int(pk),
            Value::Text(kind),
        ] = row.as_slice()
        {
            info.columns.insert(column.to_string(), *not_null != 0);
            if *pk > 0 {
                is_row_id = &**kind == "INTEGER";
                primary.insert(*pk, column.to_string());
            }
        }
    }
    let primary: Vec<String> = primary.into_values().collect();
    if let ([column], true) = (primary.as_slice(), is_row_id) {
        // The row's own number: never null, and in no list of indexes.
        info.columns.insert(column.clone(), true);
        info.keys.push(primary);
    }
    let columns = returns(&[("index", Type::Text), ("name", Type::Text)]);
    let mut keys: Vec<(String, Option<Vec<String>>)> = Vec::new();
    for row in rows(database, SQLITE_KEYS, &name, &types, &columns).await? {
        let [Value::Text(index), column] = row.as_slice() else {
            continue;
        };
        if keys.last().is_none_or(|(last, _)| **last != **index) {
            keys.push((index.to_string(), Some(Vec::new())));
        }
        let Some((_, key)) = keys.last_mut() else { continue };
        // An expression has no name: such an index says nothing of columns.
        *key = key.take().zip(text(column)).map(|(mut key, column)| {
            key.push(column);
            key
        });
    }
    info.keys.extend(keys.into_iter().filter_map(|(_, key)| key));
    Ok(info)
}

async fn rows(
    database: &Database,
    sql: &str,
    params: &[Value],
    types: &[Type],
    returns: &[(String, Type)],
) -> Result<Vec<Vec<Value>>> {
    let select = Select {
        types,
        returns,
        timeout: TIMEOUT,
        ..Select::new(sql, params)
    };
    database.select(select).await?.collect().await
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.to_string()),
        _ => None,
    }
}

/// Has the server read the text: syntax, tables, columns, and the types of parameters and answer.
#[cfg(feature = "postgres")]
async fn describe(database: &Database, sound: &Sound) -> Result<()> {
    let sql = page::text(sound, page::Part::Next, sound.query.rows_max);
    let described = database
        .read(async |tx| match tx.client() {
            Some(client) => client
                .prepare(&sql)
                .await
                .map(Some)
                .map_err(crate::backend::postgres::error),
            None => Ok(None),
        })
        .await;
    let statement = match described {
        Ok(Some(statement)) => statement,
        Ok(None) => return Ok(()),
        // What the server will not read today it will not read tomorrow.
        Err(Error::Database {
            sqlstate, message, ..
        }) if sqlstate.starts_with("42") => {
            return Err(sound.query.broken(format!("{message} (SQLSTATE {sqlstate})")));
        }
        Err(error) => return Err(error),
    };
    check_params(&sound.query, &sound.text.params, statement.params())?;
    let mut names = std::collections::HashSet::new();
    for column in statement.columns() {
        let name = column.name();
        if Type::from_postgres(column.type_()).is_none() {
            let kind = column.type_().name();
            return Err(sound.query.broken(format!(
                "column {name} has the type {kind}: cast it to text or timestamptz"
            )));
        }
        if !names.insert(name) {
            return Err(sound.query.broken(format!("two columns are named {name}")));
        }
    }
    Ok(())
}

#[cfg(feature = "postgres")]
fn check_params(query: &Query, used: &[usize], kinds: &[tokio_postgres::types::Type]) -> Result<()> {
    for (at, kind) in used.iter().zip(kinds) {
        let param = &query.params[*at];
        // A type that is not ours takes any text that the server can read.
        if Type::from_postgres(kind).is_some_and(|wanted| !fits(&param.kind, &wanted)) {
            return Err(query.broken(format!(
                "parameter {} is declared {}, but the text uses it as {}",
                param.name,
                param.kind,
                kind.name()
            )));
        }
    }
    Ok(())
}

/// Whether values of a declared type can be given where the server wants another.
#[cfg(feature = "postgres")]
fn fits(declared: &Type, wanted: &Type) -> bool {
    let is_integer = |kind: &Type| matches!(kind, Type::Int2 | Type::Int4 | Type::Int8);
    let is_float = |kind: &Type| matches!(kind, Type::Float4 | Type::Float8);
    match (declared, wanted) {
        (Type::Array(declared), Type::Array(wanted)) => fits(declared, wanted),
        (Type::Text | Type::Enum(_), Type::Text | Type::Enum(_)) => true,
        (Type::Numeric, Type::Float8) => true,
        (declared, wanted) if is_integer(declared) => {
            is_integer(wanted) || is_float(wanted) || *wanted == Type::Numeric
        }
        (declared, wanted) if is_float(declared) => is_float(wanted) || *wanted == Type::Numeric,
        (declared, wanted) => declared == wanted,
    }
}
