//! What a paged query reads, by its text: tables, columns and equalities; and whether its pages can miss or repeat a row.
//!
//! Pages are safe if the page columns and what the text binds by `=` determine one row of every table. That is followed
//! like a functional dependency: a table whose unique, non-null key is determined is determined as a whole, and equalities
//! carry it on to the tables joined to it.

mod key;

use std::collections::HashMap;

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

#[cfg(test)]
mod tests;
