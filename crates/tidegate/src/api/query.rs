//! `GET /api/query/{name}`: a page of a declared query, or all of its rows as lines.

use axum::body::Body;
use futures_util::stream;
use tidegate_cache::{Hit, Source};
use tidegate_gateway::Error;
use tidegate_store::query;

use super::{
    failure::Failure,
    route::{Call, LINES, Reply, header},
};
use crate::{data::ask, glue::store_cache};

/// Answers the query.
pub(crate) async fn query(call: Call) -> Result<Reply, Failure> {
    let store = call.api.store()?;
    let name = call.path("name");
    let identity = call.caller();
    ask::admit(&store, call.api.authenticator().permissions(), identity, name)?;
    let declared = store.declared();
    let declaration = declared
        .queries
        .get(name)
        .ok_or_else(|| tidegate_store::Error::UnknownQuery(name.to_owned()))?;
    let params = ask::params(declaration, call.free())?;
    let asked = query::Call {
        claim: &|name| ask::claim(identity, name),
        limit: limit(&call)?,
        after: call.text("after"),
        ..query::Call::new(&params)
    };
    if wants_lines(&call) {
        let rows = store.queries().stream(name, asked).await?;
        return Ok(Reply::stream(LINES, lines(rows)));
    }
    let answer = store_cache::page(&store, name, asked).await?;
    let reply = Reply::json_text(answer.json);
    Ok(match answer.hit {
        Some(hit) => reply.with_cache_status(cache_status(&hit)),
        None => reply,
    })
}

/// Whether the cache answered, as RFC 9211 says it.
fn cache_status(hit: &Hit) -> &'static str {
    match (hit.source(), hit.is_stale()) {
        (Source::Load, false) => "tidegate; fwd=miss",
        (Source::Load, true) => "tidegate; fwd=stale",
        (Source::Memory, false) => "tidegate; hit; detail=memory",
        (Source::Memory, true) => "tidegate; hit; detail=stale",
        (Source::Disk, _) => "tidegate; hit; detail=disk",
        (Source::Remote, _) => "tidegate; hit; detail=remote",
    }
}

fn limit(call: &Call) -> Result<Option<usize>, Failure> {
    let Some(text) = call.text("limit") else {
        return Ok(None);
    };
    match text.parse() {
        Ok(limit) if limit > 0 => Ok(Some(limit)),
        _ => Err(Error::BadRequest(format!("limit is {text:?}, allowed is a number from 1")).into()),
    }
}

fn wants_lines(call: &Call) -> bool {
    let accepted = header(&call.headers, "accept").unwrap_or("");
    let media = accepted
        .split(',')
        .map(|part| part.split(';').next().unwrap_or("").trim());
    media.into_iter().any(|media| media.eq_ignore_ascii_case(LINES))
}

/// Read from the database as fast as the caller reads. A failure on the way is the last line.
fn lines(rows: query::Stream) -> Body {
    Body::from_stream(stream::unfold(rows, |mut rows| async {
        let chunk = rows.next_chunk().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), rows))
    }))
}
