//! Whether pages can miss or repeat a row, as the catalog has it.

use std::collections::HashSet;

use super::{Column, Equality, Item, Outline, Place, Problem, Side, TableInfo};
use crate::query::declaration::Order;

impl Outline {
    /// Whether these page columns determine every row; `infos` is in the order of the tables.
    pub(in crate::query) fn check_key(&self, page: &[Order], infos: &[TableInfo]) -> Result<(), Problem> {
        let mut known: HashSet<Place<'_>> = HashSet::new();
        for order in page {
            known.insert(self.page_column(&order.column, infos)?);
        }
        let mut determined = vec![false; self.tables.len()];
        loop {
            let n_before = (known.len(), determined.iter().filter(|is| **is).count());
            for equality in &self.equalities {
                self.carry(equality, infos, &determined, &mut known);
            }
            for (at, info) in infos.iter().enumerate() {
                let has_key =
                    |key: &Vec<String>| key.iter().all(|column| known.contains(&(at, column.as_str())));
                determined[at] = determined[at] || info.keys.iter().any(has_key);
            }
            if n_before == (known.len(), determined.iter().filter(|is| **is).count()) {
                break;
            }
        }
        match determined.iter().position(|is| !is) {
            None => Ok(()),
            Some(at) => Err(self.no_key(at, page, &infos[at], &known)),
        }
    }

    /// The columns of an index that serves the pages: what is bound by `=`, then the page's own; for one table alone.
    pub(in crate::query) fn index(&self, page: &[Order]) -> Option<Vec<String>> {
        if self.tables.len() != 1 {
            return None;
        }
        let mut columns: Vec<String> = Vec::new();
        for equality in &self.equalities {
            if let (Side::Column(column), Side::Constant) | (Side::Constant, Side::Column(column)) =
                (&equality.left, &equality.right)
            {
                columns.push(column.name.clone());
            }
        }
        for order in page {
            let own = self.items.iter().find_map(|item| match item {
                Item::Column(column, output) if *output == order.column => Some(column.name.clone()),
                _ => None,
            });
            columns.push(own.unwrap_or_else(|| order.column.clone()));
        }
        let mut seen = HashSet::new();
        columns.retain(|column| seen.insert(column.clone()));
        Some(columns)
    }

    fn no_key(&self, at: usize, page: &[Order], info: &TableInfo, known: &HashSet<Place<'_>>) -> Problem {
        let page: Vec<_> = page.iter().map(|order| order.column.as_str()).collect();
        let mut known: Vec<_> = known
            .iter()
            .filter(|place| place.0 == at)
            .map(|place| place.1)
            .collect();
        known.sort_unstable();
        let keys: Vec<_> = info
            .keys
            .iter()
            .map(|key| format!("({})", key.join(", ")))
            .collect();
        format!(
            "page ({}) with what the text binds by = gives ({}) of table {}, which contains no unique, non-null key; its \
             unique keys are {}",
            page.join(", "),
            known.join(", "),
            self.tables[at].path.join("."),
            if keys.is_empty() {
                "none".to_owned()
            } else {
                keys.join(", ")
            },
        )
    }

    /// Adds what an equality makes known.
    fn carry<'a>(
        &'a self,
        equality: &'a Equality,
        infos: &'a [TableInfo],
        determined: &[bool],
        known: &mut HashSet<Place<'a>>,
    ) {
        for (from, to) in [
            (&equality.left, &equality.right),
            (&equality.right, &equality.left),
        ] {
            let Side::Column(column) = to else { continue };
            let Ok(to) = self.resolve(column, infos) else {
                continue;
            };
            // A row without a partner says nothing of the other tables.
            if equality.only_for.is_some_and(|table| table != to.0) {
                continue;
            }
            let is_known = match from {
                Side::Constant => true,
                Side::Column(column) => self
                    .resolve(column, infos)
                    .is_ok_and(|place| determined[place.0] || known.contains(&place)),
            };
            if is_known {
                known.insert(to);
            }
        }
    }

    /// The table column behind a page column; it must be one, and never null.
    fn page_column<'a>(&'a self, name: &str, infos: &'a [TableInfo]) -> Result<Place<'a>, Problem> {
        let named = |item: &&Item| match item {
            Item::Column(_, output) => output == name,
            Item::Expression(output) => output.as_deref() == Some(name),
            Item::All(_) => false,
        };
        let place = match self.items.iter().find(named) {
            Some(Item::Column(column, _)) => self.resolve(column, infos)?,
            Some(_) => {
                return Err(format!(
                    "page column {name} is an expression, not a column of a table"
                ));
            }
            None => self.starred(name, infos)?,
        };
        let (table, column) = place;
        if self.tables[table].is_optional {
            return Err(format!(
                "page column {name} is of a table that is LEFT JOINed: it may be null"
            ));
        }
        match infos[table].columns[column] {
            true => Ok(place),
            false => Err(format!("page column {name} may be null: declare it NOT NULL")),
        }
    }

    /// A column that comes by `*`.
    fn starred<'a>(&'a self, name: &str, infos: &'a [TableInfo]) -> Result<Place<'a>, Problem> {
        for item in &self.items {
            let Item::All(table) = item else { continue };
            let column = Column {
                table: table.clone(),
                name: name.to_owned(),
            };
            if let Ok(place) = self.resolve(&column, infos) {
                return Ok(place);
            }
        }
        Err(format!("page column {name} is not in the select list"))
    }

    fn resolve<'a>(&'a self, column: &Column, infos: &'a [TableInfo]) -> Result<Place<'a>, Problem> {
        let mut found = None;
        for (at, (table, info)) in self.tables.iter().zip(infos).enumerate() {
            if column.table.as_ref().is_some_and(|name| *name != table.alias) {
                continue;
            }
            let Some((name, _)) = info.columns.get_key_value(&column.name) else {
                continue;
            };
            if found.replace((at, name.as_str())).is_some() {
                return Err(format!("column {} is in more than one table", column.name));
            }
        }
        found.ok_or_else(|| format!("no table has the column {}", column.name))
    }
}
