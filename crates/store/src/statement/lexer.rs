//! Cuts SQL into tokens: quotes, comments, dollar quotes, parameters, casts. Never fails: what it cannot read is one
//! token more, and what is not closed reaches to the end.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword or a plain identifier.
    Word,
    /// An identifier in double quotes, `U&"…"` included.
    Quoted,
    /// A string of any form: `'…'`, `E'…'`, `B'…'`, `X'…'`, `N'…'`, `U&'…'`, `$tag$…$tag$`.
    String,
    /// A number without its sign.
    Number,
    /// `$1`
    Positional,
    /// `:name`, colon included.
    Named,
    /// A run of operator characters, cut as PostgreSQL cuts it.
    Operator,
    /// `::`
    Cast,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `[`
    OpenBracket,
    /// `]`
    CloseBracket,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// `.`
    Dot,
    /// A lone colon, `:=`, or a character that SQL does not know.
    Other,
}

/// A piece of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its first byte.
    pub(crate) start: usize,
    /// The byte after its last.
    pub(crate) end: usize,
}

/// Walks over the tokens of a text; white space and comments are left out.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
}

impl Token {
    /// Its text. Tokens begin and end at ASCII characters or at the ends of the text, so this never splits a character.
    pub(crate) fn text<'a>(&self, sql: &'a str) -> &'a str {
        sql.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether it is this word, whatever its case.
    pub(crate) fn is_word(&self, sql: &str, word: &str) -> bool {
        self.kind == Kind::Word && self.text(sql).eq_ignore_ascii_case(word)
    }
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning of `sql`.
    pub(crate) const fn new(sql: &'a [u8]) -> Self {
        Self { sql, at: 0 }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.sql.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_blank(&mut self) {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C, _) => self.at += 1,
                (b'-', b'-') => {
                    let rest = &self.sql[self.at..];
                    self.at += memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                }
                (b'/', b'*') => self.skip_comment(),
                _ => return,
            }
        }
    }

    /// Comments nest in PostgreSQL.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.sql.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    /// Moves behind the closing `quote`; a doubled one is part of the text, and so is one after a backslash if those escape.
    fn quoted(&mut self, quote: u8, backslash: bool) {
        self.at += 1;
        while self.at < self.sql.len() {
            let byte = self.peek(0);
            if byte == quote && self.peek(1) == quote || backslash && byte == b'\\' {
                self.at += 2;
                continue;
            }
            self.at += 1;
            if byte == quote {
                return;
            }
        }
        self.at = self.sql.len();
    }

    /// A word, or the string or identifier that its first letter announces.
    fn word(&mut self) -> Kind {
        match (self.peek(0) | 0x20, self.peek(1), self.peek(2)) {
            (prefix @ (b'e' | b'b' | b'x' | b'n'), b'\'', _) => {
                self.at += 1;
                self.quoted(b'\'', prefix == b'e');
                return Kind::String;
            }
            (b'u', b'&', quote @ (b'\'' | b'"')) => {
                self.at += 2;
                self.quoted(quote, false);
                return if quote == b'"' { Kind::Quoted } else { Kind::String };
            }
            _ => {}
        }
        while is_word(self.peek(0)) && self.at < self.sql.len() {
            self.at += 1;
        }
        Kind::Word
    }

    /// Digits, point, exponent, `0x`, and `_` between digits. A point that ends a range `1..2` is left.
    fn number(&mut self) -> Kind {
        if self.peek(0) == b'0'
            && matches!(self.peek(1) | 0x20, b'x' | b'o' | b'b')
            && self.peek(2).is_ascii_hexdigit()
        {
            self.at += 2;
            while self.peek(0).is_ascii_hexdigit() || self.peek(0) == b'_' {
                self.at += 1;
            }
            return Kind::Number;
        }
        self.digits();
        if self.peek(0) == b'.' && self.peek(1) != b'.' {
            self.at += 1;
            self.digits();
        }
        let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
        if self.peek(0) | 0x20 == b'e' && self.peek(1 + sign).is_ascii_digit() {
            self.at += 1 + sign;
            self.digits();
        }
        Kind::Number
    }

    fn digits(&mut self) {
        while self.peek(0).is_ascii_digit() || self.peek(0) == b'_' && self.peek(1).is_ascii_digit() {
            self.at += 1;
        }
    }

    /// `$1`, `$tag$…$tag$`, or a stray dollar.
    fn dollar(&mut self) -> Kind {
        if self.peek(1).is_ascii_digit() {
            self.at += 1;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
            return Kind::Positional;
        }
        let mut end = self.at + 1;
        while self
            .sql
            .get(end)
            .is_some_and(|&byte| is_word(byte) && byte != b'$')
        {
            end += 1;
        }
        if self.sql.get(end) != Some(&b'$') {
            self.at += 1;
            return Kind::Other;
        }
        let tag = &self.sql[self.at..=end];
        let body = &self.sql[end + 1..];
        self.at = memchr::memmem::find(body, tag).map_or(self.sql.len(), |found| end + 1 + found + tag.len());
        Kind::String
    }

    fn colon(&mut self) -> Kind {
        match self.peek(1) {
            b':' => {
                self.at += 2;
                Kind::Cast
            }
            b'=' => {
                self.at += 2;
                Kind::Other
            }
            byte if is_word_start(byte) => {
                self.at += 1;
                while is_word(self.peek(0)) && self.peek(0) != b'$' {
                    self.at += 1;
                }
                Kind::Named
            }
            _ => {
                self.at += 1;
                Kind::Other
            }
        }
    }

    /// The longest run of operator characters that starts no comment. It ends in a sign only if it also holds a character
    /// that no standard operator has: so `=-1` is `=` and `-1`, as in PostgreSQL's own lexer.
    fn operator(&mut self) -> Kind {
        let start = self.at;
        while is_operator(self.peek(0))
            && !matches!((self.peek(0), self.peek(1)), (b'-', b'-') | (b'/', b'*'))
        {
            self.at += 1;
        }
        let run = &self.sql[start..self.at];
        let special = run.iter().any(|byte| {
            matches!(
                byte,
                b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%'
            )
        });
        while !special && self.at > start + 1 && matches!(self.sql[self.at - 1], b'+' | b'-') {
            self.at -= 1;
        }
        Kind::Operator
    }

    fn single(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let start = self.at;
        if start >= self.sql.len() {
            return None;
        }
        let kind = match self.peek(0) {
            b'\'' => {
                self.quoted(b'\'', false);
                Kind::String
            }
            b'"' => {
                self.quoted(b'"', false);
                Kind::Quoted
            }
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_ascii_digit() => self.number(),
            b'$' => self.dollar(),
            b':' => self.colon(),
            b'(' => self.single(Kind::Open),
            b')' => self.single(Kind::Close),
            b'[' => self.single(Kind::OpenBracket),
            b']' => self.single(Kind::CloseBracket),
            b',' => self.single(Kind::Comma),
            b';' => self.single(Kind::Semicolon),
            b'.' => self.single(Kind::Dot),
            byte if is_word_start(byte) => self.word(),
            byte if is_operator(byte) => self.operator(),
            _ => self.single(Kind::Other),
        };
        Some(Token {
            kind,
            start,
            end: self.at.min(self.sql.len()),
        })
    }
}

const fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn is_word(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

const fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'+' | b'-'
            | b'*'
            | b'/'
            | b'<'
            | b'>'
            | b'='
            | b'~'
            | b'!'
            | b'@'
            | b'#'
            | b'%'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(sql: &str, expected: &[(Kind, &str)]) {
        let tokens: Vec<_> = Lexer::new(sql.as_bytes())
            .map(|token| (token.kind, token.text(sql)))
            .collect();
        assert_eq!(tokens, expected, "{sql}");
    }

    #[test]
    fn quotes_of_every_form_are_one_token() {
        check(
            "'it''s' E'it\\'s' e'\\\\'",
            &[
                (Kind::String, "'it''s'"),
                (Kind::String, "E'it\\'s'"),
                (Kind::String, "e'\\\\'"),
            ],
        );
        check(
            "$$a'b$$ $x$ $$ $x$ B'01' X'ff' N'n' U&'d'",
            &[
                (Kind::String, "$$a'b$$"),
                (Kind::String, "$x$ $$ $x$"),
                (Kind::String, "B'01'"),
                (Kind::String, "X'ff'"),
                (Kind::String, "N'n'"),
                (Kind::String, "U&'d'"),
            ],
        );
        check(
            "\"a \"\"b\" U&\"x\"",
            &[(Kind::Quoted, "\"a \"\"b\""), (Kind::Quoted, "U&\"x\"")],
        );
        check("'\\' x", &[(Kind::String, "'\\'"), (Kind::Word, "x")]);
        check("'open", &[(Kind::String, "'open")]);
        check("$a$ open", &[(Kind::String, "$a$ open")]);
    }

    #[test]
    fn comments_are_left_out_and_nest() {
        check(
            "a -- b\nc /* d /* e */ f */ g",
            &[(Kind::Word, "a"), (Kind::Word, "c"), (Kind::Word, "g")],
        );
        check("a--b", &[(Kind::Word, "a")]);
        check("/* open", &[]);
        check(
            "a */* x */ b",
            &[(Kind::Word, "a"), (Kind::Operator, "*"), (Kind::Word, "b")],
        );
    }

    #[test]
    fn parameters_casts_and_assignments_are_told_apart() {
        check(
            ":a::int := $12",
            &[
                (Kind::Named, ":a"),
                (Kind::Cast, "::"),
                (Kind::Word, "int"),
                (Kind::Other, ":="),
                (Kind::Positional, "$12"),
            ],
        );
        check(
            "x[1:2] a$1",
            &[
                (Kind::Word, "x"),
                (Kind::OpenBracket, "["),
                (Kind::Number, "1"),
                (Kind::Other, ":"),
                (Kind::Number, "2"),
                (Kind::CloseBracket, "]"),
                (Kind::Word, "a$1"),
            ],
        );
    }

    #[test]
    fn numbers_and_operators_are_cut_as_the_server_cuts_them() {
        check(
            "1 1.5 .5 1e-3 0xFF 1_000 1..2",
            &[
                (Kind::Number, "1"),
                (Kind::Number, "1.5"),
                (Kind::Number, ".5"),
                (Kind::Number, "1e-3"),
                (Kind::Number, "0xFF"),
                (Kind::Number, "1_000"),
                (Kind::Number, "1"),
                (Kind::Dot, "."),
                (Kind::Number, ".2"),
            ],
        );
        check(
            "a=-1 b->>c @- d",
            &[
                (Kind::Word, "a"),
                (Kind::Operator, "="),
                (Kind::Operator, "-"),
                (Kind::Number, "1"),
                (Kind::Word, "b"),
                (Kind::Operator, "->>"),
                (Kind::Word, "c"),
                (Kind::Operator, "@-"),
                (Kind::Word, "d"),
            ],
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end_and_tokens_never_overlap(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut end = 0;
            for token in Lexer::new(&bytes) {
                prop_assert!(token.start >= end && token.end > token.start && token.end <= bytes.len());
                end = token.end;
            }
        }

        #[test]
        fn any_text_of_sql_characters_is_cut_at_characters(sql in "[a-z0-9'\"$:;/*\\-\\\\ \n.,()\\[\\]eEuU&é漢]{0,120}") {
            for token in Lexer::new(sql.as_bytes()) {
                prop_assert!(sql.get(token.start..token.end).is_some(), "{token:?}");
            }
        }
    }
}
