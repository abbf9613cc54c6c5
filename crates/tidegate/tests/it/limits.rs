//! Requests at once, and memory as an operator sees it.

use serde_json::json;
use tidegate::{Settings, Tidegate};

use crate::client::{get, request};

const OPEN: &str = "listen = \"127.0.0.1:0\"\n[auth]\nanonymous = true\nanonymous_roles = [\"visitor\"]\n\
                    [roles.visitor]\npublish = [\"chat\"]\n";

async fn start(more: &str) -> Tidegate {
    let settings = Settings::parse_layers(&[OPEN, more]).unwrap();
    Tidegate::builder().settings(settings).start().await.unwrap()
}

#[tokio::test]
async fn memory_tells_level_accounts_and_snapshots() {
    let server = start("").await;
    let take = async |body: &str| {
        let path = "/api/performance/memory/snapshots";
        request(server.local_addr(), "POST", path, &[], Some(body)).await
    };
    assert_eq!(take(r#"{"label":"before the sale"}"#).await.status, 200);
    for body in [r#"{"label":""}"#, r#"{"label":1}"#, "{}"] {
        let refused = take(body).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (400, "bad_request"),
            "{body}"
        );
    }
    let stats = get(server.local_addr(), "/api/performance/memory/stats")
        .await
        .json();
    assert_eq!(stats["level"], "normal", "{stats}");
    assert_eq!(
        stats["thresholds_ratio"],
        json!({"moderate": 0.6, "high": 0.72, "critical": 0.8})
    );
    let names: Vec<&str> = stats["reactions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reaction| reaction["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"gateway") && names.contains(&"allocator"),
        "{names:?}"
    );
    let snapshots = get(server.local_addr(), "/api/performance/memory/snapshots")
        .await
        .json();
    let labels: Vec<&str> = snapshots["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["label"].as_str().unwrap())
        .collect();
    assert!(labels.contains(&"before the sale"), "{labels:?}");
    server.shutdown().await;
}

#[tokio::test]
async fn a_budget_above_the_machine_stops_the_start() {
    let settings = Settings::parse_layers(&[OPEN, "[memory]\nbudget = \"900TiB\""]).unwrap();
    let error = Tidegate::builder()
        .settings(settings)
        .start()
        .await
        .map(|_| ())
        .unwrap_err();
    let cause = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
    assert!(cause.contains("989560464998400"), "{error}: {cause}");
}

#[tokio::test]
async fn a_body_without_memory_is_answered_though_it_comes_whole() {
    let more = "[memory]\nbudget = \"16MiB\"\ncritical = 60\n[http]\nbody_bytes_max = \"64MiB\"\n";
    let server = start(more).await;
    let body = format!(
        r#"{{"room":"chat","event":"said","data":"{}"}}"#,
        "x".repeat(12 << 20)
    );
    for _ in 0..3 {
        let answer = request(server.local_addr(), "POST", "/api/publish", &[], Some(&body)).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
        assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused() {
    let refused = |text: &str, expected: &str| {
        let error = Settings::parse_layers(&[OPEN, text]).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(expected), "{text:?} said {error}");
    };
    refused(
        "[memory]\nhigh = 80",
        "memory.high is 80, allowed is below memory.critical, which is 80",
    );
    refused(
        "[memory]\nmoderate = 75",
        "memory.moderate is 75, allowed is below memory.high, which is 72",
    );
    refused(
        "[concurrency]\ninitial = 5",
        "concurrency.initial is 5, allowed is 8 to 1000, which are min and max",
    );
    refused(
        "[roles.a]\nshare = 60\n[roles.b]\nshare = 60",
        "roles.*.share is 120, allowed is at most 90",
    );
    refused(
        "[roles.a]\nshare = 60\nshare_max = 50",
        "roles.a.share_max is 50, allowed is at least its share, which is 60",
    );
    refused(
        "[queries.q]\nsql = \"SELECT 1\"\ncache = { ttl = \"5s\", tags = [\"t:{x}\"] }",
        "\"x\" is no parameter of the query",
    );
    refused(
        "[queries.q]\nsql = \"SELECT 1\"\ncache = { tags = [] }",
        "queries.q.cache.ttl",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_has_all_it_may_have_is_told_429() {
    // One request at once, of which this role may have the tenth part: none at all beside another.
    let more =
        "[concurrency]\nmin = 1\nmax = 1\ninitial = 1\nqueue_max = 0\n[roles.visitor]\nshare_max = 10\n";
    let server = start(more).await;
    let body = json!({"room": "chat", "event": "hello", "data": 1}).to_string();
    let publish = async || request(server.local_addr(), "POST", "/api/publish", &[], Some(&body)).await;
    let answers = futures_util::future::join_all((0..40).map(|_| publish())).await;
    let mut seen: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    seen.sort_unstable();
    seen.dedup();
    assert!(
        seen.iter().all(|status| [200, 429, 503].contains(status)),
        "{seen:?}"
    );
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert!(refused.header("retry-after").is_some(), "{}", refused.head);
        assert!(["rate_limited", "overloaded"].contains(&refused.code().as_str()));
    }
    server.shutdown().await;
}
