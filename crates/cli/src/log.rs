//! Where the log goes and how it looks.

use std::io::IsTerminal;

use tidegate::Settings;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts the log on standard error: text with colours on a terminal, otherwise one JSON object a line.
/// The variable `TIDEGATE_LOG` overrides the level, also for single parts (`tidegate_gateway=debug`).
pub(crate) fn start(settings: &Settings) {
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.log_format() {
        "json" => true,
        "text" => false,
        _ => !terminal,
    };
    let filter =
        EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| EnvFilter::new(settings.log_level()));
    let base = fmt().with_env_filter(filter).with_writer(std::io::stderr)
        // A log that nobody reads any more must not end the server by complaining about itself.
        .log_internal_errors(false);
    if json {
        base.json().flatten_event(true).init();
    } else {
        base.with_ansi(terminal).with_target(false).init();
    }
}
