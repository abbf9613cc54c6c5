//! `tidegate profile`: collects a profile of a running server, shows and writes it, and compares two.

mod compare;
mod page;
mod parts;
mod report;
mod terminal;
mod words;

use std::{env, fs, io::IsTerminal, path::Path, process::ExitCode, sync::mpsc, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use self::{
    report::Report,
    words::{Words, tell},
};
use crate::{
    args::{Args, ProfileArgs},
    exit::{self, Failure},
    http::{self, Answer, Request},
    out,
    words::Lang,
};

/// What a server may take beyond the profile itself: names of functions are looked up in its debug information.
const NAMES_TIMEOUT: Duration = Duration::from_secs(120);
/// How often the bar moves.
const BAR_EVERY: Duration = Duration::from_millis(100);

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The ending of a file stands for no form.
    #[error("{0}: not .html, .json, .svg or .folded")]
    Ending(String),
    /// A file that is no report, or cannot be read or written.
    #[error("{file}: {problem:?}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: Words,
        /// What the system or the parser said.
        cause: String,
    },
    /// The server does not answer as it should.
    #[error("{server}: {problem:?}")]
    Server {
        /// As it was given.
        server: String,
        /// What is wrong.
        problem: Words,
        /// What it said.
        cause: String,
    },
}

impl Error {
    /// How the process ends.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Ending(_) => exit::USAGE,
            Self::File { .. } | Self::Server { .. } => exit::FAILURE,
        }
    }

    /// The message in one language.
    pub(crate) fn text(&self, lang: Lang) -> String {
        match self {
            Self::Ending(file) => tell(lang, words::ENDING, &[("file", file)]),
            Self::File { file, problem, cause } => tell(lang, *problem, &[("file", file), ("cause", cause)]),
            Self::Server {
                server,
                problem,
                cause,
            } => tell(lang, *problem, &[("server", server), ("cause", cause)]),
        }
    }
}

/// A form in which a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    Svg,
    Folded,
}

/// Collects and shows, or compares.
///
/// # Errors
/// A server that cannot be profiled, a file that cannot be read or written.
pub(crate) fn run(args: &Args, profile: &ProfileArgs) -> Result<ExitCode, Failure> {
    if let [before, after] = profile.compare.as_slice() {
        return Ok(compare::run(args, before, after)?);
    }
    let server = profile
        .url
        .as_deref()
        .expect("the parser asks for one of the two");
    // Before anything is asked of the server: ten seconds later it would be a pity.
    let forms = forms(&profile.out)?;
    let answer = collect(args, profile, server)?;
    let report = Report::parse(&answer).map_err(|error| Error::Server {
        server: server.to_owned(),
        problem: words::NOT_TIDEGATE,
        cause: error.to_string(),
    })?;
    for (file, form) in profile.out.iter().zip(forms) {
        write(file, &in_form(args.lang, form, (server, &report), &answer))?;
    }
    if args.json {
        out::line(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    let is_coloured = std::io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
    out::whole(&terminal::render(args.lang, server, &report, is_coloured));
    for file in &profile.out {
        let file = file.display();
        out::line(&tell(args.lang, words::WRITTEN, &[("file", &file)]));
    }
    Ok(ExitCode::SUCCESS)
}

fn forms(files: &[std::path::PathBuf]) -> Result<Vec<Form>, Error> {
    let form = |file: &std::path::PathBuf| {
        let ending = file.extension().and_then(|ending| ending.to_str());
        match ending.unwrap_or_default().to_ascii_lowercase().as_str() {
            "html" | "htm" => Ok(Form::Html),
            "json" => Ok(Form::Json),
            "svg" => Ok(Form::Svg),
            "folded" => Ok(Form::Folded),
            _ => Err(Error::Ending(file.display().to_string())),
        }
    };
    files.iter().map(form).collect()
}

fn in_form(lang: Lang, form: Form, (server, report): (&str, &Report), answer: &str) -> String {
    match form {
        Form::Html => page::render(lang, server, report),
        Form::Json => format!("{answer}\n"),
        Form::Svg => report.flame_graph(server),
        Form::Folded => report.folded().to_owned(),
    }
}

fn write(file: &Path, text: &str) -> Result<(), Error> {
    fs::write(file, text).map_err(|error| Error::File {
        file: file.display().to_string(),
        problem: words::CANNOT_WRITE,
        cause: error.to_string(),
    })
}

// === Collecting ===

/// Asks the server for a profile and shows how far it is.
fn collect(args: &Args, profile: &ProfileArgs, server: &str) -> Result<String, Error> {
    let from_env = || {
        env::var(&profile.token_env)
            .ok()
            .filter(|token| !token.is_empty())
    };
    let token = profile.token.clone().or_else(from_env);
    let length = Duration::from_secs(u64::from(profile.seconds));
    let path = format!(
        "/api/performance/profile?seconds={}&form=json&heap={}",
        profile.seconds, profile.heap
    );
    let bar = bar(args, profile.seconds);
    let (done, finished) = mpsc::sync_channel(1);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            let request = Request {
                method: "POST",
                path: &path,
                token: token.as_deref(),
                timeout: length + NAMES_TIMEOUT,
            };
            // The other side waits for as long as this thread lives.
            let _told = done.send(http::ask(server, &request));
        });
        loop {
            match finished.recv_timeout(BAR_EVERY) {
                Ok(answer) => break answer,
                Err(_) => bar.as_ref().map_or((), |bar| advance(args.lang, bar, length)),
            }
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    judge(server, answer)
}

/// A bar on a terminal, a line elsewhere, nothing for programs.
fn bar(args: &Args, seconds: u16) -> Option<ProgressBar> {
    if args.json {
        return None;
    }
    if !std::io::stderr().is_terminal() {
        out::note(&tell(args.lang, words::COLLECTING, &[("seconds", &seconds)]));
        return None;
    }
    let bar = ProgressBar::new(u64::from(seconds) * 1_000);
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed} {msg}");
    bar.set_style(style.expect("the template is well-formed"));
    bar.set_message(tell(args.lang, words::COLLECTING, &[("seconds", &seconds)]));
    Some(bar)
}

fn advance(lang: Lang, bar: &ProgressBar, length: Duration) {
    let elapsed = bar.elapsed();
    bar.set_position(elapsed.min(length).as_millis() as u64);
    if elapsed > length {
        bar.set_message(tell(lang, words::NAMING, &[]));
    }
}

/// The body of a good answer, or what is wrong with the server.
fn judge(server: &str, answer: Result<Answer, http::Error>) -> Result<String, Error> {
    let failed = |problem, cause: String| {
        let server = server.to_owned();
        Err(Error::Server {
            server,
            problem,
            cause,
        })
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(http::Error::NotHttp) => return failed(words::NOT_TIDEGATE, http::Error::NotHttp.to_string()),
        Err(error) => return failed(words::NOT_REACHED, error.to_string()),
    };
    let status = answer.status;
    match (status, answer.message()) {
        (200, _) => Ok(answer.body),
        (401, Some(message)) => failed(words::NO_TOKEN, message),
        (403, Some(message)) => failed(words::NOT_ADMIN, message),
        (404, Some(message)) => failed(words::TOO_OLD, message),
        (_, Some(message)) => failed(words::REFUSED, format!("{status} {message}")),
        (_, None) => failed(words::NOT_TIDEGATE, format!("HTTP {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged() {
        let check = |status, body: &str, expected: Option<Words>| {
            let body = body.to_owned();
            let judged = judge("http://a", Ok(Answer { status, body }));
            let problem = judged.err().map(|error| match error {
                Error::Server { problem, .. } => problem,
                other => panic!("{other}"),
            });
            assert_eq!(problem, expected, "{status}");
        };
        let ours = r#"{"ok":false,"error":{"code":"x","message":"said so"}}"#;
        check(200, "{}", None);
        check(401, ours, Some(words::NO_TOKEN));
        check(403, ours, Some(words::NOT_ADMIN));
        check(404, ours, Some(words::TOO_OLD));
        check(503, ours, Some(words::REFUSED));
        check(404, "<html>", Some(words::NOT_TIDEGATE));
        check(502, "", Some(words::NOT_TIDEGATE));
    }

    #[test]
    fn endings_decide_the_form() {
        let check = |file: &str, expected: Option<Form>| {
            let form = forms(&[file.into()]);
            assert_eq!(form.as_ref().ok().map(|forms| forms[0]), expected, "{file}");
            if let Err(error) = form {
                assert_eq!(error.code(), exit::USAGE);
            }
        };
        check("a.html", Some(Form::Html));
        check("A.JSON", Some(Form::Json));
        check("a.b/c.svg", Some(Form::Svg));
        check("a.folded", Some(Form::Folded));
        check("a.pdf", None);
        check("report", None);
    }
}
