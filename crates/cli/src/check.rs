//! `tidegate check`: what is right, what is wrong and what to do, without starting anything.

use std::{fs::File, net::TcpListener, path::Path, process::ExitCode};

use tidegate::{
    Settings, StoreFinding,
    auth::Authenticator,
    settings::{self, Size},
};
use tidegate_vitals::process;

use crate::{
    args::{Args, CheckArgs},
    config::{self, Loaded},
    exit::{self, Failure},
    out, serve,
    words::{Lang, Say, say},
};

/// Descriptors besides connections: listeners, epolls, log, certificates, HTTP callers.
const OTHER_FILES: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Good,
    Note,
    Problem,
}

struct Finding {
    level: Level,
    /// What was looked at.
    subject: &'static str,
    text: String,
}

/// Looks and prints; exit code 1 where there is a problem.
///
/// # Errors
/// Settings that are wrong end the look.
pub(crate) fn run(args: &Args, check: &CheckArgs) -> Result<ExitCode, Failure> {
    if check.sample {
        out::whole(&settings::sample());
        return Ok(ExitCode::SUCCESS);
    }
    if check.reference {
        out::whole(&settings::markdown(args.lang == Lang::Zh));
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = config::load("", &check.server)?;
    let findings = look(args.lang, &loaded)?;
    let problems = findings
        .iter()
        .filter(|finding| finding.level == Level::Problem)
        .count();
    if args.json {
        print_json(&loaded, &findings, problems);
    } else {
        print_text(args.lang, &loaded, &findings, problems);
    }
    Ok(if problems == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::FAILURE)
    })
}

fn look(lang: Lang, loaded: &Loaded) -> Result<Vec<Finding>, Failure> {
    let settings = &loaded.settings;
    let mut findings = vec![good("settings", say(lang, Say::SettingsGood, &[]))];
    Authenticator::new(loaded.auth.clone()).map_err(|error| Failure::Settings {
        file: file_name(lang, loaded),
        source: error.into(),
    })?;
    findings.extend(access(lang, settings));
    findings.extend(network(lang, settings));
    if let Some((cert, key)) = settings.tls_files() {
        findings.extend([tls(lang, cert), tls(lang, key)].into_iter().flatten());
        if findings.iter().all(|finding| finding.subject != "tls") {
            findings.push(good("tls", say(lang, Say::TlsGood, &[])));
        }
    }
    findings.push(open_files(lang, settings));
    findings.push(memory(lang, settings));
    findings.extend(tags(lang, settings));
    if let Some(config) = &loaded.store {
        let found = serve::runtime()?.block_on(tidegate::look_at_store(settings, config));
        findings.extend(found.iter().map(|found| of_store(lang, found)));
    }
    if let Some(config) = &loaded.cache {
        let found = serve::runtime()?.block_on(tidegate::look_at_cache(config));
        findings.extend(found.iter().map(|found| of_store(lang, found)));
    }
    Ok(findings)
}

fn of_store(lang: Lang, found: &StoreFinding) -> Finding {
    let values: Vec<(&str, &dyn std::fmt::Display)> = found
        .values
        .iter()
        .map(|(name, value)| (*name, value as &dyn std::fmt::Display))
        .collect();
    Finding {
        level: match found.level {
            tidegate::Level::Good => Level::Good,
            tidegate::Level::Note => Level::Note,
            tidegate::Level::Problem => Level::Problem,
        },
        subject: found.subject,
        text: Say::of_finding(found.code)
            .map_or_else(|| found.code.to_owned(), |what| say(lang, what, &values)),
    }
}

const fn good(subject: &'static str, text: String) -> Finding {
    Finding {
        level: Level::Good,
        subject,
        text,
    }
}

const fn note(subject: &'static str, text: String) -> Finding {
    Finding {
        level: Level::Note,
        subject,
        text,
    }
}

const fn problem(subject: &'static str, text: String) -> Finding {
    Finding {
        level: Level::Problem,
        subject,
        text,
    }
}

fn access(lang: Lang, settings: &Settings) -> Vec<Finding> {
    let address = settings.listen();
    let mut findings = Vec::new();
    if !settings.has_a_way_in() {
        findings.push(note("access", say(lang, Say::AccessNobody, &[])));
    } else if settings.is_anonymous() && !address.ip().is_loopback() {
        findings.push(note(
            "access",
            say(lang, Say::AccessAnyone, &[("address", &address)]),
        ));
    } else {
        findings.push(good("access", say(lang, Say::AccessGood, &[])));
    }
    if settings.allows_any_origin() {
        findings.push(note("origins", say(lang, Say::OriginsAny, &[])));
    }
    findings
}

fn network(lang: Lang, settings: &Settings) -> Vec<Finding> {
    let address = settings.listen();
    let mut findings = Vec::new();
    if !address.ip().is_loopback() && settings.tls_files().is_none() {
        findings.push(note("tls", say(lang, Say::PlainPublic, &[("address", &address)])));
    }
    if let Some(admin) = settings.admin_listen().filter(|admin| !admin.ip().is_loopback()) {
        findings.push(note("admin", say(lang, Say::AdminPublic, &[("address", &admin)])));
    }
    for address in [Some(address), settings.admin_listen()].into_iter().flatten() {
        findings.push(match TcpListener::bind(address) {
            Ok(_) => good("listen", say(lang, Say::ListenGood, &[("address", &address)])),
            Err(cause) => problem(
                "listen",
                say(lang, Say::ListenBad, &[("address", &address), ("cause", &cause)]),
            ),
        });
    }
    findings
}

fn tls(lang: Lang, file: &Path) -> Option<Finding> {
    let cause = File::open(file).err()?;
    let file = file.display();
    Some(problem(
        "tls",
        say(lang, Say::TlsBad, &[("file", &file), ("cause", &cause)]),
    ))
}

/// The server raises the soft limit by itself; the hard one is what counts.
fn open_files(lang: Lang, settings: &Settings) -> Finding {
    let limit = process::file_limits().map_or(0, |limits| limits.hard);
    let Some(connections) = settings.connections_max() else {
        return good("open files", say(lang, Say::FilesOnly, &[("limit", &limit)]));
    };
    let wanted = connections as u64 + OTHER_FILES;
    if limit >= wanted {
        let values: [(&str, &dyn std::fmt::Display); 2] = [("limit", &limit), ("connections", &connections)];
        return good("open files", say(lang, Say::FilesGood, &values));
    }
    let text = say(
        lang,
        Say::FilesBad,
        &[
            ("limit", &limit),
            ("connections", &connections),
            ("wanted", &wanted),
        ],
    );
    problem("open files", text)
}

fn memory(lang: Lang, settings: &Settings) -> Finding {
    let host = process::memory_limit().unwrap_or(u64::MAX);
    let (budget, limit) = (
        settings.memory_budget_bytes(host),
        settings.ledger_limit_bytes(host),
    );
    let (shown, full) = (Size(budget >> 20 << 20), Size(limit >> 20 << 20));
    match tidegate::check_memory(settings) {
        Err(error) => problem("memory", Failure::from(error).text(lang)),
        Ok(()) if budget > host => {
            let left = Size(host >> 20 << 20);
            note(
                "memory",
                say(lang, Say::MemoryMuch, &[("budget", &shown), ("host", &left)]),
            )
        }
        Ok(()) => good(
            "memory",
            say(lang, Say::MemoryGood, &[("budget", &shown), ("limit", &full)]),
        ),
    }
}

/// Tags of queries that no feed drops: what was written for one may be a slip of the other.
fn tags(lang: Lang, settings: &Settings) -> Vec<Finding> {
    let feeds = settings.feeds();
    let is_dropped = |tag: &str| {
        let mut own = feeds.iter().flat_map(|declared| &declared.feed.tags);
        own.any(|other| other.prefix() == tag)
    };
    let mut findings = Vec::new();
    for (query, rule) in settings.cache_rules() {
        for tag in rule.tags.iter().filter(|tag| !is_dropped(tag.prefix())) {
            let text = say(
                lang,
                Say::TagUndropped,
                &[("query", &query), ("tag", &tag.source())],
            );
            findings.push(note("cache", text));
        }
    }
    findings
}

fn file_name(lang: Lang, loaded: &Loaded) -> String {
    let none = || say(lang, Say::CheckNoFile, &[]);
    loaded
        .file
        .as_ref()
        .map_or_else(none, |path| path.display().to_string())
}

fn print_text(lang: Lang, loaded: &Loaded, findings: &[Finding], problems: usize) {
    let file = file_name(lang, loaded);
    let preset = loaded.settings.preset().as_str();
    out::line(&say(
        lang,
        Say::CheckFile,
        &[("file", &file), ("preset", &preset)],
    ));
    for finding in findings {
        let word = match finding.level {
            Level::Good => Say::CheckGood,
            Level::Note => Say::CheckNote,
            Level::Problem => Say::CheckBad,
        };
        out::line(&format!(
            "  {:<8} {}: {}",
            say(lang, word, &[]),
            finding.subject,
            finding.text
        ));
    }
    let notes = findings
        .iter()
        .filter(|finding| finding.level == Level::Note)
        .count();
    out::line(&say(
        lang,
        Say::CheckDone,
        &[("problems", &problems), ("notes", &notes)],
    ));
}

fn print_json(loaded: &Loaded, findings: &[Finding], problems: usize) {
    let shown: Vec<serde_json::Value> = findings
        .iter()
        .map(|finding| {
            let level = match finding.level {
                Level::Good => "good",
                Level::Note => "note",
                Level::Problem => "problem",
            };
            serde_json::json!({"level": level, "subject": finding.subject, "text": finding.text})
        })
        .collect();
    let file = loaded.file.as_ref().map(|path| path.display().to_string());
    let preset = loaded.settings.preset().as_str();
    let ok = problems == 0;
    let line = serde_json::json!({"ok": ok, "file": file, "preset": preset, "findings": shown});
    out::line(&line.to_string());
}
