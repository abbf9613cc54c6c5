//! Values in PostgreSQL's text form, for poolers that keep no prepared statements and for types without a binary form here.

use std::fmt::Write;

use crate::value::Value;

/// Seconds, minutes and so on in microseconds.
const DAY_US: i64 = 86_400_000_000;

/// Appends `value` as the server reads it. NULL is for the caller to tell apart and writes nothing.
pub(super) fn write(value: &Value, out: &mut String) {
    let written = match value {
        Value::Null => Ok(()),
        Value::Bool(value) => write!(out, "{value}"),
        Value::Int(value) => write!(out, "{value}"),
        Value::Float(value) => write!(out, "{value:e}"),
        Value::Numeric(text) | Value::Text(text) | Value::Jsonb(text) => {
            out.push_str(text);
            Ok(())
        }
        Value::Uuid(bytes) => write_uuid(bytes, out),
        Value::Date(days) => write_date(i64::from(*days), out, ""),
        Value::Timestamptz(us) => write_timestamptz(*us, out),
        Value::Array(elements) => {
            write_array(elements, out);
            Ok(())
        }
        Value::Bytes(bytes) => {
            out.push_str("\\x");
            bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
        }
    };
    written.expect("writing to a string cannot fail");
}

fn write_uuid(bytes: &[u8; 16], out: &mut String) -> std::fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        write!(out, "{byte:02x}")?;
    }
    Ok(())
}

fn write_date(days: i64, out: &mut String, time: &str) -> std::fmt::Result {
    let (year, month, day) = civil(days);
    // There is no year 0: 1 BC stands before 1 AD.
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    write!(out, "{year:04}-{month:02}-{day:02}{time}{era}")
}

fn write_timestamptz(us: i64, out: &mut String) -> std::fmt::Result {
    let rest = us.rem_euclid(DAY_US);
    let (seconds, us_part) = (rest / 1_000_000, rest % 1_000_000);
    let time = format!(
        " {:02}:{:02}:{:02}.{us_part:06}+00",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    write_date(us.div_euclid(DAY_US), out, &time)
}

fn write_array(elements: &[Value], out: &mut String) {
    out.push('{');
    let mut element_text = String::new();
    for (at, element) in elements.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        if matches!(element, Value::Null) {
            out.push_str("NULL");
            continue;
        }
        element_text.clear();
        write(element, &mut element_text);
        out.push('"');
        for c in element_text.chars() {
            if matches!(c, '"' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    }
    out.push('}');
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar with a year 0.
/// The calendar is counted in eras of 400 years that begin on 1 March, so that the leap day is the last of a year.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: impl Into<Value>, expected: &str) {
        let mut text = String::new();
        write(&value.into(), &mut text);
        assert_eq!(text, expected);
    }

    #[test]
    fn values_read_as_the_server_reads_them() {
        check(Value::Int(-7), "-7");
        check(Value::Bool(true), "true");
        check(Value::Date(0), "1970-01-01");
        check(Value::Date(19_782), "2024-02-29");
        check(Value::Date(-719_528 - 1), "0002-12-31 BC");
        check(Value::Timestamptz(-1), "1969-12-31 23:59:59.999999+00");
        check(
            Value::Timestamptz(1_704_067_200_000_001),
            "2024-01-01 00:00:00.000001+00",
        );
        check(Value::Bytes(Box::new([0, 255])), "\\x00ff");
        check(Value::Uuid([0xab; 16]), "abababab-abab-abab-abab-abababababab");
        let elements = [Value::Text("a\"b\\c,{".into()), Value::Null, Value::Int(1)];
        check(Value::Array(Box::new(elements)), r#"{"a\"b\\c,{",NULL,"1"}"#);
    }
}
