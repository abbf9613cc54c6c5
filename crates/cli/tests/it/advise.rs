//! Index advice from a real server under real queries.

use crate::{Settings, check, index::ORDERS, store::Place, tidegate};

/// What the shop asks; nothing says that it needs an index.
const QUERIES: &str = r#"
[queries.revenue]
sql = "SELECT date, sum(amount) AS revenue FROM orders WHERE store = :store AND date >= :since GROUP BY date ORDER BY date"
params = { store = "text", since = "date" }
[queries.one]
sql = "SELECT id, note FROM orders WHERE id = :id"
params = { id = "int8" }
"#;

const N_CALLS: usize = 40;

fn advise(server: &str, place: &Place, file: &Settings) -> (Option<i32>, String) {
    let (url, path) = (place.url.as_str(), file.path());
    let args = ["index", "advise", "--server", server, "-o", path, "--url", url];
    let output = tidegate(&args).env_remove("TIDEGATE_TOKEN").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text.into_owned())
}

#[test]
fn advice_comes_from_the_traffic_of_a_real_server() {
    let place = Place::new("");
    place.psql(ORDERS);
    place.declare(QUERIES);
    let server = place.serve();
    for call in 0..N_CALLS {
        let revenue = format!(
            "/api/query/revenue?store=store-{}&since=2025-03-{:02}",
            call % 4,
            1 + call % 28
        );
        let answer = server.get(&revenue);
        assert!(answer.contains(r#""revenue":"#), "{answer}");
        let answer = server.get(&format!("/api/query/one?id={}", call + 1));
        assert!(answer.contains(r#""note":"#), "{answer}");
    }
    let url = format!("http://{}", server.address);
    let file = Settings::new("real-advice", "");
    let (code, text) = advise(&url, &place, &file);
    assert_eq!(code, Some(1), "{text}");
    for expected in [
        "ON public.orders (store, date) INCLUDE (amount);",
        "40 calls",
        "proved by the planner",
        "0 of them skipped",
    ] {
        assert!(text.contains(expected), "{text}, expected {expected}");
    }
    // What was advised is made, is used by the very queries, and is not advised again.
    let apply = ["index", "apply", "--plan", file.path(), "--url", &place.url];
    check(&apply, 0, "created, 0 there already, 0 failed");
    place.psql("VACUUM ANALYZE orders");
    let answer = server.get("/api/query/revenue?store=store-1&since=2025-03-01");
    assert!(answer.contains(r#""revenue":"#), "{answer}");
    let plan = place.psql(
        "EXPLAIN SELECT date, sum(amount) FROM orders WHERE store = 'store-1' AND date >= '2025-03-01' GROUP BY date",
    );
    assert!(plan.contains("Index Only Scan"), "{plan}");
    let (code, text) = advise(&url, &place, &file);
    assert_eq!(code, Some(0), "{text}");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}
