//! Backends, connections and the whole server killed in the middle of ingest: what was acknowledged is stored, once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_cluster::Cluster;
use tidegate_store::feed::{Aggregate, Measure, Rollup};
use tidegate_store::ingest::{self, Outcome};
use tidegate_store::{OnConflict, Template, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ingest::{Bench, feed, request};

/// Stands before the server on a Unix socket of its own; cuts all connections, or swallows the answers to commits.
struct Proxy {
    folder: PathBuf,
    state: Arc<ProxyState>,
    _listens: JoinSet<()>,
}

struct ProxyState {
    server: PathBuf,
    /// Counts the cuts; connections of an earlier count end.
    cuts: watch::Sender<u64>,
    /// Commits whose answers are still to be swallowed.
    swallow: AtomicUsize,
}

impl Proxy {
    fn start(cluster: &Cluster) -> Self {
        static N: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tidegate-kill-{}-{}", std::process::id(), N.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
        let state = Arc::new(ProxyState {
            server: cluster
                .socket_folder()
                .join(format!(".s.PGSQL.{}", cluster.port())),
            cuts: watch::Sender::new(0),
            swallow: AtomicUsize::new(0),
        });
        let mut listens = JoinSet::new();
        let shared = Arc::clone(&state);
        listens.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                relays.spawn(relay(client, Arc::clone(&shared)));
            }
        });
        Self {
            folder,
            state,
            _listens: listens,
        }
    }

    /// The URL of the same database through here.
    fn url(&self, direct: &str) -> String {
        let (user, rest) = direct.split_once('@').unwrap();
        let (_, database) = rest.rsplit_once('/').unwrap();
        let folder = self.folder.to_str().unwrap().replace('/', "%2F");
        format!("{user}@{folder}/{database}")
    }

    fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn relay(mut client: UnixStream, state: Arc<ProxyState>) {
    let mut cuts = state.cuts.subscribe();
    cuts.mark_unchanged();
    let Ok(mut server) = UnixStream::connect(&state.server).await else {
        return;
    };
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut is_deaf = false;
    loop {
        tokio::select! {
            _ = cuts.changed() => return,
            read = client.read(&mut up) => {
                let Some(n) = read.ok().filter(|n| *n > 0) else { return };
                // The statement, not the isolation level in a BEGIN.
                let is_commit = up[..n].windows(7).any(|bytes| bytes == b"COMMIT\0");
                is_deaf |= is_commit
                    && state.swallow.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
                if server.write_all(&up[..n]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Some(n) = read.ok().filter(|n| *n > 0) else { return };
                // Part of the answer may have come before the commit's: all of it is lost.
                if is_deaf || client.write_all(&down[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn config() -> ingest::Config {
    ingest::Config {
        patience: Duration::from_secs(20),
        ..ingest::Config::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_got_lost_is_found_by_the_claim() {
    let cluster = Cluster::temporary().unwrap();
    let url = cluster.create_database("lost").unwrap();
    let proxy = Proxy::start(&cluster);
    let table = "CREATE TABLE words (id int8 PRIMARY KEY, a int4)";
    for (n, on_conflict) in [
        (5, OnConflict::Error),
        (5, OnConflict::Ignore),
        (3_000, OnConflict::Error),
    ] {
        let feeds = vec![feed("words", "id:int8* a:int4", on_conflict)];
        let bench = Bench::open(proxy.url(&url), table, feeds, config()).await;
        bench.ingest.validate("words").await.unwrap();
        let rows: Vec<String> = (0..n).map(|id| format!("{{\"id\":{id}}}")).collect();
        // Warm: our own tables are there, the statements are prepared.
        bench.send("words", r#"{"id":-1}"#).await;
        proxy.state.swallow.store(1, Relaxed);
        let outcome = bench.send("words", &format!("[{}]", rows.join(","))).await;
        assert_eq!(proxy.state.swallow.load(Relaxed), 0, "the answer was swallowed");
        assert_eq!(
            (outcome.stored, outcome.duplicates, outcome.dead_lettered.len()),
            (n, 0, 0)
        );
        assert_eq!(
            bench.told.n_rows() as u64,
            n + 1,
            "told once, although only the second try got an answer"
        );
        assert_eq!(bench.ask("SELECT count(*) FROM words").await, (n + 1).to_string());
        bench.sql("DROP TABLE words; TRUNCATE tidegate.claims").await;
        bench.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_hear_of_rows_that_were_given_up_and_may_be_stored() {
    let cluster = Cluster::temporary().unwrap();
    let url = cluster.create_database("given_up").unwrap();
    let proxy = Proxy::start(&cluster);
    let mut words = feed("words", "id:int8* a:int4", OnConflict::Ignore);
    words.tags = vec![Template::parse("words:{id}").unwrap()];
    let table = "CREATE TABLE words (id int8 PRIMARY KEY, a int4)";
    let hasty = ingest::Config {
        patience: Duration::ZERO,
        ..config()
    };
    let bench = Bench::open(proxy.url(&url), table, vec![words], hasty).await;
    bench.send("words", r#"{"id":1}"#).await;
    proxy.state.swallow.store(1, Relaxed);
    let given_up = bench.try_send(request("words", None, r#"{"id":2}"#)).await;
    assert!(given_up.is_err(), "{given_up:?}");
    assert_eq!(proxy.state.swallow.load(Relaxed), 0, "the answer was swallowed");
    assert_eq!(*bench.told.tags.lock().unwrap(), ["words:1", "words:2"]);
    assert_eq!(bench.told.n_rows(), 1, "who is not sure publishes nothing");
    // The server may be at it still: what it was sent it does.
    let stored = async {
        while bench.ask("SELECT count(*) FROM words").await != "2" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), stored)
        .await
        .expect("it is stored all the same");
    bench.finish().await;
}

/// A small random generator (SplitMix64), so that a run can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % n
    }
}

/// What producers share with whoever kills.
struct Field {
    bench: Bench,
    next_row: AtomicU64,
    acked: watch::Sender<u64>,
    is_over: watch::Sender<bool>,
    /// Acknowledged rows by feed.
    stored: Mutex<HashMap<&'static str, u64>>,
    n_resends: AtomicU64,
}

const KILLS: u64 = 100;
const TABLES: &str = "CREATE TABLE plain (id int8, a text); CREATE TABLE keyed (id int8 PRIMARY KEY, a text); \
     CREATE TABLE summed (id int8 PRIMARY KEY, a text)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_stored_once_through_a_hundred_kills() {
    let seed = std::env::var("TIDEGATE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 0x5eed);
    println!("seed {seed}: repeat with TIDEGATE_SEED={seed}");
    let cluster = Arc::new(Cluster::temporary().unwrap());
    let url = cluster.create_database("kills").unwrap();
    let proxy = Proxy::start(&cluster);
    let mut summed = feed("summed", "id:int8* a:text", OnConflict::Ignore);
    summed.rollups = vec![by_letter()];
    let rollup = tidegate_store::schema::rollup::create_sql(
        tidegate_store::Kind::Postgres,
        &summed,
        &summed.rollups[0],
    );
    let feeds = vec![
        feed("plain", "id:int8 a:text", OnConflict::Error),
        feed("keyed", "id:int8* a:text", OnConflict::Update),
        summed,
    ];
    let sql = format!("{TABLES};{}", rollup.join(";"));
    let field = Arc::new(Field {
        bench: Bench::open(proxy.url(&url), &sql, feeds, config()).await,
        next_row: AtomicU64::new(0),
        acked: watch::Sender::new(0),
        is_over: watch::Sender::new(false),
        stored: Mutex::default(),
        n_resends: AtomicU64::new(0),
    });
    let mut producers = JoinSet::new();
    for (at, feed) in ["plain", "plain", "keyed", "keyed", "summed"]
        .into_iter()
        .enumerate()
    {
        producers.spawn(produce(Arc::clone(&field), feed, Random(seed ^ at as u64)));
    }
    let counts = kill(&cluster, &url, &proxy, &field, Random(seed)).await;
    field.is_over.send_replace(true);
    while let Some(ended) = producers.join_next().await {
        ended.unwrap();
    }
    println!(
        "{counts:?} kills, {} resends, {:?} rows",
        field.n_resends.load(Relaxed),
        field.stored.lock().unwrap()
    );
    judge(&field).await;
}

fn by_letter() -> Rollup {
    Rollup {
        name: "letters".to_owned(),
        table: "letters".to_owned(),
        group: vec!["a".to_owned()],
        bucket: None,
        measures: vec![Measure {
            how: Aggregate::Count,
            column: None,
            into: "n".to_owned(),
        }],
    }
}

/// Sends requests until it is over, each again until it is acknowledged, and some once more.
async fn produce(field: Arc<Field>, feed: &'static str, mut random: Random) {
    let mut n_requests = 0;
    while !*field.is_over.borrow() {
        n_requests += 1;
        let size = [1, 7, 120, 1_000, 2_600][random.below(5) as usize];
        let first = field.next_row.fetch_add(size, Relaxed);
        let rows: Vec<String> = (first..first + size)
            .map(|id| format!("{{\"id\":{id},\"a\":\"{}\"}}", ["x", "y", "z"][id as usize % 3]))
            .collect();
        let rows = format!("[{}]", rows.join(","));
        let id = format!("{feed}-{first}");
        let outcome = until_acked(&field, feed, &id, &rows).await;
        assert_eq!((outcome.stored, outcome.duplicates), (size, 0), "{outcome:?}");
        *field.stored.lock().unwrap().entry(feed).or_default() += size;
        field.acked.send_modify(|acked| *acked += 1);
        if n_requests % 5 == 0 {
            field.n_resends.fetch_add(1, Relaxed);
            assert_eq!(until_acked(&field, feed, &id, &rows).await, outcome);
        }
    }
}

async fn until_acked(field: &Field, feed: &str, id: &str, rows: &str) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match field.bench.try_send(request(feed, Some(id), rows)).await {
            Ok(outcome) => return outcome,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                assert!(Instant::now() < deadline, "never acknowledged: {error}");
                field.n_resends.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Kills, and lets some requests through in between. How often: backend, connections, answers, server.
async fn kill(
    cluster: &Arc<Cluster>,
    url: &str,
    proxy: &Proxy,
    field: &Field,
    mut random: Random,
) -> [u64; 4] {
    let mut counts = [0; 4];
    let mut acked = field.acked.subscribe();
    let database = url.rsplit_once('/').unwrap().1.to_owned();
    for n in 0..KILLS {
        // Now and then the server itself; it needs a while to come back.
        let how = if n % 16 == 9 { 3 } else { random.below(3) as usize };
        counts[how] += 1;
        match how {
            0 => {
                let at = random.below(4);
                let sql = format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                     AND pid <> pg_backend_pid() ORDER BY pid OFFSET {at} LIMIT 1"
                );
                let (cluster, database) = (Arc::clone(cluster), database.clone());
                let killed = tokio::task::spawn_blocking(move || cluster.psql(&database, &sql));
                killed.await.unwrap().unwrap();
            }
            1 => proxy.cut(),
            2 => proxy.state.swallow.store(1 + random.below(2) as usize, Relaxed),
            _ => {
                let cluster = Arc::clone(cluster);
                let restarted = tokio::task::spawn_blocking(move || {
                    cluster.kill()?;
                    cluster.start_again()
                });
                restarted.await.unwrap().unwrap();
            }
        }
        let enough = *acked.borrow_and_update() + 1 + random.below(4);
        acked.wait_for(|acked| *acked >= enough).await.unwrap();
    }
    proxy.state.swallow.store(0, Relaxed);
    counts
}

async fn judge(field: &Field) {
    let stored = field.stored.lock().unwrap().clone();
    for (table, n_acked) in &stored {
        let found = field
            .bench
            .ask(&format!("SELECT count(*), count(DISTINCT id) FROM {table}"))
            .await;
        assert_eq!(
            found,
            format!("{n_acked}|{n_acked}"),
            "{table}: acknowledged rows are stored once"
        );
    }
    let sums = "SELECT count(*) FROM (SELECT a, count(*) AS n FROM summed GROUP BY a) AS s \
         FULL JOIN letters AS l ON l.a = s.a WHERE l.n IS DISTINCT FROM s.n";
    assert_eq!(
        field.bench.ask(sums).await,
        "0",
        "the roll-up counts what is stored"
    );
    assert_eq!(
        field.bench.ask("SELECT count(*) FROM tidegate.dead_letter").await,
        "0"
    );
    let mut told: Vec<i64> = field
        .bench
        .told
        .rows
        .lock()
        .unwrap()
        .iter()
        .map(|(_, row, _)| first(row))
        .collect();
    let n_told = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), n_told, "no row is told twice");
    assert_eq!(n_told as u64, stored.values().sum::<u64>(), "every row is told");
}

fn first(row: &[Value]) -> i64 {
    match row[0] {
        Value::Int(id) => id,
        _ => -1,
    }
}
