//! `POST /api/ingest/{feed}`: rows in, as one JSON body or as lines of any number.

use axum::body::Body;
use futures_util::stream;
use tidegate_gateway::Error;

use super::{
    failure::Failure,
    route::{Call, LINES, Reply, header},
};
use crate::data::{
    rows::{self, About},
    upload::{self, Upload},
};

/// Takes what the body holds.
pub(crate) async fn ingest(mut call: Call) -> Result<Reply, Failure> {
    let store = call.api.store()?;
    let feed = call.path("feed").to_owned();
    rows::admit(
        &store,
        call.api.authenticator().permissions(),
        call.caller(),
        &feed,
    )?;
    let about = About {
        id: idempotency_key(&call)?,
        operation: call.text("op").map(rows::operation).transpose()?,
    };
    if let Some(body) = call.lines.take() {
        let upload = Upload::begin(upload::Start {
            clock: call.api.clock.clone(),
            place: upload::empty_place(&call.api.ledger),
            body: body.into_inner().expect("nothing holds this lock"),
            principal: rows::principal(call.caller()),
            store,
            feed,
            about,
        })
        .await?;
        return Ok(Reply::stream(LINES, lines(upload)));
    }
    let body = std::mem::take(&mut call.body);
    let has_rows_column = store
        .declared()
        .feeds
        .get(&feed)
        .is_some_and(|feed| feed.column("rows").is_some());
    let taken = rows::taken_apart(body, about, has_rows_column)?;
    let answer = rows::submit(&store, call.caller(), &feed, taken).await?;
    Ok(Reply::json(&answer))
}

fn idempotency_key(call: &Call) -> Result<Option<String>, Failure> {
    if !call.headers.contains_key("idempotency-key") {
        return Ok(None);
    }
    match header(&call.headers, "idempotency-key") {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(Error::BadRequest("idempotency-key is no visible text".to_owned()).into()),
    }
}

/// Written as fast as the caller reads, and read as fast as the store takes.
fn lines(upload: Upload) -> Body {
    Body::from_stream(stream::unfold(upload, |mut upload| async {
        let line = upload.next_line().await?;
        Some((Ok::<_, std::convert::Infallible>(line), upload))
    }))
}
