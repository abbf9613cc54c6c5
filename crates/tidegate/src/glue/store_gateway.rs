//! `store` and `gateway`: stored rows go to rooms; the events `ingest` and `query` go to the store.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, RwLock},
};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value as Json, value::RawValue};
use tidegate_gateway::{Args, Builder, Error, Event, Publication, Publisher, Socket, Target, WhenSlow};
use tidegate_store::{Fanout, Feed, How, Operation, Template, Type, Value, query, row};

use crate::{
    Settings,
    api::{Api, Failure},
    data::{
        Store, ask, envelope,
        rows::{self, About},
    },
    glue::store_cache,
    settings::{self, FeedSettings},
};

/// The member of a pushed row that says that it was changed or removed; inserted and replaced rows have none.
const OPERATION: &str = "_op";

/// Tells stored rows to rooms, as the feeds say.
#[derive(Default)]
pub(crate) struct Live {
    rules: RwLock<Arc<HashMap<String, settings::Live>>>,
    /// The gateway opens after the store, hence the slot.
    publisher: RwLock<Option<Publisher>>,
}

/// A row as clients get it.
struct Pushed<'a> {
    feed: &'a Feed,
    values: &'a [Value],
    operation: Operation,
}

struct Cell<'a>(&'a Type, &'a Value);

const LOCK: &str = "nothing panics while it holds this lock";

// === impl Live ===

impl Live {
    /// Takes the rules of these feeds.
    pub(crate) fn set(&self, feeds: Vec<FeedSettings>) {
        let rules = feeds
            .into_iter()
            .filter_map(|declared| Some((declared.feed.name, declared.live?)));
        *self.rules.write().expect(LOCK) = Arc::new(rules.collect());
    }

    /// Lends the way to clients; `None` takes it back.
    pub(crate) fn set_publisher(&self, publisher: Option<Publisher>) {
        *self.publisher.write().expect(LOCK) = publisher;
    }
}

impl Fanout for Live {
    fn stored(&self, feed: &Feed, operation: Operation, rows: &[&[Value]], _how: How) {
        let rules = Arc::clone(&self.rules.read().expect(LOCK));
        let Some(rule) = rules.get(&feed.name) else {
            return;
        };
        let Some(publisher) = self.publisher.read().expect(LOCK).clone() else {
            return;
        };
        for values in rows {
            let pushed = Pushed {
                feed,
                values,
                operation,
            };
            // A refused publication is counted by the gateway; the row itself is stored.
            if let Some(Err(error)) = pushed.publication(rule).map(|it| publisher.publish(it?)) {
                tracing::debug!(feed = feed.name, %error, "stored row not pushed");
            }
        }
    }
}

// === impl Pushed ===

impl Pushed<'_> {
    /// `None` if a column that names the room is null: the row then belongs to no room.
    fn publication(&self, rule: &settings::Live) -> Option<Result<Publication, Error>> {
        let room = self.filled(&rule.room)?;
        let when_slow = match rule.conflate.as_ref().and_then(|key| self.filled(key)) {
            Some(key) => WhenSlow::Conflate(key),
            None => WhenSlow::Disconnect,
        };
        Some(Args::one(self).map(|args| Publication {
            to: vec![Target::Room(room)],
            urgent: rule.urgent,
            volatile: rule.volatile,
            when_slow,
            ..Publication::new(rule.event.clone(), args)
        }))
    }

    fn filled(&self, template: &Template) -> Option<String> {
        let mut has_null = false;
        let text = template.render(|name, out| {
            let at = self.feed.column(name).unwrap_or(usize::MAX);
            match (self.feed.columns.get(at), self.values.get(at)) {
                (Some(column), Some(value)) if *value != Value::Null => put(&column.kind, value, out),
                _ => has_null = true,
            }
        });
        (!has_null).then_some(text)
    }

    /// Whether the row is one that was stored whole.
    const fn is_whole(&self) -> bool {
        matches!(self.operation, Operation::Insert | Operation::Upsert)
    }
}

/// A value as text in the name of a room.
fn put(kind: &Type, value: &Value, out: &mut String) {
    match value {
        Value::Text(text) | Value::Numeric(text) => out.push_str(text),
        value => out.push_str(json_text(kind, value).trim_matches('"')),
    }
}

fn json_text(kind: &Type, value: &Value) -> String {
    let mut text = Vec::new();
    row::write_value(kind, value, &mut text);
    String::from_utf8(text).expect("JSON is UTF-8")
}

impl Serialize for Pushed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (column, value) in self.feed.columns.iter().zip(self.values) {
            // Of a row that was changed or removed only a part may be known; what is not known is left out.
            if self.is_whole() || *value != Value::Null {
                map.serialize_entry(&column.name, &Cell(&column.kind, value))?;
            }
        }
        if !self.is_whole() {
            map.serialize_entry(OPERATION, self.operation.as_str())?;
        }
        map.end()
    }
}

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(kind, value) = self;
        match value {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::Float(value) if **kind == Type::Float4 => serializer.serialize_f32(*value as f32),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Numeric(text) | Value::Text(text) => serializer.serialize_str(text),
            value => {
                let text = json_text(kind, value);
                match RawValue::from_string(text) {
                    Ok(raw) => raw.serialize(serializer),
                    Err(error) => Err(serde::ser::Error::custom(error)),
                }
            }
        }
    }
}

// === the events ===

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    name: String,
    #[serde(default)]
    params: Map<String, Json>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default, alias = "cursor")]
    after: Option<String>,
}

/// Adds the events that the store answers, under the names of the settings.
pub(crate) fn with_events(mut builder: Builder, settings: &Settings, api: &Arc<Api>) -> Builder {
    if let Some(name) = settings.builtin("ingest") {
        let api = Arc::clone(api);
        builder = builder.on_event(&name, move |socket, event| answered(&api, socket, event, ingest));
    }
    if let Some(name) = settings.builtin("query") {
        let api = Arc::clone(api);
        builder = builder.on_event(&name, move |socket, event| {
            answered(&api, socket, event, ask_query)
        });
    }
    builder
}

/// What an event needs besides its arguments.
struct Asked {
    api: Arc<Api>,
    store: Arc<Store>,
    socket: Socket,
    payload: String,
}

fn answered<F, Fut>(
    api: &Arc<Api>,
    socket: Socket,
    event: Event,
    answer: F,
) -> impl Future<Output = ()> + Send + use<F, Fut>
where
    F: Fn(Asked) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Args, Failure>> + Send,
{
    let api = Arc::clone(api);
    async move {
        let asked = match (api.store(), event.payload::<Box<RawValue>>()) {
            (Err(failure), _) => Err(failure),
            (_, Err(error)) => Err(error.into()),
            (Ok(store), Ok(payload)) => Ok(Asked {
                api,
                store,
                socket,
                payload: payload.get().to_owned(),
            }),
        };
        let answered = match asked {
            Ok(asked) => in_turn(asked, answer).await,
            Err(failure) => Err(failure),
        };
        let answered = answered.or_else(|failure| Args::one(&failure.logged().to_json()));
        match answered {
            Ok(args) => event.ack(&args),
            Err(error) => event.answer::<()>(Err(error)),
        }
    }
}

/// Answers when the limit on requests at once lets it.
async fn in_turn<Fut>(asked: Asked, answer: impl FnOnce(Asked) -> Fut) -> Result<Args, Failure>
where
    Fut: Future<Output = Result<Args, Failure>>,
{
    let turn = asked.api.requests.turn(asked.socket.identity()).await?;
    let result = answer(asked).await;
    turn.end(&result);
    result
}

/// `{feed, rows, id?, op?}`
async fn ingest(asked: Asked) -> Result<Args, Failure> {
    let malformed = || Error::BadRequest("ingest takes {feed, rows, id?, op?}".to_owned());
    let members = envelope::members(&asked.payload.into_bytes().into()).ok_or_else(malformed)?;
    let (mut feed, mut rows, mut about) = (None, None, About::default());
    for (name, value) in members {
        match name.as_str() {
            "feed" => feed = Some(rows::text("feed", &value)?),
            "rows" => rows = Some(value),
            "id" => about.id = Some(rows::text("id", &value)?),
            "op" => about.operation = Some(rows::operation(&rows::text("op", &value)?)?),
            _ => return Err(malformed().into()),
        }
    }
    let (feed, rows) = feed.zip(rows).ok_or_else(malformed)?;
    let identity = asked.socket.identity();
    rows::admit(
        &asked.store,
        asked.api.authenticator().permissions(),
        identity,
        &feed,
    )?;
    let answer = rows::submit(&asked.store, identity, &feed, (rows, about)).await?;
    Ok(Args::one(&answer)?)
}

/// `{name, params?, limit?, after?}`
async fn ask_query(asked: Asked) -> Result<Args, Failure> {
    let question: Question = serde_json::from_str(&asked.payload).map_err(|error| {
        Error::BadRequest(format!("query takes {{name, params?, limit?, after?}}: {error}"))
    })?;
    let identity = asked.socket.identity();
    ask::admit(
        &asked.store,
        asked.api.authenticator().permissions(),
        identity,
        &question.name,
    )?;
    let call = query::Call {
        claim: &|name| ask::claim(identity, name),
        limit: question.limit,
        after: question.after.as_deref(),
        ..query::Call::new(&question.params)
    };
    let answer = store_cache::page(&asked.store, &question.name, call).await?;
    let json = String::from_utf8_lossy(&answer.json);
    Ok(Args::from_json_array(&format!("[{json}]"), Vec::new())?)
}

#[cfg(test)]
mod tests {
    use tidegate_store::{OnConflict, feed::Column};

    use super::*;

    fn feed() -> Feed {
        let columns = [
            ("id", "int8"),
            ("symbol", "text"),
            ("price", "numeric"),
            ("at", "timestamptz"),
            ("more", "jsonb"),
        ];
        Feed {
            name: "ticks".to_owned(),
            table: "ticks".to_owned(),
            columns: columns
                .map(|(name, kind)| Column {
                    name: name.to_owned(),
                    kind: Type::parse(kind).unwrap(),
                    not_null: false,
                })
                .to_vec(),
            key: vec!["id".to_owned()],
            on_conflict: OnConflict::Update,
            tags: Vec::new(),
            retain: None,
            manage: false,
            partition: None,
            rollups: Vec::new(),
            row_bytes_max: 1_000,
            rows_per_second_max: None,
        }
    }

    fn rule() -> settings::Live {
        settings::Live {
            room: Template::parse("ticks:{symbol}").unwrap(),
            event: "price_update".to_owned(),
            conflate: Some(Template::parse("{symbol}/{id}").unwrap()),
            urgent: true,
            volatile: false,
        }
    }

    fn values() -> Vec<Value> {
        vec![
            Value::Int(7),
            Value::Text("600\"519".into()),
            Value::Numeric("12.50".into()),
            Value::Timestamptz(1_700_000_000_123_456),
            Value::Jsonb("{\"a\": [1]}".into()),
        ]
    }

    #[test]
    fn a_stored_row_is_pushed_as_it_is_read_back() {
        let feed = feed();
        let values = values();
        let pushed = Pushed {
            feed: &feed,
            values: &values,
            operation: Operation::Insert,
        };
        let publication = pushed.publication(&rule()).unwrap().unwrap();
        assert_eq!(publication.to, [Target::Room("ticks:600\"519".to_owned())]);
        assert_eq!(publication.when_slow, WhenSlow::Conflate("600\"519/7".to_owned()));
        assert!(publication.urgent);
        let mut read_back = Vec::new();
        row::write_row(&feed.columns, &values, |_| true, &mut read_back);
        let read_back: Json = serde_json::from_slice(&read_back).unwrap();
        assert_eq!(serde_json::to_value(&pushed).unwrap(), read_back);
    }

    #[test]
    fn changed_and_removed_rows_say_so_and_tell_what_is_known() {
        let feed = feed();
        let mut values = vec![Value::Null; 5];
        values[0] = Value::Int(7);
        values[1] = Value::Text("A".into());
        let pushed = Pushed {
            feed: &feed,
            values: &values,
            operation: Operation::Delete,
        };
        let expected = serde_json::json!({"id": 7, "symbol": "A", "_op": "delete"});
        assert_eq!(serde_json::to_value(&pushed).unwrap(), expected);
    }

    #[test]
    fn a_row_without_its_room_is_pushed_to_nobody() {
        let feed = feed();
        let mut values = values();
        values[1] = Value::Null;
        let pushed = Pushed {
            feed: &feed,
            values: &values,
            operation: Operation::Insert,
        };
        assert!(pushed.publication(&rule()).is_none());
    }
}
