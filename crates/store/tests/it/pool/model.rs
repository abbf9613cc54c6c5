//! A seeded model: random users against a random server; nothing is lost, nobody overtakes, no bound is broken.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tidegate_flow::retry::Random;
use tidegate_store::error::Result;
use tidegate_store::pool::{Claim, Config, Pool, REPLACEMENTS_MAX};
use tokio::time::sleep;

use super::world::{Answer, World};

type Acquire<'a> = Pin<Box<dyn Future<Output = Result<Claim<World>>> + 'a>>;

struct Model<'a> {
    seed: u64,
    is_calm: bool,
    world: World,
    pool: &'a Pool<World>,
    random: Random,
    /// In the order of their arrival.
    pending: Vec<Acquire<'a>>,
    claims: Vec<Claim<World>>,
    served: usize,
}

/// Polls once.
pub(super) async fn poll_once<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

impl<'a> Model<'a> {
    fn below(&mut self, n: usize) -> usize {
        (self.random.next_u64() % n as u64) as usize
    }

    async fn step(&mut self) {
        match self.below(if self.is_calm { 10 } else { 16 }) {
            0..=3 => self.pending.push(Box::pin(self.pool.acquire())),
            4 if !self.pending.is_empty() => {
                let at = self.below(self.pending.len());
                drop(self.pending.remove(at));
            }
            5..=7 => drop(self.any_claim()),
            8 | 9 => {
                let pause = 1 << self.below(12);
                sleep(Duration::from_millis(pause)).await;
            }
            10 => self.any_claim().into_iter().for_each(Claim::broken),
            11 => {
                if let Some(mut claim) = self.any_claim() {
                    claim.is_dirty = true;
                }
            }
            12 => self.kill_one(),
            13 => self.world.crash(),
            14 => self.world.start(),
            15 => {
                let answers = [Answer::Works, Answer::Works, Answer::Fails, Answer::Never];
                let (check, drain) = (answers[self.below(4)], answers[self.below(4)]);
                self.world.server().check = check;
                self.world.server().drain = drain;
            }
            _ => {}
        }
        self.poll_all().await;
        self.hold_bounds();
    }

    fn any_claim(&mut self) -> Option<Claim<World>> {
        let at = self.below(self.claims.len().max(1));
        (!self.claims.is_empty()).then(|| self.claims.swap_remove(at))
    }

    fn kill_one(&mut self) {
        let open: Vec<u64> = self.world.server().open.iter().copied().collect();
        if !open.is_empty() {
            let id = open[self.below(open.len())];
            self.world.server().dead.insert(id);
        }
    }

    async fn poll_all(&mut self) {
        let mut still = Vec::new();
        for mut acquire in std::mem::take(&mut self.pending) {
            match poll_once(&mut acquire).await {
                None => still.push(acquire),
                Some(claim) => {
                    assert!(
                        !self.is_calm || still.is_empty(),
                        "seed {}: somebody was overtaken",
                        self.seed
                    );
                    self.claims.push(claim.unwrap());
                    self.served += 1;
                }
            }
        }
        self.pending = still;
    }

    fn hold_bounds(&self) {
        let (config, stats) = (self.pool.config(), self.pool.stats());
        let seed = self.seed;
        let n_open = self.world.n_open();
        assert!(
            n_open <= config.capacity() + REPLACEMENTS_MAX,
            "seed {seed}: {n_open}"
        );
        if self.is_calm {
            // Lifetimes are long there: no connection is being replaced.
            assert!(n_open <= config.capacity(), "seed {seed}: {n_open}");
        }
        assert!(stats.waiting <= self.pending.len(), "seed {seed}: {stats:?}");
        let ids: std::collections::BTreeSet<u64> = self.claims.iter().map(|claim| claim.id).collect();
        assert_eq!(ids.len(), self.claims.len(), "seed {seed}: shared");
    }

    /// With a healthy server and users who give back, everybody is served and the pool comes to rest.
    async fn come_to_rest(&mut self) {
        self.world.start();
        self.world.server().check = Answer::Works;
        self.world.server().drain = Answer::Works;
        for _ in 0..400 {
            self.claims.clear();
            sleep(Duration::from_millis(100)).await;
            self.poll_all().await;
        }
        assert_eq!(
            self.pending.len(),
            0,
            "seed {}: a waiter was lost: {:?}",
            self.seed,
            self.pool.stats()
        );
        self.claims.clear();
        sleep(Duration::from_secs(2)).await;
        let stats = self.pool.stats();
        let seed = self.seed;
        assert_eq!((stats.in_use, stats.waiting), (0, 0), "seed {seed}: {stats:?}");
        assert_eq!(stats.open, self.world.n_open(), "seed {seed}: {stats:?}");
        assert!(stats.open >= self.pool.config().min, "seed {seed}: {stats:?}");
        let busy = ["connecting", "probing", "draining", "stale", "broken"];
        assert!(
            busy.iter().all(|state| stats.by_state[state] == 0),
            "seed {seed}: {stats:?}"
        );
    }
}

async fn check(seed: u64, is_calm: bool) -> usize {
    let world = World::new();
    let hour = Duration::from_secs(3_600);
    let config = Config {
        min: 1 + (seed % 3) as usize,
        size: 3 + (seed % 4) as usize,
        overflow: (seed % 5) as usize,
        acquire_timeout: hour,
        lifetime: if is_calm {
            hour * 24
        } else {
            Duration::from_secs(3)
        },
        pre_ping: !is_calm,
        linger: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(2),
        ..Config::default()
    };
    let pool = world.pool(config);
    let mut model = Model {
        seed,
        is_calm,
        world,
        pool: &pool,
        random: Random::seeded(seed),
        pending: Vec::new(),
        claims: Vec::new(),
        served: 0,
    };
    for _ in 0..300 {
        model.step().await;
    }
    model.come_to_rest().await;
    let served = model.served;
    drop(model);
    pool.close().await;
    served
}

#[tokio::test(start_paused = true)]
async fn nobody_is_overtaken_and_nothing_is_lost_while_all_is_well() {
    let mut served = 0;
    for seed in 0..60 {
        served += check(seed, true).await;
    }
    assert!(served > 2_000, "{served}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_connections_and_servers_die() {
    let mut served = 0;
    for seed in 1_000..1_060 {
        served += check(seed, false).await;
    }
    assert!(served > 1_000, "{served}");
}
