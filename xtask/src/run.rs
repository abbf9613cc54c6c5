//! Commands that a chore starts: printed, without standard input, with their test counts read.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use crate::error::{Error, Result};

/// How many checks a command reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) n_passed: u64,
    pub(crate) n_failed: u64,
}

impl Tally {
    pub(crate) const ONE_PASSED: Self = Self {
        n_passed: 1,
        n_failed: 0,
    };
    pub(crate) const ONE_FAILED: Self = Self {
        n_passed: 0,
        n_failed: 1,
    };

    pub(crate) fn add(&mut self, other: Self) {
        self.n_passed += other.n_passed;
        self.n_failed += other.n_failed;
    }
}

/// One command, built up and then run in one of three ways.
pub(crate) struct Run {
    command: Command,
    shown: String,
}

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>, dir: &Path) -> Self {
        let mut command = Command::new(&program);
        command.current_dir(dir).stdin(Stdio::null()).env("CI", "true");
        // What `cargo run` sets for xtask itself would make nested builds of crates that watch it start over.
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
                .iter()
                .any(|start| name.starts_with(start))
            {
                command.env_remove(&key);
            }
        }
        Self {
            command,
            shown: program.as_ref().to_string_lossy().into_owned(),
        }
    }

    pub(crate) fn cargo(root: &Path) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut run = Self::new(cargo, root);
        run.shown = "cargo".to_owned();
        run
    }

    pub(crate) fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    pub(crate) fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        for arg in args {
            self.shown.push(' ');
            self.shown.push_str(&arg.as_ref().to_string_lossy());
            self.command.arg(arg);
        }
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs to the end; anything but success is an error.
    pub(crate) fn status(mut self) -> Result<()> {
        let status = self.command.status().map_err(|source| self.not_started(source))?;
        self.judge(status)
    }

    /// Whether it ran and succeeded, saying nothing.
    pub(crate) fn succeeds(mut self) -> bool {
        let quiet = self.command.stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    }

    /// Runs to the end and returns what it wrote to standard output.
    pub(crate) fn output(mut self) -> Result<String> {
        let started = self.command.stderr(Stdio::inherit()).output();
        let output = started.map_err(|source| self.not_started(source))?;
        self.judge(output.status)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs to the end, passing its output on and adding up the test counts found in it.
    /// A failure that no count explains (a crash, a compile error) counts as one.
    pub(crate) fn counted(self) -> Result<Tally> {
        self.counted_into(&mut std::io::stdout())
    }

    fn counted_into(mut self, out: &mut dyn Write) -> Result<Tally> {
        let started = self.command.stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|source| self.not_started(source))?;
        let mut tally = Tally::default();
        let lines = BufReader::new(child.stdout.take().expect("standard output is piped"));
        for line in lines.split(b'\n').map_while(std::io::Result::ok) {
            // A closed terminal must not end the run; the exit status still tells.
            let _ = out
                .write_all(&line)
                .and_then(|()| out.write_all(b"\n"))
                .and_then(|()| out.flush());
            tally.add(counts(&String::from_utf8_lossy(&line)).unwrap_or_default());
        }
        let status = child.wait().map_err(|source| self.not_started(source))?;
        if !status.success() && tally.n_failed == 0 {
            tally.n_failed = 1;
        }
        Ok(tally)
    }

    fn not_started(&self, source: std::io::Error) -> Error {
        Error::Start {
            command: self.shown.clone(),
            source,
        }
    }

    fn judge(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        Err(Error::Failed {
            command: self.shown.clone(),
            how: status.to_string(),
        })
    }
}

/// The counts in one line of a test runner's output: libtest, our Node reporter and pytest.
fn counts(line: &str) -> Option<Tally> {
    if let Some(rest) = line.strip_prefix("# pass ") {
        return Some(Tally {
            n_passed: rest.trim().parse().ok()?,
            n_failed: 0,
        });
    }
    if let Some(rest) = line.strip_prefix("# fail ") {
        return Some(Tally {
            n_passed: 0,
            n_failed: rest.trim().parse().ok()?,
        });
    }
    let pytest = line.trim_matches([' ', '=']);
    let counted = line
        .strip_prefix("test result: ")
        .or_else(|| Some(pytest).filter(|line| is_pytest(line)))?;
    let words: Vec<&str> = counted
        .split([' ', ';', ','])
        .filter(|word| !word.is_empty())
        .collect();
    let before = |names: &[&str]| -> Option<u64> {
        let at = words.iter().position(|word| names.contains(word))?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    let (n_passed, n_failed) = (before(&["passed"]), before(&["failed"]));
    let n_errors = before(&["error", "errors"]);
    if n_passed.is_none() && n_failed.is_none() && n_errors.is_none() {
        return None;
    }
    let n_failed = n_failed.unwrap_or(0) + n_errors.unwrap_or(0);
    Some(Tally {
        n_passed: n_passed.unwrap_or(0),
        n_failed,
    })
}

/// Whether this is pytest's last line: `2 failed, 19 passed in 4.20s`, perhaps with minutes behind it.
fn is_pytest(line: &str) -> bool {
    let Some((before, time)) = line.split_once(" in ") else {
        return false;
    };
    let number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let time = time.split(' ').next().unwrap_or_default();
    before
        .split(", ")
        .all(|part| number(part) && part.split(' ').count() == 2)
        && number(time)
        && time.ends_with('s')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<(u64, u64)>) {
        let expected = expected.map(|(n_passed, n_failed)| Tally { n_passed, n_failed });
        assert_eq!(counts(line), expected, "{line}");
    }

    #[test]
    fn each_runner_is_understood() {
        check(
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; finished in 0.01s",
            Some((12, 0)),
        );
        check(
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; finished in 0.01s",
            Some((3, 2)),
        );
        check("# pass 57", Some((57, 0)));
        check("# fail 4", Some((0, 4)));
        check("21 passed in 4.20s", Some((21, 0)));
        check("2 failed, 19 passed, 1 warning in 4.20s", Some((19, 2)));
        check(
            "=========== 1 passed, 1 error in 61.02s (0:01:01) ===========",
            Some((1, 1)),
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        check("running 12 tests", None);
        check("# 4 passed", None);
        check("everything passed in the end", None);
        check("3 failed in all tests", None);
        check("gave up after 1 error in 3s", None);
        check("", None);
    }

    #[test]
    fn a_failure_without_counts_is_one_failure() {
        let run = Run::new("sh", Path::new("/")).args(["-c", "exit 3"]);
        assert_eq!(run.counted_into(&mut Vec::new()).unwrap(), Tally::ONE_FAILED);
        let run = Run::new("sh", Path::new("/")).args(["-c", "echo '# pass 2'; echo '# fail 1'; exit 1"]);
        let mut out = Vec::new();
        assert_eq!(
            run.counted_into(&mut out).unwrap(),
            Tally {
                n_passed: 2,
                n_failed: 1
            }
        );
        assert_eq!(out, b"# pass 2\n# fail 1\n");
    }

    #[test]
    fn a_failing_command_is_named_in_the_error() {
        let error = Run::new("sh", Path::new("/"))
            .args(["-c", "exit 3"])
            .status()
            .unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 3` failed: exit status: 3");
        let error = Run::new("no-such-command-here", Path::new("/"))
            .status()
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot start `no-such-command-here`"),
            "{error}"
        );
    }
}
