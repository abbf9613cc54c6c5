//! Declared queries: typed parameters in, JSON rows out, in signed keyset pages or as a stream.
//!
//! A page costs the same wherever it lies: its text asks for the rows behind the last one's keys, which is one range of an
//! index. Rows that come and go meanwhile move nothing: what was there throughout is seen exactly once.

mod catalog;
mod cursor;
mod declaration;
mod explain;
mod figures;
mod named;
mod outline;
mod page;
mod param;
mod question;
mod render;
mod stream;

use std::{
    collections::HashMap,
    fmt,
    panic::Location,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde_json::{Map, Value as Json};
use tidegate_vitals::profiled;
use tokio::sync::OnceCell;

use self::{
    cursor::{Scope, Signer},
    declaration::Sound,
    figures::Figures,
    page::{Cut, Part},
};
pub use self::{
    declaration::{Dialects, Order, Param, Query, Source},
    explain::Finding,
    figures::QueryStats,
    page::Page,
    question::Question,
    stream::Stream,
};
use crate::{
    database::{Context, Database},
    error::{Error, Result},
    relief::Account,
    select::{ReadToken, Rows, Select},
    value::{Type, Value},
};

/// The declared queries of a database. Clones are the same ones.
#[derive(Clone)]
pub struct Queries(Arc<Inner>);

/// One question to a declared query.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// What the caller sent, by name.
    pub params: &'a Map<String, Json>,
    /// What the token claims: the text of a claim, if it has it.
    pub claim: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// Rows of the page, 1 to the query's `rows_max`, which it is by default.
    pub limit: Option<usize>,
    /// Where the page before ended.
    pub after: Option<&'a str>,
    /// What the answer must contain, if a replica answers.
    pub token: Option<&'a ReadToken>,
    /// Whom statistics name.
    pub caller: &'static Location<'static>,
}

struct Inner {
    database: Database,
    signer: Signer,
    context: Context,
    /// Pays for answers that are being built.
    account: Account,
    plans: RwLock<Arc<Plans>>,
}

type Plans = HashMap<String, Arc<Plan>>;

/// A query that is ready to run.
#[derive(Debug)]
pub(crate) struct Plan {
    sound: Sound,
    /// Set when the database has agreed to it.
    verified: OnceCell<()>,
    figures: Arc<Figures>,
}

/// The start does not wait longer for a database that is away: such queries are checked when it is first reached.
const START_WAIT: Duration = Duration::from_secs(5);
const QUERIES_MAX: usize = 1_000;

// === impl Call ===

impl<'a> Call<'a> {
    /// A call with these parameters, without claims, for the first page.
    #[track_caller]
    #[must_use]
    pub fn new(params: &'a Map<String, Json>) -> Self {
        Self {
            params,
            claim: &|_| None,
            limit: None,
            after: None,
            token: None,
            caller: Location::caller(),
        }
    }
}

// === impl Queries ===

impl Queries {
    /// Opens the declared queries. `secret` signs their cursors: nodes that share it take each other's.
    ///
    /// A database that is away does not stop this; what only it can say is then checked at each query's first call.
    ///
    /// # Errors
    /// [`Error::Config`] naming the query and what is wrong: a parameter, the text, a page without a unique key.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn open(
        database: Database,
        queries: Vec<Query>,
        secret: [u8; 32],
        context: Context,
    ) -> Result<Self> {
        let opened = Self(Arc::new(Inner {
            database,
            signer: Signer::new(&secret),
            account: Account::answers(&context),
            context,
            plans: RwLock::default(),
        }));
        opened.set(queries).await?;
        Ok(opened)
    }

    /// Replaces all queries; on an error the old ones stay. Figures of a query that keeps its name go on.
    ///
    /// # Errors
    /// As [`Queries::open`].
    ///
    /// # Cancel safety
    /// Safe: the old queries stay.
    pub async fn set(&self, queries: Vec<Query>) -> Result<()> {
        if queries.len() > QUERIES_MAX {
            return Err(Error::Config {
                what: "queries".to_owned(),
                problem: format!("{} are declared, at most {QUERIES_MAX}", queries.len()),
            });
        }
        let old = self.plans();
        let mut plans = Plans::new();
        for query in queries {
            let plan = self.plan(query, &old)?;
            let name = plan.sound.query.name.clone();
            if plans.insert(name.clone(), Arc::new(plan)).is_some() {
                return Err(Error::Config {
                    what: format!("query {name}"),
                    problem: "declared twice".to_owned(),
                });
            }
        }
        self.verify_all(&plans).await?;
        *self.0.plans.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plans);
        Ok(())
    }

    /// The declared queries, by name.
    #[must_use]
    pub fn queries(&self) -> Vec<Query> {
        let mut queries: Vec<_> = self
            .plans()
            .values()
            .map(|plan| plan.sound.query.clone())
            .collect();
        queries.sort_by(|a, b| a.name.cmp(&b.name));
        queries
    }

    /// One answer: a page of a query with pages, all rows of another.
    ///
    /// # Errors
    /// [`Error::UnknownQuery`]; [`Error::Parameter`] naming what is wrong and allowed; [`Error::MissingClaim`];
    /// [`Error::CursorInvalid`]; [`Error::TooLarge`] for a row, or an answer without pages, above the limits;
    /// [`Error::Timeout`]; [`Error::NoMemory`]; and whatever the database says.
    ///
    /// # Cancel safety
    /// Dropping it ends the statement.
    pub async fn page(&self, name: &str, call: Call<'_>) -> Result<Page> {
        let plan = self.find(name)?;
        let running = plan.figures.begin();
        let answer = match Question::new(&plan, &call) {
            Ok(question) => self.answer(&question).await,
            Err(error) => Err(error),
        };
        ended(running, answer)
    }

    /// Binds a call, for whoever keeps answers: what it depends on is known before anything is asked.
    ///
    /// # Errors
    /// As [`Queries::page`], for the name, parameters, claims and limit.
    pub fn question(&self, name: &str, call: &Call<'_>) -> Result<Question> {
        Question::new(&self.find(name)?, call)
    }

    /// As [`Queries::page`], of a bound call.
    ///
    /// # Errors
    /// As [`Queries::page`].
    ///
    /// # Cancel safety
    /// Dropping it ends the statement.
    pub async fn page_of(&self, question: &Question) -> Result<Page> {
        let running = question.plan.figures.begin();
        ended(running, self.answer(question).await)
    }

    /// All rows as lines of JSON, in bounded memory, in the order of the query's pages if it has them. `limit` and `after`
    /// are not taken.
    ///
    /// # Errors
    /// As [`Queries::page`], until the first row; later ones are the stream's last line.
    ///
    /// # Cancel safety
    /// Dropping it ends the statement.
    pub async fn stream(&self, name: &str, call: Call<'_>) -> Result<Stream> {
        let plan = self.find(name)?;
        let running = plan.figures.begin();
        match self.open_stream(&plan, &call).await {
            Ok((rows, memory)) => Ok(Stream::new(plan, rows, running, memory)),
            Err(error) => {
                running.end(0, Some(&error));
                Err(error)
            }
        }
    }

    /// What is wrong with the queries as the database stands: broken ones, pages that sort, scans of large tables.
    ///
    /// # Errors
    /// The database's, if it is away.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        let plans = self.plans();
        let mut names: Vec<_> = plans.keys().collect();
        names.sort();
        let mut findings = Vec::new();
        for name in names {
            let plan = &plans[name];
            match self.verify(plan).await {
                Ok(()) => findings.extend(explain::check(&self.0.database, &plan.sound).await?),
                Err(error @ Error::Config { .. }) => findings.push(Finding::broken(name, &error)),
                Err(error) => return Err(error),
            }
        }
        Ok(findings)
    }

    /// The figures of every query, by name.
    #[must_use]
    pub fn stats(&self) -> Vec<QueryStats> {
        let mut stats: Vec<_> = self.plans().values().map(|plan| plan.figures.stats()).collect();
        stats.sort_by(|a, b| a.query.cmp(&b.query));
        stats
    }

    fn plans(&self) -> Arc<Plans> {
        Arc::clone(&self.0.plans.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&self, name: &str) -> Result<Arc<Plan>> {
        let unknown = || Error::UnknownQuery(name.chars().take(64).collect());
        self.plans().get(name).map(Arc::clone).ok_or_else(unknown)
    }

    fn plan(&self, query: Query, old: &Plans) -> Result<Plan> {
        let figures = match old.get(&query.name) {
            Some(plan) => Arc::clone(&plan.figures),
            None => Arc::new(Figures::new(
                &query.name,
                &self.0.context.clock,
                &self.0.context.registry,
            )),
        };
        Ok(Plan {
            sound: Sound::new(query, self.0.database.kind())?,
            verified: OnceCell::new(),
            figures,
        })
    }

    /// Checks all plans against the database, unless it is away.
    async fn verify_all(&self, plans: &Plans) -> Result<()> {
        let all = async {
            for plan in plans.values() {
                self.verify(plan).await?;
            }
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(START_WAIT, all).await {
            Ok(Err(error)) if !error.is_retryable() => Err(error),
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "queries are checked when the database is back");
                Ok(())
            }
            Err(_) => {
                tracing::warn!("queries are checked when the database answers");
                Ok(())
            }
        }
    }

    async fn verify(&self, plan: &Plan) -> Result<()> {
        let verify = || catalog::verify(&self.0.database, &plan.sound);
        plan.verified.get_or_try_init(verify).await.copied()
    }

    #[profiled(name = "store::query::answer")]
    async fn answer(&self, question: &Question) -> Result<Page> {
        let sound = &question.plan.sound;
        let scope = Scope {
            version: sound.version,
            params: *question.digest.first_chunk().expect("a digest has 32 bytes"),
        };
        let keys = match &question.after {
            Some(cursor) => Some(self.0.signer.open(cursor, &scope, sound.query.page.len())?),
            None => None,
        };
        self.verify(&question.plan).await?;
        let part = if keys.is_some() { Part::Next } else { Part::First };
        let sql = page::text(sound, part, question.limit);
        let (pipeline, timeout) = (sound.query.pipeline, sound.query.timeout);
        let rows = self.select(question, &sql, keys, pipeline, timeout).await?;
        let cut = Cut {
            limit: question.limit,
            scope,
            signer: &self.0.signer,
            account: &self.0.account,
        };
        match sound.query.page.is_empty() {
            true => page::read_whole(sound, rows, &self.0.account).await,
            false => page::read_page(sound, rows, &cut).await,
        }
    }

    async fn open_stream(&self, plan: &Arc<Plan>, call: &Call<'_>) -> Result<(Rows, stream::Memory)> {
        for (name, is_given) in [("limit", call.limit.is_some()), ("after", call.after.is_some())] {
            if is_given {
                return Err(Error::Parameter {
                    name: name.to_owned(),
                    problem: "a stream gives all rows".to_owned(),
                });
            }
        }
        let question = Question::new(plan, call)?;
        let memory = stream::Memory::new(&self.0.account)?;
        self.verify(plan).await?;
        let sound = &plan.sound;
        let sql = page::text(sound, Part::All, sound.query.rows_max);
        let opened = self.select(&question, &sql, None, false, stream::LONGEST);
        let late = || Error::Timeout {
            what: format!("first row of query {}", sound.query.name),
            after: sound.query.timeout,
        };
        let rows = tokio::time::timeout(sound.query.timeout, opened)
            .await
            .map_err(|_| late())??;
        Ok((rows, memory))
    }

    async fn select(
        &self,
        question: &Question,
        sql: &str,
        keys: Option<Vec<Value>>,
        pipeline: bool,
        timeout: Duration,
    ) -> Result<Rows> {
        let sound = &question.plan.sound;
        let bound = &question.bound.values;
        let mut params: Vec<Value> = sound.text.params.iter().map(|at| bound[*at].clone()).collect();
        let types: Vec<Type> = sound
            .text
            .params
            .iter()
            .map(|at| sound.query.params[*at].kind.clone())
            .collect();
        params.extend(keys.into_iter().flatten());
        let select = Select {
            sql,
            params: &params,
            types: &types,
            returns: &sound.query.returns,
            timeout,
            pipeline,
            replica: sound.query.replica,
            token: question.token.as_ref(),
            caller: question.caller,
        };
        self.0.database.select(select).await
    }
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries")
            .field("database", &self.0.database)
            .field("queries", &self.plans().len())
            .finish_non_exhaustive()
    }
}

/// Closes the books on an answer.
fn ended(running: figures::Running, answer: Result<Page>) -> Result<Page> {
    match &answer {
        Ok(page) => running.end(page.n_rows as u64, None),
        Err(error) => running.end(0, Some(error)),
    }
    answer
}
