//! Functions that roll-ups need on SQLite and that SQLite lacks: exact sums, and the value of the newest row.

use std::cmp::Ordering;

use rusqlite::{
    Connection, Error, Result,
    functions::{Aggregate, Context, FunctionFlags},
    types::{Value, ValueRef},
};

use crate::schema::decimal::Decimal;

/// Adds them to a connection; every connection that applies or computes roll-ups needs it once.
///
/// | function | what it gives |
/// |---|---|
/// | `tidegate_sum(x)` | exact sum of integers and decimal texts, as text; null if there is none |
/// | `tidegate_add(a, b)` | exact sum of two; null if one is |
/// | `tidegate_min(x)`, `tidegate_max(x)` | least and greatest decimal text |
/// | `tidegate_least(a, b)`, `tidegate_greatest(a, b)` | the same of two; a null is left out |
/// | `tidegate_last(value, at)` | the value with the greatest `at`, of several the greatest; nulls are left out |
/// | `tidegate_last_number(value, at)` | the same of decimal texts |
///
/// # Errors
/// What SQLite says.
pub fn register(connection: &Connection) -> Result<()> {
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_aggregate_function("tidegate_sum", 1, flags, Sum)?;
    connection.create_aggregate_function("tidegate_min", 1, flags, Extreme(Ordering::Less))?;
    connection.create_aggregate_function("tidegate_max", 1, flags, Extreme(Ordering::Greater))?;
    connection.create_aggregate_function("tidegate_last", 2, flags, Last(compare))?;
    connection.create_aggregate_function("tidegate_last_number", 2, flags, Last(compare_numbers))?;
    connection.create_scalar_function("tidegate_add", 2, flags, |context| {
        let (a, b) = (decimal(context.get_raw(0))?, decimal(context.get_raw(1))?);
        Ok(a.zip(b).map(|(a, b)| a.add(b).to_string()))
    })?;
    for (name, wanted) in [
        ("tidegate_least", Ordering::Less),
        ("tidegate_greatest", Ordering::Greater),
    ] {
        connection.create_scalar_function(name, 2, flags, move |context| {
            let (a, b) = (decimal(context.get_raw(0))?, decimal(context.get_raw(1))?);
            Ok(better(a, b, wanted).map(|decimal| decimal.to_string()))
        })?;
    }
    Ok(())
}

struct Sum;
struct Extreme(Ordering);
/// How two values of one time are compared.
struct Last(fn(&Value, &Value) -> Ordering);

/// The value of the newest row so far and its time.
type Newest = Option<(Value, Value)>;

impl Aggregate<Option<Decimal>, Option<String>> for Sum {
    fn init(&self, _: &mut Context<'_>) -> Result<Option<Decimal>> {
        Ok(None)
    }

    fn step(&self, context: &mut Context<'_>, sum: &mut Option<Decimal>) -> Result<()> {
        if let Some(next) = decimal(context.get_raw(0))? {
            *sum = Some(match sum.take() {
                Some(sum) => sum.add(next),
                None => next,
            });
        }
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, sum: Option<Option<Decimal>>) -> Result<Option<String>> {
        Ok(sum.flatten().map(|sum| sum.to_string()))
    }
}

impl Aggregate<Option<Decimal>, Option<String>> for Extreme {
    fn init(&self, _: &mut Context<'_>) -> Result<Option<Decimal>> {
        Ok(None)
    }

    fn step(&self, context: &mut Context<'_>, found: &mut Option<Decimal>) -> Result<()> {
        let next = decimal(context.get_raw(0))?;
        *found = better(found.take(), next, self.0);
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, found: Option<Option<Decimal>>) -> Result<Option<String>> {
        Ok(found.flatten().map(|found| found.to_string()))
    }
}

impl Aggregate<Newest, Value> for Last {
    fn init(&self, _: &mut Context<'_>) -> Result<Newest> {
        Ok(None)
    }

    fn step(&self, context: &mut Context<'_>, newest: &mut Newest) -> Result<()> {
        let (value, at) = (context.get::<Value>(0)?, context.get::<Value>(1)?);
        if value == Value::Null || at == Value::Null {
            return Ok(());
        }
        let is_newer = newest.as_ref().is_none_or(|(old, old_at)| {
            compare(&at, old_at).then_with(|| (self.0)(&value, old)) == Ordering::Greater
        });
        if is_newer {
            *newest = Some((value, at));
        }
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, newest: Option<Newest>) -> Result<Value> {
        Ok(newest.flatten().map_or(Value::Null, |(value, _)| value))
    }
}

fn better(a: Option<Decimal>, b: Option<Decimal>, wanted: Ordering) -> Option<Decimal> {
    match (a, b) {
        (Some(a), Some(b)) => match b.clone().compare(a.clone()) == wanted {
            true => Some(b),
            false => Some(a),
        },
        (a, b) => a.or(b),
    }
}

/// The order of SQLite's own comparison; a column of ours holds one kind of value.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}

fn compare_numbers(a: &Value, b: &Value) -> Ordering {
    match (decimal(a.into()), decimal(b.into())) {
        (Ok(Some(a)), Ok(Some(b))) => a.compare(b),
        _ => compare(a, b),
    }
}

fn decimal(value: ValueRef<'_>) -> Result<Option<Decimal>> {
    let found = match value {
        ValueRef::Null => return Ok(None),
        ValueRef::Integer(value) => Some(Decimal::from_int(value)),
        ValueRef::Text(text) => std::str::from_utf8(text).ok().and_then(Decimal::parse),
        ValueRef::Real(_) | ValueRef::Blob(_) => None,
    };
    match found {
        Some(decimal) => Ok(Some(decimal)),
        None => Err(Error::UserFunctionError(
            format!("not a decimal number: {value:?}").into(),
        )),
    }
}
