//! Data folders: made by `initdb` once per machine and version, then copied.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    binaries::Binaries,
    error::{Error, Result},
    folder::{Base, make},
    user::{User, output},
};

/// Changes when what `initdb` is told changes, so that old templates are left alone.
const VERSION: u32 = 1;

/// The superuser of every server of this crate.
pub(crate) const SUPERUSER: &str = "tidegate";

/// Fills `data` with a fresh data folder.
pub(crate) fn fill(data: &Path, base: &Base, binaries: &Binaries, user: &User) -> Result<()> {
    let version = output(
        user.command(&binaries.program("postgres"), None).arg("--version"),
        "postgres",
    )?;
    let name: String = version
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let template = base.path(&format!("template-{VERSION}-{}", name.trim_matches('-')));
    {
        let _one_at_a_time = base.lock()?;
        if !template.exists() {
            make_template(&template, binaries, user)?;
        }
    }
    // Shared extents where the file system has them; otherwise 40 MB are written.
    let mut copy = user.command(Path::new("/bin/cp"), None);
    copy.args(["-a", "--reflink=auto", "-T"]).arg(&template).arg(data);
    make(data, 0o700)?;
    user.give(data)?;
    output(&mut copy, "cp").map(drop)
}

fn make_template(template: &Path, binaries: &Binaries, user: &User) -> Result<()> {
    let mut partial = template.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::file("removing", &partial))?;
    }
    make(&partial, 0o700)?;
    user.give(&partial)?;
    let mut initdb = user.command(&binaries.program("initdb"), None);
    initdb
        .arg("-D")
        .arg(&partial)
        .args(["-U", SUPERUSER, "-E", "UTF8", "--locale=C.UTF-8"]);
    // The socket lies in a folder that only the server's user (and root) may enter; a port is open to all users.
    initdb.args([
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--no-sync",
        "--no-instructions",
    ]);
    output(&mut initdb, "initdb")?;
    fs::rename(&partial, template).map_err(Error::file("renaming", &partial))
}
