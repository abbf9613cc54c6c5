//! One answer or one page: its text, its rows as JSON, and where the next page begins.

use bytes::Bytes;
use tidegate_vitals::Guard;

use super::{
    cursor::{Scope, Signer},
    declaration::Sound,
    render::Renderer,
};
use crate::{
    error::{Error, Result},
    relief::Account,
    schema::sql::quote,
    select::Rows,
    value::Value,
};

/// Rows of a query as a JSON array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// A JSON array of objects.
    pub rows: Bytes,
    /// How many.
    pub n_rows: usize,
    /// What to ask with as `after` for the rows that follow; none if there are none, or the query has no pages.
    pub next: Option<String>,
}

/// Which part of the rows a text reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// From the first row on.
    First,
    /// From a cursor on; the keys are the last parameters.
    Next,
    /// All of them.
    All,
}

/// What a page needs besides its rows.
pub(super) struct Cut<'a> {
    pub(super) limit: usize,
    pub(super) scope: Scope,
    pub(super) signer: &'a Signer,
    pub(super) account: &'a Account,
}

/// Limits in texts, so that each is prepared once and planned for what it asks; other limits read up to the next of these.
const LIMITS: [usize; 15] = [
    1, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000,
];
/// Rows left over by a smaller limit are read to the end if they are few, because ending a statement early costs a
/// connection more than they do.
const REST_BYTES_MAX: usize = 256 << 10;

/// The room that an answer begins with.
const FIRST_BYTES: usize = 1 << 10;

/// The text of a part, of at least `limit` rows and one more.
///
/// A page compares all its keys as one row: with the equalities of the text that is one range of an index, and the server
/// flattens the inner query, so the index's order is the page's.
pub(super) fn text(sound: &Sound, part: Part, limit: usize) -> String {
    let (query, inner) = (&sound.query, &sound.text);
    let limit = LIMITS.into_iter().find(|known| *known >= limit).unwrap_or(limit) + 1;
    if query.page.is_empty() {
        return match (part, inner.has_limit) {
            (Part::All, _) => inner.sql.clone(),
            (_, true) => format!("SELECT * FROM (\n{}\n) AS q LIMIT {limit}", inner.sql),
            (_, false) => format!("{}\nLIMIT {limit}", inner.sql),
        };
    }
    let keys: Vec<String> = query
        .page
        .iter()
        .map(|order| format!("q.{}", quote(&order.column)))
        .collect();
    let descending = query.page[0].descending;
    let mut sql = format!("SELECT q.* FROM (\n{}\n) AS q", inner.sql);
    if part == Part::Next {
        let first = inner.params.len() + 1;
        let numbers: Vec<String> = (first..first + keys.len()).map(|n| format!("${n}")).collect();
        let than = if descending { '<' } else { '>' };
        sql.push_str(&format!(
            " WHERE ({}) {than} ({})",
            keys.join(", "),
            numbers.join(", ")
        ));
    }
    let direction = if descending { " DESC" } else { "" };
    sql.push_str(&format!(
        " ORDER BY {}{direction}",
        keys.join(&format!("{direction}, "))
    ));
    if part != Part::All {
        sql.push_str(&format!(" LIMIT {limit}"));
    }
    sql
}

/// Reads a page to its limit of rows or bytes.
pub(super) async fn read_page(sound: &Sound, mut rows: Rows, cut: &Cut<'_>) -> Result<Page> {
    let mut answer = Answer::new(sound, cut.account)?;
    let mut last: Option<Vec<Value>> = None;
    let mut has_more = false;
    while let Some(row) = rows.next().await? {
        if answer.n_rows == cut.limit || !answer.push(&rows, &row)? {
            has_more = true;
            break;
        }
        last = Some(row);
    }
    let next = match last.filter(|_| has_more) {
        Some(last) => Some(seal(sound, &rows, &last, cut)?),
        None => None,
    };
    if has_more {
        answer.finish(rows, cut.limit).await?;
    }
    Ok(Page {
        next,
        ..answer.into_page()
    })
}

/// Reads an answer that must be whole.
pub(super) async fn read_whole(sound: &Sound, mut rows: Rows, account: &Account) -> Result<Page> {
    let query = &sound.query;
    let too_large = |what: &str, size: usize, limit: usize| Error::TooLarge {
        what: format!("{what} of query {}", query.name),
        size: size as u64,
        limit: limit as u64,
    };
    let mut answer = Answer::new(sound, account)?;
    while let Some(row) = rows.next().await? {
        if answer.n_rows == query.rows_max {
            return Err(too_large("answer", answer.n_rows + 1, query.rows_max));
        }
        if !answer.push(&rows, &row)? {
            return Err(too_large("bytes", answer.rejected_bytes, query.bytes_max));
        }
    }
    Ok(answer.into_page())
}

fn seal(sound: &Sound, rows: &Rows, last: &[Value], cut: &Cut<'_>) -> Result<String> {
    let mut keys = Vec::with_capacity(sound.query.page.len());
    for order in &sound.query.page {
        let at = rows
            .columns()
            .iter()
            .position(|column| column.name == order.column);
        match at.and_then(|at| last.get(at)) {
            None => {
                return Err(sound
                    .query
                    .broken(format!("page column {} is not in the answer", order.column)));
            }
            Some(Value::Null) => {
                return Err(sound
                    .query
                    .broken(format!("page column {} is null", order.column)));
            }
            Some(key) => keys.push(key),
        }
    }
    cut.signer.seal(&cut.scope, &keys)
}

/// A JSON array that grows.
struct Answer<'a> {
    sound: &'a Sound,
    renderer: Option<Renderer>,
    out: Vec<u8>,
    /// What `out` holds, until the answer is given out.
    memory: Guard,
    account: &'a Account,
    n_rows: usize,
    /// How many bytes there would have been with the row that did not fit.
    rejected_bytes: usize,
}

impl<'a> Answer<'a> {
    fn new(sound: &'a Sound, account: &'a Account) -> Result<Self> {
        let memory = account.reserve(FIRST_BYTES)?;
        let mut out = Vec::with_capacity(FIRST_BYTES);
        out.push(b'[');
        Ok(Self {
            sound,
            renderer: None,
            out,
            memory,
            account,
            n_rows: 0,
            rejected_bytes: 0,
        })
    }

    /// Adds a row; false if it does not fit. A row that is too large alone is an error, since no page could hold it.
    fn push(&mut self, rows: &Rows, row: &[Value]) -> Result<bool> {
        let renderer = match &mut self.renderer {
            Some(renderer) => renderer,
            // Behind a pooler the columns come with the first row.
            none => none.insert(Renderer::new(&self.sound.query, rows.columns())?),
        };
        let before = self.out.len();
        if self.n_rows > 0 {
            self.out.push(b',');
        }
        renderer.write(row, &mut self.out);
        // The room doubles, so the ledger is asked a few times an answer, not once a row.
        if self.out.capacity() > self.memory.bytes() {
            self.account.resize(&mut self.memory, self.out.capacity())?;
        }
        let limit = self.sound.query.bytes_max;
        if self.out.len() < limit {
            self.n_rows += 1;
            return Ok(true);
        }
        self.rejected_bytes = self.out.len() + 1;
        self.out.truncate(before);
        match self.n_rows {
            0 => Err(Error::TooLarge {
                what: format!("row of query {}", self.sound.query.name),
                size: self.rejected_bytes as u64,
                limit: limit as u64,
            }),
            _ => Ok(false),
        }
    }

    /// Takes what is left of the rows if that is cheaper than ending the statement.
    async fn finish(&self, mut rows: Rows, limit: usize) -> Result<()> {
        let asked = LIMITS.into_iter().find(|known| *known >= limit).unwrap_or(limit) + 1;
        let row_bytes = self.out.len() / self.n_rows.max(1);
        if (asked - self.n_rows) * row_bytes <= REST_BYTES_MAX {
            while rows.next().await?.is_some() {}
        }
        Ok(())
    }

    fn into_page(mut self) -> Page {
        self.out.push(b']');
        Page {
            rows: self.out.into(),
            n_rows: self.n_rows,
            next: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::declaration::{Order, Param, Query};
    use super::*;
    use crate::{kind::Kind, value::Type};

    fn check(sql: &str, page: &[&str], part: Part, limit: usize, expected: &str) {
        let query = Query {
            params: vec![Param::new("s", Type::Text)],
            page: page.iter().map(|text| Order::parse(text).unwrap()).collect(),
            ..Query::new("q", sql)
        };
        let sound = Sound::new(query, Kind::Postgres).unwrap();
        assert_eq!(text(&sound, part, limit), expected);
    }

    #[test]
    fn pages_compare_all_keys_as_one_row() {
        let sql = "SELECT ts, id FROM t WHERE s = :s";
        let inner = "SELECT q.* FROM (\nSELECT ts, id FROM t WHERE s = $1 \n) AS q";
        let page = ["ts desc", "id desc"];
        let order = "ORDER BY q.\"ts\" DESC, q.\"id\" DESC";
        check(sql, &page, Part::First, 20, &format!("{inner} {order} LIMIT 21"));
        check(
            sql,
            &page,
            Part::Next,
            20,
            &format!("{inner} WHERE (q.\"ts\", q.\"id\") < ($2, $3) {order} LIMIT 21"),
        );
        check(sql, &page, Part::All, 20, &format!("{inner} {order}"));
        check(
            sql,
            &["id"],
            Part::Next,
            33,
            &format!("{inner} WHERE (q.\"id\") > ($2) ORDER BY q.\"id\" LIMIT 51"),
        );
    }

    #[test]
    fn answers_without_pages_are_limited_too() {
        check(
            "SELECT :s -- x",
            &[],
            Part::First,
            1_000,
            "SELECT $1\nLIMIT 1001".replace("$1", "$1 ").as_str(),
        );
        check(
            "SELECT :s LIMIT 5",
            &[],
            Part::First,
            1_000,
            "SELECT * FROM (\nSELECT $1  LIMIT 5\n) AS q LIMIT 1001",
        );
        check("SELECT :s LIMIT 5;", &[], Part::All, 1_000, "SELECT $1  LIMIT 5");
    }
}
