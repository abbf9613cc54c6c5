//! Real clients against real servers: builds the servers, then runs the Node, Python and browser suites.

use std::{collections::BTreeMap, path::Path};

use crate::{
    error::{Error, Result},
    run::{Run, Tally},
    setup,
};

/// Environment variable of each server and the cargo target that it names the binary of.
const SERVERS: [(&str, &str); 3] = [
    ("TIDEGATE_CONFORMANCE", "conformance"),
    ("TIDEGATE_REALCLIENTS", "realclients"),
    ("TIDEGATE_BIN", "tidegate"),
];

/// One group of client tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    /// The Engine.IO 4 and Socket.IO 5 texts, packet by packet.
    Conformance,
    /// RFC 6455 and RFC 7692, frame by frame.
    Websocket,
    /// `socket.io-client` from npm.
    Clients,
    /// `python-socketio`, sync and async.
    Python,
    /// The demo page in a headless browser.
    Demo,
    /// Publishers that speak through Redis, beside servers of their own kind.
    Redis,
    /// Everything that is tested on Redis, on Valkey; nothing where that is not to be had.
    Valkey,
    /// The applications of `examples/`, alone and behind Tidegate: the same transcripts; and their adapters by themselves.
    Applications,
    /// The files of `dist/`, by the programs that read them or by parsers of their formats.
    Dist,
}

impl Suite {
    pub(crate) const ALL: [Self; 9] = [
        Self::Conformance,
        Self::Websocket,
        Self::Clients,
        Self::Python,
        Self::Demo,
        Self::Redis,
        Self::Valkey,
        Self::Applications,
        Self::Dist,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Conformance => "conformance",
            Self::Websocket => "websocket",
            Self::Clients => "clients",
            Self::Python => "python",
            Self::Demo => "demo",
            Self::Redis => "redis",
            Self::Valkey => "valkey",
            Self::Applications => "applications",
            Self::Dist => "dist",
        }
    }

    /// The demo and the files of `dist/` have none; the publishers and the applications bring theirs along.
    fn has_reference(self) -> bool {
        matches!(
            self,
            Self::Conformance | Self::Websocket | Self::Clients | Self::Python
        )
    }

    fn by_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|suite| suite.name() == name);
        found.ok_or_else(|| Error::Usage(format!("no suite `{name}`")))
    }
}

/// Where the built servers are: environment variable and path.
pub(crate) type Servers = BTreeMap<&'static str, String>;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    suites: Vec<Suite>,
    n_rounds: u32,
    /// Against servers made of the npm packages: shows that the suites ask what they should.
    is_reference: bool,
}

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let wish = parse(args)?;
    setup::run(root)?;
    let servers = if wish.is_reference {
        references(root)
    } else {
        build(root)?
    };
    let mut sum = Tally::default();
    for suite in wish.suites {
        println!("== {} ==", suite.name());
        sum.add(run_suite(root, suite, &servers, wish.n_rounds)?);
    }
    println!("{} passed, {} failed", sum.n_passed, sum.n_failed);
    if sum.n_failed == 0 {
        Ok(())
    } else {
        Err(Error::Told)
    }
}

fn parse(args: &[String]) -> Result<Wish> {
    let mut wish = Wish {
        suites: Vec::new(),
        n_rounds: 1,
        is_reference: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => wish.n_rounds = rounds(args.next())?,
            "--reference" => wish.is_reference = true,
            name => wish.suites.push(Suite::by_name(name)?),
        }
    }
    if wish.suites.is_empty() {
        wish.suites.extend(Suite::ALL);
        wish.suites
            .retain(|suite| !wish.is_reference || suite.has_reference());
    }
    let without = wish.suites.iter().find(|suite| !suite.has_reference());
    if let (true, Some(suite)) = (wish.is_reference, without) {
        return Err(Error::Usage(format!(
            "there is no reference for {}",
            suite.name()
        )));
    }
    Ok(wish)
}

fn rounds(value: Option<&String>) -> Result<u32> {
    let value = value
        .and_then(|n| n.parse().ok())
        .filter(|n| (1..=1000).contains(n));
    value.ok_or_else(|| Error::Usage("--rounds takes a number from 1 to 1000".into()))
}

fn references(root: &Path) -> Servers {
    let script = |name: &str| {
        setup::node_folder(root)
            .join(format!("reference/{name}.mjs"))
            .display()
            .to_string()
    };
    SERVERS
        .into_iter()
        .map(|(variable, target)| (variable, script(target)))
        .collect()
}

/// Builds every server that a suite starts, and returns where they are.
pub(crate) fn build(root: &Path) -> Result<Servers> {
    let cargo = Run::cargo(root).args([
        "build",
        "--release",
        "-p",
        "tidegate-gateway",
        "-p",
        "tidegate-cli",
    ]);
    let cargo = cargo.args([
        "--bin",
        "tidegate",
        "--example",
        "conformance",
        "--example",
        "realclients",
    ]);
    let messages = cargo.arg("--message-format=json-render-diagnostics").output()?;
    let built = executables(&messages);
    SERVERS
        .into_iter()
        .map(|(variable, target)| Ok((variable, found(&built, target)?)))
        .collect()
}

fn found(built: &BTreeMap<String, String>, target: &str) -> Result<String> {
    let path = built.get(target).cloned();
    path.ok_or_else(|| Error::Missing(format!("cargo built no executable for target `{target}`")))
}

/// Target name and path of each executable in cargo's JSON messages.
fn executables(messages: &str) -> BTreeMap<String, String> {
    let parsed = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let named = parsed.filter_map(|message| {
        let name = message["target"]["name"].as_str()?;
        Some((name.to_owned(), message["executable"].as_str()?.to_owned()))
    });
    named.collect()
}

pub(crate) fn run_suite(root: &Path, suite: Suite, servers: &Servers, n_rounds: u32) -> Result<Tally> {
    let mut sum = Tally::default();
    for run in commands(root, suite) {
        let run = run
            .env("TIDEGATE_ROUNDS", n_rounds.to_string())
            .env("TIDEGATE_OUT", setup::local(root))
            .env("TIDEGATE_PYTHON", setup::python(root))
            .env("TIDEGATE_FASTAPI", setup::fastapi(root));
        let run = servers
            .iter()
            .fold(run, |run, (variable, path)| run.env(variable, path));
        sum.add(run.counted()?);
    }
    Ok(sum)
}

/// What a suite runs, one after the other.
fn commands(root: &Path, suite: Suite) -> Vec<Run> {
    let node = setup::node_folder(root);
    match suite {
        Suite::Python => vec![pytest(&setup::python(root), &setup::python_folder(root), ".")],
        Suite::Valkey => on_valkey(root),
        Suite::Applications => vec![
            pytest(&setup::fastapi(root), &root.join("examples/fastapi"), "."),
            node_test(root, &root.join("examples/express"), "tidegate-adapter.test.mjs"),
            node_test(root, &node, "applications.test.mjs"),
        ],
        Suite::Dist => vec![node_test(root, &root.join("tests/dist"), "dist.test.mjs")],
        other => vec![node_test(root, &node, &format!("{}.test.mjs", other.name()))],
    }
}

fn on_valkey(root: &Path) -> Vec<Run> {
    // Names of modules and tests, in all packages at once: the tests are then those that CI has compiled already.
    const RUST: [&str; 11] = [
        "test",
        "--workspace",
        "--locked",
        "--test",
        "it",
        "--",
        "--quiet",
        "bridge::",
        "remote::",
        "redis",
        "through_one_node",
    ];
    let Some(server) = setup::valkey_server(root) else {
        println!("no valkey-server here: nothing is tested on it");
        return Vec::new();
    };
    let runs = vec![
        Run::cargo(root).args(RUST),
        pytest(&setup::python(root), &setup::python_folder(root), "redis_test.py"),
        node_test(root, &setup::node_folder(root), "redis.test.mjs"),
    ];
    let with = |run: Run| run.env("TIDEGATE_REDIS_SERVER", &server);
    runs.into_iter().map(with).collect()
}

fn pytest(python: &Path, folder: &Path, what: &str) -> Run {
    Run::new(python, folder)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", what])
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

fn node_test(root: &Path, folder: &Path, file: &str) -> Run {
    let reporter = setup::node_folder(root).join("lib/reporter.mjs");
    Run::new("node", folder)
        .args(["--test", "--test-concurrency=1"])
        .arg(format!("--test-reporter={}", reporter.display()))
        .arg(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], expected: Option<(&[Suite], u32, bool)>) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let wish = |(suites, n_rounds, is_reference): (&[Suite], u32, bool)| Wish {
            suites: suites.to_vec(),
            n_rounds,
            is_reference,
        };
        assert_eq!(parse(&args).ok(), expected.map(wish), "{args:?}");
    }

    #[test]
    fn suites_and_rounds_are_read() {
        check(&[], Some((&Suite::ALL, 1, false)));
        check(&["python"], Some((&[Suite::Python], 1, false)));
        check(
            &["conformance", "--rounds", "20"],
            Some((&[Suite::Conformance], 20, false)),
        );
        check(&["--reference"], Some((&Suite::ALL[..4], 1, true)));
        check(&["demo", "--reference"], None);
        check(&["redis", "--reference"], None);
        check(&["python", "applications", "--reference"], None);
        check(&["--rounds", "0"], None);
        check(&["--rounds"], None);
        check(&["ruby"], None);
    }

    #[test]
    fn executables_are_found_in_cargo_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"bytes"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"tidegate"},"executable":"/t/tidegate"}"#,
            "\nnot json\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let built = executables(messages);
        assert_eq!(built.len(), 1);
        assert_eq!(found(&built, "tidegate").unwrap(), "/t/tidegate");
        assert!(found(&built, "conformance").is_err());
    }
}
