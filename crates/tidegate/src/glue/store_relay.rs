//! `store`, `cache` and `gateway`: publications by SQL make answers void and go to rooms.

use std::sync::Arc;

use serde_json::value::RawValue;
use tidegate_gateway::{Args, Error, Publication, Publisher, Target, WhenSlow};
use tidegate_store::relay::{Entry, Outcome, Sink};

use super::store_cache::Answers;

/// Who speaks; the keys of publications are remembered under this name.
const SPEAKER: &str = "sql";

/// Where publications by SQL go.
pub(crate) struct Told {
    publisher: Publisher,
    answers: Option<Arc<Answers>>,
    speaker: Arc<str>,
}

// === impl Told ===

impl Told {
    pub(crate) fn new(publisher: Publisher, answers: Option<Arc<Answers>>) -> Self {
        Self {
            publisher,
            answers,
            speaker: Arc::from(SPEAKER),
        }
    }
}

impl Sink for Told {
    fn invalidate(&self, tags: &[&str]) {
        if let Some(answers) = &self.answers {
            answers.invalidate_written(tags);
        }
    }

    fn invalidate_all(&self) {
        if let Some(answers) = &self.answers {
            answers.cache().clear();
        }
    }

    fn publish(&self, entry: &Entry) -> Outcome {
        let published = publication(entry).and_then(|publication| {
            self.publisher.publish(Publication {
                speaker: Some(Arc::clone(&self.speaker)),
                ..publication
            })
        });
        match published {
            Ok(published) if published.duplicate => Outcome::Duplicate,
            Ok(_) => Outcome::Published,
            Err(Error::Overloaded { .. } | Error::Memory(_) | Error::Draining) => Outcome::Full,
            Err(error) => Outcome::Refused {
                reason: reason(&error),
                message: error.to_string(),
            },
        }
    }
}

/// Codes of the gateway that say that waiting does not help.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::TooMany { .. } => "too_many",
        error => error.code().as_str(),
    }
}

fn publication(entry: &Entry) -> Result<Publication, Error> {
    let args = match &entry.data {
        None => Args::new(),
        Some(data) => Args::one(&serde_json::from_str::<&RawValue>(data)?)?,
    };
    let options = &entry.options;
    let targets = |rooms: &[String], users: &[String], sessions: &[String]| {
        let rooms = rooms.iter().cloned().map(Target::Room);
        let users = users.iter().cloned().map(Target::User);
        let sessions = sessions.iter().cloned().map(Target::Session);
        rooms.chain(users).chain(sessions).collect::<Vec<_>>()
    };
    let to = targets(&entry.rooms, &options.users, &options.sessions);
    if to.is_empty() && !options.everyone {
        return Err(Error::BadRequest(
            "no room, user or session, and not everyone".to_owned(),
        ));
    }
    let when_slow = match &options.conflate {
        Some(key) => WhenSlow::Conflate(key.clone()),
        None => WhenSlow::Disconnect,
    };
    Ok(Publication {
        namespace: entry.namespace.clone(),
        to,
        except: targets(
            &options.except_rooms,
            &options.except_users,
            &options.except_sessions,
        ),
        urgent: options.urgent,
        volatile: options.volatile,
        when_slow,
        id: Some(entry.key()),
        ..Publication::new(entry.event.clone().unwrap_or_default(), args)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_gateway::Gateway;
    use tidegate_store::relay::{Options, Position};

    use super::*;

    fn entry(id: i64, data: &str) -> Entry {
        Entry {
            position: Position { xid: 7, id },
            namespace: "/".to_owned(),
            rooms: vec!["a".to_owned()],
            event: Some("n".to_owned()),
            data: Some(data.to_owned()),
            tags: Vec::new(),
            options: Options::default(),
            problem: None,
            age: Duration::ZERO,
            n_bytes: 1,
        }
    }

    #[tokio::test]
    async fn what_comes_again_is_recognised_and_what_cannot_be_sent_is_named() {
        let gateway = Gateway::builder()
            .listen(([127, 0, 0, 1], 0).into())
            .await
            .unwrap();
        let told = Told::new(gateway.publisher(), None);
        let check = |entry: Entry, expected: Result<Outcome, &str>| match (told.publish(&entry), expected) {
            (Outcome::Refused { reason, .. }, Err(expected)) => assert_eq!(reason, expected, "{entry:?}"),
            (outcome, expected) => assert_eq!(Ok(outcome), expected, "{entry:?}"),
        };
        check(entry(1, "1"), Ok(Outcome::Published));
        check(entry(1, "1"), Ok(Outcome::Duplicate));
        check(entry(2, "1"), Ok(Outcome::Published));
        check(entry(2, "2"), Err("id_reused"));
        let change = |change: fn(&mut Entry)| {
            let mut entry = entry(3, "1");
            change(&mut entry);
            entry
        };
        check(
            change(|entry| entry.namespace = "/none".to_owned()),
            Err("not_found"),
        );
        check(
            change(|entry| entry.event = Some("disconnect".to_owned())),
            Err("bad_request"),
        );
        check(
            change(|entry| entry.event = Some("x".repeat(1_025))),
            Err("too_large"),
        );
        check(change(|entry| entry.rooms = Vec::new()), Err("bad_request"));
        check(
            change(|entry| entry.rooms = vec!["a".to_owned(); 10_001]),
            Err("too_many"),
        );
        check(
            change(|entry| entry.options.everyone = true),
            Ok(Outcome::Published),
        );
        gateway.shutdown().await;
    }
}
