//! Everything that CI runs, step by step, with the time of each and one summary line.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    clients::{self, Suite},
    error::{Error, Result},
    run::{Run, Tally},
    setup, tidy,
};

/// One step: what it is called, how to repeat it alone, what must have passed before, and what it does.
struct Step {
    name: &'static str,
    again: String,
    needs: &'static [&'static str],
    run: Work,
}

/// What a step does in the repository at the given path.
type Work = Box<dyn Fn(&Path) -> Result<Tally>>;

/// How one step ended.
struct Outcome {
    name: &'static str,
    again: String,
    verdict: Verdict,
    took: Duration,
}

enum Verdict {
    Done(Tally),
    Broken(Error),
    /// A step it needs did not pass.
    Skipped(&'static str),
}

impl Verdict {
    fn passed(&self) -> bool {
        matches!(self, Self::Done(tally) if tally.n_failed == 0)
    }

    fn tally(&self) -> Tally {
        match self {
            Self::Done(tally) => *tally,
            Self::Broken(_) | Self::Skipped(_) => Tally::ONE_FAILED,
        }
    }
}

pub(crate) fn run(root: &Path) -> Result<()> {
    let start = Instant::now();
    let outcomes = run_all(root, steps());
    println!("\n{}", report(&outcomes, start.elapsed()));
    let all_passed = outcomes.iter().all(|outcome| outcome.verdict.passed());
    if all_passed { Ok(()) } else { Err(Error::Told) }
}

fn steps() -> Vec<Step> {
    let mut steps = vec![
        plain("setup", "cargo xtask setup", setup::run),
        cargo("format", &["fmt", "--all", "--check"]),
        cargo(
            "lints",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ],
        ),
        plain("tidy", "cargo xtask tidy", tidy::run),
        tests(),
        load(),
        plain("release build", "cargo xtask clients", |root| {
            clients::build(root).map(drop)
        }),
    ];
    steps.extend(Suite::ALL.map(suite));
    steps.push(bench("bench fanout", "fanout"));
    steps
}

/// A step that either works or does not.
fn plain(name: &'static str, again: &str, run: fn(&Path) -> Result<()>) -> Step {
    let run = move |root: &Path| run(root).map(|()| Tally::ONE_PASSED);
    Step {
        name,
        again: again.to_owned(),
        needs: &[],
        run: Box::new(run),
    }
}

fn cargo(name: &'static str, args: &'static [&'static str]) -> Step {
    let run = move |root: &Path| Run::cargo(root).args(args).status().map(|()| Tally::ONE_PASSED);
    Step {
        name,
        again: format!("cargo {}", args.join(" ")),
        needs: &[],
        run: Box::new(run),
    }
}

fn tests() -> Step {
    const ARGS: [&str; 6] = [
        "test",
        "--workspace",
        "--locked",
        "--no-fail-fast",
        "--",
        "--quiet",
    ];
    let run = |root: &Path| Run::cargo(root).args(ARGS).counted();
    Step {
        name: "rust tests",
        again: "cargo xtask test".to_owned(),
        needs: &[],
        run: Box::new(run),
    }
}

/// The load tests again, alone and at full size: 9,000 connections take nearly all files a process may open, and delays are
/// only compared where nothing else runs.
fn load() -> Step {
    const ARGS: [&str; 12] = [
        "test",
        "--workspace",
        "--locked",
        "--test",
        "it",
        "--",
        "--quiet",
        "--test-threads=1",
        "thousands_of_connections_come_and_half_are_cut",
        "memory_is_given_back_when_nine_of_ten_clients_leave",
        "memory_comes_back_when_connections_leave",
        "a_flood_of_slow_consumers_harms_nobody_else",
    ];
    let run = |root: &Path| Run::cargo(root).env("TIDEGATE_LOAD", "full").args(ARGS).counted();
    Step {
        name: "load",
        again: format!("TIDEGATE_LOAD=full cargo {}", ARGS.join(" ")),
        needs: &[],
        run: Box::new(run),
    }
}

fn suite(suite: Suite) -> Step {
    let run = move |root: &Path| clients::run_suite(root, suite, &clients::build(root)?, 1);
    let again = format!("cargo xtask clients {}", suite.name());
    Step {
        name: suite.name(),
        again,
        needs: &["setup", "release build"],
        run: Box::new(run),
    }
}

/// Small, so that the benchmarks cannot rot; their figures mean nothing on a busy machine.
fn bench(name: &'static str, run: &'static str) -> Step {
    let work = move |root: &Path| {
        Run::cargo(root)
            .args(["run", "--release", "-p", "tidegate-benches", "--", run, "--quick"])
            .status()
            .map(|()| Tally::ONE_PASSED)
    };
    Step {
        name,
        again: format!("cargo xtask bench {run} --quick"),
        needs: &[],
        run: Box::new(work),
    }
}

/// Runs every step whose needs are met: one run shows all that is wrong.
fn run_all(root: &Path, steps: Vec<Step>) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(steps.len());
    for step in steps {
        let lost = outcomes
            .iter()
            .find(|past| step.needs.contains(&past.name) && !past.verdict.passed());
        println!("\n== {} ==", step.name);
        let start = Instant::now();
        let verdict = match lost {
            Some(past) => Verdict::Skipped(past.name),
            None => (step.run)(root).map_or_else(Verdict::Broken, Verdict::Done),
        };
        let outcome = Outcome {
            name: step.name,
            again: step.again,
            verdict,
            took: start.elapsed(),
        };
        println!("{}", line(&outcome));
        outcomes.push(outcome);
    }
    outcomes
}

fn line(outcome: &Outcome) -> String {
    let (name, seconds) = (outcome.name, outcome.took.as_secs_f64());
    let verdict = match &outcome.verdict {
        Verdict::Done(tally) if tally.n_failed == 0 => format!("ok, {} passed", tally.n_passed),
        Verdict::Done(tally) => format!(
            "FAILED, {} of {}",
            tally.n_failed,
            tally.n_passed + tally.n_failed
        ),
        Verdict::Broken(error) => format!("FAILED, {error}"),
        Verdict::Skipped(needed) => format!("SKIPPED, `{needed}` did not pass"),
    };
    format!("{name:<14} {seconds:>7.1} s  {verdict}")
}

/// The table of steps, how to repeat what failed, and the last line: `N passed, N failed`.
fn report(outcomes: &[Outcome], took: Duration) -> String {
    let mut lines: Vec<String> = outcomes.iter().map(line).collect();
    lines.push(format!("{:<14} {:>7.1} s", "all", took.as_secs_f64()));
    let ran = |outcome: &&Outcome| !matches!(outcome.verdict, Verdict::Skipped(_));
    let failed = outcomes
        .iter()
        .filter(|outcome| !outcome.verdict.passed())
        .filter(ran);
    lines.extend(failed.map(|outcome| format!("to repeat `{}` alone: {}", outcome.name, outcome.again)));
    let mut sum = Tally::default();
    outcomes
        .iter()
        .for_each(|outcome| sum.add(outcome.verdict.tally()));
    lines.push(format!("{} passed, {} failed", sum.n_passed, sum.n_failed));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &'static str, needs: &'static [&'static str], result: fn() -> Result<Tally>) -> Step {
        Step {
            name,
            again: format!("again {name}"),
            needs,
            run: Box::new(move |_| result()),
        }
    }

    fn passes() -> Result<Tally> {
        Ok(Tally {
            n_passed: 5,
            n_failed: 0,
        })
    }

    fn two_fail() -> Result<Tally> {
        Ok(Tally {
            n_passed: 3,
            n_failed: 2,
        })
    }

    fn breaks() -> Result<Tally> {
        Err(Error::Missing("no compiler".to_owned()))
    }

    /// Runs `steps` and compares the report without its times.
    fn check(steps: Vec<Step>, expected: &[&str]) {
        let report = report(&run_all(Path::new("/"), steps), Duration::ZERO);
        let shown: Vec<&str> = report
            .lines()
            .map(|line| line.split(" s  ").last().unwrap())
            .collect();
        assert_eq!(shown[..], *expected);
    }

    #[test]
    fn the_last_line_sums_up() {
        let steps = vec![step("a", &[], passes), step("b", &[], passes)];
        check(
            steps,
            &[
                "ok, 5 passed",
                "ok, 5 passed",
                "all                0.0 s",
                "10 passed, 0 failed",
            ],
        );
    }

    #[test]
    fn a_failed_step_says_how_to_repeat_it_and_the_rest_still_runs() {
        let steps = vec![step("a", &[], two_fail), step("b", &[], passes)];
        let expected = [
            "FAILED, 2 of 5",
            "ok, 5 passed",
            "all                0.0 s",
            "to repeat `a` alone: again a",
            "8 passed, 2 failed",
        ];
        check(steps, &expected);
    }

    #[test]
    fn what_needs_a_broken_step_is_skipped_and_counts_as_failed() {
        let steps = vec![step("a", &[], breaks), step("b", &["a"], passes)];
        let expected = [
            "FAILED, no compiler",
            "SKIPPED, `a` did not pass",
            "all                0.0 s",
            "to repeat `a` alone: again a",
            "0 passed, 2 failed",
        ];
        check(steps, &expected);
    }
}
