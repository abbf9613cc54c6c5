//! The one table of a run: medians with their range, ratios to the floor, budgets met and missed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::budget::{self, Verdict, median};
use crate::error::{Result, Tried};
use crate::measure::{Figures, Plan};
use crate::row::{House, Row};

/// Everything that a run found.
#[derive(Serialize)]
pub(crate) struct Report {
    /// Where and on what it ran.
    pub(crate) machine: Machine,
    /// How much was measured.
    pub(crate) plan: Plan,
    /// The rows in the order of the table.
    pub(crate) rows: Vec<Row>,
    /// The figures of every round.
    pub(crate) rounds: Vec<BTreeMap<Row, Figures>>,
    /// Rows that could not run here, with the reason.
    pub(crate) skipped: Vec<String>,
    /// What went wrong in rows that did run.
    pub(crate) failures: Vec<String>,
}

/// What a reader needs to repeat the run.
#[derive(Serialize)]
pub(crate) struct Machine {
    cpu: String,
    n_cores: usize,
    kernel: String,
    commit: String,
    command: String,
    versions: Vec<String>,
}

#[derive(Clone, Copy)]
enum Unit {
    Micros,
    Millis,
    Kib,
    ThousandPerSecond,
    Times,
}

struct Line {
    label: String,
    key: String,
    unit: Unit,
}

// === impl Machine ===

impl Machine {
    /// Looks at this machine and this repository.
    pub(crate) fn look(house: &House, cores: &[usize]) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let commit = house
            .ask("git", &["rev-parse", "--short=12", "HEAD"])
            .unwrap_or_else(|| "unknown".into());
        let is_changed = house
            .ask("git", &["status", "--porcelain", "-uno"])
            .is_some_and(|text| !text.is_empty());
        let tools = [
            ("rustc", "--version"),
            ("node", "--version"),
            ("python3", "--version"),
            ("go", "version"),
        ];
        let versions = tools.iter().filter_map(|(tool, flag)| {
            let text = house.ask(tool, &[flag])?;
            Some(if *tool == "node" {
                format!("node {text}")
            } else {
                text
            })
        });
        Self {
            cpu: model.unwrap_or("unknown").to_owned(),
            n_cores: cores.len(),
            kernel: kernel.trim().to_owned(),
            commit: if is_changed {
                format!("{commit} with changes")
            } else {
                commit
            },
            command: command_line(),
            versions: versions.collect(),
        }
    }
}

impl Machine {
    /// What stands above the tables of a run.
    pub(crate) fn lines(&self, n_rounds: usize) -> Vec<String> {
        let Self {
            cpu,
            n_cores,
            kernel,
            commit,
            command,
            versions,
        } = self;
        vec![
            format!("Machine: {cpu}, {n_cores} cores, Linux {kernel}"),
            format!("Commit: {commit}; {}", versions.join(", ")),
            format!("Command: `{command}`"),
            format!("{n_rounds} round(s); each cell is the median, with the least and the greatest"),
        ]
    }
}

/// The command without the files it wrote.
fn command_line() -> String {
    let mut command = String::from("cargo run --release -p tidegate-benches --");
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" | "--markdown" => drop(arguments.next()),
            text if text.starts_with("--json=") || text.starts_with("--markdown=") => {}
            text => write!(command, " {text}").expect("a String takes any text"),
        }
    }
    command
}

// === impl Report ===

impl Report {
    /// Takes in one round, with the ratios that need only this round.
    pub(crate) fn add(&mut self, mut round: BTreeMap<Row, Figures>) {
        let floor = round.get(&Row::Floor).cloned().unwrap_or_default();
        for figures in round.values_mut() {
            let against_floor: Vec<(String, f64)> = figures
                .iter()
                .filter(|(key, _)| key.starts_with("cpu_") || *key == "lone_p50")
                .filter_map(|(key, value)| Some((format!("floor_{key}"), value / floor.get(key)?)))
                .collect();
            figures.extend(against_floor);
            if let (Some(plain), Some(deflated)) = (figures.get("cpu_json"), figures.get("cpu_deflated")) {
                let ratio = deflated / plain;
                figures.insert("deflated_ratio".into(), ratio);
            }
        }
        self.rounds.push(round);
    }

    /// One figure of a row in every round that has it.
    pub(crate) fn values(&self, row: Row, key: &str) -> Vec<f64> {
        self.rounds
            .iter()
            .filter_map(|round| round.get(&row)?.get(key).copied())
            .collect()
    }

    /// One figure of a row divided by the same of another, round by round.
    pub(crate) fn ratios(&self, row: Row, by: Row, key: &str) -> Vec<f64> {
        let ratio =
            |round: &BTreeMap<Row, Figures>| Some(round.get(&row)?.get(key)? / round.get(&by)?.get(key)?);
        self.rounds.iter().filter_map(ratio).collect()
    }

    /// The table, the budgets and the notes, for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = self.machine_lines().join("\n");
        text.push_str("\n\n");
        text.push_str(&aligned(&self.table()));
        let verdicts = self.verdicts();
        if !verdicts.is_empty() {
            text.push('\n');
            text.push_str(&aligned(&verdict_table(&verdicts)));
        }
        for note in self.notes() {
            writeln!(text, "\n{note}").expect("a String takes any text");
        }
        text
    }

    /// The same in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for line in self.machine_lines() {
            writeln!(text, "- {line}").expect("a String takes any text");
        }
        text.push('\n');
        text.push_str(&piped(&self.table()));
        let verdicts = self.verdicts();
        if !verdicts.is_empty() {
            text.push('\n');
            text.push_str(&piped(&verdict_table(&verdicts)));
        }
        for note in self.notes() {
            writeln!(text, "\n{note}").expect("a String takes any text");
        }
        text
    }

    fn machine_lines(&self) -> Vec<String> {
        self.machine.lines(self.rounds.len())
    }

    fn lines(&self) -> Vec<Line> {
        let plan = &self.plan;
        let mut lines = Vec::new();
        let mut line = |label: String, key: String, unit: Unit| lines.push(Line { label, key, unit });
        for flight in plan.flights {
            line(
                format!("CPU per delivery, {flight} in flight, µs"),
                format!("cpu_{flight}"),
                Unit::Micros,
            );
            line(
                "… against the floor".into(),
                format!("floor_cpu_{flight}"),
                Unit::Times,
            );
        }
        for flight in plan.flights {
            let label = format!("thousand deliveries/s, {flight} in flight");
            line(label, format!("rate_{flight}"), Unit::ThousandPerSecond);
        }
        let json = format!("CPU per delivery, 1 KB JSON, {} in flight, µs", plan.json_flight);
        line(json, "cpu_json".into(), Unit::Micros);
        line("… deflated, µs".into(), "cpu_deflated".into(), Unit::Micros);
        line("lone message P50, µs".into(), "lone_p50".into(), Unit::Micros);
        line(
            "… against the floor's echo".into(),
            "floor_lone_p50".into(),
            Unit::Times,
        );
        line("lone message P99, µs".into(), "lone_p99".into(), Unit::Micros);
        let pairs = [
            (format!("{:.0} deliveries/s", plan.open_rate), "open"),
            (
                format!("half of saturation, {} subscribers,", plan.n_half),
                "half",
            ),
            (format!("full load, {} in flight,", plan.flights[2]), "full"),
        ];
        for (label, key) in pairs {
            line(format!("{label} P50, ms"), format!("{key}_p50"), Unit::Millis);
            line(format!("{label} P99, ms"), format!("{key}_p99"), Unit::Millis);
        }
        line(
            format!("one publish to {} subscribers, ms", plan.n_wide),
            "wide".into(),
            Unit::Millis,
        );
        for n_idle in plan.n_idle {
            let label = format!("RSS per idle connection at {n_idle}, KiB");
            line(label, format!("rss_{n_idle}"), Unit::Kib);
        }
        lines
    }

    fn table(&self) -> Vec<Vec<String>> {
        let measured: Vec<Row> = self
            .rows
            .iter()
            .copied()
            .filter(|row| self.rounds.iter().any(|round| round.contains_key(row)))
            .collect();
        let title = format!(
            "{} subscribers, {} B frames",
            self.plan.n_subscribers, self.plan.frame_bytes
        );
        let mut table = vec![
            std::iter::once(title)
                .chain(measured.iter().map(|row| row.title().into()))
                .collect(),
        ];
        for line in self.lines() {
            let cells = measured
                .iter()
                .map(|&row| cell(&self.values(row, &line.key), line.unit));
            let cells: Vec<String> = cells.collect();
            if cells.iter().any(|cell| cell != "–") {
                table.push(std::iter::once(line.label).chain(cells).collect());
            }
        }
        table
    }

    fn verdicts(&self) -> Vec<Verdict> {
        budget::all(&self.plan)
            .iter()
            .filter_map(|budget| budget.judge(self))
            .collect()
    }

    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self
            .skipped
            .iter()
            .map(|text| format!("Not measured: {text}."))
            .collect();
        notes.extend(self.failures.iter().map(|text| format!("Failed: {text}.")));
        for &row in &self.rows {
            let wrong: f64 = self.values(row, "reordered").iter().sum();
            let checked: f64 = self.values(row, "reordered_of").iter().sum();
            if wrong > 0.0 {
                let title = row.title();
                notes.push(format!(
                    "{title} delivered {wrong} of {checked} checked messages out of order."
                ));
            }
        }
        notes
    }

    /// Writes every figure of every round.
    pub(crate) fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("the report has string keys only");
        fs::write(path, text + "\n").tried(format!("write {}", path.display()))
    }

    /// Writes the table between the two marks of an existing document, or into a new file.
    pub(crate) fn write_markdown(&self, path: &Path) -> Result<()> {
        let old = fs::read_to_string(path).unwrap_or_default();
        fs::write(path, between_marks(&old, "fanout", &self.markdown()))
            .tried(format!("write {}", path.display()))
    }
}

/// Puts `table` between the marks of this bench, or at the end of a document without them.
pub(crate) fn between_marks(old: &str, bench: &str, table: &str) -> String {
    let begin = format!("<!-- begin: bench {bench} -->");
    let end = format!("<!-- end: bench {bench} -->");
    let parts = old
        .split_once(&begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = parts.unwrap_or((old, "\n"));
    format!("{before}{begin}\n{table}\n{end}{after}")
}

pub(crate) fn verdict_table(verdicts: &[Verdict]) -> Vec<Vec<String>> {
    let head = ["budget of Tidegate", "promised", "measured", ""]
        .map(String::from)
        .to_vec();
    let rest = verdicts.iter().map(|verdict| {
        let word = if verdict.is_met { "met" } else { "missed" };
        vec![
            verdict.what.clone(),
            verdict.budget.clone(),
            verdict.measured.clone(),
            word.into(),
        ]
    });
    std::iter::once(head).chain(rest).collect()
}

fn cell(values: &[f64], unit: Unit) -> String {
    let scale = match unit {
        Unit::Micros | Unit::ThousandPerSecond => 1e3,
        Unit::Millis => 1e6,
        Unit::Kib => 1024.0,
        Unit::Times => 1.0,
    };
    let Some(middle) = median(values) else {
        return "–".into();
    };
    let show = |value: f64| three_digits(value / scale);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let times = if matches!(unit, Unit::Times) { "×" } else { "" };
    match values.len() {
        1 => format!("{}{times}", show(middle)),
        _ => format!("{}{times} ({}–{})", show(middle), show(least), show(greatest)),
    }
}

pub(crate) fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Columns padded with blanks, the first to the left.
pub(crate) fn aligned(table: &[Vec<String>]) -> String {
    let n_columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        table
            .iter()
            .filter_map(|line| line.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..n_columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in table {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                if column == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

pub(crate) fn piped(table: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, line) in table.iter().enumerate() {
        writeln!(text, "| {} |", line.join(" | ")).expect("a String takes any text");
        if index == 0 {
            let rule = std::iter::once("---").chain(std::iter::repeat_n("--:", line.len() - 1));
            writeln!(text, "|{}|", rule.collect::<Vec<_>>().join("|")).expect("a String takes any text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[f64], unit: Unit, expected: &str) {
        assert_eq!(cell(values, unit), expected);
    }

    #[test]
    fn cells_show_the_median_and_the_range() {
        check(&[], Unit::Micros, "–");
        check(&[5_213.0], Unit::Micros, "5.21");
        check(&[213.0, 190.0, 240.0], Unit::Micros, "0.213 (0.190–0.240)");
        check(&[200_400.0, 180_000.0], Unit::ThousandPerSecond, "190 (180–200)");
        check(&[1.25], Unit::Times, "1.25×");
        check(&[24_576.0], Unit::Kib, "24.0");
    }

    #[test]
    fn only_the_part_between_the_marks_is_replaced() {
        let once = between_marks("# Speed\n", "x", "A\n");
        assert_eq!(
            between_marks(&format!("{once}tail\n"), "x", "B\n"),
            "# Speed\n<!-- begin: bench x -->\nB\n\n<!-- end: bench x -->\ntail\n"
        );
    }

    #[test]
    fn columns_line_up() {
        let table = vec![vec!["µs".into(), "a".into()], vec!["n".into(), "100".into()]];
        assert_eq!(aligned(&table), "µs    a\nn   100\n");
        assert_eq!(piped(&table), "| µs | a |\n|---|--:|\n| n | 100 |\n");
    }
}
