//! Reads a statement: which tables it uses, and by which columns it filters, sorts and groups them.

use std::{collections::BTreeSet, ops::ControlFlow};

use sqlparser::{
    ast::{
        BinaryOperator, Delete, Expr, FromTable, GroupByExpr, Ident, JoinConstraint, JoinOperator,
        ObjectName, OrderBy, OrderByKind, OrderBySort, Query, Select, SelectItem, SetExpr, Statement as Ast,
        TableFactor, TableWithJoins, Update, UpdateTableFromKind, Visit, Visitor, visit_expressions,
        visit_relations,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
};

use crate::{
    error::{Error, Result},
    name::quoted,
    plan::Key,
};

/// Longer texts are not read: their reading costs more than their index gives.
const BYTES_MAX: usize = 64 << 10;

/// A statement that was read.
#[derive(Debug)]
pub(crate) struct Parsed(Ast);

/// How one table is used in one place of a statement.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TableUse {
    /// The table as in SQL.
    pub(crate) table: String,
    /// Columns compared with something that is known before the row is.
    pub(crate) conditions: Vec<Condition>,
    /// Columns it is sorted by, as far as they are all of this table.
    pub(crate) order: Vec<Key>,
    /// Columns it is grouped by, as far as they are all of this table.
    pub(crate) group: Vec<String>,
    /// Every column that is mentioned.
    pub(crate) columns: BTreeSet<String>,
    /// Whether `*` asks for all of them.
    pub(crate) all_columns: bool,
}

/// A comparison of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) column: String,
    pub(crate) kind: Comparison,
}

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Comparison {
    /// With one value, or with null.
    Equal,
    /// With a list.
    In,
    /// With one or two ends.
    Range,
}

/// Which columns a table has; none when there is no such table.
pub(crate) type Columns<'a> = &'a dyn Fn(&str) -> Option<Vec<String>>;

impl Parsed {
    /// Reads one statement that selects, updates or deletes.
    pub(crate) fn parse(sql: &str) -> Result<Self> {
        let wrong = |problem: &str| Error::Statement(problem.to_owned());
        if sql.len() > BYTES_MAX {
            return Err(wrong("it is longer than 64 KiB"));
        }
        let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, sql)
            .map_err(|error| Error::Statement(error.to_string()))?;
        match (statements.pop(), statements.len()) {
            (Some(Ast::Query(query)), 0) => Ok(Self(Ast::Query(query))),
            (Some(statement @ (Ast::Update(_) | Ast::Delete(_))), 0) => Ok(Self(statement)),
            (Some(_), 0) => Err(wrong("it neither selects, updates nor deletes")),
            (None, _) => Err(wrong("it is empty")),
            (Some(_), _) => Err(wrong("it is more than one statement")),
        }
    }

    /// Every table it names, as in SQL.
    pub(crate) fn tables(&self) -> BTreeSet<String> {
        let mut tables = BTreeSet::new();
        let _all: ControlFlow<()> = visit_relations(&self.0, |name| {
            tables.extend(table_name(name));
            ControlFlow::Continue(())
        });
        tables
    }

    /// How each table is used, in each SELECT of it.
    pub(crate) fn uses(&self, columns: Columns<'_>) -> Vec<TableUse> {
        let mut reader = Reader {
            columns,
            uses: Vec::new(),
        };
        match &self.0 {
            Ast::Update(update) => reader.update(update),
            Ast::Delete(delete) => reader.delete(delete),
            _ => {}
        }
        let _all = self.0.visit(&mut reader);
        reader.uses
    }
}

struct Reader<'a> {
    columns: Columns<'a>,
    uses: Vec<TableUse>,
}

impl Visitor for Reader<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        match query.body.as_ref() {
            SetExpr::Select(select) => self.select(select, query.order_by.as_ref()),
            body => self.set(body),
        }
        ControlFlow::Continue(())
    }
}

impl Reader<'_> {
    /// Both sides of UNION and its like; queries in parentheses are visited by themselves.
    fn set(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(select) => self.select(select, None),
            SetExpr::SetOperation { left, right, .. } => {
                self.set(left);
                self.set(right);
            }
            _ => {}
        }
    }

    fn select(&mut self, select: &Select, order_by: Option<&OrderBy>) {
        let mut scope = Scope::new(self.columns);
        scope.from(&select.from);
        scope.mentioned(select);
        scope.projection(&select.projection);
        if let Some(filter) = &select.selection {
            scope.filter(filter);
        }
        if let GroupByExpr::Expressions(keys, _) = &select.group_by {
            scope.group(keys);
        }
        if let Some(order_by) = order_by {
            scope.mentioned(order_by);
            scope.order(order_by);
        }
        self.uses.extend(scope.uses());
    }

    fn update(&mut self, update: &Update) {
        let mut scope = Scope::new(self.columns);
        scope.from(std::slice::from_ref(&update.table));
        if let Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) = &update.from
        {
            scope.from(from);
        }
        self.write(scope, update.selection.as_ref());
    }

    fn delete(&mut self, delete: &Delete) {
        let mut scope = Scope::new(self.columns);
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        scope.from(from);
        scope.from(delete.using.as_deref().unwrap_or_default());
        self.write(scope, delete.selection.as_ref());
    }

    fn write(&mut self, mut scope: Scope<'_>, filter: Option<&Expr>) {
        if let Some(filter) = filter {
            scope.filter(filter);
        }
        // The row itself is needed to change it.
        scope
            .tables
            .iter_mut()
            .for_each(|table| table.used.all_columns = true);
        self.uses.extend(scope.uses());
    }
}

// === Scope ===

/// The tables that one SELECT sees by name.
struct Scope<'a> {
    columns: Columns<'a>,
    tables: Vec<Seen>,
}

struct Seen {
    /// The name by which its columns are qualified.
    alias: String,
    /// Its columns; none for what is no table of the catalog, such as a subquery.
    columns: Option<Vec<String>>,
    used: TableUse,
}

impl<'a> Scope<'a> {
    const fn new(columns: Columns<'a>) -> Self {
        Self {
            columns,
            tables: Vec::new(),
        }
    }

    fn uses(self) -> impl Iterator<Item = TableUse> {
        let known = self.tables.into_iter().filter(|seen| seen.columns.is_some());
        known.map(|seen| seen.used)
    }

    fn from(&mut self, from: &[TableWithJoins]) {
        for one in from {
            self.table(&one.relation);
            for join in &one.joins {
                self.table(&join.relation);
            }
        }
        for join in from.iter().flat_map(|one| &one.joins) {
            match constraint(&join.join_operator) {
                Some(JoinConstraint::On(condition)) => self.filter(condition),
                Some(JoinConstraint::Using(names)) => {
                    let names: Vec<String> = names.iter().filter_map(last_name).collect();
                    self.using(&names);
                }
                _ => {}
            }
        }
    }

    fn table(&mut self, factor: &TableFactor) {
        let (name, alias) = match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                ..
            } => (
                table_name(name),
                alias
                    .as_ref()
                    .map_or_else(|| last_name(name), |alias| Some(folded(&alias.name))),
            ),
            TableFactor::Derived {
                alias: Some(alias), ..
            } => (None, Some(folded(&alias.name))),
            TableFactor::NestedJoin { table_with_joins, .. } => {
                return self.from(std::slice::from_ref(table_with_joins));
            }
            _ => (None, None),
        };
        let columns = name.as_deref().and_then(self.columns);
        self.tables.push(Seen {
            alias: alias.unwrap_or_default(),
            columns,
            used: TableUse {
                table: name.unwrap_or_default(),
                ..TableUse::default()
            },
        });
    }

    /// The table and column behind an expression that is nothing but a column.
    fn column(&self, expr: &Expr) -> Option<(usize, String)> {
        match expr {
            Expr::Nested(inner) => self.column(inner),
            Expr::Identifier(name) => {
                let name = folded(name);
                let has = |seen: &Seen| {
                    seen.columns
                        .as_ref()
                        .is_some_and(|columns| columns.contains(&name))
                };
                let at = self.tables.iter().position(has)?;
                Some((at, name))
            }
            Expr::CompoundIdentifier(path) => {
                let (column, table) = (path.last()?, path.get(path.len().checked_sub(2)?)?);
                let (column, table) = (folded(column), folded(table));
                let at = self.tables.iter().position(|seen| seen.alias == table)?;
                let columns = self.tables[at].columns.as_ref()?;
                columns.contains(&column).then_some((at, column))
            }
            _ => None,
        }
    }

    /// Notes every column mentioned anywhere in a part of the statement.
    fn mentioned(&mut self, part: &impl Visit) {
        let mut found = Vec::new();
        let _all: ControlFlow<()> = visit_expressions(part, |expr| {
            found.extend(self.column(expr));
            ControlFlow::Continue(())
        });
        for (at, column) in found {
            self.tables[at].used.columns.insert(column);
        }
    }

    fn projection(&mut self, items: &[SelectItem]) {
        for item in items {
            match item {
                SelectItem::Wildcard(_) => self
                    .tables
                    .iter_mut()
                    .for_each(|seen| seen.used.all_columns = true),
                SelectItem::QualifiedWildcard(kind, _) => {
                    let kind = kind.to_string();
                    let alias = kind.trim_end_matches(".*").to_owned();
                    let named = self
                        .tables
                        .iter_mut()
                        .filter(|seen| quoted(&seen.alias) == alias || seen.alias == alias);
                    named.for_each(|seen| seen.used.all_columns = true);
                }
                _ => {}
            }
        }
    }

    fn using(&mut self, names: &[String]) {
        for name in names {
            for at in 0..self.tables.len() {
                if self.tables[at]
                    .columns
                    .as_ref()
                    .is_some_and(|columns| columns.contains(name))
                {
                    self.tables[at].used.columns.insert(name.clone());
                    self.note(at, name.clone(), Comparison::Equal);
                }
            }
        }
    }

    /// The parts of a condition that must all be true; one side of OR alone narrows nothing.
    fn filter(&mut self, condition: &Expr) {
        self.mentioned(condition);
        match condition {
            Expr::Nested(inner) => self.filter(inner),
            Expr::BinaryOp {
                left,
                op: BinaryOperator::And,
                right,
            } => {
                self.filter(left);
                self.filter(right);
            }
            Expr::BinaryOp { left, op, right } => {
                if let Some(kind) = comparison(op) {
                    self.compared(left, &[right], kind);
                    self.compared(right, &[left], kind);
                }
            }
            Expr::InList {
                expr,
                list,
                negated: false,
            } => {
                let list: Vec<&Expr> = list.iter().collect();
                self.compared(expr, &list, Comparison::In);
            }
            Expr::InSubquery {
                expr, negated: false, ..
            }
            | Expr::InUnnest {
                expr, negated: false, ..
            } => {
                self.compared(expr, &[], Comparison::In);
            }
            Expr::AnyOp {
                left,
                compare_op: BinaryOperator::Eq,
                right,
                ..
            } => {
                self.compared(left, &[right], Comparison::In);
            }
            Expr::Between {
                expr,
                negated: false,
                low,
                high,
            } => self.compared(expr, &[low, high], Comparison::Range),
            Expr::IsNull(expr) | Expr::IsTrue(expr) | Expr::IsFalse(expr) => {
                self.compared(expr, &[], Comparison::Equal);
            }
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => {
                self.compared(condition, &[], Comparison::Equal);
            }
            _ => {}
        }
    }

    /// Notes a comparison of a column, unless the other side needs the same row.
    fn compared(&mut self, expr: &Expr, with: &[&Expr], kind: Comparison) {
        let Some((at, column)) = self.column(expr) else {
            return;
        };
        let mut same_row = false;
        for other in with {
            let _all: ControlFlow<()> = visit_expressions(*other, |expr| {
                same_row |= self.column(expr).is_some_and(|(table, _)| table == at);
                ControlFlow::Continue(())
            });
        }
        if !same_row {
            self.note(at, column, kind);
        }
    }

    fn note(&mut self, at: usize, column: String, kind: Comparison) {
        let conditions = &mut self.tables[at].used.conditions;
        match conditions.iter_mut().find(|known| known.column == column) {
            // The narrower of two comparisons counts.
            Some(known) => known.kind = known.kind.min(kind),
            None => conditions.push(Condition { column, kind }),
        }
    }

    fn order(&mut self, order_by: &OrderBy) {
        let OrderByKind::Expressions(keys) = &order_by.kind else {
            return;
        };
        let mut order: Vec<(usize, Key)> = Vec::new();
        for key in keys {
            let descending = matches!(key.options.sort, Some(OrderBySort::Desc));
            let is_usual = key.options.nulls_first.is_none_or(|first| first == descending);
            let is_plain = is_usual && !matches!(key.options.sort, Some(OrderBySort::Using(_)));
            match self.column(&key.expr).filter(|_| is_plain) {
                Some((at, column)) => order.push((at, Key { column, descending })),
                None => return,
            }
        }
        let Some(&(at, _)) = order.first() else { return };
        if order.iter().all(|(table, _)| *table == at) {
            self.tables[at].used.order = order.into_iter().map(|(_, key)| key).collect();
        }
    }

    fn group(&mut self, keys: &[Expr]) {
        let columns: Option<Vec<(usize, String)>> = keys.iter().map(|key| self.column(key)).collect();
        let Some(columns) = columns.filter(|columns| !columns.is_empty()) else {
            return;
        };
        let at = columns[0].0;
        if columns.iter().all(|(table, _)| *table == at) {
            self.tables[at].used.group = columns.into_iter().map(|(_, column)| column).collect();
        }
    }
}

const fn comparison(op: &BinaryOperator) -> Option<Comparison> {
    match op {
        BinaryOperator::Eq => Some(Comparison::Equal),
        BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq => {
            Some(Comparison::Range)
        }
        _ => None,
    }
}

const fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    match operator {
        JoinOperator::Join(on)
        | JoinOperator::Inner(on)
        | JoinOperator::Left(on)
        | JoinOperator::LeftOuter(on)
        | JoinOperator::Right(on)
        | JoinOperator::RightOuter(on)
        | JoinOperator::FullOuter(on) => Some(on),
        _ => None,
    }
}

/// A name as the database keeps it.
fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

fn last_name(name: &ObjectName) -> Option<String> {
    name.0.last()?.as_ident().map(folded)
}

fn table_name(name: &ObjectName) -> Option<String> {
    let parts: Option<Vec<String>> = name
        .0
        .iter()
        .map(|part| part.as_ident().map(|ident| quoted(&folded(ident))))
        .collect();
    parts.map(|parts| parts.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(table: &str) -> Option<Vec<String>> {
        let columns: &[&str] = match table {
            "orders" => &["id", "store", "date", "channel", "product", "amount"],
            "stores" => &["id", "name", "region"],
            _ => return None,
        };
        Some(columns.iter().map(|column| (*column).to_owned()).collect())
    }

    /// Every use, as `table: conditions | order | group | columns`.
    fn check(sql: &str, expected: &[&str]) {
        let uses = Parsed::parse(sql).unwrap().uses(&catalog);
        let shown: Vec<String> = uses.iter().map(show).collect();
        assert_eq!(shown, expected, "{sql}");
    }

    fn show(used: &TableUse) -> String {
        let conditions: Vec<String> = used
            .conditions
            .iter()
            .map(|condition| {
                let sign = match condition.kind {
                    Comparison::Equal => "=",
                    Comparison::In => "in",
                    Comparison::Range => "<",
                };
                format!("{}{sign}", condition.column)
            })
            .collect();
        let order: Vec<String> = used
            .order
            .iter()
            .map(|key| format!("{}{}", key.column, if key.descending { "-" } else { "" }))
            .collect();
        let columns: Vec<&str> = used.columns.iter().map(String::as_str).collect();
        let columns = if used.all_columns {
            "*".to_owned()
        } else {
            columns.join(" ")
        };
        let (conditions, order, group) = (conditions.join(" "), order.join(" "), used.group.join(" "));
        format!("{}: {conditions} | {order} | {group} | {columns}", used.table)
    }

    #[test]
    fn conditions_order_and_groups_are_found() {
        check(
            "SELECT channel, sum(amount) FROM orders WHERE store = $1 AND date >= $2 AND date < $3 GROUP BY channel",
            &["orders: store= date< |  | channel | amount channel date store"],
        );
        check(
            "select * from orders where (store = $1) and channel in ($2, $3) order by date desc, id desc limit 10",
            &["orders: store= channelin | date- id- |  | *"],
        );
        check(
            "SELECT count(*) FROM Orders o WHERE o.store = ANY($1) AND o.date BETWEEN $2 AND $3 AND o.amount IS NULL",
            &["orders: storein date< amount= |  |  | amount date store"],
        );
    }

    #[test]
    fn what_narrows_nothing_is_left_out() {
        check(
            "SELECT id FROM orders WHERE store = $1 OR channel = $2",
            &["orders:  |  |  | channel id store"],
        );
        check(
            "SELECT id FROM orders WHERE lower(store) = $1 AND amount <> 3 AND channel = product AND NOT (date = $2)",
            &["orders:  |  |  | amount channel date id product store"],
        );
    }

    #[test]
    fn joins_and_subqueries_have_scopes_of_their_own() {
        check(
            "SELECT s.name, o.amount FROM orders o JOIN stores s ON s.id = o.store WHERE s.region = $1 ORDER BY o.date",
            &[
                "orders: store= | date |  | amount date store",
                "stores: id= region= |  |  | id name region",
            ],
        );
        check(
            "WITH top AS (SELECT product FROM orders WHERE date > $1) SELECT * FROM top WHERE product = 'x'",
            &["orders: date< |  |  | date product"],
        );
        check(
            "SELECT id FROM orders WHERE store = 1 UNION ALL SELECT id FROM orders WHERE channel = $1",
            &[
                "orders: store= |  |  | id store",
                "orders: channel= |  |  | channel id",
            ],
        );
    }

    #[test]
    fn changes_are_read_too() {
        check(
            "UPDATE orders SET amount = 0 WHERE id = $1",
            &["orders: id= |  |  | *"],
        );
        check("DELETE FROM orders WHERE date < $1", &["orders: date< |  |  | *"]);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let check = |sql: &str, expected: &str| {
            let error = Parsed::parse(sql).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("SELEC 1", "cannot be read");
        check("", "empty");
        check("SELECT 1; SELECT 2", "more than one");
        check("DROP TABLE orders", "neither selects");
        check(&format!("SELECT '{}'", "x".repeat(BYTES_MAX)), "64 KiB");
    }

    #[test]
    fn a_deep_statement_is_refused_not_followed() {
        let deep = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(Parsed::parse(&deep).is_err());
    }
}
