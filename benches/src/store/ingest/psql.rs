//! psql doing the same: `\copy` from files, and the steps of a feed as a script.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{failed, quoted, timed};
use crate::error::{Result, Tried};

/// Makes the table anew.
pub(super) const TABLE: &str = "DROP TABLE IF EXISTS ticks; \
     CREATE TABLE ticks (id int8 NOT NULL, symbol text NOT NULL, at timestamptz NOT NULL, price float8, volume int8)";
/// Gives it its key.
pub(super) const KEY: &str = "ALTER TABLE ticks ADD PRIMARY KEY (id)";
const STAGE: &str = "CREATE TEMPORARY TABLE stage (id int8, symbol text, at timestamptz, price float8, volume int8) \
     ON COMMIT DELETE ROWS;\nCREATE SCHEMA IF NOT EXISTS tidegate;\nCREATE TABLE IF NOT EXISTS bench_claims \
     (principal text, feed text, id text, chunk int4, hash bytea NOT NULL, outcome jsonb, \
     at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (principal, feed, id, chunk));\nTRUNCATE bench_claims;\n";

/// psql on one database.
pub(super) struct Psql {
    url: String,
    /// What starting it costs.
    start: Duration,
}

impl Psql {
    pub(super) fn new(url: &str) -> Result<Self> {
        let mut psql = Self {
            url: url.to_owned(),
            start: Duration::ZERO,
        };
        let starts: Result<Vec<Duration>> = (0..5).map(|_| psql.timed("SELECT 1;")).collect();
        psql.start = starts?.into_iter().min().unwrap_or_default();
        Ok(psql)
    }

    /// Runs a script.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        let mut child = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d"])
            .arg(&self.url)
            .env("PGOPTIONS", "-c client_min_messages=error")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .tried("start psql")?;
        let mut stdin = child.stdin.take().expect("it is piped");
        let text = format!("{script}\n");
        let writer = std::thread::spawn(move || {
            use std::io::Write as _;
            stdin.write_all(text.as_bytes())
        });
        let output = child.wait_with_output().tried("wait for psql")?;
        writer
            .join()
            .expect("writing does not panic")
            .tried("write to psql")?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(failed("psql", String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// Runs a script on a server that has written everything down; the time without psql's own start.
    pub(super) fn timed(&self, script: &str) -> Result<Duration> {
        if !self.start.is_zero() {
            self.run("CHECKPOINT")?;
        }
        let ((), took) = timed(|| self.run(script).map(drop))?;
        Ok(took.saturating_sub(self.start))
    }

    /// Stops the section if rows are missing.
    pub(super) fn check(&self, n_rows: u64) -> Result<()> {
        let found = self.run("SELECT count(*) FROM ticks")?;
        match found == n_rows.to_string() {
            true => Ok(()),
            false => Err(failed("rows stored", format!("{found} of {n_rows}"))),
        }
    }
}

pub(super) fn copy(table: &str, path: &Path, format: &str) -> String {
    format!("\\copy {table} FROM {} WITH (FORMAT {format})\n", quoted(path))
}

pub(super) fn unload(rows: &str, path: &Path) -> String {
    format!("\\copy {rows} TO {} WITH (FORMAT binary)\n", quoted(path))
}

/// A commit for each piece.
pub(super) fn plain(pieces: &[PathBuf]) -> String {
    pieces.iter().map(|path| copy("ticks", path, "binary")).collect()
}

/// What a feed with a key does: claims, COPY aside, insert what is new, roll-ups, commit.
pub(super) fn keyed(pieces: &[PathBuf], rollups: &str) -> String {
    let mut script = STAGE.to_owned();
    for (at, path) in pieces.iter().enumerate() {
        script += &format!(
            "BEGIN;\nINSERT INTO bench_claims (principal, feed, id, chunk, hash) \
             SELECT 'bench', 'ticks', 'piece-{at}', chunk, decode(md5(chunk::text), 'hex') \
             FROM generate_series(0, 9) AS chunk ON CONFLICT DO NOTHING;\n{}\
             WITH done AS (INSERT INTO ticks SELECT * FROM stage ON CONFLICT (id) DO NOTHING RETURNING *){rollups} \
             SELECT ARRAY(SELECT s.id FROM stage AS s WHERE NOT EXISTS (SELECT FROM done AS d WHERE d.id = s.id));\n\
             COMMIT;\n",
            copy("stage", path, "binary")
        );
    }
    script
}
