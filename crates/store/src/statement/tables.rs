//! What a statement does and which tables it names, by its tokens alone.

use smallvec::SmallVec;

use super::lexer::{Kind, Token};

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// `SELECT`, `VALUES`, `TABLE`
    Select,
    /// `INSERT`
    Insert,
    /// `UPDATE`
    Update,
    /// `DELETE`
    Delete,
    /// `COPY`
    Copy,
    /// `BEGIN`, `COMMIT`, `SAVEPOINT` and their like.
    Transaction,
    /// `CREATE`, `ALTER`, `DROP`, `TRUNCATE`
    Ddl,
    /// Anything else.
    Other,
}

/// More tables than this of one statement are not looked at.
const TABLES_MAX: usize = 8;

impl Verb {
    /// All of them, in order of declaration.
    pub(super) const ALL: [Self; 8] = [
        Self::Select,
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Copy,
        Self::Transaction,
        Self::Ddl,
        Self::Other,
    ];

    /// Its name, as metrics show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Copy => "copy",
            Self::Transaction => "transaction",
            Self::Ddl => "ddl",
            Self::Other => "other",
        }
    }

    /// The verb of a statement; for `WITH …` that of the statement after the common tables.
    pub(super) fn of(sql: &str, tokens: &[Token]) -> Self {
        let mut depth = 0_usize;
        for token in tokens {
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                Kind::Word if depth == 0 => {
                    let verb = Self::of_word(lower(token.text(sql), &mut [0; KEYWORD_BYTES_MAX]));
                    if verb != Self::Other || !tokens[0].is_word(sql, "with") {
                        return verb;
                    }
                }
                _ => {}
            }
        }
        match tokens.iter().find(|token| token.kind == Kind::Word) {
            Some(token) if token.is_word(sql, "select") => Self::Select,
            _ => Self::Other,
        }
    }

    fn of_word(word: &str) -> Self {
        match word {
            "select" | "values" | "table" => Self::Select,
            "insert" => Self::Insert,
            "update" => Self::Update,
            "delete" => Self::Delete,
            "copy" => Self::Copy,
            "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release" => {
                Self::Transaction
            }
            "create" | "alter" | "drop" | "truncate" => Self::Ddl,
            _ => Self::Other,
        }
    }
}

/// The tables of a statement, without those it defines itself by `WITH`.
pub(super) fn tables(sql: &str, tokens: &[Token], verb: Verb) -> Vec<Box<str>> {
    let own = common_tables(sql, tokens);
    let mut found = Found {
        sql,
        tokens,
        names: Vec::new(),
    };
    let mut levels: SmallVec<[Level; 8]> = SmallVec::new();
    let mut level = Level::default();
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Open => {
                levels.push(level);
                let call = at.checked_sub(1).map(|before| tokens[before]);
                level = Level {
                    in_from: false,
                    no_from: call.is_some_and(|token| {
                        is_any(&token, sql, &["extract", "substring", "trim", "overlay"])
                    }),
                };
            }
            Kind::Close => level = levels.pop().unwrap_or_default(),
            Kind::Comma if level.in_from => found.table(at + 1),
            Kind::Word => level.in_from = found.clause(at, verb, &level).unwrap_or(level.in_from),
            _ => {}
        }
    }
    found.names.retain(|name| !own.contains(name));
    found.names
}

/// One depth of parentheses.
#[derive(Clone, Copy, Default)]
struct Level {
    /// Whether a comma brings another table.
    in_from: bool,
    /// Whether `FROM` is part of a call, as in `extract(year FROM at)`.
    no_from: bool,
}

struct Found<'a> {
    sql: &'a str,
    tokens: &'a [Token],
    names: Vec<Box<str>>,
}

impl Found<'_> {
    /// Takes the table that the word at `at` announces; says whether a list of tables begins or ends here.
    fn clause(&mut self, at: usize, verb: Verb, level: &Level) -> Option<bool> {
        let before = at.checked_sub(1).map(|before| self.tokens[before]);
        let after = |words: &[&str]| before.is_some_and(|token| is_any(&token, self.sql, words));
        let mut buffer = [0; KEYWORD_BYTES_MAX];
        match lower(self.tokens[at].text(self.sql), &mut buffer) {
            "from" if level.no_from || after(&["distinct"]) => None,
            "from" => {
                self.table(at + 1);
                Some(true)
            }
            "update" if after(&["for", "do", "on", "key", "no"]) => None,
            "into" | "update" | "join" | "copy" | "truncate" => {
                self.table(at + 1);
                None
            }
            "table" if verb == Verb::Ddl || verb == Verb::Other || at == 0 => {
                self.table(at + 1);
                None
            }
            "using" if verb == Verb::Delete => {
                self.table(at + 1);
                Some(true)
            }
            "where" | "group" | "order" | "having" | "limit" | "offset" | "fetch" | "union" | "intersect"
            | "except" | "set" | "returning" | "window" | "values" | "select" | "for" => Some(false),
            _ => None,
        }
    }

    /// Takes `[ONLY|LATERAL|TABLE] [IF [NOT] EXISTS] name[.name]` at `at`, unless it is a call or a subquery.
    fn table(&mut self, mut at: usize) {
        let noise = ["only", "lateral", "if", "not", "exists", "table", "concurrently"];
        while self
            .tokens
            .get(at)
            .is_some_and(|token| is_any(token, self.sql, &noise))
        {
            at += 1;
        }
        let mut name = String::new();
        loop {
            let Some(part) = self
                .tokens
                .get(at)
                .filter(|token| matches!(token.kind, Kind::Word | Kind::Quoted))
            else {
                return;
            };
            name.push_str(&identifier(part, self.sql));
            at += 1;
            if self.tokens.get(at).is_none_or(|token| token.kind != Kind::Dot) {
                break;
            }
            name.push('.');
            at += 1;
        }
        let column_list = |token: &Token| {
            let word = at.checked_sub(2).map(|before| self.tokens[before]);
            token.kind == Kind::Open
                && !word.is_some_and(|word| is_any(&word, self.sql, &["into", "copy", "table", "exists"]))
                && !name.contains('.')
        };
        let is_call = self.tokens.get(at).is_some_and(column_list);
        let is_noise = ["select", "stdin", "stdout", "values", "set", "with"].contains(&name.as_str());
        if !is_call
            && !is_noise
            && self.names.len() < TABLES_MAX
            && !self.names.iter().any(|known| **known == *name)
        {
            self.names.push(name.into_boxed_str());
        }
    }
}

/// Names of `WITH name [(columns)] AS [[NOT] MATERIALIZED] (`.
fn common_tables(sql: &str, tokens: &[Token]) -> Vec<Box<str>> {
    let mut names = Vec::new();
    if !tokens.iter().any(|token| token.is_word(sql, "with")) {
        return names;
    }
    for (at, token) in tokens.iter().enumerate() {
        let begins = token.kind == Kind::Comma || is_any(token, sql, &["with", "recursive"]);
        let Some(name) = tokens
            .get(at + 1)
            .filter(|name| begins && matches!(name.kind, Kind::Word | Kind::Quoted))
        else {
            continue;
        };
        let mut next = at + 2;
        if tokens.get(next).is_some_and(|token| token.kind == Kind::Open) {
            next += tokens[next..]
                .iter()
                .position(|token| token.kind == Kind::Close)
                .map_or(tokens.len(), |close| close + 1);
        }
        if !tokens.get(next).is_some_and(|token| token.is_word(sql, "as")) {
            continue;
        }
        next += 1;
        while tokens
            .get(next)
            .is_some_and(|token| is_any(token, sql, &["not", "materialized"]))
        {
            next += 1;
        }
        if tokens.get(next).is_some_and(|token| token.kind == Kind::Open) {
            names.push(identifier(name, sql).into_boxed_str());
        }
    }
    names
}

/// A name as the catalog has it: folded to lower case unless it is quoted.
pub(crate) fn identifier(token: &Token, sql: &str) -> String {
    let text = token.text(sql);
    match token.kind {
        Kind::Quoted => text
            .trim_start_matches(['U', 'u', '&'])
            .trim_matches('"')
            .replace("\"\"", "\""),
        _ => text.to_ascii_lowercase(),
    }
}

/// No keyword that matters here is longer.
pub(super) const KEYWORD_BYTES_MAX: usize = 12;

/// A word in lower case without an allocation; empty if it is longer than any keyword.
pub(super) fn lower<'b>(word: &str, buffer: &'b mut [u8; KEYWORD_BYTES_MAX]) -> &'b str {
    let Some(place) = buffer.get_mut(..word.len()) else {
        return "";
    };
    place.copy_from_slice(word.as_bytes());
    place.make_ascii_lowercase();
    std::str::from_utf8(place).unwrap_or_default()
}

fn is_any(token: &Token, sql: &str, words: &[&str]) -> bool {
    token.kind == Kind::Word
        && words
            .iter()
            .any(|word| token.text(sql).eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Lexer;
    use super::*;

    fn check(sql: &str, verb: Verb, expected: &[&str]) {
        let tokens: Vec<_> = Lexer::new(sql.as_bytes()).collect();
        let found = Verb::of(sql, &tokens);
        assert_eq!(found, verb, "{sql}");
        let tables = tables(sql, &tokens, found);
        assert_eq!(
            tables.iter().map(|name| &**name).collect::<Vec<_>>(),
            expected,
            "{sql}"
        );
    }

    #[test]
    fn tables_are_found_where_statements_name_them() {
        check("SELECT * FROM Ticks WHERE a = 1", Verb::Select, &["ticks"]);
        check(
            "select 1 from a, b c, market.d join \"E\" on true where x in (1, 2)",
            Verb::Select,
            &["a", "b", "market.d", "E"],
        );
        check(
            "INSERT INTO market.ticks (a, b) VALUES ($1, $2)",
            Verb::Insert,
            &["market.ticks"],
        );
        check(
            "insert into ticks(a) select a from staged",
            Verb::Insert,
            &["ticks", "staged"],
        );
        check(
            "UPDATE ONLY t SET a = 1 FROM u WHERE t.id = u.id",
            Verb::Update,
            &["t", "u"],
        );
        check(
            "DELETE FROM t USING u, v WHERE t.id = u.id",
            Verb::Delete,
            &["t", "u", "v"],
        );
        check("COPY ticks (a, b) FROM STDIN BINARY", Verb::Copy, &["ticks"]);
        check("ALTER TABLE IF EXISTS t ADD COLUMN x int", Verb::Ddl, &["t"]);
        check("TRUNCATE TABLE t", Verb::Ddl, &["t"]);
    }

    #[test]
    fn calls_subqueries_and_common_tables_are_no_tables() {
        check("SELECT * FROM generate_series(1, 2) g, t", Verb::Select, &["t"]);
        check(
            "SELECT extract(year FROM at), a IS DISTINCT FROM b FROM t",
            Verb::Select,
            &["t"],
        );
        check(
            "SELECT * FROM (SELECT * FROM a) x JOIN LATERAL (SELECT 1 FROM b) y ON true",
            Verb::Select,
            &["a", "b"],
        );
        check(
            "WITH x AS (SELECT * FROM a), y (c) AS MATERIALIZED (SELECT 1) SELECT * FROM x, y, z",
            Verb::Select,
            &["a", "z"],
        );
        check(
            "WITH gone AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM gone",
            Verb::Insert,
            &["a", "b"],
        );
        check("SELECT * FROM t FOR UPDATE", Verb::Select, &["t"]);
        check(
            "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 1",
            Verb::Insert,
            &["t"],
        );
    }

    #[test]
    fn verbs_are_told_apart() {
        check("BEGIN", Verb::Transaction, &[]);
        check("/* x */ (SELECT 1)", Verb::Select, &[]);
        check("SHOW work_mem", Verb::Other, &[]);
        check("", Verb::Other, &[]);
    }
}
