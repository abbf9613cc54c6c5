//! Rust text with comments and literals blanked out, so that simple searches find code only.

/// `text` with every comment and the inside of every literal replaced by spaces; lines stay where they are.
pub(super) fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut blanked = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let length = literal(&chars, at);
        if length == 0 {
            blanked.push(chars[at]);
            at += 1;
            continue;
        }
        let inside = &chars[at..at + length];
        blanked.extend(inside.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at += length;
    }
    blanked
}

/// How many characters the comment or literal that begins at `at` takes; 0 if none does.
fn literal(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let after_word = at > 0 && is_word(chars[at - 1]);
    match (rest[0], rest.get(1)) {
        ('/', Some('/')) => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ('/', Some('*')) => block_comment(rest),
        ('"', _) => string(rest),
        ('\'', _) => character(rest),
        ('b' | 'c', Some('"')) if !after_word => 1 + string(&rest[1..]),
        ('b' | 'c', Some('r')) if !after_word => match raw_string(&rest[1..]) {
            0 => 0,
            length => 1 + length,
        },
        ('r', _) if !after_word => raw_string(rest),
        _ => 0,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Block comments nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match (rest[at], rest[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#` and so on; 0 for a raw identifier.
fn raw_string(rest: &[char]) -> usize {
    let n_hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + n_hashes) != Some(&'"') {
        return 0;
    }
    let mut at = 2 + n_hashes;
    while at < rest.len() {
        let closing = rest[at + 1..].iter().take(n_hashes);
        if rest[at] == '"' && closing.clone().count() == n_hashes && closing.into_iter().all(|c| *c == '#') {
            return at + 1 + n_hashes;
        }
        at += 1;
    }
    rest.len()
}

/// A character literal; 0 for a lifetime or a label.
fn character(rest: &[char]) -> usize {
    match (rest.get(1), rest.get(2)) {
        (Some('\\'), Some(_)) => {
            let end = rest[3..].iter().position(|c| *c == '\'');
            end.map_or(rest.len(), |end| end + 4)
        }
        (Some(_), Some('\'')) => 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(code_only(text), expected, "{text}");
    }

    #[test]
    fn comments_are_blank() {
        check("a // b\nc", "a     \nc");
        check("a /* b\n /* c */ d */ e", "a     \n              e");
    }

    #[test]
    fn strings_are_blank() {
        check(r#"f("}", x)"#, "f(   , x)");
        check(r#"f("\"}", x)"#, "f(     , x)");
        check(r##"f(r#"}"}"#, x)"##, "f(        , x)");
        check(r#"f(b"}", br"}", c"}")"#, "f(    ,      ,     )");
    }

    #[test]
    fn characters_are_blank_and_lifetimes_are_not() {
        check("f('}', b'{')", "f(   , b   )");
        check(r"f('\'', '\u{7d}')", "f(    ,         )");
        check("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
        check("'outer: loop {}", "'outer: loop {}");
    }

    #[test]
    fn words_are_not_prefixes() {
        check(r#"bar"}""#, "bar   ");
        check("r#type", "r#type");
    }
}
