//! `tidegate demo`: a server with a database, a simulated trading day that is stored and pushed, and a page to watch it.

mod database;
mod market;
mod orders;
mod random;
mod sales;
mod session;
mod ticks;

use std::{process::ExitCode, time::Duration};

use serde::Serialize;
use tidegate::{
    Builder, Tidegate,
    gateway::{Args as EventArgs, Publication, Publisher, WhenSlow},
    vitals::Clock,
};
use tidegate_flow::task;
use tokio::time::MissedTickBehavior;

use crate::{
    args::{Args, DemoArgs},
    config::{self, Loaded},
    exit::Failure,
    log::{self, Log},
    out,
    serve::{self, Signals},
    words::{Lang, Say, say},
};
use database::{Chosen, Folder};
use market::{Market, N_SYMBOLS};
use orders::Orders;
use session::moment;
use ticks::Ticks;

/// What is needed to look at the address before a database is chosen.
const LISTEN: &str = "listen = \"127.0.0.1:8080\"";
const SETTINGS: &str = include_str!("../../assets/demo.toml");
const PAGE: &str = include_str!("../../assets/demo.html");
const STYLE: &str = include_str!("../../assets/demo.css");
const SCRIPT: &str = include_str!("../../assets/demo.js");
/// The standard browser client, unchanged, version 4.8.4, under its own MIT licence.
const CLIENT: &str = include_str!("../../assets/socket.io.min.js");
const CLIENT_LICENCE: &str = include_str!("../../assets/socket.io.LICENSE.txt");

/// How often the market moves: often enough to look continuous, seldom enough to share writes.
const STEP: Duration = Duration::from_millis(20);

/// Order updates for each price change.
const ORDERS_PER_TICK: f64 = 1.0 / 250.0;

/// The day and the state of the market, in room `market`.
#[derive(Serialize)]
struct Bell {
    day: u64,
    phase: &'static str,
    clock: String,
    rate: u32,
    ts: u64,
}

/// The running simulation.
struct Simulation {
    publisher: Publisher,
    ticks: Ticks,
    clock: Clock,
    market: Market,
    orders: Orders,
    day: Duration,
    rate: f64,
    /// Parts of trades and orders that a step left over.
    owed: (f64, f64),
    today: u64,
    bell_at: Duration,
}

/// Runs server and simulation until it is told to end.
///
/// # Errors
/// Settings that are wrong, an address that is taken or not loopback.
pub(crate) fn run(args: &Args, demo: &DemoArgs) -> Result<ExitCode, Failure> {
    // Looked at before anything is started.
    let asked = config::load(LISTEN, &demo.server)?;
    let address = asked.settings.listen();
    if !address.ip().is_loopback() && !demo.anyone {
        return Err(Failure::NotLoopback(address));
    }
    let log = log::start(&asked.settings).map_err(|source| Failure::System("starting the log", source))?;
    serve::raise_file_limit();
    let folder = Folder::open(demo.data.as_deref())?;
    let chosen = Chosen::choose(&folder);
    let result = on_database(args, demo, (&chosen, &folder), &log);
    chosen.end();
    result
}

fn on_database(
    args: &Args,
    demo: &DemoArgs,
    place: (&Chosen, &Folder),
    log: &Log,
) -> Result<ExitCode, Failure> {
    let load = || config::load(&settings(demo, place), &demo.server);
    let loaded = load()?;
    serve::runtime()?.block_on(async {
        let signals = Signals::new()?;
        let market = Market::new(demo.seed);
        let symbols = symbols(&market);
        let running = serve::start(&loaded, |builder| with_page(builder, symbols)).await?;
        let _counting = log.count_into(running.metrics());
        let store = running
            .store()
            .expect("the demo declares feeds, so there is a database");
        let ingest = store.ingest().clone();
        let (ticks, writer) = ticks::way(ingest.clone());
        let writing = task::spawn("demo-ticks", writer.run());
        let simulation = Simulation::new((running.gateway().publisher(), ticks), market, demo);
        let trading = task::spawn("demo-market", simulation.run());
        announce(args, demo, place.0, (&running, &loaded));
        let seconds = loaded.settings.gateway().drain.timeout.as_secs();
        let label = say(args.lang, Say::DemoLoading, &[]);
        let loading = task::spawn("demo-orders", async move {
            match sales::load(&ingest, &label).await {
                Ok(stored) => tracing::info!(stored, "orders loaded"),
                Err(error) => tracing::warn!(%error, "orders not loaded"),
            }
        });
        let code = serve::until_told(args, running, signals, seconds, load, || {
            trading.abort();
            writing.abort();
            loading.abort();
        })
        .await;
        Ok(code)
    })
}

/// The demo's settings; a preset that is asked for brings its own limit on connections.
fn settings(demo: &DemoArgs, (chosen, folder): (&Chosen, &Folder)) -> String {
    let limit = if demo.server.preset.is_none() {
        "\n[limits]\nconnections = 0\n"
    } else {
        ""
    };
    chosen.settings(&format!("{SETTINGS}{limit}"), folder)
}

fn symbols(market: &Market) -> String {
    let listed: Vec<&market::Listed> = market.listed().collect();
    serde_json::to_string(&listed).expect("names and codes are always JSON")
}

fn with_page(builder: Builder, symbols: String) -> Builder {
    const HTML: &str = "text/html; charset=utf-8";
    const JS: &str = "text/javascript; charset=utf-8";
    builder
        .asset("/", HTML, PAGE)
        .asset("/demo", HTML, PAGE)
        .asset("/demo/demo.css", "text/css; charset=utf-8", STYLE)
        .asset("/demo/demo.js", JS, SCRIPT)
        .asset("/demo/socket.io.min.js", JS, CLIENT)
        .asset(
            "/demo/socket.io.LICENSE.txt",
            "text/plain; charset=utf-8",
            CLIENT_LICENCE,
        )
        .asset("/demo/symbols.json", "application/json", symbols)
}

fn announce(args: &Args, demo: &DemoArgs, chosen: &Chosen, (running, loaded): (&Tidegate, &Loaded)) {
    let url = &serve::url(loaded, running.local_addr());
    let target = running.store().map_or("", |store| store.database().target());
    if args.json {
        let page = format!("{url}/demo");
        let database = serde_json::json!({"choice": chosen.word(), "target": target});
        let line = serde_json::json!({"ok": true, "listening": url, "page": page, "database": database});
        out::line(&line.to_string());
        return;
    }
    let lang = args.lang;
    out::line(&format!("listening on {url}\n"));
    let title = [
        ("symbols", &N_SYMBOLS as &dyn std::fmt::Display),
        ("minutes", &length(lang, demo.day)),
    ];
    out::line(&say(lang, Say::DemoTitle, &title));
    out::line(&chosen.why(lang, target));
    out::line(&(say(lang, Say::DemoPage, &[("url", &url)]) + "\n"));
    out::line(&(say(lang, Say::DemoNode, &[]) + "\n" + &node(url)));
    out::line(&(say(lang, Say::DemoPython, &[]) + "\n" + &python(url)));
    out::line(&say(lang, Say::DemoMore, &[("url", &url)]));
}

fn length(lang: Lang, seconds: u32) -> String {
    if seconds.is_multiple_of(60) {
        return say(lang, Say::Minutes, &[("n", &(seconds / 60))]);
    }
    say(lang, Say::Seconds, &[("n", &seconds)])
}

fn node(url: &str) -> String {
    format!(
        r#"
    import {{ io }} from "socket.io-client";
    const socket = io("{url}");
    socket.on("connect", () => socket.emit("join", "ticks:600519"));
    socket.on("price_update", (tick) => console.log(tick.symbol, tick.price, tick.volume));
"#
    )
}

fn python(url: &str) -> String {
    format!(
        r#"
    import socketio
    client = socketio.Client()
    client.on("price_update", lambda tick: print(tick["symbol"], tick["price"], tick["volume"]))
    client.connect("{url}")
    client.emit("join", "ticks:600519")
    client.wait()
"#
    )
}

// === impl Simulation ===

impl Simulation {
    fn new((publisher, ticks): (Publisher, Ticks), market: Market, demo: &DemoArgs) -> Self {
        Self {
            publisher,
            ticks,
            clock: Clock::real(),
            market,
            orders: Orders::new(demo.seed ^ 0x6f72_6465_7273),
            day: Duration::from_secs(u64::from(demo.day)),
            rate: f64::from(demo.rate),
            owed: (0.0, 0.0),
            today: 0,
            bell_at: Duration::ZERO,
        }
    }

    /// Trades for ever.
    ///
    /// # Cancel safety
    /// Dropped between two steps; what was published stays published.
    async fn run(mut self) {
        // Every symbol has a price before the first visitor comes.
        for index in 0..N_SYMBOLS {
            let ts = self.clock.wall_ms();
            self.ticks.push(&self.market.trade_of(index, ts));
        }
        let started = self.clock.now();
        let mut last = Duration::ZERO;
        let mut steps = tokio::time::interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            steps.tick().await;
            let elapsed = self.clock.now().since(started);
            // After a pause of the machine there is no burst to catch up.
            self.step(elapsed, (elapsed - last).min(10 * STEP));
            last = elapsed;
        }
    }

    fn step(&mut self, elapsed: Duration, passed: Duration) {
        let now = moment(elapsed, self.day);
        if now.day != self.today {
            self.today = now.day;
            self.market.begin_day();
        }
        let ts = self.clock.wall_ms();
        self.owed.0 += self.rate * now.rate * passed.as_secs_f64();
        self.owed.1 += self.rate * now.rate * passed.as_secs_f64() * ORDERS_PER_TICK;
        while self.owed.0 >= 1.0 {
            self.owed.0 -= 1.0;
            self.ticks.push(&self.market.trade(ts));
        }
        while self.owed.1 >= 1.0 {
            self.owed.1 -= 1.0;
            let order = self.orders.step(self.market.quote(), ts);
            send(
                &self.publisher,
                "orders",
                "order_update",
                &order,
                WhenSlow::DropOldest,
            );
        }
        if elapsed >= self.bell_at {
            self.bell_at = elapsed + Duration::from_secs(1);
            self.ring(now, ts);
        }
        self.ticks.send();
    }

    /// Once a second: the wall clock of the market, and one trade of the first symbol even while the others rest.
    fn ring(&mut self, now: session::Moment, ts: u64) {
        let bell = Bell {
            day: now.day + 1,
            phase: now.phase.as_str(),
            clock: format!("{:02}:{:02}", now.minute / 60, now.minute % 60),
            rate: (self.rate * now.rate) as u32,
            ts,
        };
        send(
            &self.publisher,
            "market",
            "market",
            &bell,
            WhenSlow::Conflate("market".to_owned()),
        );
        self.ticks.push(&self.market.trade_of(0, ts));
    }
}

/// A refused publication is counted by the gateway; the next price comes anyway.
fn send(publisher: &Publisher, room: &str, event: &str, data: &impl Serialize, when_slow: WhenSlow) {
    let args = EventArgs::one(data).expect("numbers and texts are always JSON");
    let publication = Publication {
        when_slow,
        ..Publication::to_room(room, event, args)
    };
    if let Err(error) = publisher.publish(publication) {
        tracing::debug!(room, %error, "publication refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browser_client_comes_with_its_licence() {
        assert!(CLIENT.contains("Socket.IO v4.") && CLIENT_LICENCE.contains("MIT License"));
    }
}
