//! A server does not outlive its owner, however the owner ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use tidegate_cluster::Cluster;

const CHILD: &str = "TIDEGATE_CLUSTER_CHILD";

/// Not a test of its own: the process that the test below kills. Without the variable it does nothing.
#[test]
fn child_that_is_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let cluster = Cluster::temporary().unwrap();
    println!("up {} {}", cluster.pid().unwrap(), cluster.folder().display());
    // Until killed.
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn a_server_ends_with_its_killed_owner_and_its_folder_is_swept() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "death::child_that_is_killed", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let up = lines
        .map_while(Result::ok)
        .find(|line| line.contains("up "))
        .unwrap();
    let mut words = up[up.find("up ").unwrap()..].split(' ').skip(1);
    let (pid, folder) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    // The next start on the machine waits for what is left of the server, and removes its folder.
    let next = Cluster::temporary().unwrap();
    assert!(!Path::new(&folder).exists(), "{folder} is left");
    // A process that nobody has reaped yet stands nowhere any more.
    let stands_in = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    assert!(!stands_in.starts_with(&folder), "{pid} still runs");
    drop(next);
}
