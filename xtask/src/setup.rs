//! What the tests need beyond Rust: Debian packages, npm clients and Python clients, each step skipped when done.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{
    error::{Error, Result},
    run::Run,
};

/// A Debian package and the file that shows it is there.
struct Package {
    name: &'static str,
    shown_by: &'static str,
    why: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "chromium",
        shown_by: "/usr/bin/chromium",
        why: "opens the demo page in the tests",
    },
    Package {
        name: "fonts-dejavu-core",
        shown_by: "/usr/share/fonts/truetype/dejavu",
        why: "puts letters on the screenshot of the demo page",
    },
    Package {
        name: "postgresql",
        shown_by: "/usr/lib/postgresql",
        why: "is the database of the tests, which start servers of their own",
    },
    Package {
        name: "pgbouncer",
        shown_by: "/usr/sbin/pgbouncer",
        why: "stands between server and database in the tests",
    },
    Package {
        name: "redis-server",
        shown_by: "/usr/bin/redis-server",
        why: "is the remote level of the cache, and the way of publishers, in the tests, which start servers of their own",
    },
    Package {
        name: "nginx",
        shown_by: "/usr/sbin/nginx",
        why: "reads dist/nginx.conf in the tests, which start servers of their own",
    },
    Package {
        name: "systemd",
        shown_by: "/usr/bin/systemd-analyze",
        why: "reads dist/tidegate.service in the tests",
    },
];

/// Where Debian keeps each major version of PostgreSQL.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// Installs without any service: the tests never use a cluster or a pooler of the system, so none is made, none is
/// started, and what was already there keeps running as it did.
const INSTALL: &str = r#"
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
common=/etc/postgresql-common/createcluster.d
if [ ! -d /usr/lib/postgresql ]; then
    mkdir -p "$common"
    echo "create_main_cluster = false" > "$common/tidegate.conf"
fi
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@"
case " $* " in
    *" pgbouncer "*) if [ -d /run/systemd/system ]; then systemctl disable --quiet pgbouncer; fi ;;
esac
case " $* " in
    *" redis-server "*) if [ -d /run/systemd/system ]; then systemctl disable --quiet redis-server; fi ;;
esac
case " $* " in
    *" nginx "*) if [ -d /run/systemd/system ]; then systemctl disable --quiet nginx; fi ;;
esac
"#;

/// Downloads and unpacks Valkey into a folder; nothing of the system changes. The release that this system stands on may
/// have none, but have it in its backports, which are asked through lists of our own.
const VALKEY: &str = r#"
set -e
cd "$1"
set -- -qq -o APT::Sandbox::User=root -o Acquire::Retries=2 -o Acquire::http::Timeout=30
if ! apt-cache show valkey-server > /dev/null 2>&1; then
    . /etc/os-release
    from=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) main' \
        'Created-By: Packages' "Release: $VERSION_CODENAME" | head -n 1)
    mkdir -p lists/partial cache/archives/partial
    echo "deb $from" | sed "s/ $VERSION_CODENAME / $VERSION_CODENAME-backports /" > sources.list
    set -- "$@" -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache"
    apt-get "$@" update
fi
apt-get "$@" download valkey-server valkey-tools
for package in valkey-*.deb; do dpkg-deb -x "$package" .; done
usr/bin/valkey-server --version
"#;

/// Folder of everything that is installed for this repository and of what tests leave behind.
pub(crate) fn local(root: &Path) -> PathBuf {
    root.join(".tidegate")
}

/// The Python that has the clients.
pub(crate) fn python(root: &Path) -> PathBuf {
    local(root).join("venv/bin/python")
}

/// The Python that has what `examples/fastapi` needs.
pub(crate) fn fastapi(root: &Path) -> PathBuf {
    local(root).join("fastapi/bin/python")
}

/// The `valkey-server` that stands in for Redis in some tests; none where this system's packages have none.
pub(crate) fn valkey_server(root: &Path) -> Option<PathBuf> {
    let installed = PathBuf::from("/usr/bin/valkey-server");
    let ours = local(root).join("valkey/usr/bin/valkey-server");
    [installed, ours].into_iter().find(|path| path.exists())
}

/// Folder of the Node tests.
pub(crate) fn node_folder(root: &Path) -> PathBuf {
    root.join("tests/clients/node")
}

/// Folder of the Python tests.
pub(crate) fn python_folder(root: &Path) -> PathBuf {
    root.join("tests/clients/python")
}

pub(crate) fn run(root: &Path) -> Result<()> {
    timed("Debian packages", || debian(root))?;
    timed("PostgreSQL's hypopg", || hypopg(root))?;
    timed("Valkey", || valkey(root))?;
    timed("npm clients", || npm(root, "node", &node_folder(root)))?;
    timed("npm packages of examples/express", || {
        npm(root, "express", &root.join("examples/express"))
    })?;
    timed("npm parsers for dist", || {
        npm(root, "dist", &root.join("tests/dist"))
    })?;
    let clients = python_folder(root).join("requirements.lock");
    timed("Python clients", || pip(root, "python", &clients, &python(root)))?;
    let lock = root.join("examples/fastapi/requirements.lock");
    timed("Python packages of examples/fastapi", || {
        pip(root, "fastapi", &lock, &fastapi(root))
    })
}

/// Whether a step had anything to do.
enum Done {
    Already,
    Now,
    /// It is not to be had here, and the tests go without.
    Without,
}

fn timed(name: &str, step: impl FnOnce() -> Result<Done>) -> Result<()> {
    let start = Instant::now();
    let done = match step()? {
        Done::Already => "already there",
        Done::Now => "installed",
        Done::Without => "not to be had here, so nothing is tested on it",
    };
    println!("setup: {name}: {done} ({:.3} s)", start.elapsed().as_secs_f64());
    Ok(())
}

// === Debian ===

fn debian(root: &Path) -> Result<Done> {
    let mut missing: Vec<&Package> = Vec::new();
    missing.extend(
        PACKAGES
            .iter()
            .filter(|package| !Path::new(package.shown_by).exists()),
    );
    // Only a new environment needs the module, so only then is the interpreter asked.
    let venv = Package {
        name: "python3-venv",
        shown_by: "",
        why: "keeps the Python clients in this folder",
    };
    let venv_works = || {
        Run::new("python3", root)
            .args(["-c", "import venv, ensurepip"])
            .succeeds()
    };
    if !python(root).exists() && !venv_works() {
        missing.push(&venv);
    }
    if missing.is_empty() {
        return Ok(Done::Already);
    }
    for package in &missing {
        println!("setup: {} is missing: it {}", package.name, package.why);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    install(root, &names)?;
    Ok(Done::Now)
}

fn install(root: &Path, names: &[&str]) -> Result<()> {
    let by_hand = format!(
        "apt-get update && apt-get install -y --no-install-recommends {}",
        names.join(" ")
    );
    let can_sudo = || Run::new("sudo", root).args(["-n", "true"]).succeeds();
    if !Path::new("/usr/bin/apt-get").exists() {
        let names = names.join(", ");
        return Err(Error::Missing(format!(
            "no apt-get here: install {names} by hand, then run this again"
        )));
    }
    let before: &[&str] = if is_root() {
        &["env"]
    } else if can_sudo() {
        &["sudo", "-n", "env"]
    } else {
        return Err(Error::Missing(format!(
            "not root and no password-less sudo: run `{by_hand}` as root once"
        )));
    };
    let (program, rest) = before.split_first().expect("a command has a program");
    let run = Run::new(program, root).args(rest);
    run.args(["sh", "-c", INSTALL, "setup"]).args(names).status()
}

/// The extension comes as one package for each major version of the server; the newest is what the tests start.
fn hypopg(root: &Path) -> Result<Done> {
    let folders = fs::read_dir(POSTGRESQL).into_iter().flatten().flatten();
    let majors = folders.filter_map(|folder| folder.file_name().to_str()?.parse::<u32>().ok());
    let Some(major) = majors.max() else {
        return Err(Error::Missing(format!(
            "no version of PostgreSQL below {POSTGRESQL}"
        )));
    };
    if Path::new(&format!("/usr/share/postgresql/{major}/extension/hypopg.control")).exists() {
        return Ok(Done::Already);
    }
    println!("setup: hypopg is missing: it proves the advice on indexes in the tests");
    install(root, &[&format!("postgresql-{major}-hypopg")])?;
    Ok(Done::Now)
}

/// Valkey is Redis by another name, so its tests are a second run of those of Redis and may be missing.
fn valkey(root: &Path) -> Result<Done> {
    if valkey_server(root).is_some() {
        return Ok(Done::Already);
    }
    let (unpacked, whole) = (local(root).join("valkey.new"), local(root).join("valkey"));
    let file = |path: &Path, done: std::io::Result<()>| {
        done.map_err(|source| Error::File {
            path: path.display().to_string(),
            source,
        })
    };
    // What an interrupted run left.
    if unpacked.exists() {
        file(&unpacked, fs::remove_dir_all(&unpacked))?;
    }
    file(&unpacked, fs::create_dir_all(&unpacked))?;
    let script = Run::new("sh", root).args(["-c", VALKEY, "setup"]);
    if script.arg(&unpacked).status().is_err() {
        return Ok(Done::Without);
    }
    file(&whole, fs::rename(&unpacked, &whole))?;
    Ok(Done::Now)
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_uid(&status) == Some(0)
}

/// The second number of the `Uid:` line of proc(5)'s status file.
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

// === npm ===

fn npm(root: &Path, name: &str, folder: &Path) -> Result<Done> {
    let lock = folder.join("package-lock.json");
    let stamp = Stamp::new(root, name, &[&lock, &folder.join("package.json")])?;
    if stamp.is_current() && folder.join("node_modules/.package-lock.json").exists() {
        return Ok(Done::Already);
    }
    if !Run::new("npm", root).arg("--version").succeeds() {
        let text = "no `npm` here: install Node 20 or newer (with npm), then run this again";
        return Err(Error::Missing(text.to_owned()));
    }
    Run::new("npm", folder)
        .args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
        .status()?;
    stamp.write()?;
    Ok(Done::Now)
}

// === Python ===

/// Fills the environment that `python` is in with what `lock` lists.
fn pip(root: &Path, name: &str, lock: &Path, python: &Path) -> Result<Done> {
    let stamp = Stamp::new(root, name, &[lock])?;
    if stamp.is_current() && python.exists() {
        return Ok(Done::Already);
    }
    let venv = python
        .ancestors()
        .nth(2)
        .expect("an environment has its Python in bin");
    Run::new("python3", root)
        .args(["-m", "venv", "--clear"])
        .arg(venv)
        .status()?;
    let pip = Run::new(python, root).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--require-hashes", "-r"]).arg(lock).status()?;
    stamp.write()?;
    Ok(Done::Now)
}

// === Stamp ===

/// Remembers from which lock files a folder was installed.
struct Stamp {
    path: PathBuf,
    now: String,
}

impl Stamp {
    fn new(root: &Path, name: &str, inputs: &[&Path]) -> Result<Self> {
        let mut hash = Fnv::default();
        for path in inputs {
            let read = fs::read(path);
            hash.write(&read.map_err(|source| Error::File {
                path: path.display().to_string(),
                source,
            })?);
        }
        // The folder is part of it: an environment moved with its repository has paths of the old place inside.
        hash.write(root.as_os_str().as_encoded_bytes());
        Ok(Self {
            path: local(root).join(format!("{name}.stamp")),
            now: format!("{:016x}\n", hash.0),
        })
    }

    fn is_current(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|then| then == self.now)
    }

    fn write(&self) -> Result<()> {
        let folder = self.path.parent().expect("a stamp lies in a folder");
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&self.path, &self.now));
        written.map_err(|source| Error::File {
            path: self.path.display().to_string(),
            source,
        })
    }
}

/// FNV-1a with 64 bits: tells versions of our own files apart, nothing more.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_is_read() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t5\n"), Some(0));
        assert_eq!(effective_uid("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        let hash = |bytes: &[u8]| {
            let mut hash = Fnv::default();
            hash.write(bytes);
            hash.0
        };
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn a_stamp_is_current_until_its_lock_file_changes() {
        let root = std::env::temp_dir().join(format!("tidegate-xtask-stamp-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let lock = root.join("lock");
        fs::write(&lock, "one").unwrap();
        let stamp = || Stamp::new(&root, "node", &[&lock]).unwrap();
        assert!(!stamp().is_current());
        stamp().write().unwrap();
        assert!(stamp().is_current());
        fs::write(&lock, "two").unwrap();
        assert!(!stamp().is_current());
        fs::remove_dir_all(&root).unwrap();
    }
}
