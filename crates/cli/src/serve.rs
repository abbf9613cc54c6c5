//! `tidegate serve`, and what every verb that runs a server shares: start, reload, drain.

use std::{net::SocketAddr, process::ExitCode};

use tidegate::{Builder, Tidegate};
use tidegate_vitals::{allocator, process};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    args::{Args, ServerArgs},
    config::{self, Loaded},
    exit::{self, Failure},
    log,
    manager::{Manager, State},
    out,
    words::{Say, say},
};

/// The signals that matter, listened to from before the server says that it listens.
pub(crate) struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Reload,
    End,
}

/// Runs the server until it is told to end.
///
/// # Errors
/// Settings that are wrong, an address that is taken.
pub(crate) fn run(args: &Args, server: &ServerArgs) -> Result<ExitCode, Failure> {
    let loaded = config::load("", server)?;
    let log = log::start(&loaded.settings).map_err(|source| Failure::System("starting the log", source))?;
    raise_file_limit();
    if !loaded.settings.has_a_way_in() {
        tracing::warn!("{}", say(args.lang, Say::NobodyGetsIn, &[]));
    }
    runtime()?.block_on(async {
        let signals = Signals::new()?;
        let running = start(&loaded, |builder| builder).await?;
        let _counting = log.count_into(running.metrics());
        announce(args, &loaded, &running);
        Ok(until_told(
            args,
            running,
            signals,
            loaded.settings.gateway().drain.timeout.as_secs(),
            || config::load("", server),
            || {},
        )
        .await)
    })
}

/// The service runtime; the shards have threads of their own.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    // Profiles then name the bytes that functions allocate.
    allocator::count_for_functions();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("service")
        .enable_all()
        .build();
    runtime.map_err(|source| Failure::System("starting the runtime", source))
}

/// Raises the limit on open files as far as the system allows: each connection is one.
pub(crate) fn raise_file_limit() {
    let before = process::open_files_limit();
    match process::raise_open_files_limit() {
        Ok(now) => tracing::info!(before, now, "open-file limit"),
        Err(error) => tracing::warn!(before, %error, "open-file limit could not be raised"),
    }
}

/// Starts a server from what was loaded.
///
/// # Errors
/// As [`Builder::start`].
///
/// # Cancel safety
/// As [`Builder::start`].
pub(crate) async fn start(
    loaded: &Loaded,
    extend: impl FnOnce(Builder) -> Builder,
) -> Result<Tidegate, Failure> {
    let builder = Tidegate::builder()
        .settings(loaded.settings.clone())
        .auth(loaded.auth.clone())
        .store(loaded.store.clone())
        .cache(loaded.cache.clone())
        .app(loaded.app.clone())
        .bridge(loaded.bridge.clone());
    Ok(extend(builder).start().await?)
}

/// The address of a running server, as a client writes it.
pub(crate) fn url(loaded: &Loaded, address: SocketAddr) -> String {
    let scheme = if loaded.settings.tls_files().is_some() {
        "https"
    } else {
        "http"
    };
    format!("{scheme}://{address}")
}

fn announce(args: &Args, loaded: &Loaded, running: &Tidegate) {
    let url = url(loaded, running.local_addr());
    let file = loaded.file.as_ref().map(|path| path.display().to_string());
    tracing::info!(%url, file, preset = loaded.settings.preset().as_str(), "listening");
    if args.json {
        let admin = running.admin_addr().map(|address| address.to_string());
        out::line(&format!(
            "{}",
            serde_json::json!({"ok": true, "listening": url, "admin": admin})
        ));
        return;
    }
    out::line(&format!("listening on {url}"));
    match running.admin_addr() {
        Some(address) => out::line(&say(args.lang, Say::ServeAdmin, &[("address", &address)])),
        None => out::line(&say(args.lang, Say::ServeTry, &[("url", &url)])),
    }
}

/// Serves until SIGTERM or SIGINT, then drains; SIGHUP reloads. A second signal ends at once. The service manager, if one
/// started it, is told of each.
///
/// # Cancel safety
/// Dropped, the server is cut off.
pub(crate) async fn until_told(
    args: &Args,
    running: Tidegate,
    mut signals: Signals,
    drain_seconds: u64,
    load: impl Fn() -> Result<Loaded, Failure>,
    before_end: impl FnOnce(),
) -> ExitCode {
    let manager = Manager::of_environment();
    manager.tell(State::Ready);
    while next(&mut signals, &manager).await == Told::Reload {
        manager.tell(State::Reloading);
        reload(args, &running, &load).await;
        manager.tell(State::Ready);
    }
    manager.tell(State::Stopping);
    let connections = running.gateway().n_connections();
    let seconds = drain_seconds;
    tracing::info!(
        connections,
        "{}",
        say(args.lang, Say::Draining, &[("seconds", &seconds)])
    );
    before_end();
    tokio::select! {
        () = running.shutdown() => ExitCode::SUCCESS,
        () = manager.stay_alive() => unreachable!("staying alive has no end"),
        () = signals.end() => {
            tracing::warn!("second signal, ending at once");
            ExitCode::from(exit::FAILURE)
        }
    }
}

/// The next signal; meanwhile the service manager hears that all is well.
async fn next(signals: &mut Signals, manager: &Manager) -> Told {
    tokio::select! {
        told = signals.next() => told,
        () = manager.stay_alive() => unreachable!("staying alive has no end"),
    }
}

/// Takes changed settings; wrong ones leave everything as it was and are named.
async fn reload(args: &Args, running: &Tidegate, load: &impl Fn() -> Result<Loaded, Failure>) {
    let result = match load() {
        Ok(loaded) => running
            .reload(&loaded.settings, loaded.auth)
            .await
            .map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    match result {
        Ok(reloaded) => {
            let waiting = reloaded.needs_restart.join(", ");
            let certificates_changed = reloaded.certificates_changed;
            tracing::info!(
                certificates_changed,
                needs_restart = waiting,
                "configuration reloaded"
            );
        }
        Err(failure) => {
            let error = failure.text(args.lang);
            tracing::error!(error, "configuration not reloaded, the old one stays in force");
        }
    }
}

// === impl Signals ===

impl Signals {
    /// Starts to listen.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|source| Failure::System("listening to signals", source));
        Ok(Self {
            reload: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.reload.recv() => Told::Reload,
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
        }
    }

    /// Waits for a signal that ends; while a server drains there is nothing to reload.
    async fn end(&mut self) {
        while self.next().await == Told::Reload {}
    }
}
