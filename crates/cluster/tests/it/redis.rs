//! A Redis of one's own: it answers, dies, comes back empty, and is paused.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use tidegate_cluster::{Error, Redis};

/// What it answers to a command in one line, up to the length of what is expected.
fn check(redis: &Redis, command: &str, expected: &str) {
    let mut connection = UnixStream::connect(redis.socket()).unwrap();
    connection.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut answer = vec![0; expected.len()];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), expected, "{command}");
}

#[test]
fn it_dies_and_comes_back_empty_on_the_same_socket() {
    let mut redis = Redis::start().unwrap();
    let url = redis.url();
    check(&redis, "SET a 1", "+OK\r\n");
    assert!(matches!(redis.start_again(), Err(Error::Running(_))));
    redis.kill().unwrap();
    assert!(UnixStream::connect(redis.socket()).is_err());
    assert!(matches!(redis.kill(), Err(Error::NotRunning(_))));
    redis.start_again().unwrap();
    check(&redis, "GET a", "$-1\r\n");
    assert_eq!(redis.url(), url);
    let folder = redis.socket();
    drop(redis);
    assert!(!folder.exists(), "{} is left", folder.display());
}

#[test]
fn a_paused_server_takes_connections_and_answers_when_it_goes_on() {
    let redis = Redis::start_with(&["--maxmemory", "64mb"]).unwrap();
    redis.pause().unwrap();
    let mut connection = UnixStream::connect(redis.socket()).unwrap();
    connection.write_all(b"PING\r\n").unwrap();
    connection
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut answer = [0; 7];
    assert!(connection.read_exact(&mut answer).is_err());
    redis.resume().unwrap();
    connection.set_read_timeout(None).unwrap();
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
}

#[test]
fn an_argument_that_it_does_not_know_is_told() {
    let error = Redis::start_with(&["--no-such-setting", "1"]).unwrap_err();
    assert!(error.to_string().contains("no-such-setting"), "{error}");
}
