//! Named parameters into numbered ones, and the check that a text only reads.

use super::declaration::Param;
use crate::statement::lexer::{Kind, Lexer, Token};

/// A text with `$1`, `$2`, … in order of their first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) sql: String,
    /// Which declared parameter each number is.
    pub(super) params: Vec<usize>,
    /// Whether it ends in a `LIMIT`, `OFFSET` or `FETCH` of its own.
    pub(super) has_limit: bool,
}

impl Text {
    /// Numbers the parameters of one reading statement; what is wrong is said without the query's name.
    pub(super) fn parse(sql: &str, declared: &[Param]) -> Result<Self, String> {
        let tokens: Vec<Token> = Lexer::new(sql.as_bytes()).collect();
        let n_tokens = tokens
            .iter()
            .rev()
            .skip_while(|token| token.kind == Kind::Semicolon)
            .count();
        let tokens = &tokens[..n_tokens];
        check_reads(sql, tokens)?;
        let mut text = Self {
            sql: String::with_capacity(sql.len()),
            params: Vec::new(),
            has_limit: has_limit(sql, tokens),
        };
        let mut copied = 0;
        for token in tokens {
            match token.kind {
                Kind::Positional => {
                    return Err(format!("{} is numbered by us: write :name", token.text(sql)));
                }
                Kind::Named => {
                    let name = &token.text(sql)[1..];
                    let at = declared
                        .iter()
                        .position(|param| param.name == name)
                        .ok_or_else(|| unknown(name, declared))?;
                    text.sql.push_str(&sql[copied..token.start]);
                    text.push_param(at);
                    copied = token.end;
                }
                _ => {}
            }
        }
        let end = tokens.last().map_or(copied, |token| token.end);
        text.sql.push_str(&sql[copied..end]);
        Ok(text)
    }

    fn push_param(&mut self, at: usize) {
        let n = self
            .params
            .iter()
            .position(|known| *known == at)
            .unwrap_or_else(|| {
                self.params.push(at);
                self.params.len() - 1
            });
        self.sql.push_str(&format!("${}", n + 1));
        // `:a` may stand before a digit or a letter that would continue the number.
        self.sql.push(' ');
    }
}

fn unknown(name: &str, declared: &[Param]) -> String {
    let known: Vec<_> = declared.iter().map(|param| param.name.as_str()).collect();
    match known.is_empty() {
        true => format!("unknown parameter :{name}; none is declared"),
        false => format!(
            "unknown parameter :{name}; declared are {} (in a slice, write a space after the colon)",
            known.join(", ")
        ),
    }
}

/// One `SELECT`, `VALUES` or `TABLE`, possibly after `WITH`, that changes and locks nothing. The database checks it again,
/// since functions hide what they do: the statement runs read-only.
fn check_reads(sql: &str, tokens: &[Token]) -> Result<(), String> {
    if tokens.iter().any(|token| token.kind == Kind::Semicolon) {
        return Err("more than one statement".to_owned());
    }
    let Some(first) = tokens.iter().find(|token| token.kind != Kind::Open) else {
        return Err("the text is empty".to_owned());
    };
    if !["select", "with", "values", "table"]
        .iter()
        .any(|word| first.is_word(sql, word))
    {
        return Err(format!(
            "begins with {:?}: only SELECT, VALUES, TABLE and WITH read",
            first.text(sql)
        ));
    }
    for (at, token) in tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| token.kind == Kind::Word)
    {
        let before = at.checked_sub(1).map(|at| tokens[at]);
        let begins = before.is_some_and(|token| matches!(token.kind, Kind::Open | Kind::Close));
        let is_column = before.is_some_and(|token| token.kind == Kind::Dot);
        let is = |word: &str| token.is_word(sql, word);
        if begins
            && ["insert", "update", "delete", "merge"]
                .iter()
                .any(|word| is(word))
        {
            return Err(format!(
                "{} changes rows: a query only reads",
                token.text(sql).to_ascii_uppercase()
            ));
        }
        if !is_column && is("into") {
            return Err("SELECT INTO makes a table: a query only reads".to_owned());
        }
        let next = tokens.get(at + 1);
        let locks = |word: &str| next.is_some_and(|next| next.is_word(sql, word));
        if is("for") && ["update", "share", "no", "key"].iter().any(|word| locks(word)) {
            return Err("FOR UPDATE and FOR SHARE lock rows: a query only reads".to_owned());
        }
    }
    Ok(())
}

fn has_limit(sql: &str, tokens: &[Token]) -> bool {
    let mut depth = 0_usize;
    tokens.iter().any(|token| {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
            && ["limit", "offset", "fetch"]
                .iter()
                .any(|word| token.is_word(sql, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Type;

    fn parse(sql: &str) -> Result<Text, String> {
        let declared = ["a", "b", "symbol"].map(|name| Param::new(name, Type::Text));
        Text::parse(sql, &declared)
    }

    fn check(sql: &str, expected: &str, params: &[usize]) {
        let text = parse(sql).unwrap();
        assert_eq!(
            (text.sql.as_str(), text.params.as_slice()),
            (expected, params),
            "{sql}"
        );
    }

    fn check_refused(sql: &str, expected: &str) {
        let problem = parse(sql).unwrap_err();
        assert!(problem.contains(expected), "{sql}: {problem}");
    }

    #[test]
    fn names_become_numbers_outside_of_quotes_comments_and_casts() {
        check("SELECT :b, :a, :b", "SELECT $1 , $2 , $1 ", &[1, 0]);
        check(
            "SELECT ':a', \":a\", $$:a$$, $t$ :a $t$, E'\\':a', x::a -- :a",
            "SELECT ':a', \":a\", $$:a$$, $t$ :a $t$, E'\\':a', x::a",
            &[],
        );
        check("SELECT :a::int /* :b */;", "SELECT $1 ::int", &[0]);
        check(
            "SELECT '{1,2}'::int[] , x[1:2], y[ :a : :b ]",
            "SELECT '{1,2}'::int[] , x[1:2], y[ $1  : $2  ]",
            &[0, 1],
        );
        check("SELECT f(x := :a)", "SELECT f(x := $1 )", &[0]);
        check("SELECT '漢' || :a || '字'", "SELECT '漢' || $1  || '字'", &[0]);
    }

    #[test]
    fn texts_that_do_more_than_read_once_are_refused() {
        check_refused("", "the text is empty");
        check_refused("-- nothing", "the text is empty");
        check_refused("SELECT 1; SELECT 2", "more than one statement");
        check_refused("DELETE FROM t", "begins with \"DELETE\"");
        check_refused("EXPLAIN ANALYZE DELETE FROM t", "begins with");
        check_refused(
            "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
            "DELETE changes rows",
        );
        check_refused(
            "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
            "INSERT changes rows",
        );
        check_refused("SELECT * INTO t2 FROM t", "SELECT INTO");
        check_refused("SELECT * FROM t FOR UPDATE", "lock rows");
        check_refused("SELECT * FROM t FOR NO KEY UPDATE", "lock rows");
        check_refused("SELECT $1", "write :name");
        check_refused("SELECT :c", "unknown parameter :c; declared are a, b, symbol");
        check_refused("SELECT x[1:b2]", "unknown parameter :b2");
    }

    #[test]
    fn words_that_only_look_like_changes_are_taken() {
        check(
            "SELECT 'delete', \"update\", t.update FROM t",
            "SELECT 'delete', \"update\", t.update FROM t",
            &[],
        );
        check(
            "(SELECT 1) UNION (VALUES (2))",
            "(SELECT 1) UNION (VALUES (2))",
            &[],
        );
        check(
            "SELECT substring(:a from 1 for 2)",
            "SELECT substring($1  from 1 for 2)",
            &[0],
        );
    }

    #[test]
    fn a_limit_of_its_own_is_seen_at_the_outside_only() {
        assert!(parse("SELECT 1 LIMIT 5").unwrap().has_limit);
        assert!(parse("SELECT 1 FETCH FIRST ROW ONLY").unwrap().has_limit);
        assert!(!parse("SELECT * FROM (SELECT 1 LIMIT 5) x").unwrap().has_limit);
    }
}
