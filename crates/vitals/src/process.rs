//! What the operating system says of this process: memory, CPU time, open files, and how much memory it may use.
//!
//! Every function answers `None` where the system does not tell (no `/proc`, an unknown format): these are
//! figures, and a missing figure is no failure. Sources: proc(5), cgroups(7).
//!
//! Unsafe code here follows one rule. **P1**: a C call gets only pointers to locals that outlive it, of the exact type
//! that its manual page names, and their content is used only if it reports success.

use std::path::{Path, PathBuf};

/// Memory and threads of a process, from `/proc/self/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Address space, bytes.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
}

/// Soft and hard limit on open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// What is enforced now.
    pub soft: u64,
    /// What the process may raise it to.
    pub hard: u64,
}

/// Values from here on mean "no limit" in cgroup v1, which writes the largest page-aligned number.
pub(crate) const V1_NO_LIMIT: u64 = 1 << 60;

/// Resident memory, bytes.
pub fn rss_bytes() -> Option<u64> {
    status().map(|status| status.rss_bytes)
}

/// Address space, bytes.
pub fn virtual_bytes() -> Option<u64> {
    status().map(|status| status.virtual_bytes)
}

/// Threads of the process.
pub fn threads() -> Option<u64> {
    status().map(|status| status.threads)
}

/// Memory and threads in one read.
pub fn status() -> Option<Status> {
    parse_status(&read(Path::new("/proc/self/status"))?)
}

/// Open file descriptors.
pub fn open_files() -> Option<u64> {
    // The descriptor that lists the directory is one of those listed.
    std::fs::read_dir("/proc/self/fd")
        .ok()
        .map(|entries| (entries.count() as u64).saturating_sub(1))
}

/// The most file descriptors the process may open now.
pub fn open_files_limit() -> Option<u64> {
    file_limits().map(|limits| limits.soft)
}

/// Both limits on open files.
pub fn file_limits() -> Option<FileLimits> {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: P1, getrlimit(2).
    let code = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) };
    (code == 0).then_some(FileLimits {
        soft: limits.rlim_cur,
        hard: limits.rlim_max,
    })
}

/// Raises the soft limit on open files to the hard one and says what it is then.
///
/// # Errors
/// What the system answers; the limit then stays as it was.
pub fn raise_open_files_limit() -> std::io::Result<u64> {
    let FileLimits { soft, hard } = file_limits().ok_or_else(std::io::Error::last_os_error)?;
    if soft >= hard {
        return Ok(soft);
    }
    let raised = libc::rlimit {
        rlim_cur: hard,
        rlim_max: hard,
    };
    // SAFETY: P1, setrlimit(2).
    let code = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
    if code == 0 {
        Ok(hard)
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// CPU time of all threads since the process began, user and system, nanoseconds.
pub fn cpu_ns() -> Option<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: P1, clock_gettime(2).
    let code = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    (code == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Memory of the host, bytes.
pub fn host_memory_bytes() -> Option<u64> {
    parse_kib_field(&read(Path::new("/proc/meminfo"))?, "MemTotal:")
}

/// How much memory the process should plan with, bytes: the lower of its cgroup's limit (or that of any ancestor) and
/// half of the host's memory.
pub fn memory_limit() -> Option<u64> {
    let half_of_host = host_memory_bytes().map(|bytes| bytes / 2);
    let cgroup = read(Path::new("/proc/self/cgroup"))
        .zip(read(Path::new("/proc/self/mountinfo")))
        .and_then(|(cgroup, mounts)| cgroup_limit(&cgroup, &mounts, read));
    half_of_host.into_iter().chain(cgroup).min()
}

/// Parses `/proc/<pid>/status`.
pub fn parse_status(text: &str) -> Option<Status> {
    let threads = text.lines().find_map(|line| line.strip_prefix("Threads:"))?;
    Some(Status {
        rss_bytes: parse_kib_field(text, "VmRSS:")?,
        virtual_bytes: parse_kib_field(text, "VmSize:")?,
        threads: threads.trim().parse().ok()?,
    })
}

/// The lowest memory limit over the process's cgroups and their ancestors, bytes; `None` without any limit.
///
/// `cgroup` is `/proc/self/cgroup`, `mountinfo` is `/proc/self/mountinfo`, `read` gives the text of a file. Knows both
/// versions: `memory.max` and `memory.high` of v2, `memory.limit_in_bytes` of v1.
pub fn cgroup_limit(cgroup: &str, mountinfo: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let folders = cgroup_folders(cgroup, mountinfo).into_iter();
    let limits =
        folders.flat_map(|(version, folder)| version.limit_files().iter().map(move |file| folder.join(file)));
    limits.filter_map(|file| parse_limit(&read(&file)?)).min()
}

/// The folder of each memory cgroup that the process is in, and of each ancestor up to the mount point.
pub(crate) fn cgroup_folders(cgroup: &str, mountinfo: &str) -> Vec<(Version, PathBuf)> {
    let memberships = cgroup.lines().filter_map(parse_membership);
    let folders = memberships.flat_map(|(version, path)| {
        let mount = mountinfo.lines().find_map(|line| parse_mount(line, version));
        mount
            .map(|mount| mount.folders(version, path))
            .unwrap_or_default()
    });
    folders.collect()
}

/// Bytes of a page of memory.
pub(crate) fn page_bytes() -> u64 {
    // SAFETY: P1, sysconf(3); it takes no pointer.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// The version of cgroups that a folder belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

struct Mount<'a> {
    /// The folder of the hierarchy that is mounted; not `/` in a container that shares the host's names.
    root: &'a str,
    point: &'a str,
}

// === impl Version ===

impl Version {
    pub(crate) fn limit_files(self) -> &'static [&'static str] {
        match self {
            Self::V1 => &["memory.limit_in_bytes"],
            Self::V2 => &["memory.max", "memory.high"],
        }
    }
}

// === impl Mount ===

impl Mount<'_> {
    /// The process's own folder and each ancestor up to the mount point.
    fn folders(&self, version: Version, path: &str) -> Vec<(Version, PathBuf)> {
        let root = self.root.trim_end_matches('/');
        let below_root = path.strip_prefix(root).unwrap_or("");
        let point = Path::new(self.point);
        let own = point.join(below_root.trim_start_matches('/'));
        own.ancestors()
            .take_while(|folder| folder.starts_with(point))
            .map(|f| (version, f.to_owned()))
            .collect()
    }
}

/// One line of `/proc/self/cgroup`, `id:controllers:path`: the memory controller of v1, or the one hierarchy of v2.
fn parse_membership(line: &str) -> Option<(Version, &str)> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    if controllers.split(',').any(|name| name == "memory") {
        return Some((Version::V1, path));
    }
    (id == "0" && controllers.is_empty()).then_some((Version::V2, path))
}

/// One line of `/proc/self/mountinfo`, if it mounts the hierarchy of that version.
fn parse_mount(line: &str, version: Version) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let mount = Mount {
        root: fields.next()?,
        point: fields.next()?,
    };
    let mut kind = after.split(' ');
    let (fs, options) = (kind.next()?, kind.nth(1)?);
    let matches = match version {
        Version::V1 => fs == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::V2 => fs == "cgroup2",
    };
    matches.then_some(mount)
}

/// The number in a limit file; `None` for "max" and the v1 value that stands for it.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < V1_NO_LIMIT)
}

/// A `Name:  1234 kB` field, in bytes.
fn parse_kib_field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_limit(cgroup: &str, mountinfo: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let read = |path: &Path| {
            files
                .iter()
                .find(|(name, _)| Path::new(name) == path)
                .map(|(_, text)| (*text).to_owned())
        };
        assert_eq!(
            cgroup_limit(cgroup, mountinfo, read),
            expected,
            "{cgroup} {mountinfo}"
        );
    }

    const V2_MOUNT: &str = "25 30 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNT: &str =
        "34 24 0:29 /docker/ab /sys/fs/cgroup/memory ro,nosuid master:13 - cgroup cgroup rw,memory\n";

    #[test]
    fn the_lowest_limit_of_all_ancestors_counts() {
        let own = "0::/system.slice/tidegate.service\n";
        let base = "/sys/fs/cgroup/system.slice";
        let (max, high) = (
            format!("{base}/tidegate.service/memory.max"),
            format!("{base}/memory.high"),
        );
        check_limit(own, V2_MOUNT, &[(&max, "536870912\n")], Some(536_870_912));
        check_limit(
            own,
            V2_MOUNT,
            &[(&max, "536870912\n"), (&high, "1000\n")],
            Some(1000),
        );
        check_limit(own, V2_MOUNT, &[(&max, "max\n"), (&high, "max\n")], None);
        check_limit(own, V2_MOUNT, &[], None);
        check_limit(
            "0::/\n",
            V2_MOUNT,
            &[("/sys/fs/cgroup/memory.max", "7\n")],
            Some(7),
        );
    }

    #[test]
    fn v1_finds_its_folder_below_the_mounted_root() {
        let own = "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab/app\n0::/\n";
        let limit = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        let app = "/sys/fs/cgroup/memory/app/memory.limit_in_bytes";
        check_limit(
            own,
            V1_MOUNT,
            &[(limit, "4096\n"), (app, "9223372036854771712\n")],
            Some(4096),
        );
        check_limit(own, V1_MOUNT, &[(app, "9223372036854771712\n")], None);
        check_limit(own, "", &[(app, "1\n")], None);
    }

    #[test]
    fn status_is_read_in_bytes() {
        let text = "Name:\ttidegate\nVmSize:\t  204800 kB\nVmRSS:\t   10240 kB\nThreads:\t7\n";
        let expected = Status {
            rss_bytes: 10_485_760,
            virtual_bytes: 209_715_200,
            threads: 7,
        };
        assert_eq!(parse_status(text), Some(expected));
        for broken in ["", "VmRSS: 1 kB\n", "VmSize: 1 kB\nVmRSS: x kB\nThreads: 1\n"] {
            assert_eq!(parse_status(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn this_process_has_figures() {
        assert!(rss_bytes().unwrap() > 0 && virtual_bytes() >= rss_bytes());
        assert!(threads().unwrap() >= 1 && open_files().unwrap() >= 3);
        assert!(open_files_limit().unwrap() > 0);
        assert!(memory_limit().unwrap() <= host_memory_bytes().unwrap() / 2);
        let before = cpu_ns().unwrap();
        assert!(cpu_ns().unwrap() >= before);
    }
}
