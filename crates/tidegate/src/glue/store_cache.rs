//! `store` and `cache`: answers of declared queries are kept, and commits of feeds make them void.
//!
//! An answer carries the tags of its query, filled from its parameters. A commit names the tags of its rows. Two more
//! kinds of tag make that exact. A parameter that is null or an array stands for many values, so such an answer is void
//! after any commit of the template. A row that was changed or removed may have belonged elsewhere before, so where a
//! tag has columns outside the feed's key, every answer of the template is void. So it is where a value has more than
//! one text (1.5 and 1.50), because what a caller writes is then not what a row holds.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, RwLock},
    time::Duration,
};

use bytes::Bytes;
use tidegate_cache::{Cache, DiskConfig, Hit, Key, LoadError, Loaded, Policy, RemoteConfig};
use tidegate_flow::once;
use tidegate_gateway::{self as gateway, Code};
use tidegate_store::{
    Commit, CommitHook, Feed, Template,
    database::Context,
    query::{Call, Page, Question},
};

use crate::{
    Error, Settings,
    api::Failure,
    data::{Store, ask},
    settings::{CacheRule, CacheSettings},
};

/// Keeps answers of queries.
pub(crate) struct Answers {
    cache: Cache,
    rules: RwLock<Arc<HashMap<String, Arc<CacheRule>>>>,
}

/// An answer and where it comes from.
pub(crate) struct Answer {
    /// `{ok, rows, next}`
    pub(crate) json: Bytes,
    /// None: the query keeps no answers.
    pub(crate) hit: Option<Hit>,
}

/// No cached query is ended before its own time is over, which the settings bound to an hour.
const LONGEST: Duration = Duration::from_secs(3_600 + 60);
/// Beyond its own time a question waits so long, so that the database's own word comes first.
const GRACE: Duration = Duration::from_secs(1);
/// Loads at a time.
const LOADS_MAX: usize = 1_024;

const LOCK: &str = "nothing panics while it holds this lock";

/// Before the prefix of a template: answers that depend on more than one filling.
const ANY: &str = "any\u{1f}";
/// Before the prefix of a template: answers that depend on one filling.
const ONE: &str = "one\u{1f}";
/// Before the prefix of a template: answers whose filling triggers of the database write in another way.
const ODD: &str = "odd\u{1f}";
/// Before a filling, so that none looks like one of the others.
const FILLED: &str = "tag\u{1f}";

// === impl Answers ===

impl Answers {
    /// Opens the cache with its levels.
    ///
    /// # Errors
    /// A folder that cannot be used, an address that is none. A Redis that is away is no error.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn open(
        config: &CacheSettings,
        settings: &Settings,
        context: &Context,
    ) -> Result<Self, Error> {
        let mut builder = Cache::builder("queries")
            .memory(config.memory_bytes, config.entries_max)
            .clock(context.clock.clone())
            .registry(context.registry.clone())
            .ledger(context.ledger.clone())
            .flights(flights());
        if let Some((dir, bytes_max)) = &config.disk {
            builder = builder.disk(DiskConfig {
                bytes_max: *bytes_max,
                value_bytes_max: config.value_bytes_max,
                ..DiskConfig::new(dir)
            });
        }
        if let Some((url, staleness_max)) = &config.redis {
            builder = builder.remote(RemoteConfig {
                staleness_max: *staleness_max,
                value_bytes_max: config.value_bytes_max,
                ..RemoteConfig::new(url)
            });
        }
        Ok(Self::new(builder.build().await?, settings.cache_rules()))
    }

    pub(crate) fn new(cache: Cache, rules: Vec<(String, CacheRule)>) -> Self {
        let this = Self {
            cache,
            rules: RwLock::default(),
        };
        this.set_rules(rules);
        this
    }

    /// Takes the rules of changed queries. Answers under old rules end as they were kept.
    pub(crate) fn set_rules(&self, rules: Vec<(String, CacheRule)>) {
        let rules = rules.into_iter().map(|(query, rule)| (query, Arc::new(rule)));
        *self.rules.write().expect(LOCK) = Arc::new(rules.collect());
    }

    pub(crate) const fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The queries that keep answers, by name.
    pub(crate) fn queries(&self) -> Vec<String> {
        let mut names: Vec<String> = self.rules.read().expect(LOCK).keys().cloned().collect();
        names.sort();
        names
    }

    /// Makes answers void: those with one of these tags, as feeds and queries fill them, and all whose tags' templates
    /// begin with one of these prefixes.
    pub(crate) fn invalidate(&self, tags: &[String], prefixes: &[String]) {
        let tags = tags.iter().map(|tag| format!("{FILLED}{tag}"));
        let prefixes = prefixes
            .iter()
            .flat_map(|prefix| [format!("{ANY}{prefix}"), format!("{ONE}{prefix}")]);
        let void: Vec<String> = tags.chain(prefixes).collect();
        self.cache.invalidate_tags(&void, None);
    }

    /// Makes answers void by tags that were written by hand, of which only the text is known: those with one of them, and
    /// those that depend on several fillings of a template that it may come from, or whose own text may be another. A tag that ends in `*` stands for all
    /// that begin so.
    pub(crate) fn invalidate_written(&self, tags: &[&str]) {
        let rules = Arc::clone(&self.rules.read().expect(LOCK));
        let prefixes: HashSet<&str> = rules
            .values()
            .flat_map(|rule| rule.tags.iter().map(Template::prefix))
            .collect();
        self.cache.invalidate_tags(&void_written(tags, &prefixes), None);
    }

    fn rule(&self, query: &str) -> Option<Arc<CacheRule>> {
        self.rules.read().expect(LOCK).get(query).cloned()
    }

    /// Answers from the cache, or asks and keeps the answer.
    async fn answer(
        &self,
        store: &Arc<Store>,
        rule: &CacheRule,
        question: Question,
    ) -> Result<Answer, Failure> {
        let key = Key::of_digest(question.name(), &question.key());
        let policy = policy(rule, &question);
        let empty = rule.empty_ttl.is_some();
        let limit = question.timeout() + GRACE;
        let store = Arc::clone(store);
        let load = move || async move {
            let question = up_to_date(&store, question).await?;
            let page = store.queries().page_of(&question).await?;
            Ok::<_, tidegate_store::Error>(loaded(&page, empty))
        };
        let asked = self.cache.get_or_load(&key, &policy, load);
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(hit)) => Ok(Answer {
                json: hit.value().clone(),
                hit: Some(hit),
            }),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(gateway::Error::Timeout(limit).into()),
        }
    }
}

impl CommitHook for Answers {
    fn committed(&self, commit: &Commit<'_>) {
        if commit.feed.tags.is_empty() {
            return;
        }
        self.cache.invalidate_tags(&void(commit), None);
    }
}

/// Answers a declared query, from the cache where its rule says so.
pub(crate) async fn page(store: &Arc<Store>, name: &str, call: Call<'_>) -> Result<Answer, Failure> {
    let answers = store.answers();
    match answers.and_then(|answers| Some((answers, answers.rule(name)?))) {
        Some((answers, rule)) => {
            let question = store.queries().question(name, &call)?;
            answers.answer(store, &rule, question).await
        }
        None => Ok(Answer {
            json: ask::page_json(&store.queries().page(name, call).await?).into(),
            hit: None,
        }),
    }
}

/// The time of a load is that of its query, not one for all.
fn flights() -> once::Config {
    once::Config {
        flights_max: LOADS_MAX,
        wait_max: LONGEST,
        run_max: LONGEST,
    }
}

/// What a replica answers is kept like all else, so it must hold whatever was committed before it was asked.
async fn up_to_date(store: &Store, question: Question) -> Result<Question, tidegate_store::Error> {
    match question.may_be_behind() {
        true => Ok(question.at_least(store.database().read_token().await?)),
        false => Ok(question),
    }
}

fn loaded(page: &Page, empty_is_nothing: bool) -> Loaded {
    Loaded {
        is_negative: empty_is_nothing && page.n_rows == 0,
        ..Loaded::of(ask::page_json(page))
    }
}

fn policy(rule: &CacheRule, question: &Question) -> Policy {
    let mut tags = Vec::with_capacity(rule.tags.len() * 2);
    for tag in &rule.tags {
        match question.filled(tag) {
            Some(filled) => {
                tags.extend([format!("{FILLED}{filled}"), format!("{ONE}{}", tag.prefix())]);
                if !question.is_filled_alike(tag) {
                    tags.push(format!("{ODD}{}", tag.prefix()));
                }
            }
            None => tags.push(format!("{ANY}{}", tag.prefix())),
        }
    }
    Policy {
        stale: rule.stale,
        stale_on_error: rule.stale_on_error,
        negative_ttl: rule.empty_ttl.unwrap_or(rule.ttl),
        ..Policy::of_ttl(rule.ttl).tagged(&tags)
    }
}

/// What a commit makes void.
fn void(commit: &Commit<'_>) -> Vec<String> {
    let filled = commit.tags.iter().map(|tag| format!("{FILLED}{tag}"));
    let any = commit
        .feed
        .tags
        .iter()
        .map(|tag| format!("{ANY}{}", tag.prefix()));
    let mut void: Vec<String> = filled.chain(any).collect();
    let is_unsure =
        |tag: &&Template| commit.is_change && !is_of_key(commit.feed, tag) || !has_one_text(commit.feed, tag);
    let unsure = commit.feed.tags.iter().filter(is_unsure);
    void.extend(unsure.map(|tag| format!("{ONE}{}", tag.prefix())));
    void
}

/// What tags written by hand make void, where templates begin with these prefixes.
fn void_written(tags: &[&str], prefixes: &HashSet<&str>) -> Vec<String> {
    let mut void = HashSet::new();
    for tag in tags {
        match tag.strip_suffix('*') {
            Some(begin) => {
                let of = |prefix: &&&str| prefix.starts_with(begin) || begin.starts_with(**prefix);
                let kinds = |prefix: &&str| [format!("{ANY}{prefix}"), format!("{ONE}{prefix}")];
                void.extend(prefixes.iter().filter(of).flat_map(kinds));
            }
            None => {
                void.insert(format!("{FILLED}{tag}"));
                let of = prefixes.iter().filter(|prefix| tag.starts_with(**prefix));
                void.extend(of.flat_map(|prefix| [format!("{ANY}{prefix}"), format!("{ODD}{prefix}")]));
            }
        }
    }
    void.into_iter().collect()
}

/// Whether equal values of its columns always fill it in the same way.
fn has_one_text(feed: &Feed, tag: &Template) -> bool {
    tag.names().all(|name| {
        let mut columns = feed.columns.iter();
        columns.any(|column| column.name == name && column.kind.has_one_text())
    })
}

/// Whether a changed row keeps its filling.
fn is_of_key(feed: &Feed, tag: &Template) -> bool {
    tag.names()
        .all(|name| feed.key.iter().any(|column| column == name))
}

fn failure(error: &LoadError<tidegate_store::Error>) -> Failure {
    match error {
        LoadError::Failed(error) => Failure::from(&**error),
        LoadError::TimedOut(after) => gateway::Error::Timeout(*after).into(),
        LoadError::Busy { .. } => Failure::of(Code::Overloaded, error.to_string()),
        _ => Failure::of(Code::Internal, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn written_tags_void_what_may_hold_them() {
        let prefixes = HashSet::from(["ticks:", "orders:", ""]);
        let check = |tag: &str, expected: &[&str]| {
            let mut shown: Vec<String> = void_written(&[tag], &prefixes)
                .iter()
                .map(|tag| tag.replace('\u{1f}', " "))
                .collect();
            shown.sort();
            assert_eq!(shown, expected, "{tag}");
        };
        check(
            "ticks:A",
            &["any ", "any ticks:", "odd ", "odd ticks:", "tag ticks:A"],
        );
        check("other", &["any ", "odd ", "tag other"]);
        check("ticks:*", &["any ", "any ticks:", "one ", "one ticks:"]);
        check("tick*", &["any ", "any ticks:", "one ", "one ticks:"]);
        check(
            "*",
            &[
                "any ",
                "any orders:",
                "any ticks:",
                "one ",
                "one orders:",
                "one ticks:",
            ],
        );
    }

    use tidegate_store::{OnConflict, Type, feed::Column};

    use super::*;

    fn feed(key: &[&str], kind: &str) -> Feed {
        let column = |name: &str| Column {
            name: name.to_owned(),
            kind: Type::parse(kind).unwrap(),
            not_null: true,
        };
        Feed {
            name: "ticks".to_owned(),
            table: "ticks".to_owned(),
            columns: vec![column("symbol"), column("id")],
            key: key.iter().map(|&name| name.to_owned()).collect(),
            on_conflict: OnConflict::Update,
            tags: vec![Template::parse("ticks:{symbol}").unwrap()],
            retain: None,
            manage: false,
            partition: None,
            rollups: Vec::new(),
            row_bytes_max: 1_000,
            rows_per_second_max: None,
        }
    }

    #[test]
    fn the_slowest_query_that_may_be_declared_is_loaded_to_its_end() {
        let declared = |timeout: &str| {
            let text = format!(
                "[queries.q]\nsql = \"SELECT 1\"\ntimeout = \"{timeout}\"\ncache = {{ ttl = \"1h\" }}\n"
            );
            Settings::parse_layers(&[&text]).map(|settings| settings.queries().remove(0).timeout)
        };
        let longest = declared("1h").unwrap();
        assert!(declared("61m").is_err(), "the bound has moved");
        let flights = flights();
        assert!(
            flights.wait_max > longest && flights.run_max > longest,
            "{longest:?}"
        );
    }

    #[test]
    fn a_commit_names_all_that_may_have_changed() {
        let check = |key: &[&str], kind: &str, is_change: bool, expected: &[&str]| {
            let commit = Commit {
                feed: &feed(key, kind),
                tags: &["ticks:A".to_owned()],
                n_rows: 1,
                is_change,
                is_replay: false,
            };
            let shown: Vec<String> = void(&commit)
                .iter()
                .map(|tag| tag.replace('\u{1f}', " "))
                .collect();
            assert_eq!(shown, expected, "{key:?} {kind} {is_change}");
        };
        let (named, all) = (
            ["tag ticks:A", "any ticks:"],
            ["tag ticks:A", "any ticks:", "one ticks:"],
        );
        check(&["symbol"], "text", false, &named);
        check(&["symbol"], "text", true, &named);
        check(&["id"], "text", false, &named);
        check(&["id"], "text", true, &all);
        for kind in ["int8", "uuid", "date", "timestamptz", "bool"] {
            check(&["symbol"], kind, false, &named);
        }
        for kind in ["numeric", "float8", "jsonb", "text[]"] {
            check(&["symbol"], kind, false, &all);
        }
    }
}
