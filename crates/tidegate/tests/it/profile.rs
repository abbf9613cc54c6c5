//! Profiles of a running server: whole, one at a time, in every form, ended with their caller.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tidegate::{Settings, Tidegate, vitals::Id};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    client::{Answer, get, request},
    schema::mismatch,
    support::{DECLARED, PROFILING, Place},
};

const PATH: &str = "/api/performance/profile";

async fn profile(server: SocketAddr, query: &str, headers: &[&str]) -> Answer {
    request(server, "POST", &format!("{PATH}{query}"), headers, None).await
}

/// Sends rows and asks for them until the profile beside it is there.
async fn under_load(server: SocketAddr, query: &str) -> Answer {
    let work = async {
        for id in 1.. {
            let row = json!({"rows": [{"id": id, "symbol": "600519", "price": "1.50", "ts": 0}]}).to_string();
            let sent = request(server, "POST", "/api/ingest/ticks", &[], Some(&row)).await;
            assert_eq!(sent.status, 200, "{}", sent.body);
            let read = get(server, "/api/query/latest?symbol=600519&limit=5").await;
            assert_eq!(read.status, 200, "{}", read.body);
        }
    };
    tokio::select! {
        () = work => unreachable!("the numbers do not end"),
        answer = profile(server, query, &[]) => answer,
    }
}

fn names<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| item[key].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_tells_what_the_server_did() {
    let _alone = PROFILING.lock().await;
    let place = Place::new();
    let server = place.start(DECLARED).await;
    let address = server.local_addr();
    let answer = under_load(address, "?seconds=1&heap=true").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let report = answer.json();
    let document = get(address, "/api/openapi.json").await.json();
    let wrong = mismatch(
        &document,
        &json!({"$ref": "#/components/schemas/Profile"}),
        &report,
        "profile",
    );
    assert_eq!(wrong, None, "{report}");
    let functions = names(&report["functions"], "name");
    for expected in [
        "store::ingest::commit",
        "store::query::answer",
        "gateway::publish",
    ] {
        assert!(functions.contains(&expected), "{functions:?}");
    }
    let latencies = names(&report["latencies"], "name");
    assert!(
        latencies.contains(&"store_ingest_commit_seconds"),
        "{latencies:?}"
    );
    assert!(latencies.contains(&"http_request_seconds"), "{latencies:?}");
    let statements = names(&report["statements"], "text");
    assert!(
        statements.iter().any(|text| text.contains("ticks")),
        "{statements:?}"
    );
    let tasks = names(&report["polls"], "name");
    assert!(!tasks.is_empty(), "named tasks are timed while a profile runs");
    assert!(!report["threads"].as_array().unwrap().is_empty());
    assert!(
        report["limiter"]["admitted"].as_u64().unwrap() > 0,
        "{}",
        report["limiter"]
    );
    // This process has the system's allocator, which cannot be asked.
    assert!(
        report["memory"]["heap"]["error"].is_string(),
        "{}",
        report["memory"]
    );
    let scores: Vec<u64> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["score"].as_u64().unwrap())
        .collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    server.shutdown().await;
}

async fn start(more: &str) -> Tidegate {
    let open = "listen = \"127.0.0.1:0\"\n[auth]\nanonymous = true\n";
    let settings = Settings::parse_layers(&[open, more]).unwrap();
    Tidegate::builder().settings(settings).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_can_be_asked_for() {
    let _alone = PROFILING.lock().await;
    let server = start("").await;
    let address = server.local_addr();
    let check = async |query: &str, headers: &[&str], media: &str| {
        let answer = profile(address, query, headers).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some(media), "{query}");
        answer.body
    };
    let svg = check("?seconds=1&form=svg", &[], "image/svg+xml").await;
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    let folded = check("?seconds=1", &["Accept: text/plain"], "text/plain; charset=utf-8").await;
    assert!(
        folded
            .lines()
            .all(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().is_ok()),
        "{folded}"
    );
    check(
        "?seconds=1&form=json",
        &["Accept: image/svg+xml"],
        "application/json",
    )
    .await;
    let got = get(address, &format!("{PATH}?seconds=1")).await;
    assert_eq!((got.status, got.json()["ok"].as_bool()), (200, Some(true)));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused() {
    let server = start("").await;
    let check = async |query: &str, headers: &[&str], status: u16, code: &str| {
        let answer = profile(server.local_addr(), query, headers).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{query} {headers:?}"
        );
    };
    check("?seconds=0", &[], 400, "bad_request").await;
    check("?seconds=301", &[], 400, "bad_request").await;
    check("?form=pdf", &[], 400, "bad_request").await;
    check("?heap=1", &[], 400, "bad_request").await;
    // Through a proxy the caller is not at home; anybody is not an operator.
    check("?seconds=1", &["X-Forwarded-For: 10.1.1.1"], 403, "forbidden").await;
    server.shutdown().await;
}

fn runs(server: &Tidegate, result: &str) -> u64 {
    let now = server.metrics().snapshot();
    let found = now.by_label(Id::ProfileRuns).find(|(label, _)| *label == result);
    found.and_then(|(_, value)| value.as_counter()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_runs_at_a_time_and_ends_with_its_caller() {
    let _alone = PROFILING.lock().await;
    let server = start("").await;
    let address = server.local_addr();
    let head = format!("POST {PATH}?seconds=300 HTTP/1.1\r\nHost: {address}\r\n\r\n");
    // The first has begun when a second is refused; where the second came before it, both try again.
    let (mut first, refused) = loop {
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(head.as_bytes()).await.unwrap();
        let second = profile(address, "?seconds=1", &[]).await;
        if second.status != 200 {
            break (first, second);
        }
    };
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    assert!(refused.header("retry-after").is_some(), "{}", refused.head);
    assert!(runs(&server, "refused") >= 1);
    first.shutdown().await.unwrap();
    drop(first);
    while runs(&server, "abandoned") == 0 {
        assert_eq!(get(address, "/healthz").await.status, 200);
    }
    let next = profile(address, "?seconds=1", &[]).await;
    assert_eq!(next.status, 200, "{}", next.body);
    server.shutdown().await;
}
