//! `/api/performance/profile`: everything that runs, watched for some seconds, as a report or in a form for other tools.

use std::time::Duration;

use bytes::Bytes;
use tidegate_gateway::{Code, Error};
use tidegate_vitals::profile::SECONDS_MAX;

use super::{
    failure::Failure,
    route::{Call, Reply, header},
};
use crate::profiling::{self, Asked, Taken};

/// How long a profile may take, seconds.
pub(crate) const SECONDS: usize = SECONDS_MAX as usize;
/// Words of the parameter `form`.
pub(crate) const FORMS: &[&str] = &["json", "folded", "pprof", "svg"];
/// Media types of the forms that are not JSON.
pub(crate) const MEDIA: &[&str] = &[FOLDED, PPROF, SVG];

const FOLDED: &str = "text/plain; charset=utf-8";
/// What pprof itself asks for; uncompressed, which it reads as well.
const PPROF: &str = "application/octet-stream";
const SVG: &str = "image/svg+xml";

/// `POST` or `GET /api/performance/profile`
///
/// # Cancel safety
/// Dropped, the profile ends within a tenth of a second.
pub(crate) async fn profile(call: Call) -> Result<Reply, Failure> {
    let busy = || Failure {
        retry_after: Some(Duration::from_secs(10)),
        ..Failure::of(
            Code::Overloaded,
            "another profile is being made; one runs at a time",
        )
    };
    let turn = call.api.profiler.turn().ok_or_else(busy)?;
    let asked = Asked {
        length: Duration::from_secs(call.count("seconds") as u64),
        heap: call.text("heap") == Some("true"),
    };
    let form = form(&call);
    let api = std::sync::Arc::clone(&call.api);
    let (_wanted, watch) = profiling::wanted();
    tracing::info!(
        seconds = asked.length.as_secs(),
        heap = asked.heap,
        form,
        "profile begins"
    );
    let made = tokio::task::spawn_blocking(move || {
        // Names are looked up and written here as well: that takes as long as the program is large.
        let taken = profiling::take(&api, asked, turn, &watch);
        taken.map(|taken| taken.map(|taken| reply(&taken, form)))
    });
    let failed = |message: String| Failure::of(Code::Internal, message);
    let made = made.await.map_err(|error| failed(error.to_string()))?;
    let made = made.map_err(|error| Failure::from(Error::BadRequest(error.to_string())))?;
    made.ok_or_else(|| failed("the profile was ended".to_owned()))?
}

fn reply(taken: &Taken, form: &str) -> Result<Reply, Failure> {
    Ok(match form {
        "folded" => Reply::text(FOLDED, taken.samples()?.folded()),
        "pprof" => Reply::text(PPROF, Bytes::from(taken.samples()?.pprof())),
        "svg" => Reply::text(SVG, taken.samples()?.flame_graph("tidegate")),
        _ => Reply::json(&taken.to_json()?),
    })
}

/// The form asked for: by the parameter, else by the first media type of `Accept` that is one.
fn form(call: &Call) -> &'static str {
    let by_name = call
        .text("form")
        .and_then(|text| FORMS.iter().find(|form| **form == text));
    let accepted = header(&call.headers, "accept").unwrap_or("");
    by_name.copied().unwrap_or_else(|| accepted_form(accepted))
}

fn accepted_form(accepted: &str) -> &'static str {
    let media = accepted
        .split(',')
        .map(|part| part.split(';').next().unwrap_or("").trim());
    let form = |media: &str| match media {
        "text/plain" => Some("folded"),
        "application/octet-stream" => Some("pprof"),
        "image/svg+xml" => Some("svg"),
        "application/json" => Some("json"),
        _ => None,
    };
    media.into_iter().find_map(form).unwrap_or("json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_is_accepted_counts() {
        let check = |accepted, expected| assert_eq!(accepted_form(accepted), expected, "{accepted}");
        check("", "json");
        check("*/*", "json");
        check("text/html, image/svg+xml;q=0.9, text/plain", "svg");
        check("text/plain", "folded");
        check("application/octet-stream", "pprof");
    }
}
