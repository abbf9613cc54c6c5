//! Rows into PostgreSQL: our COPY and our feeds beside psql doing the same, and beside Python's usual ways.

mod feeds;
mod psql;
mod python;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use self::feeds::Subject;
use self::psql::Psql;
use super::{Options, Report, cluster};
use crate::error::{Error, Result, Tried};
use crate::row::House;

const WHOLE: &str = "all rows in one transaction, no index";
const PLAIN: &str = "feed without a key";
const INDEXED: &str = "feed without a key, table with an index";
const KEYED: &str = "feed with a key, conflicts ignored";
const SUMMED: &str = "feed with a key and a roll-up by hour";
const PYTHON: &str = "what is used in Python, 1,000 rows a commit, no index";
const RATE: &str = "thousand rows/s";

/// Rows of a commit that are measured.
const COMMITS: [u64; 2] = [1_000, 10_000];

/// What everybody stores: the files for psql, the requests for us.
struct Data {
    folder: PathBuf,
    n_rows: u64,
}

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let n_rows = if options.quick { 20_000 } else { 200_000 };
    let cluster = cluster()?;
    let url = cluster.create_database("ingest").map_err(super::from_cluster)?;
    let house = House::new();
    let psql = Psql::new(&url)?;
    let data = Data::write(house.scratch()?.join("ingest"), n_rows, &psql)?;
    let python = python::find(&house, report);
    for number in 1..=options.n_rounds() {
        eprintln!("ingest: round {number} of {}", options.n_rounds());
        whole(&url, &psql, &data, report)?;
        for commit in COMMITS {
            plain((&url, PLAIN, ""), &psql, &data, commit, report)?;
            let index = "CREATE INDEX ON ticks (symbol, at)";
            plain((&url, INDEXED, index), &psql, &data, commit, report)?;
            keyed((&url, KEYED, false), &psql, &data, commit, report)?;
            keyed((&url, SUMMED, true), &psql, &data, commit, report)?;
        }
        if let Some(python) = &python {
            for way in python::WAYS {
                psql.run(psql::TABLE)?;
                let n_some = n_rows / 10;
                let seconds = python.run(way, &url, n_some, 1_000)?;
                report.add(PYTHON, way, RATE, n_some as f64 / seconds / 1e3);
            }
            psql.run(psql::TABLE)?;
            let subject = Subject::plain(&url, 1_000);
            let took = runtime()?.block_on(subject.send(n_rows, 1_000, 1))?;
            add(report, PYTHON, "Tidegate feed", n_rows, took);
        }
    }
    budgets(report);
    drop(cluster);
    Ok(())
}

fn whole(url: &str, psql: &Psql, data: &Data, report: &mut Report) -> Result<()> {
    for (who, file, format) in [
        ("psql \\copy csv", "all.csv", "csv"),
        ("psql \\copy binary", "all.bin", "binary"),
    ] {
        psql.run(psql::TABLE)?;
        let took = psql.timed(&psql::copy("ticks", &data.folder.join(file), format))?;
        add(report, WHOLE, who, data.n_rows, took);
    }
    psql.run(psql::TABLE)?;
    let took = runtime()?.block_on(feeds::copy(url, data.n_rows))?;
    add(report, WHOLE, "Tidegate COPY", data.n_rows, took);
    psql.check(data.n_rows)
}

fn plain(
    (url, table, index): (&str, &str, &str),
    psql: &Psql,
    data: &Data,
    commit: u64,
    report: &mut Report,
) -> Result<()> {
    psql.run(&format!("{};{index}", psql::TABLE))?;
    let took = psql.timed(&psql::plain(&data.pieces(commit)))?;
    add(
        report,
        table,
        &format!("psql \\copy binary, {commit} a commit"),
        data.n_rows,
        took,
    );
    psql.run(&format!("{};{index}", psql::TABLE))?;
    let subject = Subject::plain(url, commit);
    // One request at a time by statements of arrays; two at a time where one is read while the other is stored.
    let took = runtime()?.block_on(subject.send(data.n_rows, commit, 2))?;
    add(
        report,
        table,
        &format!("Tidegate feed, {commit} a commit"),
        data.n_rows,
        took,
    );
    psql.check(data.n_rows)
}

fn keyed(
    (url, table, is_summed): (&str, &str, bool),
    psql: &Psql,
    data: &Data,
    commit: u64,
    report: &mut Report,
) -> Result<()> {
    let subject = Subject::keyed(url, commit, is_summed);
    let made = format!("{};{};{}", psql::TABLE, psql::KEY, subject.rollup_tables());
    psql.run(&made)?;
    let took = psql.timed(&psql::keyed(&data.pieces(commit), &subject.rollup_steps()))?;
    add(
        report,
        table,
        &format!("psql, the same steps, {commit} a commit"),
        data.n_rows,
        took,
    );
    psql.run(&made)?;
    let took = runtime()?.block_on(subject.send(data.n_rows, commit, 2))?;
    add(
        report,
        table,
        &format!("Tidegate feed, {commit} a commit"),
        data.n_rows,
        took,
    );
    psql.check(data.n_rows)
}

fn add(report: &mut Report, table: &str, who: &str, n_rows: u64, took: Duration) {
    report.add(table, who, RATE, n_rows as f64 / took.as_secs_f64() / 1e3);
}

fn budgets(report: &mut Report) {
    let binary = "psql \\copy binary";
    let raw = report.ratio(WHOLE, "Tidegate COPY", binary, RATE);
    report.budget("raw COPY against psql \\copy binary", "≥ 0.95×", raw, |ratio| {
        ratio >= 0.95
    });
    let who = "Tidegate feed, 10000 a commit";
    let by = "psql \\copy binary, 10000 a commit";
    let feed = report.ratio(PLAIN, who, by, RATE);
    report.budget(
        "feed without a key, 10,000 rows a commit",
        "≥ 0.6×",
        feed,
        |ratio| ratio >= 0.6,
    );
    let steps = "psql, the same steps, 10000 a commit";
    let keyed = report.ratio(KEYED, who, steps, RATE);
    report.budget("feed with a key, the same steps", "≥ 0.9×", keyed, |ratio| {
        ratio >= 0.9
    });
    let core = report.ratio(PYTHON, "Tidegate feed", python::SQLALCHEMY, RATE);
    report.budget("feed against SQLAlchemy Core", "≥ 10×", core, |ratio| {
        ratio >= 10.0
    });
}

fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .tried("start a runtime")
}

// === Data ===

/// One row as JSON, and as CSV.
pub(super) fn json_row(id: u64, text: &mut String) {
    let (symbol, second, price) = figures(id);
    let _ = write!(
        text,
        "{{\"id\":{id},\"symbol\":\"{symbol:06}\",\"at\":\"2024-03-0{}T{:02}:{:02}:{:02}Z\",\"price\":{price},\"volume\":{}}}",
        1 + second / 86_400 % 9,
        second / 3_600 % 24,
        second / 60 % 60,
        second % 60,
        id % 977
    );
}

/// Symbol, second and price of a row.
fn figures(id: u64) -> (u64, u64, f64) {
    (
        600_000 + id * 7 % 300,
        id / 20,
        10.0 + (id % 1_000) as f64 / 100.0,
    )
}

impl Data {
    /// Writes what psql reads: all rows as CSV and binary, and pieces of each size of a commit.
    fn write(folder: PathBuf, n_rows: u64, psql: &Psql) -> Result<Self> {
        std::fs::create_dir_all(&folder).tried(format!("create {}", folder.display()))?;
        let mut csv = String::new();
        for id in 0..n_rows {
            let (symbol, second, price) = figures(id);
            let _ = writeln!(
                csv,
                "{id},{symbol:06},2024-03-0{} {:02}:{:02}:{:02}+00,{price},{}",
                1 + second / 86_400 % 9,
                second / 3_600 % 24,
                second / 60 % 60,
                second % 60,
                id % 977
            );
        }
        let path = folder.join("all.csv");
        std::fs::write(&path, csv).tried(format!("write {}", path.display()))?;
        psql.run(psql::TABLE)?;
        psql.run(&psql::copy("ticks", &path, "csv"))?;
        let data = Self { folder, n_rows };
        let mut script = psql::unload("ticks", &data.folder.join("all.bin"));
        for commit in COMMITS {
            for (at, path) in data.pieces(commit).iter().enumerate() {
                let (first, last) = (at as u64 * commit, (at as u64 + 1) * commit);
                let rows = format!("(SELECT * FROM ticks WHERE id >= {first} AND id < {last} ORDER BY id)");
                script += &psql::unload(&rows, path);
            }
        }
        psql.run(&script)?;
        Ok(data)
    }

    fn pieces(&self, commit: u64) -> Vec<PathBuf> {
        let name = |at| self.folder.join(format!("piece-{commit}-{at}.bin"));
        (0..self.n_rows / commit).map(name).collect()
    }
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::Server(format!("{what}: {error}"))
}

/// Runs something and says how long it took.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let since = Instant::now();
    let done = work()?;
    Ok((done, since.elapsed()))
}
