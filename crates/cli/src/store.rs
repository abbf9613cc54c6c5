//! The verbs of the database: migrate, spool, deadletter.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use tidegate::{
    settings::StoreConfig,
    store::{
        Database, Feed,
        ingest::{self, Hooks, Ingest, dead_letter},
        schema::{
            self,
            migrate::{Options, Report},
            plan::{Allowed, Outcome, Step},
        },
        spool,
    },
    vitals::Clock,
};

use crate::{
    args::{Args, ConfigArgs, DeadletterArgs, DeadletterVerb, MigrateArgs, SpoolArgs, SpoolVerb},
    config::{self, Loaded},
    exit::{self, Failure},
    out, serve,
    words::{Say, say},
};

/// Standard output as the store writes to it: a reader that has gone ends the export and is no failure.
struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

// === migrate ===

/// Makes what is missing, or prints the statements.
///
/// # Errors
/// Settings that are wrong, a database that refuses.
pub(crate) fn migrate(args: &Args, migrate: &MigrateArgs) -> Result<ExitCode, Failure> {
    let Some((loaded, config)) = load(args, &migrate.file)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let feeds = feeds(&loaded);
    let allowed = Allowed {
        replace_rollups: migrate.replace_rollups,
    };
    serve::runtime()?.block_on(async {
        let database = tidegate::open_for_verb(&config).await?;
        let code = if migrate.sql {
            print_sql(&schema::plan_sql(&database, &feeds, allowed).await?);
            ExitCode::SUCCESS
        } else {
            run_migration(args, &database, &feeds, allowed).await?
        };
        database.close().await;
        Ok(code)
    })
}

async fn run_migration(
    args: &Args,
    database: &Database,
    feeds: &[Feed],
    allowed: Allowed,
) -> Result<ExitCode, Failure> {
    let options = Options {
        allowed,
        ..Options::default()
    };
    let report = schema::migrate(database, feeds, options).await?;
    schema::fill(database, feeds, |table| {
        tracing::debug!(table, "filling");
    })
    .await?;
    print_report(args, &report);
    Ok(match report.problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(exit::FAILURE),
    })
}

fn print_sql(steps: &[Step]) {
    for sql in steps.iter().flat_map(|step| &step.sql) {
        out::line(&format!("{};", sql.trim_end_matches(';')));
    }
}

fn print_report(args: &Args, report: &Report) {
    if args.json {
        let ok = report.problems.is_empty();
        let line = serde_json::json!({"ok": ok, "steps": report.steps, "problems": report.problems});
        out::line(&line.to_string());
        return;
    }
    for step in report
        .steps
        .iter()
        .filter(|step| step.outcome != Outcome::Existing)
    {
        let outcome = match step.outcome {
            Outcome::Created => "created",
            Outcome::Altered => "altered",
            Outcome::Existing => "existing",
            Outcome::Replaced => "replaced",
        };
        let values: [(&str, &dyn Display); 2] = [("outcome", &outcome), ("object", &step.object)];
        out::line(&say(args.lang, Say::MigrateStep, &values));
    }
    let counts: [(&str, &dyn Display); 3] = [
        ("created", &report.count(Outcome::Created)),
        (
            "altered",
            &(report.count(Outcome::Altered) + report.count(Outcome::Replaced)),
        ),
        ("existing", &report.count(Outcome::Existing)),
    ];
    out::line(&say(args.lang, Say::MigrateDone, &counts));
    for (feed, problem) in &report.problems {
        let values: [(&str, &dyn Display); 2] = [("feed", feed), ("problem", problem)];
        out::error(&say(args.lang, Say::MigrateProblem, &values));
    }
}

// === spool ===

/// Lists or prints what waits on the disk; a running server may hold it.
///
/// # Errors
/// Settings that are wrong, a folder that cannot be read.
pub(crate) fn spool(args: &Args, asked: &SpoolArgs) -> Result<ExitCode, Failure> {
    let Some((_, config)) = load(args, &asked.file)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let Some(settings) = &config.spool else {
        return nothing(args, Say::NoSpool, &[]);
    };
    let dir = &settings.dir;
    if !dir.exists() {
        return nothing(args, Say::SpoolEmpty, &[("dir", &dir.display())]);
    }
    match &asked.what {
        SpoolVerb::Export { feed } => {
            spool::export(dir, feed.as_deref(), &mut Lines)?;
        }
        SpoolVerb::List => {
            let feeds = spool::list(dir)?;
            if args.json {
                out::line(&serde_json::json!({"ok": true, "feeds": feeds}).to_string());
            } else if feeds.is_empty() {
                return nothing(args, Say::SpoolEmpty, &[("dir", &dir.display())]);
            } else {
                feeds.iter().for_each(|feed| print_spooled(args, feed));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_spooled(args: &Args, feed: &spool::FeedStats) {
    let now = Clock::real().wall_ms();
    let age = now.saturating_sub(feed.oldest_at_ms.unwrap_or(now)) / 1_000;
    let values: [(&str, &dyn Display); 4] = [
        ("feed", &feed.feed),
        ("rows", &feed.rows),
        ("bytes", &feed.bytes),
        ("age", &age),
    ];
    out::line(&say(args.lang, Say::SpoolLine, &values));
}

// === deadletter ===

/// Lists, prints or sends again what the database refused.
///
/// # Errors
/// Settings that are wrong, a database that refuses.
pub(crate) fn deadletter(args: &Args, asked: &DeadletterArgs) -> Result<ExitCode, Failure> {
    let Some((loaded, config)) = load(args, &asked.file)? else {
        return Ok(ExitCode::SUCCESS);
    };
    serve::runtime()?.block_on(async {
        let database = tidegate::open_for_verb(&config).await?;
        match &asked.what {
            DeadletterVerb::List { feed, after, limit } => {
                let letters = dead_letter::list(&database, feed.as_deref(), *after, *limit as usize).await?;
                print_letters(args, &letters);
            }
            DeadletterVerb::Export { feed } => {
                dead_letter::export(&database, feed.as_deref(), &mut Lines).await?;
            }
            DeadletterVerb::Retry { feed, limit } => {
                let ingest = ingest(&database, &loaded, &config).await?;
                let retried = dead_letter::retry(&ingest, feed, *limit as usize).await?;
                ingest.finish(config.statement_timeout).await?;
                print_retried(args, &retried);
            }
        }
        database.close().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// A way in that tells nobody: whoever watched the rows go by has forgotten them.
async fn ingest(database: &Database, loaded: &Loaded, config: &StoreConfig) -> Result<Ingest, Failure> {
    let hooks = Hooks {
        commit: Vec::new(),
        fanout: None,
    };
    // The spool belongs to the server that runs.
    let settings = ingest::Config {
        spool: None,
        ..config.ingest()
    };
    let context = database.context().clone();
    Ok(Ingest::start(database.clone(), feeds(loaded), settings, hooks, context).await?)
}

fn print_letters(args: &Args, letters: &[dead_letter::DeadLetter]) {
    if args.json {
        let line = serde_json::json!({"ok": true, "rows": letters});
        out::line(&line.to_string());
        return;
    }
    if letters.is_empty() {
        out::line(&say(args.lang, Say::DeadEmpty, &[]));
    }
    for letter in letters {
        let values: [(&str, &dyn Display); 5] = [
            ("id", &letter.id),
            ("at", &letter.at),
            ("feed", &letter.feed),
            ("sqlstate", &letter.sqlstate),
            ("message", &letter.message),
        ];
        out::line(&say(args.lang, Say::DeadLine, &values));
    }
}

fn print_retried(args: &Args, retried: &dead_letter::Retried) {
    if args.json {
        out::line(&serde_json::json!({"ok": true, "retried": retried}).to_string());
        return;
    }
    let values: [(&str, &dyn Display); 3] = [
        ("stored", &retried.stored),
        ("refused", &retried.refused),
        ("kept", &retried.kept),
    ];
    out::line(&say(args.lang, Say::DeadRetried, &values));
}

// === what they share ===

/// The settings with the database in them; none, and said so, where nothing is declared that needs it.
fn load(args: &Args, file: &ConfigArgs) -> Result<Option<(Loaded, StoreConfig)>, Failure> {
    let loaded = config::load_file(file)?;
    match loaded.store.clone() {
        Some(config) => Ok(Some((loaded, config))),
        None => nothing(args, Say::NoStore, &[]).map(|_| None),
    }
}

fn nothing(args: &Args, what: Say, values: &[(&str, &dyn Display)]) -> Result<ExitCode, Failure> {
    let text = say(args.lang, what, values);
    if args.json {
        out::line(&serde_json::json!({"ok": true, "note": text}).to_string());
    } else {
        out::line(&text);
    }
    Ok(ExitCode::SUCCESS)
}

fn feeds(loaded: &Loaded) -> Vec<Feed> {
    let declared = loaded.settings.feeds().into_iter();
    declared.map(|declared| declared.feed).collect()
}
