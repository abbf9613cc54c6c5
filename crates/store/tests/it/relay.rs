//! Publications by SQL on a real server: order, faults, bounds, several nodes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tidegate_cluster::PgBouncer;
use tidegate_store::{
    Context, Database, Relay,
    backend::postgres::{Connection, Dsn, Postgres, Session},
    relay::{Config, Entry, Outcome, Sink, Stats},
    schema::migrate,
};
use tidegate_vitals::{Clock, Id, Ledger, Registry};
use tokio::{sync::Notify, time::timeout};

use crate::{schema_keeper::open, support};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Takes what the relay hands on, in the order of the calls.
#[derive(Default)]
pub(crate) struct Heard {
    calls: Mutex<Vec<Call>>,
    /// Publications for which there is room; none: for all.
    room: Mutex<Option<usize>>,
    changed: Notify,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Tags(Vec<String>),
    Everything,
    Entry(Box<Entry>),
}

/// A database with an outbox.
pub(crate) struct World {
    url: String,
    pub(crate) database: Database,
}

// === impl Heard ===

impl Sink for Heard {
    fn invalidate(&self, tags: &[&str]) {
        self.push(Call::Tags(tags.iter().map(|&tag| tag.to_owned()).collect()));
    }

    fn invalidate_all(&self) {
        self.push(Call::Everything);
    }

    fn publish(&self, entry: &Entry) -> Outcome {
        if let Some(room) = &mut *self.room.lock().unwrap() {
            if *room == 0 {
                return Outcome::Full;
            }
            *room -= 1;
        }
        if entry.namespace == "/large" {
            return Outcome::Short {
                reason: "memory",
                message: "no memory".to_owned(),
            };
        }
        if entry.namespace == "/nowhere" {
            return Outcome::Refused {
                reason: "not_found",
                message: "no namespace named \"/nowhere\"".to_owned(),
            };
        }
        self.push(Call::Entry(Box::new(entry.clone())));
        Outcome::Published
    }
}

impl Heard {
    fn push(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
        self.changed.notify_one();
    }

    fn set_room(&self, room: Option<usize>) {
        *self.room.lock().unwrap() = room;
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let entry = |call| match call {
            Call::Entry(entry) => Some(*entry),
            _ => None,
        };
        self.calls().into_iter().filter_map(entry).collect()
    }

    pub(crate) fn data(&self) -> Vec<String> {
        let data = |entry: Entry| entry.data.unwrap_or_default();
        self.entries().into_iter().map(data).collect()
    }

    /// Waits until so many publications were heard.
    pub(crate) async fn wait(&self, n: usize) -> Vec<Entry> {
        self.wait_for(&format!("{n} publications"), || self.entries().len() >= n)
            .await;
        self.entries()
    }

    pub(crate) async fn wait_for(&self, what: &str, mut is_there: impl FnMut() -> bool) {
        let waited = timeout(PATIENCE, async {
            while !is_there() {
                self.changed.notified().await;
            }
        });
        if waited.await.is_err() {
            panic!("no {what} in {:?}", self.calls());
        }
    }
}

// === impl World ===

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(support::database()).await
    }

    pub(crate) async fn on(url: String) -> Self {
        let database = open(&url).await;
        migrate(&database, &[], migrate::Options::default())
            .await
            .unwrap();
        Self { url, database }
    }

    pub(crate) fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap().split('?').next().unwrap()
    }

    pub(crate) fn psql(&self, sql: &str) -> String {
        support::cluster().psql(self.name(), sql).unwrap()
    }

    pub(crate) fn relay(&self, node: &str) -> (Relay, Arc<Heard>) {
        self.relay_with(config(node), Arc::default())
    }

    fn relay_with(&self, config: Config, heard: Arc<Heard>) -> (Relay, Arc<Heard>) {
        let relay = Relay::start(&self.database, config, Arc::clone(&heard) as Arc<dyn Sink>).unwrap();
        (relay, heard)
    }

    /// A session of an application.
    pub(crate) async fn session(&self) -> Connection {
        session(&self.url).await
    }
}

pub(crate) async fn session(url: &str) -> Connection {
    let session = Session {
        statement_timeout: None,
        application_name: "application".to_owned(),
        is_read_only: false,
    };
    Postgres::new(Dsn::parse(url).unwrap(), session)
        .unwrap()
        .open()
        .await
        .unwrap()
}

pub(crate) async fn run(session: &Connection, sql: &str) {
    session.client().batch_execute(sql).await.unwrap();
}

fn config(node: &str) -> Config {
    Config {
        poll: Duration::from_millis(200),
        ..Config::new(node)
    }
}

/// `tidegate.publish` of numbers to the room `a`.
pub(crate) fn publish(numbers: std::ops::Range<u32>) -> String {
    numbers
        .map(|n| format!("SELECT tidegate.publish('a', 'n', '{n}');"))
        .collect()
}

pub(crate) fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Waits until figures of the relay say so; they change with every look, the first of which is made at the start.
pub(crate) async fn until(relay: &Relay, mut is_so: impl FnMut(&Stats) -> bool) -> Stats {
    let waited = timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        loop {
            ticks.tick().await;
            let stats = relay.stats();
            if is_so(&stats) {
                return stats;
            }
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{:?}", relay.stats()))
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_rows_arrive_in_order_as_they_were_published() {
    let world = World::new().await;
    let (relay, heard) = world.relay("one");
    let session = world.session().await;
    run(
        &session,
        r#"BEGIN;
           SELECT tidegate.publish('orders:1', 'order', '{"id": 1, "price": 1.50, "text": "订单 \" \u00e9"}', ARRAY['orders:1', 'all']);
           SELECT tidegate.publish('chat', 'ping', namespace => '/chat');
           SELECT tidegate.publish_to('news', '[1, null]', rooms => ARRAY['x', NULL, 'y'], users => ARRAY['ann'],
               except_sessions => ARRAY['s'], conflate => 'k', urgent => true, may_be_lost => true);
           SELECT tidegate.publish_to('all', 'null', everyone => true);
           COMMIT"#,
    )
    .await;
    let entries = heard.wait(4).await;
    let shown: Vec<_> = entries
        .iter()
        .map(|entry| {
            let data = entry.data.as_deref().unwrap_or("none");
            (
                entry.event.as_deref().unwrap(),
                entry.namespace.as_str(),
                entry.rooms.join("+"),
                data,
            )
        })
        .collect();
    let order = r#"{"id": 1, "text": "订单 \" é", "price": 1.50}"#;
    let expected = [
        ("order", "/", "orders:1".to_owned(), order),
        ("ping", "/chat", "chat".to_owned(), "none"),
        ("news", "/", "x+y".to_owned(), "[1, null]"),
        ("all", "/", String::new(), "null"),
    ];
    assert_eq!(shown, expected);
    let options = &entries[2].options;
    assert_eq!(
        (&options.users[..], &options.except_sessions[..]),
        (&["ann".to_owned()][..], &["s".to_owned()][..])
    );
    assert!(options.urgent && options.volatile && options.conflate.as_deref() == Some("k"));
    assert!(entries[3].options.everyone && !options.everyone);
    assert!(entries.windows(2).all(|pair| pair[0].position < pair[1].position));
    // Tags first, then the publications.
    assert_eq!(
        heard.calls()[0],
        Call::Tags(vec!["orders:1".to_owned(), "all".to_owned()])
    );
    relay.finish(PATIENCE).await;
    assert_eq!(world.psql("SELECT count(*) FROM tidegate.outbox"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_rolled_back_publishes_nothing() {
    let world = World::new().await;
    let (_relay, heard) = world.relay("one");
    let session = world.session().await;
    run(&session, &format!("BEGIN; {} ROLLBACK", publish(0..3))).await;
    run(
        &session,
        &format!(
            "BEGIN; {} SAVEPOINT s; {} ROLLBACK TO s; COMMIT",
            publish(3..4),
            publish(4..5)
        ),
    )
    .await;
    run(&session, &publish(5..6)).await;
    heard.wait(2).await;
    assert_eq!(heard.data(), ["3", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_delays_and_nothing_is_skipped() {
    let world = World::new().await;
    let (_relay, heard) = world.relay("one");
    let (long, short, other) = (
        world.session().await,
        world.session().await,
        world.session().await,
    );
    // The oldest transaction publishes first and last; one that writes elsewhere is open as well.
    run(&long, &format!("BEGIN; {}", publish(0..1))).await;
    run(&other, "BEGIN; CREATE TABLE elsewhere (n int)").await;
    for n in 10..60 {
        run(&short, &publish(n..n + 1)).await;
    }
    assert_eq!(heard.data(), [""; 0], "rows below an open transaction were read");
    run(&long, &format!("{} COMMIT", publish(1..2))).await;
    run(&other, "COMMIT").await;
    heard.wait(52).await;
    let expected: Vec<String> = ["0", "1"]
        .map(str::to_owned)
        .into_iter()
        .chain(numbers(10..60))
        .collect();
    assert_eq!(heard.data(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_many_writers_arrive_once_and_each_writer_in_order() {
    let world = World::new().await;
    let (_relay, heard) = world.relay("one");
    let mut writers = Vec::new();
    for writer in 0..6_u32 {
        let session = world.session().await;
        writers.push(tokio::spawn(async move {
            for n in 0..40 {
                let from = writer * 1_000 + n * 2;
                run(&session, &format!("BEGIN; {} COMMIT", publish(from..from + 2))).await;
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let entries = heard.wait(480).await;
    let got: Vec<u32> = entries
        .iter()
        .map(|entry| entry.data.as_deref().unwrap().parse().unwrap())
        .collect();
    for writer in 0..6 {
        let own: Vec<u32> = got.iter().copied().filter(|n| n / 1_000 == writer).collect();
        let expected: Vec<u32> = (writer * 1_000..writer * 1_000 + 80).collect();
        assert_eq!(own, expected);
    }
    assert_eq!(got.len(), 480);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_notification_costs_no_row() {
    let world = World::new().await;
    let (relay, heard) = world.relay("one");
    let session = world.session().await;
    let listening = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
         WHERE application_name = 'tidegate relay' AND datname = current_database()";
    for n in 0..5 {
        until(&relay, |stats| stats.state == "reading").await;
        world.psql(listening);
        run(&session, &publish(n..n + 1)).await;
        heard.wait(n as usize + 1).await;
    }
    assert_eq!(heard.data(), numbers(0..5));
    // A table that is written to by other means tells nobody at all.
    world.psql("INSERT INTO tidegate.outbox (namespace, rooms, event, tags, n_bytes) VALUES ('/', '{a}', 'n', '{}', 0)");
    assert_eq!(heard.wait(6).await[5].event.as_deref(), Some("n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_through_a_pooler() {
    let direct = World::new().await;
    let pooler = PgBouncer::start(support::cluster()).unwrap();
    let world = World::on(pooler.url(direct.name())).await;
    let (relay, heard) = world.relay("one");
    for n in 0..20 {
        direct.psql(&publish(n..n + 1));
    }
    heard.wait(20).await;
    assert_eq!(heard.data(), numbers(0..20));
    relay.finish(PATIENCE).await;
    assert_eq!(world.psql("SELECT count(*) FROM tidegate.outbox"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_before_its_position_is_written_publishes_again_under_the_same_keys() {
    let world = World::new().await;
    let (relay, heard) = world.relay("one");
    until(&relay, |stats| stats.nodes == 1).await;
    // Positions cannot be written down, and the process ends before they can.
    world.psql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON tidegate.outbox_reader FOR EACH ROW WHEN (NEW.id <> OLD.id)
         EXECUTE FUNCTION refuse()",
    );
    // All in one read: nothing more is read before a position that is due.
    world.psql(&format!("BEGIN; {} COMMIT", publish(0..5)));
    let first = heard.wait(5).await;
    let stats = until(&relay, |stats| stats.state == "failing").await;
    assert!(stats.failure.unwrap().contains("not now"));
    drop(relay);
    world.psql("DROP TRIGGER refuse ON tidegate.outbox_reader");
    let (relay, again) = world.relay("one");
    world.psql(&publish(5..6));
    let second = again.wait(6).await;
    let keys = |entries: &[Entry]| entries.iter().map(Entry::key).collect::<Vec<_>>();
    assert_eq!(keys(&second[..5]), keys(&first));
    assert_eq!(again.data(), numbers(0..6));
    // What is written down does not come again.
    relay.finish(PATIENCE).await;
    let (_relay, third) = world.relay("one");
    world.psql(&publish(6..7));
    assert_eq!(third.wait(1).await[0].data.as_deref(), Some("6"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_published_is_put_aside_and_the_rest_goes_on() {
    let world = World::new().await;
    let config = Config {
        row_bytes_max: 1_000,
        ..config("one")
    };
    let (relay, heard) = world.relay_with(config, Arc::default());
    // The limits are told with the first look.
    until(&relay, |stats| stats.nodes == 1).await;
    world.psql(&format!(
        "{} SELECT tidegate.publish('a', 'n', to_jsonb(repeat('x', 2000)), ARRAY['big']);
         SELECT tidegate.publish(NULL, 'n'); SELECT tidegate.publish_to('n');
         SELECT tidegate.publish('a', 'n', namespace => '/nowhere'); {}",
        publish(0..1),
        publish(1..2)
    ));
    heard.wait(2).await;
    assert_eq!(heard.data(), numbers(0..2));
    assert!(
        heard.calls().contains(&Call::Tags(vec!["big".to_owned()])),
        "tags count all the same"
    );
    let stats = until(&relay, |stats| stats.refused == 4).await;
    assert_eq!((stats.published, stats.read), (2, 6));
    relay.finish(PATIENCE).await;
    let reasons = world.psql(
        "SELECT string_agg(split_part(reason, ':', 1), ' ' ORDER BY xid, id) FROM tidegate.outbox_dead",
    );
    assert_eq!(reasons, "too_large no_target no_target not_found");
    assert_eq!(world.psql("SELECT count(*) FROM tidegate.outbox"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_gateway_is_waited_for() {
    let world = World::new().await;
    let heard = Arc::new(Heard::default());
    heard.set_room(Some(2));
    let (relay, heard) = world.relay_with(config("one"), heard);
    world.psql(&publish(0..10));
    heard.wait(2).await;
    until(&relay, |stats| stats.published == 2).await;
    heard.set_room(None);
    heard.wait(10).await;
    assert_eq!(heard.data(), numbers(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_stay_in_the_table_while_memory_is_short() {
    let world = World::new().await;
    world.psql(&publish(0..10));
    let (ledger, registry) = (Ledger::new(1 << 20), Registry::new());
    let context = Context::new(Clock::real(), registry.clone()).with_ledger(ledger.clone());
    let database = Database::open(tidegate_store::Config::new(&world.url), context)
        .await
        .unwrap();
    let heard = Arc::new(Heard::default());
    let relay = Relay::start(&database, config("one"), Arc::clone(&heard) as Arc<dyn Sink>).unwrap();
    until(&relay, |_| registry.counter(Id::StoreRelayFull, &[]).get() > 2).await;
    assert_eq!(heard.data(), [""; 0]);
    ledger.set_limit(64 << 20);
    heard.wait(10).await;
    assert_eq!(heard.data(), numbers(0..10));
    relay.finish(PATIENCE).await;
    database.close().await;
    assert_eq!(ledger.used(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_finds_no_memory_is_tried_again_and_then_put_aside() {
    let world = World::new().await;
    world.psql(&format!(
        "SELECT tidegate.publish('a', 'n', namespace => '/large'); {}",
        publish(0..3)
    ));
    let config = Config {
        short_max: Duration::from_millis(300),
        ..config("one")
    };
    let registry = Registry::new();
    let context = Context::new(Clock::real(), registry.clone());
    let database = Database::open(tidegate_store::Config::new(&world.url), context)
        .await
        .unwrap();
    let heard = Arc::new(Heard::default());
    let relay = Relay::start(&database, config, Arc::clone(&heard) as Arc<dyn Sink>).unwrap();
    heard.wait(3).await;
    assert_eq!(heard.data(), numbers(0..3));
    assert!(registry.counter(Id::StoreRelayFull, &[]).get() > 1, "tried once");
    relay.finish(PATIENCE).await;
    assert_eq!(
        world.psql("SELECT reason FROM tidegate.outbox_dead"),
        "memory: no memory"
    );
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_too_long_raises_the_alarm() {
    let world = World::new().await;
    let heard = Arc::new(Heard::default());
    heard.set_room(Some(0));
    world.psql(&publish(0..50));
    let config = Config {
        alarm_rows: 10,
        ..config("one")
    };
    let (relay, heard) = world.relay_with(config, heard);
    let stats = until(&relay, |stats| stats.alarm).await;
    assert_eq!(stats.waiting_rows, 50);
    heard.set_room(None);
    heard.wait(50).await;
    until(&relay, |stats| !stats.alarm && stats.waiting_rows == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_rows_than_allowed_are_given_up_the_oldest_first() {
    let world = World::new().await;
    world.psql(&publish(0..500));
    let config = Config {
        rows_max: 100,
        ..config("one")
    };
    let (relay, heard) = world.relay_with(config, Arc::default());
    heard.wait(100).await;
    assert_eq!(heard.data(), numbers(400..500));
    let stats = until(&relay, |stats| stats.lost == 400).await;
    assert_eq!(stats.published, 100);
    assert!(
        heard.calls().contains(&Call::Everything),
        "tags were lost with the rows"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_too_old_are_given_up() {
    let world = World::new().await;
    world.psql(&format!(
        "{} UPDATE tidegate.outbox SET at = at - interval '2 hours'; {}",
        publish(0..5),
        publish(5..7)
    ));
    let (relay, heard) = world.relay("one");
    heard.wait(2).await;
    assert_eq!(heard.data(), numbers(5..7));
    until(&relay, |stats| stats.lost == 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_nobody_reads_stays_within_its_bytes() {
    let world = World::new().await;
    let bounded = |is_strict| Config {
        bytes_max: 64 << 10,
        rows_max: 1,
        is_strict,
        ..config("one")
    };
    // A reader tells the limits and ends.
    let tell = async |is_strict| {
        let (relay, _heard) = world.relay_with(bounded(is_strict), Arc::default());
        until(&relay, |stats| stats.nodes == 1).await;
        relay.finish(PATIENCE).await;
    };
    tell(false).await;
    let count =
        "SELECT count(tidegate.publish('a', 'n', to_jsonb(repeat('x', 1000)))) FROM generate_series(1, 500)";
    let n: u32 = world.psql(count).parse().unwrap();
    assert!((10..100).contains(&n), "{n} taken");
    let bytes: u32 = world
        .psql("SELECT pg_table_size('tidegate.outbox')")
        .parse()
        .unwrap();
    assert!(bytes < 200 << 10, "{bytes} bytes");
    world.psql("UPDATE tidegate.outbox_limits SET is_strict = true");
    let session = world.session().await;
    let error = session.client().batch_execute(&publish(0..1)).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "53400");
    // Whoever reads next hears that publications are missing.
    let (relay, heard) = world.relay("one");
    let stats = until(&relay, |stats| stats.dropped > 0).await;
    assert_eq!(stats.dropped, u64::from(500 - n + 1));
    assert!(heard.calls().contains(&Call::Everything));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_reads_every_row_and_a_row_goes_when_all_have() {
    let world = World::new().await;
    let (one, first) = world.relay("one");
    let (two, second) = world.relay("two");
    until(&one, |stats| stats.state == "reading").await;
    until(&two, |stats| stats.state == "reading").await;
    world.psql(&publish(0..20));
    first.wait(20).await;
    second.wait(20).await;
    // One that is away holds rows back and gets them when it is there again.
    two.finish(PATIENCE).await;
    world.psql(&publish(20..40));
    first.wait(40).await;
    let (two, again) = world.relay("two");
    again.wait(20).await;
    assert_eq!(first.data(), numbers(0..40));
    assert_eq!(again.data(), numbers(20..40));
    one.finish(PATIENCE).await;
    two.finish(PATIENCE).await;
    assert_eq!(world.psql("SELECT count(*) FROM tidegate.outbox"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_for_good_is_forgotten() {
    let world = World::new().await;
    let (gone, _heard) = world.relay("gone");
    until(&gone, |stats| stats.nodes == 1).await;
    gone.finish(PATIENCE).await;
    world.psql(&format!(
        "{} UPDATE tidegate.outbox_reader SET seen_at = seen_at - interval '1 hour'",
        publish(0..5)
    ));
    let read = async |forgets_after: Duration, n: u32| {
        let config = Config {
            forgets_after,
            ..config("new")
        };
        let (relay, heard) = world.relay_with(config, Arc::default());
        until(&relay, |stats| stats.nodes > 0).await;
        world.psql(&publish(n..n + 1));
        heard
            .wait_for("the last", || heard.data().ends_with(&numbers(n..n + 1)))
            .await;
        relay.finish(PATIENCE).await;
        world.psql(
            "SELECT string_agg(node, ' ' ORDER BY node) || ', ' || (SELECT count(*) > 0 FROM tidegate.outbox) \
             FROM tidegate.outbox_reader",
        )
    };
    // Who has just come cannot know: perhaps the database was away.
    assert_eq!(read(Duration::from_secs(600), 5).await, "gone new, true");
    assert_eq!(read(Duration::ZERO, 6).await, "new, false");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_beside_the_reading_does_not_stop_it() {
    let world = World::new().await;
    world.psql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON tidegate.outbox_limits FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let registry = Registry::new();
    let context = Context::new(Clock::real(), registry.clone());
    let database = Database::open(tidegate_store::Config::new(&world.url), context)
        .await
        .unwrap();
    let heard = Arc::new(Heard::default());
    let relay = Relay::start(&database, config("one"), Arc::clone(&heard) as Arc<dyn Sink>).unwrap();
    until(&relay, |_| {
        registry.counter(Id::StoreRelayFailures, &[]).get() > 0
    })
    .await;
    world.psql(&publish(0..5));
    heard.wait(5).await;
    assert_eq!(relay.stats().failure, None);
    relay.finish(PATIENCE).await;
    assert_eq!(world.psql("SELECT count(*) FROM tidegate.outbox"), "0");
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_of_rows_that_are_held_back_count_at_once() {
    let world = World::new().await;
    let (_relay, heard) = world.relay("one");
    let long = world.session().await;
    run(&long, "BEGIN; CREATE TABLE elsewhere (n int)").await;
    world.psql("SELECT tidegate.publish('a', 'n', '1', ARRAY['t:1'])");
    heard
        .wait_for("tag", || {
            heard.calls().contains(&Call::Tags(vec!["t:1".to_owned()]))
        })
        .await;
    assert_eq!(heard.data(), [""; 0], "rows below an open transaction were read");
    run(&long, "COMMIT").await;
    heard.wait(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_one_name_do_not_read_in_turns() {
    let world = World::new().await;
    let (old, heard) = world.relay("same");
    until(&old, |stats| stats.state == "reading").await;
    let (new, other) = world.relay("same");
    until(&new, |stats| stats.state == "reading").await;
    world.psql(&publish(0..5));
    other.wait(5).await;
    // The old one notices with its next position.
    until(&old, |stats| stats.state == "superseded" && stats.alarm).await;
    // Nothing tells it any more what is void, so nothing it kept is good, as long as that lasts.
    let n_void = || {
        let calls = heard.calls();
        calls.iter().filter(|call| **call == Call::Everything).count()
    };
    heard
        .wait_for("answers void again and again", || n_void() >= 3)
        .await;
    world.psql(&publish(5..10));
    other.wait(10).await;
    assert_eq!(other.data(), numbers(0..10));
    assert!(heard.data().len() <= 5, "{:?}", heard.data());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_publishes_nothing_twice_wherever_its_place_is_set() {
    let world = World::new().await;
    // Another node, which is away, holds every row.
    let (away, _heard) = world.relay("away");
    until(&away, |stats| stats.nodes == 1).await;
    away.finish(PATIENCE).await;
    let (relay, heard) = world.relay("one");
    world.psql(&publish(0..5));
    heard.wait(5).await;
    until(&relay, |stats| stats.published == 5).await;
    world.psql(
        "UPDATE tidegate.outbox_reader SET owner = 'another', seen_at = seen_at - interval '1 hour', xid = '0', id = 0
         WHERE node = 'one'",
    );
    world.psql(&publish(5..6));
    heard.wait(6).await;
    until(&relay, |stats| stats.duplicates >= 5).await;
    assert_eq!(heard.data(), numbers(0..6));
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_do_not_mix() {
    let (one, two) = (World::new().await, World::new().await);
    let (_first, at_one) = one.relay("node");
    let (_second, at_two) = two.relay("node");
    one.psql(&publish(0..10));
    two.psql(&publish(10..20));
    at_one.wait(10).await;
    at_two.wait(10).await;
    assert_eq!((at_one.data(), at_two.data()), (numbers(0..10), numbers(10..20)));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_or_a_wrong_setting_is_refused_at_once() {
    let world = World::new().await;
    let check = |config: Config, expected: &str| {
        let error = Relay::start(&world.database, config, Arc::new(Heard::default())).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(config(""), "node");
    check(
        Config {
            node_gone_after: Duration::from_secs(1),
            ..config("a")
        },
        "node_gone_after",
    );
    let folder = std::env::temp_dir().join(world.name());
    std::fs::create_dir_all(&folder).unwrap();
    let sqlite = open(&format!("sqlite:{}/relay.db", folder.display())).await;
    let error = Relay::start(&sqlite, config("a"), Arc::new(Heard::default())).unwrap_err();
    assert_eq!(error.to_string(), "the outbox needs PostgreSQL");
    sqlite.close().await;
    std::fs::remove_dir_all(&folder).unwrap();
}
