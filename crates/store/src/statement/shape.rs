//! The shape of a statement: its text without literals, comments and case, and the fingerprint of that.

use smallvec::SmallVec;

use super::lexer::{Kind, Lexer, Token};
use super::tables::{self, KEYWORD_BYTES_MAX, Verb};

/// What statements that differ only in their literals have in common.
#[derive(Debug)]
pub(super) struct Shape {
    /// A stable hash of the normalised text.
    pub(super) fingerprint: u64,
    /// The normalised text, cut at [`TEXT_BYTES_MAX`].
    pub(super) text: Box<str>,
    pub(super) verb: Verb,
    pub(super) tables: Box<[Box<str>]>,
}

/// Statements are read up to here: an hour of literals must not cost the caller more than a fraction of a millisecond.
const SQL_BYTES_MAX: usize = 64 << 10;
/// Normalised texts are kept up to here; the fingerprint covers the whole.
const TEXT_BYTES_MAX: usize = 4 << 10;

impl Shape {
    pub(super) fn of(sql: &str) -> Self {
        let sql = cut(sql, SQL_BYTES_MAX);
        let tokens: SmallVec<[Token; 128]> = Lexer::new(sql.as_bytes()).collect();
        let verb = Verb::of(sql, &tokens);
        let text = Writer::new(sql, &tokens).write();
        Self {
            fingerprint: fingerprint(text.as_bytes()),
            text: cut(&text, TEXT_BYTES_MAX).into(),
            verb,
            tables: tables::tables(sql, &tokens, verb).into(),
        }
    }
}

/// FNV-1a with a final mix: the same on every machine and in every version, since people keep it in dashboards.
fn fingerprint(text: &[u8]) -> u64 {
    let hash = text.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash ^ (hash >> 33)
}

/// The longest prefix of at most `bytes_max` bytes that ends at a character.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Writes the normalised text: one space between tokens where people expect one, `$n` for every literal and parameter.
struct Writer<'a> {
    sql: &'a str,
    tokens: &'a [Token],
    out: String,
    n_literals: u32,
    last: Last,
    /// Tokens left out: when the first is reached, go on at the second. The innermost is on top.
    skips: SmallVec<[(usize, usize); 4]>,
}

/// What was written last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Nothing yet.
    Start,
    /// Something after which a sign is a sign and not a difference.
    Expecting,
    /// As before, and no space follows.
    Tight,
    /// A word that may be the name of a function.
    Name,
    /// Any other end of an operand.
    Operand,
}

/// Keywords after which an operand comes, sorted. No space is saved before their parenthesis.
const EXPECTING: [&str; 33] = [
    "and",
    "any",
    "as",
    "between",
    "by",
    "case",
    "distinct",
    "else",
    "except",
    "exists",
    "from",
    "having",
    "ilike",
    "in",
    "intersect",
    "into",
    "join",
    "like",
    "limit",
    "not",
    "offset",
    "on",
    "or",
    "over",
    "returning",
    "select",
    "set",
    "then",
    "union",
    "using",
    "values",
    "when",
    "where",
];

/// Types that may stand before a string: `interval '1 day'` is `'1 day'::interval`.
const PREFIXES: [&str; 9] = [
    "date",
    "inet",
    "interval",
    "json",
    "jsonb",
    "numeric",
    "time",
    "timestamp",
    "timestamptz",
];

impl<'a> Writer<'a> {
    fn new(sql: &'a str, tokens: &'a [Token]) -> Self {
        let rest = tokens
            .iter()
            .rev()
            .skip_while(|token| token.kind == Kind::Semicolon)
            .count();
        Self {
            sql,
            tokens: &tokens[..rest],
            out: String::with_capacity(sql.len().min(1024)),
            n_literals: 0,
            last: Last::Start,
            skips: SmallVec::new(),
        }
    }

    fn write(mut self) -> String {
        let mut at = 0;
        while at < self.tokens.len() {
            if let Some(&(from, to)) = self.skips.last()
                && at >= from
            {
                self.skips.pop();
                at = to.max(at);
                continue;
            }
            at = self.token(at);
        }
        self.out
    }

    /// Writes the token at `at`; says where to go on.
    fn token(&mut self, at: usize) -> usize {
        let token = self.tokens[at];
        let text = token.text(self.sql);
        match token.kind {
            Kind::Word => return self.word(at, text),
            Kind::Quoted => self.put(text, Last::Name),
            // Strings on following lines are one string.
            Kind::String if at > 0 && self.tokens[at - 1].kind == Kind::String => {}
            Kind::String | Kind::Number | Kind::Positional | Kind::Named => self.literal(),
            Kind::Operator if self.is_sign(at) => {}
            Kind::Operator if text == "*" && matches!(self.last, Last::Tight | Last::Expecting) => {
                self.put(text, Last::Operand);
            }
            Kind::Operator => self.put(text, Last::Expecting),
            Kind::Cast | Kind::Dot => self.put_tight(text, Last::Tight),
            Kind::Open if self.last == Last::Name => self.put_tight(text, Last::Tight),
            Kind::Open => self.put(text, Last::Tight),
            Kind::OpenBracket => self.put_tight(text, Last::Tight),
            Kind::Close | Kind::CloseBracket => self.put_tight(text, Last::Operand),
            Kind::Comma | Kind::Semicolon => self.put_tight(text, Last::Expecting),
            Kind::Other => self.put(text, Last::Expecting),
        }
        at + 1
    }

    fn word(&mut self, at: usize, text: &str) -> usize {
        let mut buffer = [0_u8; 64];
        let lower = lower(text, &mut buffer);
        let lower = lower.as_deref().unwrap_or(text);
        let next = self.tokens.get(at + 1).map(|token| token.kind);
        let expecting = matches!(self.last, Last::Expecting | Last::Tight);
        match (lower, next) {
            ("null" | "true" | "false" | "default", _) if expecting && self.is_value(at) => {
                self.literal();
                return at + 1;
            }
            (_, Some(Kind::String)) if PREFIXES.contains(&lower) => {
                self.literal();
                self.put_tight("::", Last::Tight);
                self.put(lower, Last::Operand);
                return at + 2;
            }
            ("in", Some(Kind::Open)) | ("array", Some(Kind::OpenBracket)) => self.fold_list(at + 1),
            ("values", Some(Kind::Open)) => self.fold_rows(at + 1),
            _ => {}
        }
        let last = if EXPECTING.binary_search(&lower).is_ok() {
            Last::Expecting
        } else {
            Last::Name
        };
        let last = if lower == "array" { Last::Operand } else { last };
        self.put(lower, last);
        at + 1
    }

    /// Whether the word `null`, `true`, `false` or `default` at `at` is a value: not after `NOT`, `SET` and the like.
    fn is_value(&self, at: usize) -> bool {
        let before = at.checked_sub(1).map(|before| self.tokens[before]);
        !before.is_some_and(|token| {
            token.kind == Kind::Dot
                || ["not", "set", "on", "as", "from", "by"]
                    .iter()
                    .any(|word| token.is_word(self.sql, word))
        })
    }

    /// Whether the operator at `at` is the sign of a number.
    fn is_sign(&self, at: usize) -> bool {
        let text = self.tokens[at].text(self.sql);
        let number = self
            .tokens
            .get(at + 1)
            .is_some_and(|token| token.kind == Kind::Number);
        number
            && matches!(text, "-" | "+")
            && matches!(self.last, Last::Start | Last::Expecting | Last::Tight)
    }

    /// Keeps only the first element of a list of constants that opens at `open`.
    fn fold_list(&mut self, open: usize) {
        let Some((first_end, close)) = self.constants(open) else {
            return;
        };
        if first_end < close {
            self.skips.push((first_end, close));
        }
    }

    /// Keeps only the first of the rows that open at `open`.
    fn fold_rows(&mut self, open: usize) {
        let first = self.closing(open);
        let mut end = first + 1;
        while self.kind(end) == Some(Kind::Comma) && self.kind(end + 1) == Some(Kind::Open) {
            end = self.closing(end + 1) + 1;
        }
        if end > first + 1 {
            self.skips.push((first + 1, end));
        }
    }

    /// The first comma and the end of the list at `open`, if it holds constants alone.
    fn constants(&self, open: usize) -> Option<(usize, usize)> {
        let mut depth = 0_usize;
        let mut first_end = None;
        let mut n_constants = 0;
        for at in open..self.tokens.len() {
            match self.tokens[at].kind {
                Kind::Open | Kind::OpenBracket => depth += 1,
                Kind::Close | Kind::CloseBracket => {
                    depth -= 1;
                    if depth == 0 {
                        return (n_constants > 0).then_some((first_end.unwrap_or(at), at));
                    }
                }
                Kind::Comma if depth == 1 => first_end = first_end.or(Some(at)),
                Kind::String | Kind::Number | Kind::Positional | Kind::Named => n_constants += 1,
                Kind::Comma | Kind::Cast => {}
                Kind::Operator if matches!(self.tokens[at].text(self.sql), "-" | "+") => {}
                Kind::Word if self.is_constant_word(at) => {}
                _ => return None,
            }
        }
        // The text was cut inside the list.
        first_end.map(|first_end| (first_end, self.tokens.len()))
    }

    fn is_constant_word(&self, at: usize) -> bool {
        let mut buffer = [0; KEYWORD_BYTES_MAX];
        let text = tables::lower(self.tokens[at].text(self.sql), &mut buffer);
        self.kind(at - 1) == Some(Kind::Cast)
            || ["null", "true", "false", "default", "row"].contains(&text)
            || PREFIXES.contains(&text) && self.kind(at + 1) == Some(Kind::String)
    }

    /// The parenthesis that closes the one at `open`, or the end.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (at, token) in self.tokens.iter().enumerate().skip(open) {
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close if depth == 1 => return at,
                Kind::Close => depth -= 1,
                _ => {}
            }
        }
        self.tokens.len()
    }

    fn kind(&self, at: usize) -> Option<Kind> {
        self.tokens.get(at).map(|token| token.kind)
    }

    fn literal(&mut self) {
        self.n_literals += 1;
        let mut digits = [0_u8; 11];
        let mut at = digits.len();
        let mut n = self.n_literals;
        while n > 0 {
            at -= 1;
            digits[at] = b'0' + (n % 10) as u8;
            n /= 10;
        }
        at -= 1;
        digits[at] = b'$';
        let text = std::str::from_utf8(&digits[at..]).expect("a dollar and digits are ASCII");
        self.put(text, Last::Operand);
    }

    fn put(&mut self, text: &str, last: Last) {
        if !matches!(self.last, Last::Start | Last::Tight) {
            self.out.push(' ');
        }
        self.put_tight(text, last);
    }

    fn put_tight(&mut self, text: &str, last: Last) {
        self.out.push_str(text);
        self.last = last;
    }
}

/// The word in lower case, in `buffer` if it fits; none if it is in lower case already.
fn lower<'b>(text: &str, buffer: &'b mut [u8; 64]) -> Option<std::borrow::Cow<'b, str>> {
    if !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    match buffer.get_mut(..text.len()) {
        Some(place) => {
            place.copy_from_slice(text.as_bytes());
            place.make_ascii_lowercase();
            Some(String::from_utf8_lossy(place))
        }
        None => Some(text.to_ascii_lowercase().into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(sql: &str, expected: &str) {
        assert_eq!(&*Shape::of(sql).text, expected, "{sql}");
    }

    #[test]
    fn keywords_after_which_operands_come_are_sorted() {
        assert!(EXPECTING.is_sorted());
    }

    #[test]
    fn literals_become_parameters() {
        check(
            "SELECT * FROM t WHERE a = 1 AND b = 'x'",
            "select * from t where a = $1 and b = $2",
        );
        check(
            "select a from t where b=-5 and c = - 5",
            "select a from t where b = $1 and c = $2",
        );
        check("select a-5, a - -5", "select a - $1, a - $2");
        check(
            "SELECT $1, :name, $$q$$, E'\\'', X'f'",
            "select $1, $2, $3, $4, $5",
        );
        check(
            "SELECT 'a'::date, interval '1 day', 'x'\n'y'",
            "select $1::date, $2::interval, $3",
        );
        check(
            "select true, null where a is null and b = false",
            "select $1, $2 where a is null and b = $3",
        );
        check(
            "SELECT count( * ),count(a) FROM Market . \"Ticks\"",
            "select count(*), count(a) from market.\"Ticks\"",
        );
        check("select x[1], a->>'k', 1.5e3;", "select x[$1], a ->> $2, $3");
        check("SELECT 1 ; ;", "select $1");
    }

    #[test]
    fn lists_of_any_length_are_one() {
        check(
            "select a from t where b in (1, 2, -3) and c = 4",
            "select a from t where b in ($1) and c = $2",
        );
        check(
            "select a where (b, c) IN ((1,'x'),(2,'y'))",
            "select a where (b, c) in (($1, $2))",
        );
        check(
            "select a where b in ($1,$2,null,'x'::text)",
            "select a where b in ($1)",
        );
        check(
            "select a where b = any(array[1,2,3])",
            "select a where b = any (array[$1])",
        );
        check(
            "select a where b in (select c from d where e = 1)",
            "select a where b in (select c from d where e = $1)",
        );
        check(
            "insert into t (a, b) values (1, 'x'), (2, 'y'), (3, 'z') returning a",
            "insert into t(a, b) values ($1, $2) returning a",
        );
        check(
            "insert into t values (1, now()), (2, lower('x'))",
            "insert into t values ($1, now())",
        );
        check("insert into t values (1, 2), (3", "insert into t values ($1, $2)");
    }

    #[test]
    fn comments_case_and_spaces_do_not_matter() {
        let same =
            |a: &str, b: &str| assert_eq!(Shape::of(a).fingerprint, Shape::of(b).fingerprint, "{a} {b}");
        same("SELECT a /* who */ FROM t -- end", "select  A\nfrom T");
        same("select count (*) from t", "select count(*) from t");
        same("select 1;", "select 2");
        same("insert into t values (1)", "insert into t values (2), (3)");
    }

    #[test]
    fn a_long_statement_is_cut_and_still_has_its_shape() {
        let rows = |n: usize| {
            format!(
                "INSERT INTO t (a) VALUES {}",
                vec!["('xxxxxxxxxxxxxxxx')"; n].join(",")
            )
        };
        assert_eq!(
            Shape::of(&rows(10)).fingerprint,
            Shape::of(&rows(100_000)).fingerprint
        );
        let long = format!("select {}", vec!["漢字"; 100_000].join(","));
        assert!(Shape::of(&long).text.len() <= TEXT_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn literals_never_change_the_fingerprint(a in any::<i32>(), b in any::<i32>(), s in "[^\\x00]{0,20}", t in "[^\\x00]{0,20}", n in 1..20_usize) {
            let sql = |number: i32, text: &str, n: usize| {
                let quoted = text.replace('\'', "''");
                let list = vec![number.to_string(); n].join(", ");
                format!("SELECT a, b FROM t WHERE a = {number} AND b = '{quoted}' AND c IN ({list}) LIMIT {}", number.unsigned_abs())
            };
            prop_assert_eq!(Shape::of(&sql(a, &s, 1)).fingerprint, Shape::of(&sql(b, &t, n)).fingerprint);
        }

        #[test]
        fn columns_change_the_fingerprint(a in "[a-z]{3,8}", b in "[a-z]{3,8}") {
            prop_assume!(a != b);
            let sql = |column: &str| format!("SELECT t.{column} FROM t WHERE t.{column} = 1");
            prop_assert_ne!(Shape::of(&sql(&a)).fingerprint, Shape::of(&sql(&b)).fingerprint);
        }

        #[test]
        fn any_text_has_a_shape(sql in any::<String>()) {
            Shape::of(&sql);
        }

        #[test]
        fn any_text_of_sql_words_has_a_shape_that_is_its_own(words in proptest::collection::vec(
            prop::sample::select(vec!["select", "values", "in", "array", "(", ")", "[", "]", ",", "1", "'x'", "-", "::", "null",
                "interval", "a", "from", "with", "as", ".", ";", "$1", ":p", "/*", "*/", "--\n", "$$", "É", "update", "join"]), 0..40)) {
            let sql = words.join(" ");
            let shape = Shape::of(&sql);
            // Normalising a normalised text must end too; it need not be the same.
            Shape::of(&shape.text);
        }
    }
}
