//! Turns declared queries into what the store needs of them.

use tidegate_store::{
    Type,
    query::{Dialects, Order, Param, Query, Source},
};

use super::{
    CacheRule, SettingsError,
    feeds::{check_name, check_number, parsed},
    limits, model,
};

/// A query, and how long its answers are kept.
#[derive(Clone, Debug)]
pub(super) struct QuerySettings {
    /// What is asked.
    pub(super) query: Query,
    /// None: every answer is a new one.
    pub(super) cache: Option<CacheRule>,
}

/// All declared queries.
///
/// # Errors
/// The first that cannot work, with its key.
pub(super) fn compose(values: &model::Values) -> Result<Vec<QuerySettings>, SettingsError> {
    check_number("queries", values.queries.len())?;
    let declared = values.queries.iter().map(|(name, block)| one(name, block));
    declared.collect()
}

fn one(name: &str, block: &model::Query) -> Result<QuerySettings, SettingsError> {
    let key = format!("queries.{name}");
    check_name(&key, name)?;
    let query = declared(&key, name, block)?;
    let rule = block
        .cache
        .as_ref()
        .map(|cache| limits::rule(&key, cache, &query));
    Ok(QuerySettings {
        cache: rule.transpose()?,
        query,
    })
}

fn declared(key: &str, name: &str, block: &model::Query) -> Result<Query, SettingsError> {
    let params = block.params.0.iter().map(|(name, block)| param(key, name, block));
    let page = block
        .page
        .iter()
        .map(|text| parsed(&format!("{key}.page"), Order::parse(text)));
    let returns = block.returns.0.iter().map(|(column, text)| {
        let kind = parsed(&format!("{key}.returns.{column}"), Type::parse(text))?;
        Ok((column.clone(), kind))
    });
    Ok(Query {
        name: name.to_owned(),
        sql: match &block.sql {
            model::Sql::Both(text) => Dialects::same(text.clone()),
            model::Sql::Each { postgres, sqlite } => Dialects {
                postgres: postgres.clone(),
                sqlite: sqlite.clone(),
            },
        },
        params: params.collect::<Result<_, SettingsError>>()?,
        page: page.collect::<Result<_, _>>()?,
        rows_max: block.rows_max,
        bytes_max: block.bytes_max.0 as usize,
        timeout: block.timeout.0,
        returns: returns.collect::<Result<_, SettingsError>>()?,
        pipeline: block.pipeline,
        replica: block.replica,
    })
}

fn param(key: &str, name: &str, block: &model::Param) -> Result<Param, SettingsError> {
    let key = format!("{key}.params.{name}");
    match block {
        model::Param::Type(text) => Ok(Param::new(name, parsed(&key, Type::parse(text))?)),
        model::Param::Full {
            kind,
            from,
            default,
            optional,
        } => Ok(Param {
            name: name.to_owned(),
            kind: parsed(&format!("{key}.type"), Type::parse(kind))?,
            source: match from {
                None => Source::Caller,
                Some(from) => Source::Claim(claim(&format!("{key}.from"), from)?),
            },
            default: default.clone(),
            optional: *optional,
        }),
    }
}

fn claim(key: &str, from: &str) -> Result<String, SettingsError> {
    match from.strip_prefix("claim:") {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(SettingsError::value(
            key,
            format!("{from:?}"),
            "\"claim:\" and the name of a claim",
        )),
    }
}
