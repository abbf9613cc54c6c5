//! What a paged query reads, by its text: tables, columns and equalities; and whether its pages can miss or repeat a row.
//!
//! Pages are safe if the page columns and what the text binds by `=` determine one row of every table. That is followed
//! like a functional dependency: a table whose unique, non-null key is determined is determined as a whole, and equalities
//! carry it on to the tables joined to it.

use std::collections::{HashMap, HashSet};

use super::declaration::Order;
use crate::statement::{
    lexer::{Kind, Lexer, Token},
    tables::identifier,
};

/// The parts of a `SELECT … FROM … WHERE …` over plain tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) tables: Vec<Table>,
    items: Vec<Item>,
    equalities: Vec<Equality>,
}

/// A table and the name by which the text calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// Schema, if there is one, and name.
    pub(super) path: Vec<String>,
    alias: String,
    /// Whether it may have no row for a row of the others.
    is_optional: bool,
}

/// One entry of the select list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    /// `*` or `t.*`
    All(Option<String>),
    /// A column and the name under which it is given out.
    Column(Column, String),
    /// Anything else, with its name if it has one.
    Expression(Option<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    table: Option<String>,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Equality {
    left: Side,
    right: Side,
    /// It joins this optional table: it says something of that table alone.
    only_for: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    Column(Column),
    /// A parameter or a literal.
    Constant,
}

/// What the catalog says of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TableInfo {
    /// Columns and whether they refuse null.
    pub(super) columns: HashMap<String, bool>,
    /// Columns of each unique index, partial and expression indexes left out.
    pub(super) keys: Vec<Vec<String>>,
}

type Problem = String;
/// A table by its place in the text, and one of its columns.
type Place<'a> = (usize, &'a str);

// === From the text ===

impl Outline {
    /// Reads the outline of a text; what cannot be paged is said without the query's name.
    pub(super) fn of(sql: &str) -> Result<Self, Problem> {
        let tokens: Vec<Token> = Lexer::new(sql.as_bytes())
            .filter(|token| token.kind != Kind::Semicolon)
            .collect();
        let reader = Reader { sql };
        reader.check_plain(&tokens)?;
        let from = reader
            .keyword(&tokens, "from")
            .ok_or("a query with pages reads FROM a table")?;
        let rest = &tokens[from + 1..];
        let end = reader.keyword(rest, "where").unwrap_or(rest.len());
        let mut outline = Self {
            tables: Vec::new(),
            items: reader.items(&tokens[1..from]),
            equalities: Vec::new(),
        };
        reader.tables(&rest[..end], &mut outline)?;
        if let Some(condition) = rest.get(end + 1..) {
            outline.equalities.extend(reader.equalities(condition, None));
        }
        Ok(outline)
    }
}

struct Reader<'a> {
    sql: &'a str,
}

/// Whatever stands here at the outside of a text changes which rows there are, or their order.
const NOT_PLAIN: [(&str, &str); 14] = [
    ("with", "WITH"),
    ("distinct", "DISTINCT"),
    ("group", "GROUP BY"),
    ("having", "HAVING"),
    ("window", "WINDOW"),
    ("union", "UNION"),
    ("intersect", "INTERSECT"),
    ("except", "EXCEPT"),
    ("order", "ORDER BY"),
    ("limit", "LIMIT"),
    ("offset", "OFFSET"),
    ("fetch", "FETCH"),
    ("values", "VALUES"),
    ("for", "FOR"),
];

impl Reader<'_> {
    fn check_plain(&self, tokens: &[Token]) -> Result<(), Problem> {
        if !tokens
            .first()
            .is_some_and(|token| token.is_word(self.sql, "select"))
        {
            return Err("a query with pages begins with SELECT".to_owned());
        }
        for (word, shown) in NOT_PLAIN {
            let Some(at) = self.keyword(tokens, word) else {
                continue;
            };
            // `t.order` is a column.
            if at > 0 && tokens[at - 1].kind == Kind::Dot {
                continue;
            }
            let advice = match word {
                "order" | "limit" | "offset" | "fetch" => "`page` gives order and limit",
                _ => "read a table, a roll-up's table for sums",
            };
            return Err(format!("a query with pages cannot have {shown}: {advice}"));
        }
        Ok(())
    }

    /// The first such word outside of parentheses.
    fn keyword(&self, tokens: &[Token], word: &str) -> Option<usize> {
        outside(tokens).find(|at| tokens[*at].is_word(self.sql, word))
    }

    /// Pieces between commas, or between such words, outside of parentheses.
    fn split<'t>(&self, tokens: &'t [Token], is_cut: impl Fn(usize) -> bool) -> Vec<&'t [Token]> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for at in outside(tokens).filter(|at| is_cut(*at)) {
            pieces.push(&tokens[start..at]);
            start = at + 1;
        }
        pieces.push(&tokens[start..]);
        pieces
    }

    fn items(&self, tokens: &[Token]) -> Vec<Item> {
        let tokens = match tokens.first() {
            Some(token) if token.is_word(self.sql, "all") => &tokens[1..],
            _ => tokens,
        };
        let pieces = self.split(tokens, |at| tokens[at].kind == Kind::Comma);
        pieces.into_iter().map(|piece| self.item(piece)).collect()
    }

    fn item(&self, tokens: &[Token]) -> Item {
        if let Some((star, path)) = tokens.split_last()
            && star.kind == Kind::Operator
            && star.text(self.sql) == "*"
        {
            match path {
                [] => return Item::All(None),
                [.., name, dot] if dot.kind == Kind::Dot => {
                    return Item::All(Some(identifier(name, self.sql)));
                }
                _ => return Item::Expression(None),
            }
        }
        let (expression, name) = match tokens {
            [rest @ .., word, name] if word.is_word(self.sql, "as") => (rest, Some(name)),
            [rest @ .., last, name] if is_name(name) && last.kind != Kind::Dot => {
                (&tokens[..=rest.len()], Some(name))
            }
            _ => (tokens, None),
        };
        let name = name.map(|name| identifier(name, self.sql));
        match self.column(expression) {
            Some(column) => {
                let name = name.unwrap_or_else(|| column.name.clone());
                Item::Column(column, name)
            }
            None => Item::Expression(name),
        }
    }

    /// `c`, `t.c` or `s.t.c`, and nothing else.
    fn column(&self, tokens: &[Token]) -> Option<Column> {
        let name = |token: &Token| identifier(token, self.sql);
        match tokens {
            [column] if is_name(column) && !self.is_literal(column) => Some(Column {
                table: None,
                name: name(column),
            }),
            [.., table, dot, column] if is_name(table) && dot.kind == Kind::Dot && is_name(column) => {
                let is_path = tokens.iter().enumerate().all(|(at, token)| match at % 2 {
                    0 => is_name(token),
                    _ => token.kind == Kind::Dot,
                });
                (is_path && tokens.len() <= 5).then(|| Column {
                    table: Some(name(table)),
                    name: name(column),
                })
            }
            _ => None,
        }
    }

    fn is_literal(&self, token: &Token) -> bool {
        ["null", "true", "false"]
            .iter()
            .any(|word| token.is_word(self.sql, word))
    }

    /// `a [AS] x [[INNER|LEFT|CROSS] JOIN b [AS] y [ON …|USING (…)]]… [, …]`
    fn tables(&self, tokens: &[Token], outline: &mut Outline) -> Result<(), Problem> {
        for piece in self.split(tokens, |at| tokens[at].kind == Kind::Comma) {
            let joins: Vec<usize> = outside(piece)
                .filter(|at| piece[*at].is_word(self.sql, "join"))
                .collect();
            let mut start = 0;
            let mut is_optional = false;
            for end in joins.into_iter().chain([piece.len()]) {
                let part = &piece[start..end];
                let words = part
                    .iter()
                    .rev()
                    .take_while(|token| self.is_join_word(token))
                    .count();
                let (table, how) = match end < piece.len() {
                    true => part.split_at(part.len() - words),
                    false => (part, &part[..0]),
                };
                self.table(table, is_optional, outline)?;
                let has = |word: &str| how.iter().any(|token| token.is_word(self.sql, word));
                if let Some(kind) = ["right", "full", "natural"].into_iter().find(|kind| has(kind)) {
                    return Err(format!(
                        "a query with pages cannot have {} JOIN",
                        kind.to_ascii_uppercase()
                    ));
                }
                is_optional = has("left");
                start = end + 1;
            }
        }
        Ok(())
    }

    fn is_join_word(&self, token: &Token) -> bool {
        let words = ["inner", "left", "right", "full", "outer", "cross", "natural"];
        words.iter().any(|word| token.is_word(self.sql, word))
    }

    /// `[ONLY] [s.]t [[AS] x] [ON …|USING (…)]`
    fn table(&self, tokens: &[Token], is_optional: bool, outline: &mut Outline) -> Result<(), Problem> {
        let on = self.keyword(tokens, "on");
        let using = self.keyword(tokens, "using");
        let end = on.or(using).unwrap_or(tokens.len());
        let name = match &tokens[..end] {
            [only, rest @ ..] if only.is_word(self.sql, "only") => rest,
            all => all,
        };
        let n_path = name
            .iter()
            .take_while(|token| token.kind == Kind::Dot || is_name(token))
            .count();
        let mut path = Vec::new();
        let mut at = 0;
        while at < n_path && is_name(&name[at]) {
            path.push(identifier(&name[at], self.sql));
            match name.get(at + 1) {
                Some(dot) if dot.kind == Kind::Dot => at += 2,
                _ => break,
            }
        }
        let alias = match &name[(at + 1).min(name.len())..] {
            [] => path.last().cloned(),
            [word, alias] if word.is_word(self.sql, "as") && is_name(alias) => {
                Some(identifier(alias, self.sql))
            }
            [alias] if is_name(alias) => Some(identifier(alias, self.sql)),
            _ => None,
        };
        let Some(alias) = alias.filter(|_| !path.is_empty()) else {
            return Err(
                "a query with pages reads FROM tables alone, not from subqueries, functions or samples"
                    .to_owned(),
            );
        };
        let this = outline.tables.len();
        outline.tables.push(Table {
            path,
            alias: alias.clone(),
            is_optional,
        });
        let only_for = is_optional.then_some(this);
        if let Some(on) = on {
            outline
                .equalities
                .extend(self.equalities(&tokens[on + 1..], only_for));
        } else if let Some(using) = using {
            outline.using(&alias, self.names(&tokens[using + 1..]), only_for);
        }
        Ok(())
    }

    fn names(&self, tokens: &[Token]) -> Vec<String> {
        tokens
            .iter()
            .filter(|token| is_name(token))
            .map(|token| identifier(token, self.sql))
            .collect()
    }

    /// The equalities that hold for every row: those joined by `AND` alone.
    fn equalities(&self, tokens: &[Token], only_for: Option<usize>) -> Vec<Equality> {
        let tokens = unwrapped(tokens);
        if self.keyword(tokens, "or").is_some() {
            return Vec::new();
        }
        let cuts = self.ands(tokens);
        if cuts.is_empty() {
            return self.equality(tokens, only_for).into_iter().collect();
        }
        let pieces = self.split(tokens, |at| cuts.contains(&at));
        pieces
            .into_iter()
            .flat_map(|piece| self.equalities(piece, only_for))
            .collect()
    }

    /// The `AND`s that join conditions: not those of `BETWEEN`, and not those inside of `CASE`.
    fn ands(&self, tokens: &[Token]) -> Vec<usize> {
        let mut cuts = Vec::new();
        let mut n_between = 0_usize;
        let mut n_case = 0_usize;
        for at in outside(tokens) {
            let is = |word: &str| tokens[at].is_word(self.sql, word);
            if is("case") {
                n_case += 1;
            } else if is("end") {
                n_case = n_case.saturating_sub(1);
            } else if is("between") && n_case == 0 {
                n_between += 1;
            } else if is("and") && n_case == 0 {
                match n_between {
                    0 => cuts.push(at),
                    _ => n_between -= 1,
                }
            }
        }
        cuts
    }

    fn equality(&self, tokens: &[Token], only_for: Option<usize>) -> Option<Equality> {
        let is_equal = |at: &usize| {
            tokens[*at].kind == Kind::Operator && matches!(tokens[*at].text(self.sql), "=" | "==")
        };
        let at = outside(tokens).find(is_equal)?;
        Some(Equality {
            left: self.side(&tokens[..at])?,
            right: self.side(&tokens[at + 1..])?,
            only_for,
        })
    }

    fn side(&self, tokens: &[Token]) -> Option<Side> {
        let tokens = unwrapped(tokens);
        if let Some(column) = self.column(tokens) {
            return Some(Side::Column(column));
        }
        let (value, cast) = match tokens {
            [value, cast, rest @ ..] if cast.kind == Kind::Cast => (value, rest),
            [value] => (value, &[][..]),
            _ => return None,
        };
        let is_type = cast
            .iter()
            .all(|token| is_name(token) || matches!(token.kind, Kind::Dot | Kind::Number));
        let is_value =
            matches!(value.kind, Kind::Named | Kind::String | Kind::Number) || self.is_literal(value);
        (is_type && is_value).then_some(Side::Constant)
    }
}

impl Outline {
    /// `USING (c)`: equal to that column of whichever table before has it.
    fn using(&mut self, alias: &str, names: Vec<String>, only_for: Option<usize>) {
        for name in names {
            for table in &self.tables[..self.tables.len() - 1] {
                let side = |table: &str| {
                    Side::Column(Column {
                        table: Some(table.to_owned()),
                        name: name.clone(),
                    })
                };
                self.equalities.push(Equality {
                    left: side(&table.alias),
                    right: side(alias),
                    only_for,
                });
            }
        }
    }
}

/// Places outside of parentheses and brackets.
fn outside(tokens: &[Token]) -> impl Iterator<Item = usize> {
    let mut depth = 0_usize;
    tokens
        .iter()
        .enumerate()
        .filter_map(move |(at, token)| match token.kind {
            Kind::Open | Kind::OpenBracket => {
                depth += 1;
                None
            }
            Kind::Close | Kind::CloseBracket => {
                depth = depth.saturating_sub(1);
                None
            }
            _ => (depth == 0).then_some(at),
        })
}

/// Without the parentheses around the whole.
fn unwrapped(tokens: &[Token]) -> &[Token] {
    match tokens {
        [open, inner @ .., close] if open.kind == Kind::Open && close.kind == Kind::Close => {
            let mut depth = 0_i32;
            let is_whole = inner.iter().all(|token| {
                depth += i32::from(token.kind == Kind::Open) - i32::from(token.kind == Kind::Close);
                depth >= 0
            });
            if is_whole { unwrapped(inner) } else { tokens }
        }
        _ => tokens,
    }
}

fn is_name(token: &Token) -> bool {
    matches!(token.kind, Kind::Word | Kind::Quoted)
}

// === With the catalog ===

impl Outline {
    /// Whether these page columns determine every row; `infos` is in the order of the tables.
    pub(super) fn check_key(&self, page: &[Order], infos: &[TableInfo]) -> Result<(), Problem> {
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
    pub(super) fn index(&self, page: &[Order]) -> Option<Vec<String>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `orders(id*, store!, day!, product, note)`, `stores(id*, name!, region!)` with unique (region, name),
    /// `lines(order_id!, n!, item!)` with unique (order_id, n).
    fn info(path: &[String]) -> TableInfo {
        let (columns, keys): (&[(&str, bool)], &[&[&str]]) = match path.last().unwrap().as_str() {
            "orders" => (
                &[
                    ("id", true),
                    ("store", true),
                    ("day", true),
                    ("product", false),
                    ("note", false),
                ],
                &[&["id"], &["product", "note"]],
            ),
            "stores" => (
                &[("id", true), ("name", true), ("region", true)],
                &[&["id"], &["region", "name"]],
            ),
            _ => (
                &[("order_id", true), ("n", true), ("item", true)],
                &[&["order_id", "n"]],
            ),
        };
        TableInfo {
            columns: columns
                .iter()
                .map(|(name, not_null)| ((*name).to_owned(), *not_null))
                .collect(),
            keys: keys
                .iter()
                .map(|key| key.iter().map(|column| (*column).to_owned()).collect())
                .collect(),
        }
    }

    fn check(sql: &str, page: &str, expected: &str) {
        let page: Vec<_> = page
            .split(", ")
            .map(|column| Order::parse(column).unwrap())
            .collect();
        let said = Outline::of(sql).and_then(|outline| {
            let infos: Vec<_> = outline.tables.iter().map(|table| info(&table.path)).collect();
            outline.check_key(&page, &infos)
        });
        let said = said.map_or_else(|problem| problem, |()| "safe".to_owned());
        assert!(
            said.contains(expected),
            "{sql} by {page:?}: {said:?} does not contain {expected:?}"
        );
    }

    #[test]
    fn one_table_needs_a_key_in_page_and_bound_columns() {
        check("SELECT * FROM orders", "id", "safe");
        check(
            "SELECT day, id FROM orders WHERE store = :store",
            "day, id",
            "safe",
        );
        check(
            "SELECT day FROM orders WHERE store = :store",
            "day",
            "gives (day, store) of table orders, which contains no unique",
        );
        check("SELECT day FROM orders WHERE id = :id", "day", "safe");
        check("SELECT name FROM stores WHERE region = :region", "name", "safe");
        check(
            "SELECT name FROM stores WHERE :region::text = (stores.region)",
            "name",
            "safe",
        );
        check(
            "SELECT name FROM market.stores s WHERE (s.region = 'x' AND true)",
            "name",
            "safe",
        );
        check(
            "SELECT name FROM stores",
            "name",
            "its unique keys are (id), (region, name)",
        );
    }

    #[test]
    fn only_equalities_that_hold_for_every_row_bind() {
        check(
            "SELECT name FROM stores WHERE region = :a OR region = :b",
            "name",
            "no unique",
        );
        check(
            "SELECT name FROM stores WHERE region > :a AND id > 5",
            "name",
            "no unique",
        );
        check(
            "SELECT name FROM stores WHERE NOT region = :a",
            "name",
            "no unique",
        );
        check(
            "SELECT name FROM stores WHERE lower(region) = :a",
            "name",
            "no unique",
        );
        check(
            "SELECT name FROM stores WHERE region = ANY(:a)",
            "name",
            "no unique",
        );
        check(
            "SELECT name FROM stores WHERE id BETWEEN 1 AND region = :a",
            "name",
            "no unique",
        );
        check(
            "SELECT name FROM stores WHERE CASE WHEN true AND region = :a AND true THEN true END",
            "name",
            "no unique",
        );
        check(
            "SELECT name FROM stores WHERE id BETWEEN 1 AND 5 AND region = :a",
            "name",
            "safe",
        );
        check(
            "SELECT name FROM stores WHERE (id = 5 OR id = 6) AND region = :a",
            "name",
            "safe",
        );
    }

    #[test]
    fn joins_are_followed_through_their_keys() {
        check(
            "SELECT o.day, o.id FROM orders o JOIN stores s ON s.id = o.store",
            "day, id",
            "safe",
        );
        check(
            "SELECT o.id FROM orders AS o LEFT OUTER JOIN stores s ON o.store = s.id WHERE o.day > :day",
            "id",
            "safe",
        );
        check(
            "SELECT o.id FROM orders o, stores s WHERE s.id = o.store",
            "id",
            "safe",
        );
        check(
            "SELECT o.id FROM orders o JOIN stores s ON s.name = o.product",
            "id",
            "of table stores",
        );
        check(
            "SELECT o.id FROM orders o JOIN lines l ON l.order_id = o.id",
            "id",
            "of table lines",
        );
        check(
            "SELECT o.id, l.n FROM orders o JOIN lines l ON l.order_id = o.id",
            "id, n",
            "safe",
        );
        check(
            "SELECT l.order_id, l.n FROM orders o JOIN lines l ON l.order_id = o.id",
            "order_id, n",
            "safe",
        );
        check(
            "SELECT o.id FROM orders o LEFT JOIN lines l ON l.order_id = o.id AND l.n = 1",
            "id",
            "safe",
        );
        check(
            "SELECT l.n FROM lines l LEFT JOIN orders o ON o.id = l.order_id AND l.order_id = :id",
            "n",
            "of table lines",
        );
        check(
            "SELECT o.id FROM orders o CROSS JOIN stores s WHERE s.id = :store",
            "id",
            "safe",
        );
        check("SELECT a.id FROM stores a JOIN stores b USING (id)", "id", "safe");
    }

    #[test]
    fn page_columns_are_columns_that_are_never_null() {
        check(
            "SELECT id + 1 AS id FROM orders",
            "id",
            "page column id is an expression",
        );
        check("SELECT id AS number FROM orders", "number", "safe");
        check("SELECT id number FROM orders", "number", "safe");
        check(
            "SELECT id AS number FROM orders",
            "id",
            "page column id is not in the select list",
        );
        check(
            "SELECT product, note FROM orders",
            "product, note",
            "page column product may be null",
        );
        check(
            "SELECT s.id FROM orders o LEFT JOIN stores s ON s.id = o.store",
            "id",
            "LEFT JOINed",
        );
        check(
            "SELECT s.*, o.day FROM orders o JOIN stores s ON s.id = o.store",
            "id",
            "of table orders",
        );
        check(
            "SELECT id FROM orders o JOIN stores s ON s.id = o.store",
            "id",
            "in more than one table",
        );
        check("SELECT \"id\", count FROM orders", "id", "safe");
    }

    #[test]
    fn texts_that_are_not_plain_are_refused() {
        check(
            "SELECT day FROM orders GROUP BY day",
            "day",
            "cannot have GROUP BY",
        );
        check("SELECT DISTINCT id FROM orders", "id", "cannot have DISTINCT");
        check(
            "SELECT id FROM orders ORDER BY id",
            "id",
            "cannot have ORDER BY: `page` gives order",
        );
        check("SELECT id FROM orders LIMIT 5", "id", "cannot have LIMIT");
        check(
            "SELECT id FROM orders UNION SELECT id FROM stores",
            "id",
            "cannot have UNION",
        );
        check(
            "WITH x AS (SELECT 1) SELECT id FROM orders",
            "id",
            "begins with SELECT",
        );
        check(
            "SELECT id FROM (SELECT id FROM orders) x",
            "id",
            "FROM tables alone",
        );
        check("SELECT g FROM generate_series(1, 5) g", "g", "FROM tables alone");
        check(
            "SELECT o.id FROM orders o FULL OUTER JOIN stores s ON true",
            "id",
            "cannot have FULL JOIN",
        );
        check(
            "SELECT o.id FROM orders o NATURAL JOIN stores s",
            "id",
            "cannot have NATURAL JOIN",
        );
        check("SELECT 1 AS id", "id", "reads FROM a table");
        check(
            "SELECT id, (SELECT max(day) FROM orders GROUP BY day LIMIT 1) FROM orders",
            "id",
            "safe",
        );
        check("SELECT id, extract(year FROM day) FROM orders", "id", "safe");
    }
}
