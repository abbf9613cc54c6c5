//! The chores of this repository: `cargo xtask setup|ci|tidy|test|bench|clients`.

mod ci;
mod clients;
mod error;
mod run;
mod setup;
mod tidy;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use error::{Error, Result};
use run::Run;

const USAGE: &str = "\
usage: cargo xtask <chore>

  ci                     everything CI runs: setup, format, lints, tidy, tests, clients, a small bench
  setup                  what the tests need: Debian packages, npm and Python clients; skipped where done
  tidy                   the rules a compiler does not check: imports, module docs, sizes, documents
  test [CRATE] [ARGS]    the Rust tests, of one crate (`gateway`) or of all
  clients [SUITE] [--rounds N] [--reference]
                         real clients: conformance, websocket, clients, python, demo, redis, valkey, applications (those
                         of examples/, with and without Tidegate), dist (its files); or all.
                         --reference tests the tests: against servers made of the npm packages
  bench NAME [ARGS]      a run against peers: fanout, store, limits, app, e.g. `bench fanout --quick`
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&root(), &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Usage(problem)) => {
            eprintln!("xtask: {problem}\n\n{USAGE}");
            ExitCode::from(64)
        }
        // The counts stay the last line.
        Err(Error::Told) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(root: &Path, args: &[String]) -> Result<()> {
    let (chore, rest) = args
        .split_first()
        .ok_or_else(|| Error::Usage("no chore named".into()))?;
    match chore.as_str() {
        "ci" => ci::run(root),
        "setup" => setup::run(root),
        "tidy" => tidy::run(root),
        "test" => test(root, rest),
        "clients" => clients::run(root, rest),
        "bench" => bench(root, rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(Error::Usage(format!("no chore `{other}`"))),
    }
}

fn test(root: &Path, args: &[String]) -> Result<()> {
    let cargo = Run::cargo(root).arg("test");
    match args.split_first() {
        None => cargo.arg("--workspace").status(),
        Some((name, rest)) => cargo.args(["-p", &package(name)]).args(rest).status(),
    }
}

fn bench(root: &Path, args: &[String]) -> Result<()> {
    if args.is_empty() {
        return Err(Error::Usage("bench needs a name, e.g. `bench fanout`".into()));
    }
    // The peers of these take minutes to build; the small run does without.
    let is_quick = args.iter().any(|arg| arg == "--quick");
    let features: &[&str] = match args[0].as_str() {
        "store" if !is_quick => &["--features", "store-peers"],
        "limits" if !is_quick => &["--features", "limits-peers"],
        _ => &[],
    };
    // `bench fanout -- --quick` and `bench fanout --quick` mean the same.
    let args = args.iter().filter(|arg| *arg != "--");
    Run::cargo(root)
        .args(["run", "--release", "-p", "tidegate-benches"])
        .args(features)
        .arg("--")
        .args(args)
        .status()
}

/// The package behind a crate's short name: `gateway` is `tidegate-gateway`.
fn package(name: &str) -> String {
    match name {
        "tidegate" | "xtask" => name.to_owned(),
        long if long.starts_with("tidegate-") => long.to_owned(),
        short => format!("tidegate-{short}"),
    }
}

/// The repository: asked of cargo at run time, since several clones may share one target folder.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .expect("xtask is a folder of the repository")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_finds_its_package() {
        for (name, expected) in [
            ("gateway", "tidegate-gateway"),
            ("tidegate", "tidegate"),
            ("tidegate-wire", "tidegate-wire"),
            ("xtask", "xtask"),
        ] {
            assert_eq!(package(name), expected);
        }
    }

    #[test]
    fn an_unknown_chore_is_a_usage_error() {
        for args in [vec![], vec!["fly".to_owned()], vec!["bench".to_owned()]] {
            assert!(
                matches!(dispatch(&root(), &args), Err(Error::Usage(_))),
                "{args:?}"
            );
        }
    }
}
