//! Checks of healthy and of broken set-ups, on real databases.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_cluster::PgBouncer;
use tidegate_store::feed::{Column, Partition};
use tidegate_store::schema::check::{Finding, Severity};
use tidegate_store::schema::{check, migrate, tables};
use tidegate_store::{Database, Feed, Type};

use crate::schema_keeper::{feed, open};
use crate::support;

/// The code and severity of everything that is not good, with its subject.
fn bad(findings: &[Finding]) -> Vec<(&str, Severity, &str)> {
    let is_bad = |finding: &&Finding| finding.severity >= Severity::Warning;
    let bad = findings.iter().filter(is_bad);
    bad.map(|finding| (finding.code, finding.severity, finding.subject.as_str()))
        .collect()
}

async fn run(database: &Database, sql: &str) {
    database
        .write(async |transaction| transaction.batch(sql).await)
        .await
        .unwrap();
}

fn config() -> check::Config {
    check::Config {
        connections: Some(20),
        ..check::Config::default()
    }
}

#[tokio::test]
async fn a_healthy_database_has_nothing_bad() {
    let database = open(&support::database()).await;
    let feeds = [Feed {
        partition: Some(Partition {
            column: "ts".to_owned(),
            every: Duration::from_secs(86_400),
            timescale: true,
        }),
        ..feed("healthy")
    }];
    migrate(&database, &feeds, migrate::Options::default())
        .await
        .unwrap();
    let findings = check(&database, &feeds, &config()).await;
    // The test's own server may stand in memory.
    let mut found = bad(&findings);
    found.retain(|found| found.0 != "tmpfs");
    assert_eq!(found, [], "{findings:#?}");
    for code in [
        "server_version",
        "durability",
        "connections",
        "own_tables",
        "feed_table",
        "partitions",
        "rollup",
    ] {
        assert!(
            findings
                .iter()
                .any(|finding| finding.code == code && finding.severity == Severity::Good),
            "{code}"
        );
    }
    assert!(
        findings
            .iter()
            .all(|finding| !finding.what.en.is_empty() && !finding.what.zh.is_empty())
    );
    let timescale = findings.iter().find(|finding| finding.code == "timescale");
    println!(
        "TimescaleDB path: {:?}",
        timescale.map(|finding| &finding.what.en)
    );
}

#[tokio::test]
async fn everything_broken_is_named() {
    let url = support::database();
    let database = open(&url).await;
    let wide = Feed {
        columns: [
            feed("broken").columns,
            vec![Column {
                name: "note".to_owned(),
                kind: Type::Text,
                not_null: false,
            }],
        ]
        .concat(),
        ..feed("broken")
    };
    let missing = Feed {
        manage: false,
        rollups: vec![],
        ..feed("nowhere")
    };
    let feeds = [wide, missing];
    run(
        &database,
        "CREATE TABLE broken (symbol text NOT NULL, ts timestamptz, price numeric);
         DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || quote_ident(current_database()) || ' SET synchronous_commit = off'; END $$",
    )
    .await;
    database.close().await;
    let database = open(&url).await;
    let too_many = check::Config {
        nodes: 10,
        connections: Some(64),
        spool: Some(PathBuf::from("/dev/shm/tidegate/spool")),
        ..config()
    };
    let findings = check(&database, &feeds, &too_many).await;
    let found = bad(&findings);
    for (code, subject) in [
        ("connections", None),
        ("durability", None),
        ("own_tables", Some("tidegate.*")),
        ("feed_table", Some("broken")),
        ("feed_table", Some("nowhere")),
        ("rollup", Some("broken.hourly")),
        ("spool_folder", Some("/dev/shm/tidegate/spool")),
    ] {
        let is = |found: &&(&str, Severity, &str)| {
            found.0 == code && found.1 == Severity::Error && subject.is_none_or(|subject| found.2 == subject)
        };
        assert!(
            found.iter().any(|found| is(&found)),
            "{code} {subject:?} in {found:#?}"
        );
    }
    let feed_problems = findings.iter().filter(|finding| finding.subject == "broken");
    let texts: Vec<&str> = feed_problems.map(|finding| finding.what.en.as_str()).collect();
    assert!(
        texts.contains(&"table broken: column price is numeric, the feed says float8"),
        "{texts:?}"
    );
    assert!(
        texts.contains(&"table broken: column note is missing"),
        "{texts:?}"
    );
    assert!(
        texts.contains(&"table broken: no unique index over the key (symbol, ts)"),
        "{texts:?}"
    );
}

#[tokio::test]
async fn a_role_without_privileges_is_told_which() {
    let url = support::database();
    let database = open(&url).await;
    let feeds = [Feed {
        rollups: vec![],
        ..feed("guarded")
    }];
    migrate(&database, &feeds, migrate::Options::default())
        .await
        .unwrap();
    run(
        &database,
        "CREATE ROLE schema_check_reader LOGIN; GRANT USAGE ON SCHEMA tidegate TO schema_check_reader;
         GRANT SELECT ON ALL TABLES IN SCHEMA tidegate TO schema_check_reader; GRANT SELECT, INSERT ON guarded TO schema_check_reader",
    )
    .await;
    let (before, after) = url.split_once("://").unwrap();
    let host = after.split_once('@').map_or(after, |(_, host)| host);
    let reader = open(&format!("{before}://schema_check_reader@{host}")).await;
    let findings = check(&reader, &feeds, &config()).await;
    let privileges = findings.iter().filter(|finding| finding.code == "privileges");
    let found: Vec<(Severity, &str, &str)> = privileges
        .map(|finding| {
            (
                finding.severity,
                finding.what.en.as_str(),
                finding.advice.en.as_str(),
            )
        })
        .collect();
    // `retain` removes rows; the others are for requests that name an operation.
    assert_eq!(
        found,
        [
            (
                Severity::Error,
                "no DELETE on table guarded",
                "Run `GRANT DELETE ON \"guarded\" TO …`."
            ),
            (
                Severity::Error,
                "no INSERT, UPDATE, DELETE on table tidegate.claims",
                "Run `GRANT INSERT, UPDATE, DELETE ON \"tidegate\".\"claims\" TO …`."
            ),
            (
                Severity::Error,
                "no INSERT on table tidegate.dead_letter",
                "Run `GRANT INSERT ON \"tidegate\".\"dead_letter\" TO …`."
            ),
            (
                Severity::Note,
                "no UPDATE on table guarded: requests that change or remove rows by key will fail",
                "Run `GRANT UPDATE ON \"guarded\" TO …`."
            ),
        ]
    );
}

#[test]
fn a_server_whose_data_lies_in_memory_is_named() {
    let in_memory = std::path::Path::new("/dev/shm");
    if !in_memory.is_dir() {
        println!("tmpfs path: no /dev/shm here, the server was not started in memory");
        return;
    }
    let folder = in_memory.join(format!("tidegate-check-{}", std::process::id()));
    let cluster = tidegate_cluster::Cluster::start(tidegate_cluster::Config {
        folder: Some(folder.clone()),
        ..tidegate_cluster::Config::default()
    })
    .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let check = |role: &str, expected: usize| {
        let url = cluster
            .url("postgres")
            .replacen("tidegate@", &format!("{role}@"), 1);
        runtime.block_on(async {
            let database = open(&url).await;
            let findings = check(&database, &[], &config()).await;
            let n_found = findings.iter().filter(|finding| finding.code == "tmpfs").count();
            assert_eq!(n_found, expected, "{role}: {findings:#?}");
            database.close().await;
        });
    };
    cluster
        .psql("postgres", "CREATE ROLE nobody_knows LOGIN")
        .unwrap();
    check("tidegate", 1);
    // This one may not know where the data lies.
    check("nobody_knows", 0);
    drop(cluster);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_pooler_in_between_is_said() {
    let url = support::database();
    let name = url
        .split_once("://")
        .unwrap()
        .1
        .split_once('/')
        .unwrap()
        .1
        .split('?')
        .next()
        .unwrap()
        .to_owned();
    let pooler = PgBouncer::start(support::cluster()).unwrap();
    let database = open(&pooler.url(&name)).await;
    migrate(&database, &[feed("pooled")], migrate::Options::default())
        .await
        .unwrap();
    let findings = check(&database, &[feed("pooled")], &config()).await;
    assert_eq!(bad(&findings), [], "{findings:#?}");
    assert!(findings.iter().any(|finding| finding.code == "pooler"));
}

#[tokio::test]
async fn a_server_that_is_away_is_one_finding() {
    let database = open("postgres://nobody@127.0.0.1:1/nothing").await;
    let quick = check::Config {
        timeout: Duration::from_millis(300),
        ..config()
    };
    let findings = check(&database, &[feed("away")], &quick).await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].code, "server_reachable");
    assert_eq!(findings[0].severity, Severity::Error);
}

#[tokio::test]
async fn sqlite_says_what_it_lacks() {
    let folder = std::env::temp_dir().join(format!("tidegate-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let database = open(&format!("sqlite:{}/data.db", folder.display())).await;
    let feeds = [feed("embedded")];
    let report = migrate(&database, &feeds, migrate::Options::default())
        .await
        .unwrap();
    assert_eq!(report.problems, []);
    let findings = check(&database, &feeds, &config()).await;
    assert_eq!(
        bad(&findings).iter().filter(|found| found.0 != "tmpfs").count(),
        0,
        "{findings:#?}"
    );
    let lacks = findings.iter().find(|finding| finding.code == "backend").unwrap();
    assert!(
        lacks.what.en.contains("replicas") && lacks.what.zh.contains("副本"),
        "{lacks:?}"
    );
    run(&database, "INSERT INTO embedded VALUES ('A', 1, 2.5)").await;
    let tables = tables(&database).await.unwrap();
    assert_eq!(
        tables.iter().find(|table| table.name == "embedded").unwrap().rows,
        1
    );
    database.close().await;
    std::fs::remove_dir_all(folder).unwrap();
}
