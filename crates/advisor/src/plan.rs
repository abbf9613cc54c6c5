//! Plans of indexes: a TOML file that says which indexes there should be.

use std::{collections::BTreeSet, fmt::Write as _};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    name::quoted,
};

/// PostgreSQL's own limit on the columns of one index, included ones counted.
const COLUMNS_MAX: usize = 32;
/// More indexes than this in one plan is a mistake of whatever wrote it.
const INDEXES_MAX: usize = 1_000;

/// Which indexes there should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In the order in which they are created.
    pub indexes: Vec<Index>,
}

/// One index of a plan: a B-tree over columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Index {
    /// Its name, without a schema: an index lives in the schema of its table.
    pub name: String,
    /// The table as in SQL: folded to lower case unless quoted, with a schema or found by the search path.
    pub table: String,
    /// The key, first column first; 1 to 32.
    pub columns: Vec<Key>,
    /// Columns that are carried along, so that a scan of the index alone can answer.
    pub include: Vec<String>,
    /// The rows it covers, as SQL; all without it.
    #[serde(rename = "where")]
    pub filter: Option<String>,
    /// Whether no two rows may have the same key.
    pub unique: bool,
}

/// One column of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Key {
    /// The column.
    pub column: String,
    /// Largest first; nulls then come first, as PostgreSQL does by default.
    pub descending: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    #[serde(default)]
    index: Vec<RawIndex>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIndex {
    name: Option<String>,
    table: Option<String>,
    columns: Option<Vec<String>>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(rename = "where")]
    filter: Option<String>,
    #[serde(default)]
    unique: bool,
}

// === impl Plan ===

impl Plan {
    /// Reads a plan: `[[index]]` tables with `name`, `table`, `columns = ["store", "date desc"]` and, where wanted,
    /// `include`, `where` and `unique`.
    ///
    /// # Errors
    /// Text that is not TOML or has an unknown key, an index without name, table or columns, a column named twice, a
    /// name used twice.
    pub fn parse(text: &str) -> Result<Self> {
        let raw: RawPlan =
            toml::from_str(text).map_err(|error| Error::Syntax(error.to_string().trim().to_owned()))?;
        if raw.index.is_empty() {
            return Err(Error::Syntax("it has no [[index]]".to_owned()));
        }
        if raw.index.len() > INDEXES_MAX {
            let n = raw.index.len();
            return Err(Error::Syntax(format!(
                "it has {n} indexes, allowed are {INDEXES_MAX}"
            )));
        }
        let indexes: Vec<Index> = raw
            .index
            .into_iter()
            .enumerate()
            .map(|(n, raw)| raw.check(n + 1))
            .collect::<Result<_>>()?;
        let mut names = BTreeSet::new();
        let twice = indexes.iter().find(|index| !names.insert(&index.name));
        match twice {
            Some(index) => Err(index.wrong("the name is used twice")),
            None => Ok(Self { indexes }),
        }
    }

    /// The plan as a file that [`Plan::parse`] reads back.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for index in &self.indexes {
            text += "[[index]]\n";
            text += &index.to_toml().to_string();
            text += "\n";
        }
        text
    }

    /// The eleven indexes of the demo's orders table.
    pub fn orders() -> Self {
        Self::parse(include_str!("../plans/orders.toml")).expect("a test parses the plan that is built in")
    }
}

// === impl Index ===

impl RawIndex {
    fn check(self, number: usize) -> Result<Index> {
        let name = self.name.filter(|name| !name.is_empty());
        let wrong = |problem: &str| Error::Index {
            index: name.clone().unwrap_or_else(|| format!("number {number}")),
            problem: problem.to_owned(),
        };
        if name.is_none() {
            return Err(wrong("it has no name"));
        }
        let table = self.table.clone().filter(|table| !table.trim().is_empty());
        let table = table.ok_or_else(|| wrong("it has no table"))?;
        let columns: Vec<Key> = self
            .columns
            .iter()
            .flatten()
            .map(|text| {
                Key::parse(text)
                    .ok_or_else(|| wrong(&format!("`{text}` is not a column, or a column and `desc`")))
            })
            .collect::<Result<_>>()?;
        if columns.is_empty() {
            return Err(wrong("it has no columns"));
        }
        let index = Index {
            name: name.clone().expect("a missing name was refused above"),
            table,
            columns,
            include: self.include,
            filter: self.filter.filter(|filter| !filter.trim().is_empty()),
            unique: self.unique,
        };
        index.check_columns()?;
        Ok(index)
    }
}

impl Key {
    /// A column, smallest first.
    pub fn ascending(column: &str) -> Self {
        Self {
            column: column.to_owned(),
            descending: false,
        }
    }

    /// `date`, `date asc` or `date desc`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (column, descending) = match text.rsplit_once(char::is_whitespace) {
            Some((column, word)) if word.eq_ignore_ascii_case("desc") => (column, true),
            Some((column, word)) if word.eq_ignore_ascii_case("asc") => (column, false),
            // A column may have a space in its name.
            _ => (text, false),
        };
        let column = column.trim();
        (!column.is_empty()).then(|| Self {
            column: column.to_owned(),
            descending,
        })
    }

    /// As [`Key::parse`] reads it; a column whose own name ends in such a word needs the direction said.
    fn text(&self) -> String {
        let last = self.column.rsplit(char::is_whitespace).next().unwrap_or_default();
        let is_clear = !last.eq_ignore_ascii_case("desc") && !last.eq_ignore_ascii_case("asc");
        match (self.descending, is_clear) {
            (true, _) => format!("{} desc", self.column),
            (false, true) => self.column.clone(),
            (false, false) => format!("{} asc", self.column),
        }
    }

    fn sql(&self) -> String {
        let direction = if self.descending { " DESC" } else { "" };
        format!("{}{direction}", quoted(&self.column))
    }
}

impl Index {
    fn check_columns(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        let all = self.all_columns();
        if all.len() > COLUMNS_MAX {
            let n = all.len();
            return Err(self.wrong(&format!("it has {n} columns, allowed are {COLUMNS_MAX}")));
        }
        match all.into_iter().find(|column| !seen.insert(*column)) {
            Some(column) => Err(self.wrong(&format!("column {column} is named twice"))),
            None => Ok(()),
        }
    }

    pub(crate) fn wrong(&self, problem: &str) -> Error {
        Error::Index {
            index: self.name.clone(),
            problem: problem.to_owned(),
        }
    }

    /// Key columns and included ones.
    pub(crate) fn all_columns(&self) -> Vec<&str> {
        let keys = self.columns.iter().map(|key| key.column.as_str());
        keys.chain(self.include.iter().map(String::as_str)).collect()
    }

    fn to_toml(&self) -> toml::Table {
        let mut table = toml::Table::new();
        let columns: Vec<String> = self.columns.iter().map(Key::text).collect();
        table.insert("name".to_owned(), self.name.clone().into());
        table.insert("table".to_owned(), self.table.clone().into());
        table.insert("columns".to_owned(), columns.into());
        if !self.include.is_empty() {
            table.insert("include".to_owned(), self.include.clone().into());
        }
        if let Some(filter) = &self.filter {
            table.insert("where".to_owned(), filter.clone().into());
        }
        if self.unique {
            table.insert("unique".to_owned(), true.into());
        }
        table
    }

    /// The part of its definition behind the table.
    pub(crate) fn definition(&self) -> String {
        let keys: Vec<String> = self.columns.iter().map(Key::sql).collect();
        let mut sql = format!("({})", keys.join(", "));
        if !self.include.is_empty() {
            let include: Vec<String> = self.include.iter().map(|column| quoted(column)).collect();
            write!(sql, " INCLUDE ({})", include.join(", ")).expect("writing to a string cannot fail");
        }
        if let Some(filter) = &self.filter {
            write!(sql, " WHERE {filter}").expect("writing to a string cannot fail");
        }
        sql
    }

    /// The statement that creates it, under `name` on `relation`, both as they stand in SQL.
    pub(crate) fn create(&self, name: &str, relation: &str, how: How) -> String {
        let unique = if self.unique { "UNIQUE " } else { "" };
        let (concurrently, only) = match how {
            How::Concurrently => ("CONCURRENTLY ", ""),
            How::Only => ("", "ONLY "),
            How::Plain => ("", ""),
        };
        format!(
            "CREATE {unique}INDEX {concurrently}{name} ON {only}{relation} {}",
            self.definition()
        )
    }

    /// The statement that creates it while the table is in use.
    pub fn sql(&self) -> String {
        self.create(&quoted(&self.name), &self.table, How::Concurrently)
    }
}

/// How an index is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// While rows are written.
    Concurrently,
    /// On a partitioned table, without its partitions.
    Only,
    /// At once.
    Plain,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orders_plan_has_the_eleven() {
        let plan = Plan::orders();
        assert_eq!(plan.indexes.len(), 11);
        assert!(
            plan.indexes
                .iter()
                .all(|index| index.name.starts_with("idx_orders_") && index.table == "orders")
        );
        assert_eq!(
            plan.indexes[10].sql(),
            "CREATE INDEX CONCURRENTLY idx_orders_date_desc ON orders (date DESC)"
        );
    }

    #[test]
    fn everything_an_index_can_say_is_read() {
        let text = "[[index]]\nname = \"a\"\ntable = \"s.t\"\ncolumns = [\"x\", \"Order desc\", \"z asc\"]\n\
                    include = [\"w\"]\nwhere = \"x > 0\"\nunique = true\n";
        assert_eq!(
            Plan::parse(text).unwrap().indexes[0].sql(),
            "CREATE UNIQUE INDEX CONCURRENTLY a ON s.t (x, \"Order\" DESC, z) INCLUDE (w) WHERE x > 0"
        );
    }

    #[test]
    fn a_plan_is_written_as_it_is_read() {
        let text = "[[index]]\nname = \"a\"\ntable = 's.\"T\"'\ncolumns = [\"x\", \"y desc\", \"z desc asc\"]\n\
                    include = [\"w\"]\nwhere = \"x > '0'\"\nunique = true\n";
        let mut plan = Plan::parse(text).unwrap();
        assert_eq!(plan.indexes[0].columns[2].column, "z desc");
        plan.indexes.extend(Plan::orders().indexes);
        assert_eq!(Plan::parse(&plan.to_toml()).unwrap(), plan);
    }

    #[test]
    fn a_wrong_plan_says_what_is_wrong() {
        let check = |text: &str, expected: &str| {
            let error = Plan::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "it has no [[index]]");
        check("[[index]\n", "not an index plan");
        check("[[index]]\nnmae = 'a'", "unknown field `nmae`");
        check(
            "[[index]]\ntable = 't'\ncolumns = ['x']",
            "index number 1: it has no name",
        );
        check(
            "[[index]]\nname = 'a'\ncolumns = ['x']",
            "index a: it has no table",
        );
        check("[[index]]\nname = 'a'\ntable = 't'", "index a: it has no columns");
        check(
            "[[index]]\nname = 'a'\ntable = 't'\ncolumns = [' ']",
            "is not a column",
        );
        check(
            "[[index]]\nname = 'a'\ntable = 't'\ncolumns = ['x']\ninclude = ['x']",
            "column x is named twice",
        );
        let one = "[[index]]\nname = 'a'\ntable = 't'\ncolumns = ['x']\n";
        check(&one.repeat(2), "the name is used twice");
    }
}
