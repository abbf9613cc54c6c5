//! Two reports of the same work: keep the change between them, roll it back, or profile longer.

use std::{fs, path::Path, process::ExitCode};

use serde_json::{Value, json};
use tidegate_vitals::profile::compare::{Change, Decision, Verdict, compare};

use super::{
    Error, parts,
    report::Report,
    words::{self, Words, in_lang, tell},
};
use crate::{args::Args, exit, out, words::Lang};

/// Compares the files; exit code 1 if the change should go.
pub(super) fn run(args: &Args, before: &Path, after: &Path) -> Result<ExitCode, Error> {
    let (before, after) = (read(before)?, read(after)?);
    let functions = compare(&before.run_of_functions(), &after.run_of_functions());
    let latencies = compare(&before.run_of_latencies(), &after.run_of_latencies());
    let verdict = together(&functions, &latencies);
    if args.json {
        out::line(&in_json(verdict, &functions, &latencies).to_string());
    } else {
        show(
            args.lang,
            verdict,
            &[
                (words::OF_FUNCTIONS, &functions),
                (words::OF_LATENCIES, &latencies),
            ],
        );
    }
    Ok(match verdict.decision {
        Decision::RollBack => ExitCode::from(exit::FAILURE),
        Decision::Keep | Decision::Inconclusive => ExitCode::SUCCESS,
    })
}

fn read(file: &Path) -> Result<Report, Error> {
    let failed = |problem, cause: String| Error::File {
        file: file.display().to_string(),
        problem,
        cause,
    };
    let text = fs::read_to_string(file).map_err(|error| failed(words::CANNOT_READ, error.to_string()))?;
    Report::parse(&text).map_err(|error| failed(words::NOT_REPORT, error.to_string()))
}

/// The one that decides: a loss anywhere outweighs a gain elsewhere, and a gain outweighs silence.
fn together<'a>(functions: &'a Verdict, latencies: &'a Verdict) -> &'a Verdict {
    let rank = |verdict: &Verdict| match verdict.decision {
        Decision::RollBack => 2,
        Decision::Keep => 1,
        Decision::Inconclusive => 0,
    };
    // Between two that are silent, the one that compared something says why.
    let key = |verdict: &Verdict| (rank(verdict), !verdict.changes.is_empty());
    if key(latencies) > key(functions) {
        latencies
    } else {
        functions
    }
}

fn in_json(verdict: &Verdict, functions: &Verdict, latencies: &Verdict) -> Value {
    let change = |change: &Change| {
        json!({
            "name": change.name,
            "calls": {"before": change.calls.0, "after": change.calls.1},
            "mean_ns": {"before": change.mean_ns.0, "after": change.mean_ns.1},
            "p99_ns": {"before": change.p99_ns.0, "after": change.p99_ns.1},
            "weight": change.weight,
            // Without any deviation the difference is beyond number.
            "errors": change.errors.is_finite().then_some(change.errors),
        })
    };
    let part = |verdict: &Verdict| {
        json!({
            "decision": decision(verdict.decision),
            "ratio": verdict.ratio,
            "changes": verdict.changes.iter().map(change).collect::<Value>(),
        })
    };
    json!({
        "ok": verdict.decision != Decision::RollBack,
        "decision": decision(verdict.decision),
        "reason": {"en": verdict.reason_en, "zh": verdict.reason_zh},
        "functions": part(functions),
        "latencies": part(latencies),
    })
}

const fn decision(decision: Decision) -> &'static str {
    match decision {
        Decision::Keep => "keep",
        Decision::RollBack => "roll_back",
        Decision::Inconclusive => "inconclusive",
    }
}

fn show(lang: Lang, verdict: &Verdict, parts: &[(Words, &Verdict)]) {
    let words = match verdict.decision {
        Decision::Keep => words::KEEP,
        Decision::RollBack => words::ROLL_BACK,
        Decision::Inconclusive => words::INCONCLUSIVE,
    };
    let reason = match lang {
        Lang::En => &verdict.reason_en,
        Lang::Zh => &verdict.reason_zh,
    };
    out::line(&tell(lang, words, &[("reason", reason)]));
    out::line(in_lang(lang, words::COMPARED_ABOUT));
    for (title, part) in parts.iter().filter(|(_, part)| !part.changes.is_empty()) {
        out::line("");
        out::line(in_lang(lang, *title));
        for change in &part.changes {
            out::line(&line(change));
        }
    }
}

fn line(change: &Change) -> String {
    let percent = (change.mean_ns.1 / change.mean_ns.0 - 1.0) * 100.0;
    format!(
        "  {:>9} → {:>9}  {percent:>+7.1} %  {:>+8.1} σ  P99 {:>9} → {:>9}  {:>3.0} %  {}",
        parts::time(change.mean_ns.0),
        parts::time(change.mean_ns.1),
        change.errors,
        parts::time(change.p99_ns.0 as f64),
        parts::time(change.p99_ns.1 as f64),
        change.weight * 100.0,
        change.name
    )
}

#[cfg(test)]
mod tests {
    use tidegate_vitals::profile::compare::{Item, Run};

    use super::*;

    /// Of one function with these mean times.
    fn verdict(before_ns: f64, after_ns: f64) -> Verdict {
        let run = |mean_ns| Run {
            items: vec![Item {
                name: "f".to_owned(),
                calls: 1_000,
                mean_ns,
                deviation_ns: 1.0,
                p99_ns: 0,
            }],
        };
        compare(&run(before_ns), &run(after_ns))
    }

    #[test]
    fn a_loss_outweighs_a_gain_and_a_gain_silence() {
        let (gain, loss, same) = (verdict(100.0, 50.0), verdict(100.0, 200.0), verdict(100.0, 100.0));
        let nothing = compare(&Run::default(), &Run::default());
        let check = |one: &Verdict, other: &Verdict, expected| {
            assert_eq!(together(one, other).decision, expected);
            assert_eq!(together(other, one).decision, expected);
        };
        check(&gain, &loss, Decision::RollBack);
        check(&gain, &same, Decision::Keep);
        check(&loss, &same, Decision::RollBack);
        check(&same, &nothing, Decision::Inconclusive);
        assert_eq!(together(&nothing, &same).reason_en, same.reason_en);
    }
}
