//! The functions of the outbox: who may call them, and what the trigger of a table publishes.

use tidegate_store::schema::{migrate, plan::Outcome};

use crate::relay::{Call, World, publish, run};

#[tokio::test(flavor = "multi_thread")]
async fn an_application_needs_no_more_than_the_functions() {
    let world = World::new().await;
    let (_relay, heard) = world.relay("one");
    let role = format!("app_{}", world.name());
    world.psql(&format!(
        "CREATE ROLE {role}; GRANT USAGE ON SCHEMA tidegate TO {role};
         GRANT EXECUTE ON FUNCTION tidegate.publish, tidegate.publish_to, tidegate.invalidate TO {role}"
    ));
    let session = world.session().await;
    // What the caller finds under the names of the server's functions is not used.
    run(
        &session,
        &format!(
            "CREATE SCHEMA evil; GRANT USAGE, CREATE ON SCHEMA evil TO {role}; SET ROLE {role};
             CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz';
             SET search_path = evil, pg_catalog; {} SELECT tidegate.invalidate(ARRAY['t'])",
            publish(0..1)
        ),
    )
    .await;
    heard.wait(1).await;
    heard
        .wait_for("tag", || {
            heard.calls().contains(&Call::Tags(vec!["t".to_owned()]))
        })
        .await;
    for refused in [
        "SELECT FROM tidegate.outbox",
        "INSERT INTO tidegate.outbox (namespace, rooms, tags, n_bytes) VALUES ('/', '{}', '{}', 0)",
        "DELETE FROM tidegate.outbox_reader",
        "SELECT tidegate.outbox_put('/', '{a}', 'n', NULL, '{}', NULL, NULL)",
        "SELECT tidegate.watch('pg_class', 'a', 'n')",
        "SELECT nextval('tidegate.outbox_dropped')",
    ] {
        let error = session.client().batch_execute(refused).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{refused}");
    }
}

const ODD: &str = r#"CREATE SCHEMA "odd.one"; CREATE TABLE "odd.one"."Or'der ""s"""
    (id int PRIMARY KEY, "Sto're" text, "数量" numeric, secret text, at timestamptz)"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_table_are_published_whatever_its_name() {
    let world = World::new().await;
    let (_relay, heard) = world.relay("one");
    let table = r#"'"odd.one"."Or''der ""s"""'"#;
    world.psql(ODD);
    let watch = format!(
        r#"SELECT tidegate.watch({table}, 'store:{{Sto''re}}', 'ord''er', ARRAY['orders:{{Sto''re}}:{{数量}}', 'all'], ARRAY['id', 'Sto''re', '数量', 'at'])"#
    );
    // Again does no harm.
    world.psql(&watch);
    world.psql(&watch);
    let t = r#""odd.one"."Or'der ""s""""#;
    world.psql(&format!(
        r#"SET timezone = 'Asia/Shanghai'; INSERT INTO {t} VALUES (1, 'a"''b', 1.50, 'x', '2026-01-02 03:04:05Z'), (2, NULL, 2, 'x', NULL);
           UPDATE {t} SET secret = secret; UPDATE {t} SET "Sto're" = 'c' WHERE id = 1; DELETE FROM {t} WHERE id = 1; TRUNCATE {t}"#
    ));
    heard.wait(3).await;
    heard
        .wait_for("tags of TRUNCATE", || {
            heard.calls().iter().any(|call| matches!(call, Call::Tags(tags) if tags.contains(&"orders:*".to_owned()) && tags.contains(&"all*".to_owned())))
        })
        .await;
    let shown: Vec<_> = heard
        .entries()
        .iter()
        .map(|entry| {
            format!(
                "{} {} {} {}",
                entry.event.as_deref().unwrap(),
                entry.rooms.join("+"),
                entry.tags.join("+"),
                entry.data.as_deref().unwrap()
            )
        })
        .collect();
    let at = r#""at": "2026-01-02T03:04:05+00:00", "id": 1"#;
    let expected = [
        format!(r#"ord'er store:a"'b orders:a"'b:1.50+all {{{at}, "Sto're": "a\"'b", "数量": 1.50}}"#),
        format!(
            r#"ord'er store:c+store:a"'b orders:c:1.50+all+orders:a"'b:1.50 {{{at}, "_op": "update", "Sto're": "c", "数量": 1.50}}"#
        ),
        format!(r#"ord'er store:c orders:c:1.50+all {{{at}, "_op": "delete", "Sto're": "c", "数量": 1.50}}"#),
    ];
    assert_eq!(shown, expected);
    // The row without a store has no room, but its tags count, all that begin alike.
    let voided: Vec<String> = heard
        .calls()
        .into_iter()
        .filter_map(|call| {
            if let Call::Tags(tags) = call {
                Some(tags)
            } else {
                None
            }
        })
        .flatten()
        .collect();
    assert!(
        voided.iter().filter(|tag| *tag == "orders:*").count() >= 2,
        "{voided:?}"
    );
    assert_eq!(
        world.psql(&format!("SELECT tidegate.unwatch({table}, 'other')")),
        "0"
    );
    assert_eq!(world.psql(&format!("SELECT tidegate.unwatch({table})")), "1");
    assert_eq!(
        world.psql("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'tidegate%'"),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cast_of_somebody_else_does_not_run_with_our_rights() {
    let world = World::new().await;
    let (_relay, heard) = world.relay("one");
    let role = format!("owner_{}", world.name());
    world.psql(&format!(
        "CREATE EXTENSION hstore SCHEMA public; CREATE ROLE {role}; CREATE SCHEMA own AUTHORIZATION {role};
         GRANT USAGE ON SCHEMA tidegate TO {role};
         GRANT EXECUTE ON FUNCTION tidegate.watch, tidegate.watch_row TO {role};
         SET ROLE {role}; CREATE TYPE own.pair AS (a int); CREATE TABLE own.t (id int, p own.pair, h public.hstore);
         SELECT tidegate.watch('own.t', 'all', 'n'); INSERT INTO own.t VALUES (1, ROW(1), 'a=>1')"
    ));
    heard.wait(1).await;
    world.psql(&format!(
        "SET ROLE {role};
         CREATE FUNCTION own.evil(own.pair) RETURNS json LANGUAGE sql AS $$ SELECT to_json(current_user::text) $$;
         CREATE CAST (own.pair AS json) WITH FUNCTION own.evil(own.pair)"
    ));
    let session = world.session().await;
    run(&session, &format!("SET ROLE {role}")).await;
    for refused in [
        "INSERT INTO own.t VALUES (2, ROW(2), NULL)",
        "DELETE FROM own.t",
        "SELECT tidegate.watch('own.t', 'all', 'n')",
    ] {
        let error = session.client().batch_execute(refused).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{refused}");
    }
    run(
        &session,
        "DROP CAST (own.pair AS json); INSERT INTO own.t VALUES (3)",
    )
    .await;
    heard.wait(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_cannot_work_is_refused_where_it_is_written() {
    let world = World::new().await;
    world.psql("CREATE TABLE t (id int, store text)");
    let session = world.session().await;
    let check = async |arguments: &str, sqlstate: &str| {
        let sql = format!("SELECT tidegate.watch('t', {arguments})");
        let error = session.client().batch_execute(&sql).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), sqlstate, "{arguments}: {error:?}");
    };
    check("'a:{nothing}', 'n'", "42703").await;
    check("'a:{id}', 'n', ARRAY['t:{gone}']", "42703").await;
    check("'a:{id}', 'n', columns => ARRAY['gone']", "42703").await;
    check("'a:{id', 'n'", "22023").await;
    check("'a:}', 'n'", "22023").await;
    check("'a:{}', 'n'", "22023").await;
    check("'', 'n'", "22004").await;
    check("'a', NULL", "22004").await;
    run(&session, "SELECT tidegate.watch('t', '{{{id}}}', 'n')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_is_brought_up_and_what_is_there_stays() {
    let world = World::new().await;
    world.psql(&publish(0..1));
    world.psql("UPDATE tidegate.version SET version = 1 WHERE part = 'own'");
    let report = migrate(&world.database, &[], migrate::Options::default())
        .await
        .unwrap();
    assert_eq!(report.count(Outcome::Altered), 1, "{report:?}");
    let (_relay, heard) = world.relay("one");
    assert_eq!(heard.wait(1).await[0].data.as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_writes_a_watched_table_needs_nothing_of_ours() {
    let world = World::new().await;
    let (_relay, heard) = world.relay("one");
    let role = format!("writer_{}", world.name());
    world.psql(&format!(
        "CREATE TABLE public.t (id int); SELECT tidegate.watch('public.t', 'all', 'n'); CREATE ROLE {role};
         GRANT INSERT ON public.t TO {role}; SET ROLE {role}; INSERT INTO public.t VALUES (7)"
    ));
    assert_eq!(heard.wait(1).await[0].data.as_deref(), Some(r#"{"id": 7}"#));
}
