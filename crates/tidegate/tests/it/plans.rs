//! Slow statements of a real server come with their plan.

use serde_json::{Value, json};
use tidegate::Tidegate;
use tidegate::vitals::Id;

use crate::{
    client::{get, request},
    support::{DECLARED, Place},
};

/// A query that takes its time, with a parameter and a literal that nobody is to see.
const NAP: &str = r#"
[queries.nap]
sql = "SELECT n.body FROM notes n, pg_sleep(0.6) WHERE n.tenant = :tenant AND n.body <> 'hush'"
returns = { body = "text" }
params = { tenant = "text" }
"#;

fn declared() -> String {
    let declared = DECLARED.replace("query = [", "query = [\"nap\", ");
    format!("{declared}{NAP}")
}

/// The slow runs of the query, newest first, once `is_there` says so.
async fn slow(server: &Tidegate, is_there: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let found = async {
        loop {
            let answer = get(server.local_addr(), "/api/performance/database/slow")
                .await
                .json();
            let items = answer["items"].as_array().unwrap().iter();
            let is_nap = |item: &&Value| item["text"].as_str().unwrap().contains("pg_sleep");
            let naps: Vec<Value> = items.filter(is_nap).cloned().collect();
            if is_there(&naps) {
                return naps;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), found)
        .await
        .unwrap()
}

async fn start(place: &Place) -> Tidegate {
    let settings = place.settings_with(&declared(), "slow = \"300ms\"");
    let server = Tidegate::builder().settings(settings).start().await.unwrap();
    let rows = r#"[{"tenant":"a","body":"x"}]"#;
    let stored = request(server.local_addr(), "POST", "/api/ingest/notes", &[], Some(rows)).await;
    assert_eq!(stored.json()["stored"], 1);
    server
}

async fn nap(server: &Tidegate) {
    let answer = get(server.local_addr(), "/api/query/nap?tenant=a").await.json();
    assert_eq!(answer["rows"], json!([{"body": "x"}]), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_query_comes_with_its_plan_once_and_without_its_values() {
    let place = Place::new();
    let server = start(&place).await;
    nap(&server).await;
    let naps = slow(&server, |naps| naps.iter().any(|nap| !nap["plan"].is_null())).await;
    let plan = &naps[0]["plan"];
    assert_eq!(plan["is_generic"], true, "{plan}");
    assert!(
        plan["at_ms"].as_u64().is_some() && plan["cost"].as_f64().is_some(),
        "{plan}"
    );
    let nodes = plan["nodes"].as_array().unwrap();
    let scan = nodes.iter().find(|node| node["table"] == "notes");
    let filter = scan.and_then(|scan| scan["filter"].as_str()).unwrap_or_default();
    assert!(filter.contains("tenant") && filter.contains("$1"), "{plan}");
    assert!(!naps[0].to_string().contains("hush"), "{}", naps[0]);

    // The same statement again has the same plan: nothing is asked twice.
    nap(&server).await;
    let naps = slow(&server, |naps| naps.len() >= 2).await;
    assert_eq!(naps[0]["plan"], naps[1]["plan"]);
    let snapshot = server.metrics().snapshot();
    assert!(snapshot.counter(Id::StoreStatementPlans) >= 1);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidegate plans'";
    assert_eq!(place.psql(&format!("{sessions} AND xact_start IS NOT NULL")), "0");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_select_and_another_database_have_no_plans() {
    let place = Place::new();
    let server = start(&place).await;
    let store = server.store().unwrap();
    let slept = store
        .database()
        .write(async |transaction| {
            let sql = "UPDATE notes SET body = body WHERE pg_sleep(0.6)::text IS NOT NULL";
            transaction.execute(sql, &[]).await
        })
        .await;
    slept.unwrap();
    let naps = slow(&server, |naps| !naps.is_empty()).await;
    assert_eq!(naps[0]["plan"], Value::Null, "{}", naps[0]);
    server.shutdown().await;

    let place = Place::sqlite();
    let settings = place.settings_with(DECLARED, "slow = \"1ms\"");
    let server = Tidegate::builder().settings(settings).start().await.unwrap();
    let answer = get(server.local_addr(), "/api/performance/database/slow")
        .await
        .json();
    for item in answer["items"].as_array().unwrap() {
        assert_eq!(item["plan"], Value::Null);
    }
    server.shutdown().await;
}
