//! Exactly once: resends before, during and after, ids used twice, answers that got lost, rows that the database refuses.

use std::sync::Arc;
use std::time::Duration;

use tidegate_store::ingest::{self, Request, Rows, State, dead_letter};
use tidegate_store::{Error, Feed, OnConflict, Operation, Template};
use tokio::time::{Instant, timeout};

use crate::ingest::{Bench, feed, ids, request};
use crate::support;

const TABLE: &str = "CREATE TABLE numbers (id int8)";

async fn numbers() -> Bench {
    Bench::new(TABLE, vec![feed("numbers", "id:int8", OnConflict::Error)]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_gets_the_recorded_outcome() {
    let table = "CREATE TABLE words (id int8 PRIMARY KEY, a int4 CHECK (a > 0))";
    let bench = Bench::new(table, vec![feed("words", "id:int8* a:int4", OnConflict::Ignore)]).await;
    let rows = r#"[{"id":1,"a":1},{"id":1,"a":2},{"id":2,"a":-1},{"id":"x"},{"id":3}]"#;
    let first = bench.try_send(request("words", Some("one"), rows)).await.unwrap();
    assert_eq!((first.stored, first.duplicates), (2, 1));
    assert_eq!((first.dead_lettered[0].row, first.rejected[0].row), (2, 3));
    let told = bench.told.n_rows();
    for _ in 0..3 {
        let again = bench.try_send(request("words", Some("one"), rows)).await.unwrap();
        assert_eq!(again, first);
    }
    assert_eq!(bench.told.n_rows(), told, "what is known is not told again");
    assert_eq!(bench.ask("SELECT count(*) FROM tidegate.dead_letter").await, "1");
    // Another principal's id is another id; so is another feed's.
    let other = Request {
        principal: "other".to_owned(),
        ..request("words", Some("one"), r#"{"id":9}"#)
    };
    assert_eq!(bench.try_send(other).await.unwrap().stored, 1);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_hear_of_rows_that_another_process_stored_before_it_ended() {
    let words = || Feed {
        tags: vec![Template::parse("words:{id}").unwrap()],
        ..feed("words", "id:int8* a:int4", OnConflict::Ignore)
    };
    let rows = r#"[{"id":1,"a":1},{"id":1,"a":2},{"id":2}]"#;
    let table = "CREATE TABLE words (id int8 PRIMARY KEY, a int4)";
    let first = Bench::new(table, vec![words()]).await;
    let stored = first.try_send(request("words", Some("one"), rows)).await.unwrap();
    let config = ingest::Config::default();
    let second = Bench::open(first.url.clone(), "", vec![words()], config).await;
    let known = second
        .try_send(request("words", Some("one"), rows))
        .await
        .unwrap();
    assert_eq!(known, stored);
    let mut tags = second.told.tags.lock().unwrap().clone();
    tags.sort();
    assert_eq!(
        tags,
        ["words:1", "words:2"],
        "answers kept there are void as well"
    );
    assert_eq!(second.told.n_rows(), 0, "but nobody is given the rows twice");
    second.finish().await;
    first.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_with_other_rows_is_refused_and_earlier_chunks_stand() {
    let bench = numbers().await;
    bench
        .try_send(request("numbers", Some("a"), &ids(0..1_500)))
        .await
        .unwrap();
    let longer = bench
        .try_send(request("numbers", Some("a"), &ids(0..2_500)))
        .await
        .unwrap_err();
    let expected = "id \"a\" was used for other rows: chunk 1 differs";
    assert_eq!(longer.to_string(), expected);
    // The first chunk is known, the second differs, the third is new and stands.
    assert_eq!(
        bench
            .ask("SELECT count(*), count(DISTINCT id) FROM numbers")
            .await,
        "2000|2000"
    );
    let operation = Request {
        operation: Some(Operation::Insert),
        rows: Rows::Ndjson(b"{\"id\":7}".as_slice().into()),
        ..request("numbers", Some("a"), "")
    };
    assert!(matches!(
        bench.try_send(operation).await,
        Err(Error::IdReused { chunk: 0, .. })
    ));
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_in_pieces_are_claimed_by_their_place() {
    let bench = numbers().await;
    let piece = |first_row, range| Request {
        first_row,
        ..request("numbers", Some("stream"), &ids(range))
    };
    for _ in 0..2 {
        for first in [0, 2_000, 4_000] {
            let outcome = bench.try_send(piece(first, first..first + 2_000)).await.unwrap();
            assert_eq!(outcome.stored, 2_000);
        }
    }
    assert_eq!(
        bench
            .ask("SELECT count(*), count(DISTINCT id) FROM numbers")
            .await,
        "6000|6000"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resend_waits_for_the_first_that_is_still_open() {
    let bench = numbers().await;
    // The same chunk in a transaction of another node that has not ended.
    bench.send("numbers", &ids(0..1)).await;
    let other = Bench::open(bench.url.clone(), "", Vec::new(), ingest::Config::default()).await;
    let (opened, is_open) = tokio::sync::oneshot::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let hash = hash_of(&bench, &ids(5..8)).await;
    let first = tokio::spawn({
        let database = other.database.clone();
        async move {
            let work = async |transaction: &tidegate_store::transaction::Transaction| {
                let claim = format!(
                    "INSERT INTO tidegate.claims (principal, feed, id, chunk, hash) \
                     VALUES ('tester', 'numbers', 'open', 0, '\\x{hash}'); INSERT INTO numbers VALUES (5), (6), (7)"
                );
                transaction.batch(&claim).await?;
                Ok(())
            };
            database
                .write_once(async |transaction| {
                    work(transaction).await?;
                    opened.send(()).unwrap();
                    ended.await.unwrap();
                    Ok(())
                })
                .await
                .unwrap();
        }
    });
    is_open.await.unwrap();
    let resend = bench.try_send(request("numbers", Some("open"), &ids(5..8)));
    let mut resend = Box::pin(resend);
    let early = timeout(Duration::from_millis(300), &mut resend).await;
    assert!(
        early.is_err(),
        "it waits, and does not store a second time: {early:?}"
    );
    end.send(()).unwrap();
    assert_eq!(resend.as_mut().await.unwrap().stored, 3);
    drop(resend);
    first.await.unwrap();
    assert_eq!(bench.ask("SELECT count(*) FROM numbers WHERE id > 4").await, "3");
    other.finish().await;
    bench.finish().await;
}

/// The hash that a claim for these rows gets.
async fn hash_of(bench: &Bench, rows: &str) -> String {
    bench
        .try_send(request("numbers", Some("probe"), rows))
        .await
        .unwrap();
    let hash = bench
        .ask("SELECT encode(hash, 'hex') FROM tidegate.claims WHERE id = 'probe'")
        .await;
    bench.sql("DELETE FROM numbers WHERE id > 4").await;
    hash
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_many_times_at_once_is_stored_once() {
    let first = Arc::new(numbers().await);
    let config = ingest::Config::default();
    let feeds = first.ingest.feeds();
    let second = Arc::new(Bench::open(first.url.clone(), "", feeds, config).await);
    let mut sends = Vec::new();
    for n in 0..40 {
        let bench = Arc::clone(if n % 2 == 0 { &first } else { &second });
        sends.push(tokio::spawn(async move {
            let rows = ids(0..2_500);
            bench
                .try_send(request("numbers", Some("many"), &rows))
                .await
                .unwrap()
                .stored
        }));
    }
    for send in sends {
        assert_eq!(send.await.unwrap(), 2_500);
    }
    assert_eq!(
        first
            .ask("SELECT count(*), count(DISTINCT id) FROM numbers")
            .await,
        "2500|2500"
    );
    assert_eq!(
        first.told.n_rows() + second.told.n_rows(),
        2_500,
        "told once over both nodes"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_is_found_among_many_rows_and_chunks() {
    let table = "CREATE TABLE parent (id int8 PRIMARY KEY); INSERT INTO parent SELECT generate_series(0, 9999); \
         CREATE TABLE child (id int8 PRIMARY KEY, parent int8 NOT NULL REFERENCES parent DEFERRABLE INITIALLY DEFERRED); \
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN IF NEW.id % 1000 = 13 THEN RAISE 'unlucky %', NEW.id; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION refuse()";
    let check = async |on_conflict, n: u64, is_bad: fn(u64) -> bool| {
        let bench = Bench::new(table, vec![feed("child", "id:int8* parent:int8!", on_conflict)]).await;
        let row = |id| {
            format!(
                r#"{{"id":{id},"parent":{}}}"#,
                if is_bad(id) { 99_999 } else { id % 10_000 }
            )
        };
        let rows: Vec<String> = (0..n).map(row).collect();
        let outcome = bench.send("child", &format!("[{}]", rows.join(","))).await;
        let expected: Vec<(u64, &str)> = (0..n)
            .filter_map(|id| match (id % 1_000 == 13, is_bad(id)) {
                (true, _) => Some((id, "P0001")),
                (false, true) => Some((id, "23503")),
                _ => None,
            })
            .collect();
        let found: Vec<(u64, &str)> = outcome
            .dead_lettered
            .iter()
            .map(|dead| (dead.row, dead.sqlstate.as_str()))
            .collect();
        let listed = expected.len().min(1_000);
        assert_eq!(found, expected[..listed], "{on_conflict:?} {n}");
        assert_eq!(outcome.stored, n - expected.len() as u64);
        assert_eq!(
            bench.ask("SELECT count(*) FROM child").await,
            outcome.stored.to_string()
        );
        assert_eq!(
            bench.ask("SELECT count(*) FROM tidegate.dead_letter").await,
            expected.len().to_string()
        );
        assert_eq!(bench.told.n_rows() as u64, outcome.stored);
        bench.finish().await;
    };
    for on_conflict in [OnConflict::Error, OnConflict::Update] {
        check(on_conflict, 100, |_| false).await;
        check(on_conflict, 100, |id| id == 50).await;
        check(on_conflict, 3_000, |id| id % 700 == 5).await;
        // More than 32: a transaction for each chunk.
        check(on_conflict, 3_000, |id| id % 20 == 5).await;
        check(on_conflict, 50, |_| true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_row_stands_when_a_later_one_of_its_key_is_refused() {
    let table = "CREATE TABLE words (id int8 PRIMARY KEY, a int4 CHECK (a > 0))";
    let bench = Bench::new(table, vec![feed("words", "id:int8* a:int4", OnConflict::Update)]).await;
    let outcome = bench
        .send(
            "words",
            r#"[{"id":1,"a":5},{"id":1,"a":-1},{"id":2,"a":1},{"id":2,"a":2}]"#,
        )
        .await;
    assert_eq!(
        (outcome.stored, outcome.duplicates, outcome.dead_lettered.len()),
        (2, 1, 1)
    );
    assert_eq!(bench.ask("SELECT * FROM words ORDER BY id").await, "1|5\n2|2");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_security_blames_rows_and_missing_privileges_the_feed() {
    let table = "CREATE TABLE own (id int8, tenant text); ALTER TABLE own ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY mine ON own USING (true) WITH CHECK (tenant = 'a'); \
         DO $$ BEGIN CREATE ROLE tenant_a LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
         GRANT ALL ON own TO tenant_a";
    let declared = feed("own", "id:int8 tenant:text", OnConflict::Error);
    let owner = Bench::new(table, vec![declared.clone()]).await;
    owner.send("own", r#"{"id":0,"tenant":"a"}"#).await;
    owner.sql("GRANT USAGE ON SCHEMA tidegate TO tenant_a; GRANT ALL ON ALL TABLES IN SCHEMA tidegate TO tenant_a").await;
    let (scheme, rest) = owner.url.split_once("://").unwrap();
    let url = format!("{scheme}://tenant_a@{}", rest.split_once('@').unwrap().1);
    let bench = Bench::open(url, "", vec![declared], ingest::Config::default()).await;
    let outcome = bench
        .send("own", r#"[{"id":1,"tenant":"a"},{"id":2,"tenant":"b"}]"#)
        .await;
    assert_eq!(
        (outcome.stored, outcome.dead_lettered[0].sqlstate.as_str()),
        (1, "42501")
    );
    // Not one row gets through: nobody can tell whether the rows or the privileges are wrong.
    let refused = bench
        .try_send(request("own", None, r#"[{"id":3,"tenant":"b"}]"#))
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Suspended { .. }), "{refused:?}");
    bench.ingest.validate("own").await.unwrap();
    assert_eq!(bench.send("own", r#"[{"id":4,"tenant":"a"}]"#).await.stored, 1);
    bench.finish().await;
    owner.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_without_its_table_is_suspended_and_resumes() {
    let config = ingest::Config {
        resume_after: Duration::from_millis(50),
        ..ingest::Config::default()
    };
    let url = support::database();
    let bench = Bench::open(
        url,
        TABLE,
        vec![feed("numbers", "id:int8", OnConflict::Error)],
        config,
    )
    .await;
    assert_eq!(bench.send("numbers", &ids(0..1)).await.stored, 1);
    bench.sql("DROP TABLE numbers").await;
    let refused = bench
        .try_send(request("numbers", Some("later"), &ids(1..2)))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, Error::Suspended { feed, .. } if feed == "numbers"),
        "{refused:?}"
    );
    assert!(bench.ingest.stats().feeds[0].suspended.is_some());
    bench.sql(TABLE).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    let outcome = loop {
        match bench
            .try_send(request("numbers", Some("later"), &ids(1..2)))
            .await
        {
            Ok(outcome) => break outcome,
            Err(error) => assert!(Instant::now() < deadline, "still suspended: {error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(outcome.stored, 1);
    assert_eq!(bench.ingest.stats().feeds[0].suspended, None);
    // A table that was made anew with other types is looked at again.
    bench
        .sql("ALTER TABLE numbers ALTER COLUMN id TYPE numeric")
        .await;
    assert_eq!(bench.send("numbers", &ids(2..3)).await.stored, 1);
    assert_eq!(bench.ask("SELECT sum(id)::text FROM numbers").await, "3");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_rows_are_listed_exported_and_sent_again() {
    let table = "CREATE TABLE words (id int8 PRIMARY KEY, a int4 CONSTRAINT small CHECK (a < 10))";
    let bench = Bench::new(table, vec![feed("words", "id:int8* a:int4", OnConflict::Update)]).await;
    bench
        .send("words", r#"[{"id":1,"a":1},{"id":2,"a":50},{"id":3,"a":5000}]"#)
        .await;
    bench
        .send_as("words", Operation::Update, r#"[{"id":1,"a":60}]"#)
        .await;
    let listed = dead_letter::list(&bench.database, Some("words"), 0, 10)
        .await
        .unwrap();
    let rows: Vec<&str> = listed.iter().map(|letter| letter.row.as_str()).collect();
    assert_eq!(
        rows,
        [r#"{"id":2,"a":50}"#, r#"{"id":3,"a":5000}"#, r#"{"id":1,"a":60}"#]
    );
    assert_eq!(
        dead_letter::list(&bench.database, Some("other"), 0, 10)
            .await
            .unwrap()
            .len(),
        0
    );
    let mut lines = Vec::new();
    assert_eq!(
        dead_letter::export(&bench.database, None, &mut lines)
            .await
            .unwrap(),
        3
    );
    let lines = String::from_utf8(lines).unwrap();
    let rows: Vec<&str> = lines
        .lines()
        .map(|line| {
            line.split("\"row\":")
                .nth(1)
                .unwrap()
                .split(",\"sqlstate\"")
                .next()
                .unwrap()
        })
        .collect();
    assert_eq!(
        rows,
        [r#"{"id":2,"a":50}"#, r#"{"id":3,"a":5000}"#, r#"{"id":1,"a":60}"#],
        "as objects, not as texts in a text"
    );
    bench
        .sql("ALTER TABLE words DROP CONSTRAINT small, ADD CHECK (a < 100)")
        .await;
    let retried = dead_letter::retry(&bench.ingest, "words", 100).await.unwrap();
    assert_eq!((retried.stored, retried.refused, retried.kept), (2, 1, 0));
    assert_eq!(bench.ask("SELECT * FROM words ORDER BY id").await, "1|60\n2|50");
    let left = dead_letter::list(&bench.database, None, 0, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].row, r#"{"id":3,"a":5000}"#);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_durable_whatever_the_session_says() {
    let bench = numbers().await;
    let name = bench.ask("SELECT current_database()").await;
    bench
        .sql(&format!("ALTER DATABASE {name} SET synchronous_commit = off"))
        .await;
    let other = Bench::open(
        bench.url.clone(),
        "",
        bench.ingest.feeds(),
        ingest::Config::default(),
    )
    .await;
    other
        .sql(
            "CREATE TABLE seen (setting text); CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$; \
             CREATE TRIGGER look AFTER INSERT ON numbers FOR EACH STATEMENT EXECUTE FUNCTION look()",
        )
        .await;
    assert_eq!(other.ask("SHOW synchronous_commit").await, "off");
    other.send("numbers", &ids(0..5)).await;
    let outcome = other.send("numbers", &ids(0..3_000)).await;
    assert_eq!(outcome.state, State::Committed);
    assert_eq!(other.ask("SELECT DISTINCT setting FROM seen").await, "on");
    other.finish().await;
    bench.finish().await;
}
