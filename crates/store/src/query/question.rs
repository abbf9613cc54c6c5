//! A call with its parameters and claims bound: it borrows nothing, so that it can be asked later, or by somebody else.

use std::{fmt, panic::Location, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{Call, Plan, Query, param::Bound};
use crate::{
    error::{Error, Result},
    ingest,
    select::ReadToken,
    template::Template,
    value::{Type, Value},
};

/// A bound call: [`Queries::question`](super::Queries::question).
#[derive(Clone)]
pub struct Question {
    pub(super) plan: Arc<Plan>,
    pub(super) bound: Bound,
    pub(super) digest: [u8; 32],
    pub(super) limit: usize,
    pub(super) after: Option<String>,
    pub(super) token: Option<ReadToken>,
    pub(super) caller: &'static Location<'static>,
}

// === impl Question ===

impl Question {
    pub(super) fn new(plan: &Arc<Plan>, call: &Call<'_>) -> Result<Self> {
        let query = &plan.sound.query;
        let limit = limit(query, call)?;
        let bound = Bound::new(query, call.params, call.claim)?;
        Ok(Self {
            plan: Arc::clone(plan),
            digest: bound.digest(),
            bound,
            limit,
            after: call.after.map(str::to_owned),
            token: call.token.copied(),
            caller: call.caller,
        })
    }

    /// The query's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.sound.query.name
    }

    /// What an answer depends on besides the rows: the query as declared, every parameter, those of claims included, the
    /// limit and the cursor. Two questions with one key have one answer.
    #[must_use]
    pub fn key(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.plan.sound.version.to_le_bytes());
        digest.update(self.digest);
        digest.update((self.limit as u64).to_le_bytes());
        digest.update(self.after.as_deref().unwrap_or_default());
        digest.finalize().into()
    }

    /// How long an answer may take, waiting included.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.plan.sound.query.timeout
    }

    /// Whether a replica may answer.
    #[must_use]
    pub fn may_be_behind(&self) -> bool {
        self.plan.sound.query.replica
    }

    /// The same question; whoever answers has replayed as far as `token`.
    #[must_use]
    pub fn at_least(self, token: ReadToken) -> Self {
        Self {
            token: Some(token),
            ..self
        }
    }

    /// A template of parameters, filled in the way in which feeds fill theirs from rows. `None` if one of them is null, an
    /// array or of a type whose values have more than one text, because rows of more than one filling may then be meant.
    #[must_use]
    pub fn filled(&self, template: &Template) -> Option<String> {
        let mut is_one = true;
        let text = template.render(|name, text| match self.param(name) {
            Some((kind, value)) if kind.has_one_text() && *value != Value::Null => {
                ingest::write_tag(kind, value, text);
            }
            _ => is_one = false,
        });
        is_one.then_some(text)
    }

    /// Whether [`Question::filled`] gives what triggers of the database fill from the same values.
    #[must_use]
    pub fn is_filled_alike(&self, template: &Template) -> bool {
        let mut names = template.names();
        names.all(|name| self.param(name).is_none_or(|(kind, _)| kind.is_written_alike()))
    }

    fn param(&self, name: &str) -> Option<(&Type, &Value)> {
        let params = &self.plan.sound.query.params;
        let at = params.iter().position(|param| param.name == name)?;
        Some((&params[at].kind, &self.bound.values[at]))
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values are the callers' own.
        f.debug_struct("Question")
            .field("query", &self.plan.sound.query.name)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// The rows to ask for.
fn limit(query: &Query, call: &Call<'_>) -> Result<usize> {
    let has_pages = !query.page.is_empty();
    let refused = |name: &str, problem: String| {
        Err(Error::Parameter {
            name: name.to_owned(),
            problem,
        })
    };
    match (call.limit, call.after) {
        (Some(_), _) if !has_pages => refused("limit", format!("query {} has no pages", query.name)),
        (_, Some(_)) if !has_pages => refused("after", format!("query {} has no pages", query.name)),
        (Some(limit), _) if !(1..=query.rows_max).contains(&limit) => {
            refused("limit", format!("{limit} is not 1 to {}", query.rows_max))
        }
        (limit, _) => Ok(limit.unwrap_or(query.rows_max)),
    }
}
