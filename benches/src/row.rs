//! The rows of the table: what each server is, and how it is installed and started.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use serde::Serialize;

use crate::dialect::Dialect;
use crate::error::{Error, Result, Tried};
use crate::server::Launch;

/// A server that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// A bare coalescing writer: the cost that no server can avoid.
    Floor,
    /// Tidegate through its public Rust API.
    Tidegate,
    /// uWebSockets, raw messages.
    Uws,
    /// Centrifuge, the Go library, with its JSON protocol.
    Centrifuge,
    /// socketioxide on axum.
    Socketioxide,
    /// Node `ws`, raw messages.
    Ws,
    /// Node `socket.io`.
    SocketIo,
    /// `python-socketio` on uvicorn.
    PythonSocketio,
}

impl Row {
    /// What the table calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Tidegate => "Tidegate",
            Self::Uws => "uWebSockets",
            Self::Centrifuge => "Centrifuge",
            Self::Socketioxide => "socketioxide",
            Self::Ws => "Node ws",
            Self::SocketIo => "socket.io",
            Self::PythonSocketio => "python-socketio",
        }
    }

    /// The protocol it speaks.
    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Self::Floor | Self::Uws | Self::Ws => Dialect::Plain,
            Self::Centrifuge => Dialect::Centrifuge,
            Self::Tidegate | Self::Socketioxide | Self::SocketIo | Self::PythonSocketio => Dialect::SocketIo,
        }
    }

    /// Whether its deflated fan-out is measured.
    pub(crate) fn has_deflate(self) -> bool {
        matches!(self, Self::Tidegate | Self::SocketIo)
    }

    /// Installs or builds what the row needs, if that was not done before, and says how to start it.
    pub(crate) fn prepare(self, house: &House) -> Result<Launch> {
        match self {
            Self::Floor => house.floor(),
            Self::Tidegate => house.tidegate(),
            Self::Uws => house.python("uws_app.py"),
            Self::Centrifuge => house.go(),
            Self::Socketioxide => house.socketioxide(),
            Self::Ws => house.node("ws.js"),
            Self::SocketIo => house.node("socketio.js"),
            Self::PythonSocketio => house.python("socketio_app.py"),
        }
    }

    /// The launch for deflated fan-out.
    pub(crate) fn with_deflate(self, launch: &Launch) -> Launch {
        let mut launch = launch.clone();
        if self == Self::SocketIo {
            launch.arguments.push("deflate".into());
        }
        launch
    }
}

/// The places of the repository.
pub(crate) struct House {
    root: PathBuf,
}

impl House {
    /// The repository that this program was built from.
    pub(crate) fn new() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            root: package.parent().unwrap_or(package).to_path_buf(),
        }
    }

    /// The folder for logs and installed peers, which Git ignores.
    pub(crate) fn scratch(&self) -> Result<PathBuf> {
        let path = self.root.join(".tidegate/bench");
        fs::create_dir_all(&path).tried(format!("create {}", path.display()))?;
        Ok(path)
    }

    /// The first line that a program prints when it runs here.
    pub(crate) fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&self.root)
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        output
            .status
            .success()
            .then(|| text.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// The folder of the peers of one kind.
    pub(crate) fn peers(&self, kind: &str) -> PathBuf {
        self.root.join("benches/peers").join(kind)
    }

    fn floor(&self) -> Result<Launch> {
        let program = env::current_exe().tried("find this program")?;
        Ok(Launch {
            program,
            arguments: vec!["floor".into(), "{addr}".into()],
        })
    }

    fn tidegate(&self) -> Result<Launch> {
        let example = "crates/gateway/examples/fanout.rs";
        if !self.root.join(example).exists() {
            return Err(Error::Unavailable(format!("{example} is not written yet")));
        }
        let program = self.cargo("fanout", &["-p", "tidegate-gateway", "--example", "fanout"])?;
        Ok(Launch {
            program,
            arguments: vec!["{addr}".into()],
        })
    }

    fn socketioxide(&self) -> Result<Launch> {
        let target = "socketioxide-peer";
        let program = self.cargo(
            target,
            &["-p", "tidegate-benches", "--features", "peers", "--bin", target],
        )?;
        Ok(Launch {
            program,
            arguments: vec!["{addr}".into()],
        })
    }

    /// Builds one program in release mode, wherever the target folder is, and returns its path.
    fn cargo(&self, target: &str, arguments: &[&str]) -> Result<PathBuf> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--release", "--message-format=json-render-diagnostics"])
            .args(arguments)
            .current_dir(&self.root)
            .stderr(Stdio::inherit())
            .output()
            .tried("run cargo")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let program = text.lines().find_map(|line| executable(line, target));
        match program {
            Some(program) if output.status.success() => Ok(program),
            _ => Err(Error::Server(format!(
                "cargo build {} failed",
                arguments.join(" ")
            ))),
        }
    }

    pub(crate) fn node(&self, script: &str) -> Result<Launch> {
        let folder = self.peers("node");
        let lock = folder.join("package-lock.json");
        once(&lock, &folder.join("node_modules/.tidegate-lock"), || {
            // The lock file pins every package with its hash; nothing of them runs while they are installed.
            run(Command::new("npm")
                .args(["ci", "--ignore-scripts", "--omit=dev"])
                .current_dir(&folder))
        })?;
        let arguments = vec![text(&folder.join(script)), "{addr}".into()];
        Ok(Launch {
            program: "node".into(),
            arguments,
        })
    }

    pub(crate) fn python(&self, script: &str) -> Result<Launch> {
        let script = self.peers("python").join(script);
        Ok(Launch {
            program: self.python_program()?,
            arguments: vec![text(&script), "{addr}".into()],
        })
    }

    /// Python with the packages of its peers.
    pub(crate) fn python_program(&self) -> Result<PathBuf> {
        let folder = self.peers("python");
        let venv = self.root.join(".tidegate/bench-venv");
        let python = venv.join("bin/python");
        let lock = folder.join("requirements.lock");
        once(&lock, &venv.join("tidegate-lock"), || {
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
            let install = [
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--require-hashes",
                "-r",
            ];
            run(Command::new(&python).args(install).arg(&lock))
        })?;
        Ok(python)
    }

    fn go(&self) -> Result<Launch> {
        let folder = self.peers("go");
        let program = self.scratch()?.join("centrifuge-peer");
        run(Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(&folder))?;
        Ok(Launch {
            program,
            arguments: vec!["{addr}".into()],
        })
    }
}

/// The path in one line of cargo's messages, if it speaks of the executable `target`.
fn executable(line: &str, target: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_it = message["reason"] == "compiler-artifact" && message["target"]["name"] == target;
    is_it
        .then(|| message["executable"].as_str().map(PathBuf::from))
        .flatten()
}

/// Installs unless `stamp` says that exactly this lock file was installed.
fn once(lock: &Path, stamp: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let wanted = fs::read(lock).tried(format!("read {}", lock.display()))?;
    if fs::read(stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    install()?;
    fs::write(stamp, wanted).tried(format!("write {}", stamp.display()))
}

/// Runs an installer; a machine that lacks it only lacks the row.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| Error::Unavailable(format!("{name} does not run here: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    let arguments: Vec<_> = command
        .get_args()
        .map(|argument| argument.to_string_lossy())
        .collect();
    Err(Error::Unavailable(format!(
        "{name} {} failed: {last}",
        arguments.join(" ")
    )))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<&str>) {
        assert_eq!(executable(line, "fanout"), expected.map(PathBuf::from));
    }

    #[test]
    fn the_executable_is_found_among_the_messages_of_cargo() {
        let start = r#"{"reason":"compiler-artifact","target":{"name":"#;
        check(
            &format!(r#"{start}"fanout"}},"executable":"/t/fanout"}}"#),
            Some("/t/fanout"),
        );
        check(&format!(r#"{start}"fanout"}},"executable":null}}"#), None);
        check(&format!(r#"{start}"other"}},"executable":"/t/other"}}"#), None);
        check(r#"{"reason":"build-finished","success":true}"#, None);
        check("not json", None);
    }
}
