//! As whom the server runs: root steps down, and every server is told when its starter ends.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    binaries,
    error::{Error, Result},
};

/// Whom root becomes, first that exists.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// As whom programs run.
#[derive(Clone, Debug)]
pub(crate) struct User {
    setpriv: PathBuf,
    /// Name, user id and group id to become; none when we are not root.
    become_: Option<(String, u32, u32)>,
    own_uid: u32,
}

impl User {
    /// The calling user, for servers that take root as they take anybody.
    pub(crate) fn own() -> Result<Self> {
        Ok(Self {
            setpriv: binaries::in_path("setpriv", "util-linux")?,
            become_: None,
            own_uid: rustix::process::geteuid().as_raw(),
        })
    }

    /// Whom PostgreSQL takes: anybody but root.
    pub(crate) fn find() -> Result<Self> {
        let setpriv = binaries::in_path("setpriv", "util-linux")?;
        let own_uid = rustix::process::geteuid().as_raw();
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let become_ = if own_uid == 0 {
            let found = CANDIDATES.iter().find_map(|name| entry(&passwd, name));
            Some(found.ok_or(Error::NoUser("postgres nor nobody"))?)
        } else {
            None
        };
        Ok(Self {
            setpriv,
            become_,
            own_uid,
        })
    }

    /// The user id of the server.
    pub(crate) fn uid(&self) -> u32 {
        self.become_.as_ref().map_or(self.own_uid, |(_, uid, _)| *uid)
    }

    /// Tells folders of different owners apart.
    pub(crate) fn key(&self) -> String {
        format!("{}-{}", self.own_uid, self.uid())
    }

    /// Gives a file or folder to the server's user.
    pub(crate) fn give(&self, path: &Path) -> Result<()> {
        let Some((_, uid, gid)) = &self.become_ else {
            return Ok(());
        };
        std::os::unix::fs::chown(path, Some(*uid), Some(*gid)).map_err(Error::file("giving away", path))
    }

    /// A command that runs as the server's user; `death` is the signal it gets when the thread that spawns it ends.
    pub(crate) fn command(&self, program: &Path, death: Option<&str>) -> Command {
        let mut command = quiet(&self.setpriv);
        if let Some((name, _, gid)) = &self.become_ {
            command
                .arg(format!("--reuid={name}"))
                .arg(format!("--regid={gid}"))
                .arg("--init-groups");
        }
        if let Some(signal) = death {
            command.args(["--pdeathsig", signal]);
        }
        command.arg("--").arg(program);
        command
    }
}

/// A command with nothing of our environment: `PGHOST` and its like would lead it to another server.
pub(crate) fn quiet(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("LC_ALL", "C")
        .env("PGTZ", "UTC")
        // The server's user may not enter the folder we stand in.
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end and gives what it printed.
pub(crate) fn output(command: &mut Command, program: &str) -> Result<String> {
    let output = command.output().map_err(|source| Error::Spawn {
        program: program.to_owned(),
        source,
    })?;
    finished(&output, program)
}

/// What a finished command printed, or how it failed.
pub(crate) fn finished(output: &std::process::Output, program: &str) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Failed {
        program: program.to_owned(),
        status: output.status.to_string(),
        text: last_lines(&String::from_utf8_lossy(&output.stderr), 20),
    })
}

/// The last lines of a text, in one.
pub(crate) fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(n)..].join(" | ")
}

/// Name, user id and group id of a line of passwd(5).
fn entry(passwd: &str, name: &str) -> Option<(String, u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some((name.to_owned(), uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_is_read() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:104:108:,,,:/var:/bin/sh\nbad:x\n";
        let check = |name, expected| assert_eq!(entry(passwd, name).map(|(_, u, g)| (u, g)), expected);
        check("postgres", Some((104, 108)));
        check("post", None);
        check("bad", None);
    }

    #[test]
    fn the_end_of_a_text_is_kept() {
        assert_eq!(last_lines("a\nb\n\nc\n", 2), "b | c");
        assert_eq!(last_lines("", 2), "");
    }
}
