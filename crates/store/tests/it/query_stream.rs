//! Streams on a real server: any number of rows in bounded memory, and how they end.

use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value as Json};
use tidegate_store::query::{Call, Query, Stream};
use tidegate_store::{Config, Database};

use crate::query::{by, context, database, open};
use crate::support;

/// Reads a stream to its end: rows, bytes of rows, and the last line.
async fn drain(stream: &mut Stream) -> (u64, u64, Json) {
    let (mut n_rows, mut n_bytes) = (0, 0);
    let mut last = String::new();
    while let Some(chunk) = stream.next_chunk().await {
        let text = std::str::from_utf8(&chunk).unwrap();
        assert!(text.ends_with('\n'), "a chunk is whole lines");
        for line in text.lines() {
            if !last.is_empty() {
                n_rows += 1;
                n_bytes += last.len() as u64 + 1;
            }
            line.clone_into(&mut last);
        }
    }
    (n_rows, n_bytes, serde_json::from_str(&last).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_line_says_how_much_there_was() {
    let database = database(
        "CREATE TABLE t (id int4 PRIMARY KEY, body text); INSERT INTO t SELECT n, repeat('x', n % 90) FROM generate_series(1, 20000) n",
    )
    .await;
    let paged = Query {
        page: by(&["id desc"]),
        rows_max: 10,
        ..Query::new("paged", "SELECT * FROM t")
    };
    let none = Query::new("none", "SELECT * FROM t WHERE id < 0");
    let queries = open(&database, vec![paged, none]).await.unwrap();
    let params = Map::new();
    let mut stream = queries.stream("paged", Call::new(&params)).await.unwrap();
    let first = stream.next_chunk().await.unwrap();
    assert!(first.starts_with(b"{\"id\":20000,"), "the order of the pages");
    assert!(
        (16 << 10..20 << 10).contains(&first.len()),
        "{} bytes",
        first.len()
    );
    let n_first = first.iter().filter(|byte| **byte == b'\n').count() as u64;
    let (n_rows, n_bytes, last) = drain(&mut stream).await;
    assert_eq!(n_first + n_rows, 20_000);
    assert_eq!(
        last,
        serde_json::json!({"ok": true, "rows": 20_000, "bytes": first.len() as u64 + n_bytes})
    );
    assert!(
        stream.next_chunk().await.is_none(),
        "nothing comes after the last line"
    );
    let mut stream = queries.stream("none", Call::new(&params)).await.unwrap();
    assert_eq!(
        stream.next_chunk().await.unwrap(),
        "{\"bytes\":0,\"ok\":true,\"rows\":0}\n"
    );
    let call = Call {
        limit: Some(5),
        ..Call::new(&params)
    };
    assert!(
        queries
            .stream("paged", call)
            .await
            .unwrap_err()
            .to_string()
            .contains("a stream gives all rows")
    );
    let stats = queries.stats();
    assert_eq!(
        (
            stats[1].query.as_str(),
            stats[1].rows,
            stats[1].outcomes["bad_request"]
        ),
        ("paged", 20_000, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_on_the_way_is_the_last_line() {
    let database = database("SELECT 1").await;
    let breaks = Query::new(
        "breaks",
        "SELECT n, 1 / (5000 - n) AS x FROM generate_series(1, 9000) AS n",
    );
    let stops = Query {
        timeout: Duration::from_millis(300),
        ..Query::new(
            "stops",
            "SELECT n, pg_sleep(CASE n WHEN 3000 THEN 30 ELSE 0 END)::text AS s FROM generate_series(1, 9000) n",
        )
    };
    let queries = open(&database, vec![breaks, stops]).await.unwrap();
    let params = Map::new();
    let mut stream = queries.stream("breaks", Call::new(&params)).await.unwrap();
    let (n_rows, _, last) = drain(&mut stream).await;
    assert_eq!(n_rows, 4_999);
    assert_eq!(
        (&last["ok"], &last["error"]["code"]),
        (&Json::Bool(false), &Json::from("internal")),
        "{last}"
    );
    assert!(
        last["error"]["message"].as_str().unwrap().contains("22012"),
        "{last}"
    );
    let mut stream = queries.stream("stops", Call::new(&params)).await.unwrap();
    let (n_rows, _, last) = drain(&mut stream).await;
    assert!(n_rows < 3_000, "{n_rows}");
    assert_eq!(
        (&last["ok"], &last["error"]["code"]),
        (&Json::Bool(false), &Json::from("timeout")),
        "{last}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_dropped_gives_its_connection_back() {
    let mut config = Config::new(support::database());
    (config.pool.min, config.pool.size, config.pool.overflow) = (1, 1, 0);
    let database = Database::open(config, context()).await.unwrap();
    let long = Query::new(
        "long",
        "SELECT generate_series(1, 100000000) AS n, repeat('x', 500) AS x",
    );
    let queries = open(&database, vec![long]).await.unwrap();
    let params = Map::new();
    for _ in 0..5 {
        let mut stream = queries.stream("long", Call::new(&params)).await.unwrap();
        stream.next_chunk().await.unwrap();
        drop(stream);
    }
    database.ping().await.unwrap();
    assert_eq!(queries.stats()[0].outcomes["cancelled"], 5);
}

/// Set for the process that measures itself.
const CHILD: &str = "TIDEGATE_TEST_STREAM_URL";

/// Other tests of this process would disturb the figure, so the measuring is done in one of its own.
#[test]
fn a_million_rows_take_the_memory_of_a_chunk() {
    let url = support::database();
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "query_stream::measures_a_million_rows",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, url)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(said.contains("grew by"), "it measured: {said}");
    print!("{said}");
}

#[tokio::test]
async fn measures_a_million_rows() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let database = Database::open(Config::new(url), context()).await.unwrap();
    let million = Query::new(
        "million",
        "SELECT n AS id, md5(n::text) AS hash, now() AS at FROM generate_series(1, 1000000) n",
    );
    let queries = open(&database, vec![million]).await.unwrap();
    let params = Map::new();
    let mut stream = queries.stream("million", Call::new(&params)).await.unwrap();
    for _ in 0..10 {
        stream.next_chunk().await.unwrap();
    }
    let before = resident_bytes();
    let mut most = before;
    let (mut n_bytes, mut n_chunks) = (0_usize, 0_usize);
    let mut last = bytes::Bytes::new();
    while let Some(chunk) = stream.next_chunk().await {
        n_bytes += chunk.len();
        n_chunks += 1;
        if n_chunks.is_multiple_of(64) {
            most = most.max(resident_bytes());
        }
        last = chunk;
    }
    let end = last
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty())
        .unwrap();
    let end: Json = serde_json::from_slice(end).unwrap();
    assert_eq!(
        (&end["ok"], &end["rows"]),
        (&Json::Bool(true), &Json::from(1_000_000)),
        "{end}"
    );
    let grown = most - before;
    println!(
        "{n_bytes} bytes in {n_chunks} chunks, the process grew by {} KiB",
        grown >> 10
    );
    assert!(
        grown < 4 << 20,
        "grew by {grown} bytes over {n_bytes} bytes of rows"
    );
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
