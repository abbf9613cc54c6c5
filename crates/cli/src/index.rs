//! `tidegate index`: plans, creates, looks for what is superfluous, advises and drops.

use std::{fs, io::IsTerminal, process::ExitCode};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tidegate_advisor::{
    Advice, Finding, Limits, Outcome, Progress, Proof, State, advise, apply, drop_index, duplicate, look,
    unused,
};

use crate::{
    args::Args,
    exit::{self, Failure},
    index_args::{AdviseArgs, DropArgs, IndexArgs, IndexVerb, PlanArgs, UnusedArgs},
    index_source as source,
    index_words::{self as words, Words, tell},
    out,
    words::Lang,
};

/// Why a verb of `index` could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line lacks something or asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// Said in the reader's language already.
    #[error("{0}")]
    Said(String),
    /// The configuration cannot be read.
    #[error("{file}: {problem}")]
    Config { file: String, problem: String },
    /// The plan is wrong.
    #[error("{file}: {source}")]
    Plan {
        file: String,
        #[source]
        source: tidegate_advisor::Error,
    },
    /// A file cannot be read or written.
    #[error("{doing} {file}: {source}")]
    File {
        doing: &'static str,
        file: String,
        #[source]
        source: std::io::Error,
    },
    /// The other server does not give its statements.
    #[error("statements of {server}: {problem}")]
    Server { server: String, problem: String },
    /// The database cannot be reached.
    #[error(transparent)]
    Database(#[from] tidegate::store::Error),
    /// The database cannot do it.
    #[error(transparent)]
    Advisor(#[from] tidegate_advisor::Error),
    /// The process lacks something of the system.
    #[error("starting the runtime: {0}")]
    Runtime(#[source] std::io::Error),
}

impl Error {
    pub(crate) fn usage(lang: Lang, words: Words) -> Self {
        Self::Usage(tell(lang, words, &[]))
    }

    /// How the process ends.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Config { .. } | Self::Plan { .. } => exit::CONFIG,
            _ => exit::FAILURE,
        }
    }
}

/// Runs one verb; exit code 1 where there is something to do.
///
/// # Errors
/// No database, a wrong plan, a database that does not answer.
pub(crate) fn run(args: &Args, index: &IndexArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Failure::Index(Error::Runtime(source)))?;
    let good = runtime.block_on(async {
        match &index.verb {
            IndexVerb::Plan(plan) => show_plan(args, index, plan).await,
            IndexVerb::Apply(plan) => apply_plan(args, index, plan).await,
            IndexVerb::Unused(unused) => show_unused(args, index, unused).await,
            IndexVerb::Duplicate => show_duplicate(args, index).await,
            IndexVerb::Advise(advise) => give_advice(args, index, advise).await,
            IndexVerb::Drop(names) => drop_named(args, index, names).await,
        }
    });
    Ok(if good.map_err(Failure::Index)? {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::FAILURE)
    })
}

// === plan, apply, drop ===

async fn show_plan(args: &Args, index: &IndexArgs, plan: &PlanArgs) -> Result<bool, Error> {
    let plan = source::plan(&plan.plan)?;
    let connection = source::connect(args.lang, index).await?;
    let steps = look(connection.client(), &plan).await?;
    let good = steps.iter().filter(|step| step.state.is_good()).count();
    let open = steps.len() - good;
    if args.json {
        out::line(&json!({"ok": open == 0, "steps": steps}).to_string());
        return Ok(open == 0);
    }
    let width = steps
        .iter()
        .map(|step| step.name.chars().count())
        .max()
        .unwrap_or_default();
    for step in &steps {
        out::line(&format!(
            "  {:<width$}  {}",
            step.name,
            state(args.lang, &step.state)
        ));
        if matches!(step.state, State::Missing | State::Invalid) {
            out::line(&format!("  {:<width$}  {};", "", step.sql));
        }
    }
    out::line(&tell(
        args.lang,
        words::PLAN_DONE,
        &[("good", &good), ("open", &open)],
    ));
    Ok(open == 0)
}

fn state(lang: Lang, state: &State) -> String {
    match state {
        State::Exists => tell(lang, words::EXISTS, &[]),
        State::ExistsAs { name } => tell(lang, words::EXISTS_AS, &[("name", name)]),
        State::Missing => tell(lang, words::MISSING, &[]),
        State::Invalid => tell(lang, words::INVALID, &[]),
        State::Building => tell(lang, words::BUILDING, &[]),
        State::Differs { found } => tell(lang, words::DIFFERS, &[("found", found)]),
        State::Impossible { reason } => tell(lang, words::IMPOSSIBLE, &[("reason", reason)]),
        other => format!("{other:?}"),
    }
}

async fn apply_plan(args: &Args, index: &IndexArgs, plan: &PlanArgs) -> Result<bool, Error> {
    let plan = source::plan(&plan.plan)?;
    let connection = source::connect_alone(args.lang, index).await?;
    let shown = Shown::new(args, plan.indexes.len());
    // A second session sees how far the build of the first is; without one, only its bar stands still.
    let watcher = match &shown {
        Shown::Bar(_) => source::connect(args.lang, index).await.ok(),
        _ => None,
    };
    let watcher = watcher.as_ref().map(|watcher| watcher.client());
    let lang = args.lang;
    let report = apply(connection.client(), &plan, watcher, &mut |progress| {
        shown.show(lang, progress);
    })
    .await?;
    shown.end();
    let ok = report.failed == 0;
    if args.json {
        let mut line = serde_json::to_value(&report).expect("a report is plain data");
        line["ok"] = ok.into();
        out::line(&line.to_string());
    } else {
        let values: [(&str, &dyn std::fmt::Display); 3] = [
            ("created", &report.created),
            ("existing", &report.existing),
            ("failed", &report.failed),
        ];
        out::line(&tell(lang, words::APPLY_DONE, &values));
    }
    Ok(ok)
}

/// Steps of the bar for each index.
const BAR_STEPS: u64 = 100;

/// How progress is shown.
enum Shown {
    /// On a terminal.
    Bar(ProgressBar),
    /// A line for each index.
    Lines,
    /// Programs read the result alone.
    Not,
}

impl Shown {
    fn new(args: &Args, n_indexes: usize) -> Self {
        if args.json {
            return Self::Not;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::new(n_indexes as u64 * BAR_STEPS);
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed} {msg}");
        bar.set_style(style.expect("the template is well-formed"));
        Self::Bar(bar)
    }

    fn show(&self, lang: Lang, progress: &Progress) {
        let Progress::Finished { name, outcome } = progress else {
            return self.advance(progress);
        };
        let text = match outcome {
            Outcome::Created => tell(lang, words::CREATED, &[]),
            Outcome::Existing => tell(lang, words::EXISTS, &[]),
            Outcome::Failed { reason } => tell(lang, words::FAILED, &[("reason", reason)]),
        };
        let line = format!("  {name}  {text}");
        match self {
            Self::Bar(bar) => bar.suspend(|| out::line(&line)),
            Self::Lines => out::line(&line),
            Self::Not => {}
        }
    }

    fn advance(&self, progress: &Progress) {
        let Self::Bar(bar) = self else { return };
        match progress {
            Progress::Started { name, number, .. } => {
                bar.set_position((*number as u64 - 1) * BAR_STEPS);
                bar.set_message(name.clone());
            }
            Progress::Building { name, phase, share } => {
                let done = bar.position() / BAR_STEPS * BAR_STEPS;
                // Short of the whole: the index is not there before it is finished.
                let part = share.unwrap_or_default() * (BAR_STEPS - 1) as f64;
                bar.set_position(done + part as u64);
                bar.set_message(format!("{name}: {phase}"));
            }
            _ => {}
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

async fn drop_named(args: &Args, index: &IndexArgs, names: &DropArgs) -> Result<bool, Error> {
    let connection = source::connect_alone(args.lang, index).await?;
    let mut results = Vec::new();
    let mut ok = true;
    for name in &names.names {
        let dropped = drop_index(connection.client(), name).await;
        let error = dropped.err().map(|error| error.to_string());
        ok &= error.is_none();
        if !args.json {
            out::line(&match &error {
                None => tell(args.lang, words::DROPPED, &[("name", name)]),
                Some(reason) => tell(
                    args.lang,
                    words::NOT_DROPPED,
                    &[("name", name), ("reason", reason)],
                ),
            });
        }
        results.push(json!({"name": name, "dropped": error.is_none(), "reason": error}));
    }
    if args.json {
        out::line(&json!({"ok": ok, "indexes": results}).to_string());
    }
    Ok(ok)
}

// === unused, duplicate ===

async fn show_unused(args: &Args, index: &IndexArgs, asked: &UnusedArgs) -> Result<bool, Error> {
    let connection = source::connect(args.lang, index).await?;
    let mut standbys = Vec::new();
    for url in &asked.replica {
        standbys.push(source::open(args.lang, url).await?);
    }
    let replicas: Vec<_> = standbys.iter().map(|standby| standby.client()).collect();
    let found = unused(connection.client(), &replicas, asked.window).await?;
    let ok = found.indexes.is_empty();
    if args.json {
        let mut line = serde_json::to_value(&found).expect("what is found is plain data");
        line["ok"] = ok.into();
        out::line(&line.to_string());
        return Ok(ok);
    }
    if !found.is_conclusive {
        let (counted, window) = (days(found.counted_s), days(found.window_s));
        let values: [(&str, &dyn std::fmt::Display); 2] = [("counted", &counted), ("window", &window)];
        out::line(&tell(args.lang, words::TOO_YOUNG, &values));
        return Ok(ok);
    }
    for index in &found.indexes {
        let size = size(index.bytes as f64);
        let values: [(&str, &dyn std::fmt::Display); 5] = [
            ("name", &index.name),
            ("table", &index.table),
            ("size", &size),
            ("evidence", &index.evidence),
            ("written", &index.rows_written),
        ];
        out::line(&tell(args.lang, words::UNUSED, &values));
        out::line(&format!("  {};", index.sql));
    }
    out::line(&tell(args.lang, words::FOUND, &[("n", &found.indexes.len())]));
    Ok(ok)
}

async fn show_duplicate(args: &Args, index: &IndexArgs) -> Result<bool, Error> {
    let connection = source::connect(args.lang, index).await?;
    let found = duplicate(connection.client()).await?;
    let ok = found.is_empty();
    if args.json {
        out::line(&json!({"ok": ok, "indexes": found}).to_string());
        return Ok(ok);
    }
    for index in &found {
        let size = size(index.bytes as f64);
        let values: [(&str, &dyn std::fmt::Display); 7] = [
            ("name", &index.name),
            ("table", &index.table),
            ("definition", &index.definition),
            ("size", &size),
            ("scans", &index.scans),
            ("other", &index.covered_by),
            ("covering", &index.covering_definition),
        ];
        out::line(&tell(args.lang, words::DUPLICATE, &values));
        out::line(&format!("  {};", index.sql));
    }
    out::line(&tell(args.lang, words::FOUND, &[("n", &found.len())]));
    Ok(ok)
}

// === advise ===

async fn give_advice(args: &Args, index: &IndexArgs, asked: &AdviseArgs) -> Result<bool, Error> {
    let connection = source::connect_alone(args.lang, index).await?;
    let statements = source::statements(asked, &connection).await?;
    let limits = Limits {
        statements_max: usize::from(asked.statements),
        findings_max: usize::from(asked.findings),
        ..Limits::default()
    };
    let advice = advise(connection.client(), &statements, limits).await?;
    let ok = advice.findings.is_empty();
    let file = asked.output.as_ref().filter(|_| !ok);
    if let Some(file) = file {
        fs::write(file, advice.plan().to_toml()).map_err(|source| Error::File {
            doing: "cannot write",
            file: file.display().to_string(),
            source,
        })?;
    }
    if args.json {
        let mut line = serde_json::to_value(&advice).expect("advice is plain data");
        line["ok"] = ok.into();
        out::line(&line.to_string());
        return Ok(ok);
    }
    show_advice(args.lang, &advice);
    if let Some(file) = file {
        out::line(&tell(args.lang, words::WRITTEN, &[("file", &file.display())]));
    }
    Ok(ok)
}

fn show_advice(lang: Lang, advice: &Advice) {
    for finding in &advice.findings {
        show_finding(lang, finding);
    }
    if !advice.findings.is_empty() {
        let proof = match advice.proof {
            Proof::Hypopg => words::PROVED,
            Proof::Statistics => words::ESTIMATED,
        };
        out::line(&tell(lang, proof, &[]));
    }
    for skipped in &advice.skipped {
        let values: [(&str, &dyn std::fmt::Display); 2] = [("n", &skipped.n), ("reason", &skipped.reason)];
        out::line(&tell(lang, words::SKIPPED, &values));
    }
    let skipped: usize = advice.skipped.iter().map(|skipped| skipped.n).sum();
    let values: [(&str, &dyn std::fmt::Display); 2] = [("n", &advice.n_statements), ("skipped", &skipped)];
    out::line(&tell(lang, words::LOOKED, &values));
    out::line(&tell(lang, words::FOUND, &[("n", &advice.findings.len())]));
}

/// Statements shown with a proposal; the others are in `--json`.
const EVIDENCE_SHOWN: usize = 3;
/// Characters of a statement on one line.
const STATEMENT_SHOWN: usize = 100;

fn show_finding(lang: Lang, finding: &Finding) {
    out::line(&format!("{};", finding.sql));
    let (ms, share) = (
        format!("{:.0}", finding.saved_ms),
        format!("{:.0}", finding.saved_share * 100.0),
    );
    let (size, factor) = (
        size(finding.bytes as f64),
        format!("{:.1}", finding.write_cost.factor),
    );
    let writes = format!("{:.1}", finding.write_cost.rows_per_second);
    let values: [(&str, &dyn std::fmt::Display); 5] = [
        ("ms", &ms),
        ("share", &share),
        ("size", &size),
        ("factor", &factor),
        ("writes", &writes),
    ];
    out::line(&format!("  {}", tell(lang, words::SAVES, &values)));
    for evidence in finding.evidence.iter().take(EVIDENCE_SHOWN) {
        let numbers = [
            evidence.mean_ms,
            evidence.mean_ms_after,
            evidence.cost_before,
            evidence.cost_after,
        ];
        let [before, after, cost_before, cost_after] = numbers.map(|number| format!("{number:.2}"));
        let scans = format!("{} -> {}", evidence.scan_before, evidence.scan_after);
        let one_line: Vec<&str> = evidence.statement.split_whitespace().collect();
        let statement: String = one_line.join(" ").chars().take(STATEMENT_SHOWN).collect();
        let values: [(&str, &dyn std::fmt::Display); 7] = [
            ("calls", &evidence.calls),
            ("before", &before),
            ("after", &after),
            ("cost_before", &cost_before),
            ("cost_after", &cost_after),
            ("scans", &scans),
            ("statement", &statement),
        ];
        out::line(&format!("  {}", tell(lang, words::EVIDENCE, &values)));
    }
    if let Some(name) = &finding.replaces {
        out::line(&format!("  {}", tell(lang, words::REPLACES, &[("name", name)])));
    }
    if let Some(hint) = &finding.hint {
        out::line(&format!("  {}", tell(lang, words::HINT, &[("hint", hint)])));
    }
}

fn days(seconds: f64) -> String {
    format!("{:.1}", seconds / 86_400.0)
}

fn size(bytes: f64) -> String {
    if bytes >= 1_048_576.0 {
        format!("{:.1} MiB", bytes / 1_048_576.0)
    } else {
        format!("{:.0} KiB", bytes / 1_024.0)
    }
}
