//! Rules for one Rust file: its first line, its size, the size of its functions, and what must not be left in it.

use super::{File, Finding, lexer::code_only};

/// Lines of code before the tests.
const FILE_LINES_MAX: usize = 700;
/// From `fn` to its closing brace.
const FN_LINES_MAX: usize = 70;

/// What must not be in any file, and what to do instead.
const MARKS: [(&str, &str); 7] = [
    ("todo!(", "finish it or leave it out"),
    ("unimplemented!(", "finish it or leave it out"),
    ("dbg!(", "left behind"),
    ("#[allow(", "use #[expect(lint, reason = \"…\")]"),
    ("#![allow(", "use #![expect(lint, reason = \"…\")]"),
    ("#[ignore", "a test runs or is deleted"),
    ("unbounded_channel(", "every queue has a limit"),
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let code = code_only(&file.text);
    let lines: Vec<&str> = code.lines().collect();
    let mut findings = Vec::new();
    findings.extend(first_line(file));
    findings.extend(file_size(file, &lines));
    findings.extend(function_sizes(file, &code));
    findings.extend(marks(file, &lines));
    findings.extend(sleeps(file, &lines));
    findings
}

fn first_line(file: &File) -> Option<Finding> {
    let first = file.text.lines().next().unwrap_or_default();
    let says = first
        .strip_prefix("//! ")
        .is_some_and(|sentence| sentence.len() > 2);
    (!says).then(|| Finding::file(&file.path, "line one must say what the file is for: `//! …`"))
}

/// Where the tests of a file begin: the line of `#[cfg(test)]` above a module with a body.
fn tests_begin(lines: &[&str]) -> usize {
    let is_tests = |at: usize| {
        let module = lines[at + 1..]
            .iter()
            .map(|line| line.trim())
            .find(|line| !line.starts_with("#["));
        lines[at].trim() == "#[cfg(test)]"
            && module.is_some_and(|line| line.contains("mod ") && line.ends_with('{'))
    };
    (0..lines.len()).find(|at| is_tests(*at)).unwrap_or(lines.len())
}

fn file_size(file: &File, lines: &[&str]) -> Option<Finding> {
    let body = &lines[..tests_begin(lines)];
    let n_lines = body.iter().filter(|line| !line.trim().is_empty()).count();
    let message = format!("{n_lines} lines of code before the tests; the wall is {FILE_LINES_MAX}");
    (n_lines > FILE_LINES_MAX).then(|| Finding::file(&file.path, message))
}

fn marks(file: &File, lines: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let found = MARKS.iter().filter(|(mark, _)| line.contains(mark));
        findings.extend(found.map(|(mark, advice)| {
            let message = format!("`{mark}`: {advice}");
            Finding {
                path: file.path.clone(),
                line: at + 1,
                message,
            }
        }));
    }
    findings
}

/// No test waits for the wall clock; on tokio's paused clock a sleep takes no time.
fn sleeps(file: &File, lines: &[&str]) -> Vec<Finding> {
    let all_tests = file.path.contains("/tests/") || file.path.ends_with("tests.rs");
    let from = if all_tests { 0 } else { tests_begin(lines) };
    let paused = file.text.contains("start_paused") || file.text.contains("time::pause");
    let sleeps = |line: &str| line.contains("thread::sleep(") || (line.contains("time::sleep(") && !paused);
    let found = lines
        .iter()
        .enumerate()
        .skip(from)
        .filter(|(_, line)| sleeps(line));
    let message = "a test must not sleep: wait for the event, or use the test clock";
    found
        .map(|(at, _)| Finding {
            path: file.path.clone(),
            line: at + 1,
            message: message.into(),
        })
        .collect()
}

// === Functions ===

fn function_sizes(file: &File, code: &str) -> Vec<Finding> {
    let too_long = functions(code)
        .into_iter()
        .filter(|function| function.n_lines > FN_LINES_MAX);
    let finding = |function: Function| {
        let Function { name, line, n_lines } = function;
        let message = format!("fn `{name}` has {n_lines} lines; the wall is {FN_LINES_MAX}");
        Finding {
            path: file.path.clone(),
            line,
            message,
        }
    };
    too_long.map(finding).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    line: usize,
    n_lines: usize,
}

/// Every function with a body in blanked code, nested ones too.
fn functions(code: &str) -> Vec<Function> {
    let bytes = code.as_bytes();
    let starts = code.match_indices("fn ").map(|(at, _)| at);
    let starts = starts.filter(|at| *at == 0 || !is_word(bytes[at - 1]));
    starts.filter_map(|at| function(code, at)).collect()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn function(code: &str, at: usize) -> Option<Function> {
    let name: String = code[at + 3..]
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    let open = body_start(code.as_bytes(), at)?;
    let end = body_end(code.as_bytes(), open)?;
    let n_lines = code[at..end].matches('\n').count();
    let line = code[..at].matches('\n').count() + 1;
    (!name.is_empty()).then_some(Function { name, line, n_lines })
}

/// The brace that opens the body; none for a declaration, which ends in `;`.
fn body_start(bytes: &[u8], from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    None
}

fn body_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0_u32;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{compare, file},
        *,
    };

    fn check_text(path: &str, text: &str, expected: &[&str]) {
        compare(&check(&file(path, text)), expected);
    }

    fn long_fn(n_lines: usize) -> String {
        format!(
            "//! About it.\nfn long() {{\n{}}}\n",
            "    work();\n".repeat(n_lines - 1)
        )
    }

    #[test]
    fn line_one_says_what_the_file_is_for() {
        let expected = ["a.rs: line one must say what the file is for: `//! …`"];
        check_text("a.rs", "//! A queue.\n", &[]);
        check_text("a.rs", "use std::fs;\n", &expected);
        check_text("a.rs", "//!\n//! A queue.\n", &expected);
        check_text("a.rs", "", &expected);
    }

    #[test]
    fn a_long_function_is_found() {
        check_text("a.rs", &long_fn(70), &[]);
        check_text(
            "a.rs",
            &long_fn(71),
            &["a.rs:2: fn `long` has 71 lines; the wall is 70"],
        );
    }

    #[test]
    fn braces_in_literals_and_types_do_not_confuse() {
        let code = "fn a(x: [u8; 3]) -> char { '}' }\ntrait T { fn b(&self); }\nlet f: fn (u8) -> u8 = g;\n";
        let names: Vec<String> = functions(&code_only(code))
            .into_iter()
            .map(|found| found.name)
            .collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_are_free() {
        let body = format!("//! About it.\n{}", "use a;\n// why\n\n".repeat(700));
        check_text("a.rs", &body, &[]);
        let tests = format!("{body}#[cfg(test)]\nmod tests {{\n{}}}\n", "use b;\n".repeat(500));
        check_text("a.rs", &tests, &[]);
        let early = format!(
            "//! About it.\n#[cfg(test)]\nmod tests;\n{}",
            "use a;\n".repeat(701)
        );
        check_text(
            "a.rs",
            &early,
            &["a.rs: 703 lines of code before the tests; the wall is 700"],
        );
    }

    #[test]
    fn what_was_left_behind_is_found() {
        check_text(
            "a.rs",
            "//! About it.\nfn f() { dbg!(1); }\n",
            &["a.rs:2: `dbg!(`: left behind"],
        );
        check_text(
            "a.rs",
            "//! About it.\nfn f() { g(\"dbg!(1)\"); } // dbg!(1)\n",
            &[],
        );
        let expected = ["a.rs:2: `#[allow(`: use #[expect(lint, reason = \"…\")]"];
        check_text(
            "a.rs",
            "//! About it.\n#[allow(dead_code)]\nfn f() {}\n",
            &expected,
        );
    }

    #[test]
    fn tests_do_not_sleep() {
        let body = "//! About it.\nfn f() { thread::sleep(x); }\n";
        let expected = "a test must not sleep: wait for the event, or use the test clock";
        check_text("crates/a/src/b.rs", body, &[]);
        check_text(
            "crates/a/tests/it/b.rs",
            body,
            &[&format!("crates/a/tests/it/b.rs:2: {expected}")],
        );
        let inside = "//! About it.\n#[cfg(test)]\nmod tests {\n    fn f() { tokio::time::sleep(x); }\n}\n";
        check_text("a.rs", inside, &[&format!("a.rs:4: {expected}")]);
        check_text(
            "a.rs",
            &inside.replace("fn f", "#[tokio::test(start_paused = true)] fn f"),
            &[],
        );
    }
}
