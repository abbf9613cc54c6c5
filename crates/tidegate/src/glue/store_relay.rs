//! `store`, `cache` and `gateway`: publications by SQL make answers void and go to rooms.

use std::sync::Arc;

use serde_json::value::RawValue;
use tidegate_gateway::{Args, Error, Publication, Publisher, Target, WhenSlow};
use tidegate_store::relay::{Entry, Outcome, Sink};

use super::store_cache::Answers;

/// Where publications by SQL go.
pub(crate) struct Told {
    publisher: Publisher,
    answers: Option<Arc<Answers>>,
}

// === impl Told ===

impl Told {
    pub(crate) fn new(publisher: Publisher, answers: Option<Arc<Answers>>) -> Self {
        Self { publisher, answers }
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
        // It has no id there: the reader knows what it has published, and ids are for those who need them remembered.
        match publication(entry).and_then(|publication| self.publisher.publish(publication)) {
            Ok(_) => Outcome::Published,
            Err(error) => outcome(&error),
        }
    }
}

/// Whether waiting helps, and for how long it may.
fn outcome(error: &Error) -> Outcome {
    let message = match error {
        Error::Memory(full) => full.to_string(),
        error => error.to_string(),
    };
    match error {
        Error::Overloaded { .. } | Error::Draining => Outcome::Full,
        Error::Memory(full) if full.asked > full.limit => Outcome::Refused {
            reason: "too_large",
            message,
        },
        Error::Memory(_) => Outcome::Short {
            reason: "memory",
            message,
        },
        Error::TooMany { what: "targets", .. } => Outcome::Refused {
            reason: "too_many",
            message,
        },
        Error::TooMany { .. } => Outcome::Short {
            reason: "too_many",
            message,
        },
        error => Outcome::Refused {
            reason: error.code().as_str(),
            message,
        },
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
        ..Publication::new(entry.event.clone().unwrap_or_default(), args)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_gateway::Gateway;
    use tidegate_store::relay::{Options, Position};
    use tidegate_vitals::{Class, Ledger};

    use super::*;

    fn entry(id: i64, data: &str) -> Entry {
        Entry {
            position: Position { xid: 7, id },
            history: Arc::from("1"),
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
    async fn what_cannot_be_sent_is_named() {
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

    #[tokio::test]
    async fn what_fits_never_is_put_aside_at_once_and_what_may_fit_later_is_tried_again() {
        let ledger = Ledger::new(8 << 20);
        let builder = Gateway::builder().ledger(ledger.clone());
        let gateway = builder.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let told = Told::new(gateway.publisher(), None);
        let check = |entry: &Entry, expected: &str| {
            let shown = match told.publish(entry) {
                Outcome::Refused { reason, .. } => format!("refused {reason}"),
                Outcome::Short { reason, .. } => format!("short {reason}"),
                outcome => format!("{outcome:?}"),
            };
            assert_eq!(shown, expected);
        };
        let large = |bytes: usize| entry(1, &format!("\"{}\"", "x".repeat(bytes)));
        check(&large(9 << 20), "refused too_large");
        let guard = ledger.reserve(Class::Batches, 7 << 20).unwrap();
        check(&large(1 << 20), "short memory");
        drop(guard);
        check(&large(1 << 20), "Published");
        gateway.shutdown().await;
    }
}
