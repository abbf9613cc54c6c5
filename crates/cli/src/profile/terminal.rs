//! A report on a terminal: bottlenecks first, then the tables, each cut to what is read at a glance.

use std::fmt::Write as _;

use super::{
    parts::{self, Table},
    report::{Cpu, Finding, Heap, Report},
    words::{self, tell},
};
use crate::words::Lang;

/// Rows of a table; a page has all.
const ROWS_MAX: usize = 8;
/// Columns on the screen for a name or a statement.
const NAME_WIDTH: usize = 72;

/// How words stand out; nothing where nobody looks.
#[derive(Clone, Copy)]
struct Ink {
    is_on: bool,
}

/// The whole report.
pub(super) fn render(lang: Lang, server: &str, report: &Report, is_coloured: bool) -> String {
    let ink = Ink { is_on: is_coloured };
    let mut text = String::new();
    put(
        &mut text,
        &ink.bold(&tell(lang, words::TITLE, &[("server", &server)])),
    );
    for line in head(lang, report) {
        put(&mut text, &line);
    }
    put(&mut text, "");
    put(&mut text, &ink.bold(&tell(lang, words::BOTTLENECKS, &[])));
    if report.findings.is_empty() {
        put(&mut text, &format!("  {}", tell(lang, words::NO_BOTTLENECK, &[])));
    } else {
        put(
            &mut text,
            &ink.faint(&format!("  {}", tell(lang, words::SCORE_ABOUT, &[]))),
        );
    }
    for finding in &report.findings {
        put_finding(&mut text, lang, finding, ink);
    }
    for table in parts::tables(report, lang) {
        put(&mut text, "");
        put_table(&mut text, lang, &table, ink);
    }
    if let Some(Heap::Missing { error }) = &report.memory.heap {
        put(&mut text, &tell(lang, words::HEAP_FAILED, &[("cause", error)]));
    }
    text
}

/// Version, length, cores, samples.
pub(super) fn head(lang: Lang, report: &Report) -> [String; 2] {
    let (seconds, cores) = (parts::digits(report.seconds), parts::digits(report.cores_busy()));
    let first = tell(
        lang,
        words::HEAD,
        &[
            ("version", &report.tidegate),
            ("seconds", &seconds),
            ("cores", &cores),
        ],
    );
    let second = match &report.cpu {
        Cpu::Missing { error } => tell(lang, words::NO_SAMPLES, &[("cause", error)]),
        Cpu::Samples(samples) => tell(
            lang,
            words::SAMPLES,
            &[
                ("samples", &samples.samples),
                ("source", &samples.source),
                ("hertz", &samples.hertz),
                ("lost", &samples.lost),
            ],
        ),
    };
    [first, second]
}

/// The numbers of a finding in one line.
pub(super) fn evidence(lang: Lang, finding: &Finding) -> String {
    let one = |evidence: &super::report::Evidence| {
        let (name, value) = (
            words::of_evidence(lang, &evidence.name),
            parts::digits(evidence.value),
        );
        match evidence.name.ends_with(&evidence.unit) {
            true => format!("{name} {value}"),
            false => format!("{name} {value} {}", words::of_evidence(lang, &evidence.unit)),
        }
    };
    finding.evidence.iter().map(one).collect::<Vec<_>>().join(" · ")
}

fn put_finding(text: &mut String, lang: Lang, finding: &Finding, ink: Ink) {
    let score = ink.by_weight(&format!("{:>4}", finding.score), finding.score);
    put(text, &format!("{score}  {}", cut(finding.title(lang), 110)));
    put(text, &ink.faint(&format!("      {}", evidence(lang, finding))));
    put(text, &format!("      → {}", finding.change(lang)));
}

fn put_table(text: &mut String, lang: Lang, table: &Table, ink: Ink) {
    put(text, &ink.bold(table.title));
    put(text, &ink.faint(&format!("  {}", table.about)));
    let rows: Vec<Vec<String>> = table
        .rows
        .iter()
        .take(ROWS_MAX)
        .map(|row| short(table, row))
        .collect();
    let widths: Vec<usize> = (0..table.columns.len())
        .map(|at| {
            let cells = rows.iter().map(|row| width(&row[at]));
            cells.chain([width(table.columns[at].name)]).max().unwrap_or(0)
        })
        .collect();
    let names: Vec<String> = table
        .columns
        .iter()
        .map(|column| column.name.to_owned())
        .collect();
    put(text, &ink.faint(&line(table, &names, &widths)));
    for row in &rows {
        put(text, &line(table, row, &widths));
    }
    let more = table.rows.len().saturating_sub(ROWS_MAX);
    if more > 0 {
        put(
            text,
            &ink.faint(&format!("  {}", tell(lang, words::MORE, &[("n", &more)]))),
        );
    }
}

fn short(table: &Table, row: &[String]) -> Vec<String> {
    let cell = |(at, text): (usize, &String)| match table.columns[at].is_number {
        true => text.clone(),
        false => cut(text, NAME_WIDTH),
    };
    row.iter().enumerate().map(cell).collect()
}

fn line(table: &Table, cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for ((cell, width_max), column) in cells.iter().zip(widths).zip(&table.columns) {
        let space = " ".repeat(width_max.saturating_sub(width(cell)));
        // Writing to a string does not fail.
        let _ = match column.is_number {
            true => write!(line, "  {space}{cell}"),
            false => write!(line, "  {cell}{space}"),
        };
    }
    line.trim_end().to_owned()
}

/// Columns on the screen: characters of Chinese take two.
fn width(text: &str) -> usize {
    text.chars().map(|c| if c > '\u{2e80}' { 2 } else { 1 }).sum()
}

/// One line of at most so many columns.
fn cut(text: &str, columns: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if width(&text) <= columns {
        return text;
    }
    let (mut short, mut used) = (String::new(), 1);
    for c in text.chars() {
        used += width(c.encode_utf8(&mut [0; 4]));
        if used > columns {
            break;
        }
        short.push(c);
    }
    short + "…"
}

/// A line; what a server sent cannot steer the terminal.
fn put(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

// === impl Ink ===

impl Ink {
    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn by_weight(self, text: &str, score: u32) -> String {
        self.paint(
            match score {
                50.. => "1;31",
                10.. => "1;33",
                _ => "1;32",
            },
            text,
        )
    }

    /// Control characters that came along are shown as spaces.
    fn paint(self, code: &str, text: &str) -> String {
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        match self.is_on {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_by_columns() {
        let check = |text: &str, columns, expected: &str| assert_eq!(cut(text, columns), expected);
        check("short", 5, "short");
        check("a  b\n c", 9, "a b c");
        check("longer", 5, "long…");
        check("函数名称", 8, "函数名称");
        check("函数名称", 6, "函数…");
    }

    #[test]
    fn colours_are_left_out_where_nobody_looks() {
        assert_eq!(Ink { is_on: false }.by_weight("7", 7), "7");
        assert_eq!(Ink { is_on: true }.bold("x\u{1b}y"), "\u{1b}[1mx y\u{1b}[0m");
    }
}
