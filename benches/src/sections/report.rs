//! What the sections of a bench found: tables of samples, budgets, notes.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::budget::{Verdict, median};
use crate::error::{Result, Tried};
use crate::report::{Machine, aligned, between_marks, piped, three_digits, verdict_table};

/// Everything that a run found.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    n_rounds: usize,
    section: &'static str,
    tables: Vec<Table>,
    verdicts: Vec<Verdict>,
    notes: Vec<String>,
}

/// One table: who is measured, and what, with the samples of all rounds.
#[derive(Serialize)]
struct Table {
    section: &'static str,
    title: String,
    columns: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    who: String,
    /// The samples, by column.
    cells: Vec<Vec<f64>>,
}

impl Report {
    pub(super) fn new(machine: Machine, n_rounds: usize) -> Self {
        Self {
            machine,
            n_rounds,
            section: "",
            tables: Vec::new(),
            verdicts: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, section: &'static str) {
        self.section = section;
    }

    /// Adds one sample to a cell; tables, rows and columns stand in the order of their first sample.
    pub(crate) fn add(&mut self, table: &str, who: &str, column: &str, sample: f64) {
        let section = self.section;
        let table = find_or(
            &mut self.tables,
            |own| own.title == table && own.section == section,
            || Table {
                section,
                title: table.to_owned(),
                columns: Vec::new(),
                rows: Vec::new(),
            },
        );
        let at = table
            .columns
            .iter()
            .position(|own| own == column)
            .unwrap_or_else(|| {
                table.columns.push(column.to_owned());
                table.columns.len() - 1
            });
        let row = find_or(
            &mut table.rows,
            |own| own.who == who,
            || Row {
                who: who.to_owned(),
                cells: Vec::new(),
            },
        );
        row.cells.resize(row.cells.len().max(at + 1), Vec::new());
        row.cells[at].push(sample);
    }

    /// The samples of a cell of this section.
    pub(crate) fn samples(&self, table: &str, who: &str, column: &str) -> &[f64] {
        let cell = || {
            let table = self
                .tables
                .iter()
                .find(|own| own.title == table && own.section == self.section)?;
            let at = table.columns.iter().position(|own| own == column)?;
            table.rows.iter().find(|row| row.who == who)?.cells.get(at)
        };
        cell().map_or(&[], Vec::as_slice)
    }

    /// The median of a cell of this section; `None` without samples.
    pub(crate) fn median(&self, table: &str, who: &str, column: &str) -> Option<f64> {
        median(self.samples(table, who, column))
    }

    /// The median over the rounds of `who`'s sample divided by `by`'s of the same round.
    pub(crate) fn ratio(&self, table: &str, who: &str, by: &str, column: &str) -> Option<f64> {
        let (own, other) = (self.samples(table, who, column), self.samples(table, by, column));
        let ratios: Vec<f64> = own.iter().zip(other).map(|(own, other)| own / other).collect();
        median(&ratios)
    }

    /// A promise beside what was measured; left out when nothing was.
    pub(crate) fn budget(
        &mut self,
        what: impl Into<String>,
        promised: impl Into<String>,
        measured: Option<f64>,
        is_met: impl FnOnce(f64) -> bool,
    ) {
        if let Some(measured) = measured {
            self.verdicts.push(Verdict {
                what: what.into(),
                budget: promised.into(),
                measured: three_digits(measured),
                is_met: is_met(measured),
            });
        }
    }

    /// Something that a reader of the tables must know.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    pub(super) fn text(&self) -> String {
        self.render("", aligned)
    }

    pub(super) fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("the report has string keys only");
        fs::write(path, text + "\n").tried(format!("write {}", path.display()))
    }

    /// Puts the report between the marks of this bench, if the file has them.
    pub(super) fn write_markdown(&self, path: &Path, bench: &str) -> Result<()> {
        let old = fs::read_to_string(path).unwrap_or_default();
        let table = self.render("**", piped);
        fs::write(path, between_marks(&old, bench, &table)).tried(format!("write {}", path.display()))
    }

    /// The whole report, titles between `marks`.
    fn render(&self, marks: &str, table_text: fn(&[Vec<String>]) -> String) -> String {
        let bullet = if marks.is_empty() { "" } else { "- " };
        let mut text = String::new();
        for line in self.machine.lines(self.n_rounds) {
            line_to(&mut text, &format!("{bullet}{line}"));
        }
        for table in &self.tables {
            line_to(
                &mut text,
                &format!("\n{marks}{}: {}{marks}\n", table.section, table.title),
            );
            text.push_str(&table_text(&table.cells()));
        }
        if !self.verdicts.is_empty() {
            text.push('\n');
            text.push_str(&table_text(&verdict_table(&self.verdicts)));
        }
        for note in &self.notes {
            line_to(&mut text, &format!("\n{note}"));
        }
        text
    }
}

impl Table {
    fn cells(&self) -> Vec<Vec<String>> {
        let head = std::iter::once(String::new()).chain(self.columns.iter().cloned());
        let mut lines = vec![head.collect()];
        for row in &self.rows {
            let cell = |at: usize| {
                row.cells
                    .get(at)
                    .map_or_else(|| "–".to_owned(), |samples| cell(samples))
            };
            let cells = (0..self.columns.len()).map(cell);
            lines.push(std::iter::once(row.who.clone()).chain(cells).collect());
        }
        lines
    }
}

fn cell(samples: &[f64]) -> String {
    let Some(middle) = median(samples) else {
        return "–".into();
    };
    if samples.len() == 1 {
        return three_digits(middle);
    }
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!(
        "{} ({}–{})",
        three_digits(middle),
        three_digits(least),
        three_digits(greatest)
    )
}

fn find_or<T>(items: &mut Vec<T>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
    let at = items.iter().position(is_it).unwrap_or_else(|| {
        items.push(new());
        items.len() - 1
    });
    &mut items[at]
}

fn line_to(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_medians_with_their_range_and_gaps_are_shown() {
        let mut table = Table {
            section: "pool",
            title: "t".into(),
            columns: vec!["a".into(), "b".into()],
            rows: Vec::new(),
        };
        table.rows.push(Row {
            who: "x".into(),
            cells: vec![vec![3.0, 1.0, 2.0]],
        });
        table.rows.push(Row {
            who: "y".into(),
            cells: vec![vec![], vec![40.0]],
        });
        assert_eq!(
            table.cells(),
            [["", "a", "b"], ["x", "2.00 (1.00–3.00)", "–"], ["y", "–", "40.0"]]
        );
    }
}
