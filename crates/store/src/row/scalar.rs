//! Texts of single values into values: numbers, times, identifiers.

use chrono::{Datelike, NaiveDate};

use super::{Fault, code};
use crate::value::Value;

/// Most digits of a numeric, before and after the point together: the most that PostgreSQL lets one declare.
const NUMERIC_DIGITS_MAX: usize = 1_000;
/// Days from 0001-01-01 to 1970-01-01, as chrono counts.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;
const DAY_US: i64 = 86_400_000_000;
/// 0001-01-01 and 9999-12-31 in milliseconds since 1970: the years that RFC 3339 can write.
const TIME_MS_MIN: i64 = -62_135_596_800_000;
const TIME_MS_MAX: i64 = 253_402_300_799_999;

type Read<T = Value> = Result<T, Fault>;

/// `-12.50`, `1e3`; what it gives has no exponent and keeps every digit.
pub(super) fn numeric(text: &str) -> Read {
    if is_not_finite(text) {
        return Err(not_finite(text));
    }
    let mismatch = || Fault::new(code::TYPE_MISMATCH, "not a number");
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| mismatch())?),
        None => (text, 0),
    };
    let (is_negative, unsigned) = match mantissa.as_bytes().first() {
        Some(b'-') => (true, &mantissa[1..]),
        Some(b'+') => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let all_digits = [whole, fraction]
        .iter()
        .all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    if !all_digits || whole.is_empty() && fraction.is_empty() {
        return Err(mismatch());
    }
    if whole.len() + fraction.len() + exponent.unsigned_abs() as usize > NUMERIC_DIGITS_MAX {
        let message = format!("more than {NUMERIC_DIGITS_MAX} digits");
        return Err(Fault::new(code::OUT_OF_RANGE, message));
    }
    let plain = plain_digits(whole, fraction, exponent);
    let is_zero = plain.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    let sign = if is_negative && !is_zero { "-" } else { "" };
    Ok(Value::Numeric(format!("{sign}{plain}").into()))
}

/// Moves the point by the exponent; at least one digit stands before it.
fn plain_digits(whole: &str, fraction: &str, exponent: i32) -> String {
    let digits = format!("{whole}{fraction}");
    let point = whole.len() as i32 + exponent;
    let (before, after) = match usize::try_from(point) {
        Ok(point) if point <= digits.len() => (digits[..point].to_owned(), digits[point..].to_owned()),
        Ok(point) => (format!("{digits:0<point$}"), String::new()),
        Err(_) => (
            String::new(),
            format!("{}{digits}", "0".repeat(point.unsigned_abs() as usize)),
        ),
    };
    let before = before.trim_start_matches('0');
    let before = if before.is_empty() { "0" } else { before };
    if after.is_empty() {
        before.to_owned()
    } else {
        format!("{before}.{after}")
    }
}

/// Words that other languages write for what is no number.
pub(super) fn is_not_finite(text: &str) -> bool {
    let word = text.trim_start_matches(['-', '+']);
    ["nan", "inf", "infinity"]
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
}

pub(super) fn not_finite(text: &str) -> Fault {
    Fault::new(code::NAN, format!("{text} is not a finite number"))
}

/// An integer written as text.
pub(super) fn integer(text: &str) -> Read<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::new(code::TYPE_MISMATCH, "not an integer"));
    }
    text.parse()
        .map_err(|_| Fault::new(code::OUT_OF_RANGE, "outside of int8"))
}

/// `0f6b1c2e-…` with or without hyphens, in any case.
pub(super) fn uuid(text: &str) -> Read {
    let mismatch = || Fault::new(code::TYPE_MISMATCH, "not a uuid");
    let bytes = text.as_bytes();
    let is_hyphenated = bytes.len() == 36 && [8, 13, 18, 23].iter().all(|at| bytes[*at] == b'-');
    if bytes.len() != 32 && !is_hyphenated {
        return Err(mismatch());
    }
    let mut uuid = [0; 16];
    let mut digits = bytes
        .iter()
        .enumerate()
        .filter(|(at, _)| !(is_hyphenated && [8, 13, 18, 23].contains(at)))
        .map(|(_, byte)| char::from(*byte).to_digit(16));
    for byte in &mut uuid {
        let mut digit = || digits.next().flatten().ok_or_else(mismatch);
        *byte = (digit()? << 4 | digit()?) as u8;
    }
    Ok(Value::Uuid(uuid))
}

/// `2024-02-29`
pub(super) fn date(text: &str) -> Read {
    match text.as_bytes() {
        bytes if bytes.len() == 10 => Ok(Value::Date(days(bytes)?)),
        _ => Err(Fault::new(code::TYPE_MISMATCH, "not a date such as 2024-02-29")),
    }
}

/// `2024-02-29T12:00:00.5+08:00`
pub(super) fn timestamptz(text: &str) -> Read {
    let bytes = text.as_bytes();
    let mismatch = || {
        Fault::new(
            code::TYPE_MISMATCH,
            "not a time such as 2024-02-29T12:00:00.5+08:00",
        )
    };
    if bytes.len() < 20 || !matches!(bytes[10], b'T' | b't' | b' ') || bytes[13] != b':' || bytes[16] != b':'
    {
        return Err(mismatch());
    }
    let days = i64::from(days(&bytes[..10])?);
    let [hour, minute, second] = [11, 14, 17].map(|at| two(&bytes[at..]));
    let (hour, minute, second) = (
        hour.ok_or_else(mismatch)?,
        minute.ok_or_else(mismatch)?,
        second.ok_or_else(mismatch)?,
    );
    let (fraction_us, zone) = fraction(&bytes[19..]).ok_or_else(mismatch)?;
    let offset_s = offset(zone).ok_or_else(mismatch)?;
    if hour > 23 || minute > 59 || second > 59 {
        return Err(Fault::new(code::OUT_OF_RANGE, "no such time of day"));
    }
    let seconds = hour * 3_600 + minute * 60 + second - offset_s;
    Ok(Value::Timestamptz(
        days * DAY_US + seconds * 1_000_000 + fraction_us,
    ))
}

/// Milliseconds since 1970.
pub(super) fn milliseconds(ms: i64) -> Read {
    if !(TIME_MS_MIN..=TIME_MS_MAX).contains(&ms) {
        return Err(Fault::new(code::OUT_OF_RANGE, "outside of the years 1 to 9999"));
    }
    Ok(Value::Timestamptz(ms * 1_000))
}

/// Days since 1970 of `YYYY-MM-DD`.
fn days(text: &[u8]) -> Read<i32> {
    let mismatch = || Fault::new(code::TYPE_MISMATCH, "not a date such as 2024-02-29");
    if text[4] != b'-' || text[7] != b'-' {
        return Err(mismatch());
    }
    let parts = (two(text), two(&text[2..]), two(&text[5..]), two(&text[8..]));
    let (Some(century), Some(year), Some(month), Some(day)) = parts else {
        return Err(mismatch());
    };
    NaiveDate::from_ymd_opt((century * 100 + year) as i32, month as u32, day as u32)
        .filter(|date| date.year() > 0)
        .map(|date| date.num_days_from_ce() - EPOCH_DAYS_FROM_CE)
        .ok_or_else(|| Fault::new(code::OUT_OF_RANGE, "no such day"))
}

/// Microseconds of `.123456789`, and what follows.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let n_digits = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let us = (0..6).fold(0, |us, at| {
        let digit = if at < n_digits { digits[at] - b'0' } else { 0 };
        us * 10 + i64::from(digit)
    });
    (n_digits > 0).then_some((us, &digits[n_digits..]))
}

/// Seconds east of UTC of `Z` or `+08:00`.
fn offset(zone: &[u8]) -> Option<i64> {
    match zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), hours @ .., b':', _, _] if hours.len() == 2 => {
            let (hours, minutes) = (two(hours)?, two(&zone[4..])?);
            let seconds = hours * 3_600 + minutes * 60;
            (hours < 24 && minutes < 60).then_some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn two(text: &[u8]) -> Option<i64> {
    match text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9', ..] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_numeric(text: &str, expected: Result<&str, &str>) {
        let read = numeric(text).map_err(|fault| fault.code);
        let expected = expected.map(|digits| Value::Numeric(digits.into()));
        assert_eq!(read, expected, "{text}");
    }

    #[test]
    fn numerics_keep_every_digit() {
        check_numeric("1", Ok("1"));
        check_numeric("-12.50", Ok("-12.50"));
        check_numeric("+1.5", Ok("1.5"));
        check_numeric("0012", Ok("12"));
        check_numeric("-0.00", Ok("0.00"));
        check_numeric(".5", Ok("0.5"));
        check_numeric("5.", Ok("5"));
        check_numeric("1e3", Ok("1000"));
        check_numeric("1.25E1", Ok("12.5"));
        check_numeric("1e-3", Ok("0.001"));
        check_numeric(
            "12345678901234567890.123456789",
            Ok("12345678901234567890.123456789"),
        );
        check_numeric("NaN", Err(code::NAN));
        check_numeric("-Infinity", Err(code::NAN));
        check_numeric("1e1001", Err(code::OUT_OF_RANGE));
        check_numeric("1e-1001", Err(code::OUT_OF_RANGE));
        check_numeric("1e99999999999", Err(code::TYPE_MISMATCH));
        for text in ["", "-", ".", "e5", "1 ", "0x10", "1_000", "١"] {
            check_numeric(text, Err(code::TYPE_MISMATCH));
        }
    }

    fn check_time(text: &str, expected: Result<i64, &str>) {
        let read = timestamptz(text).map_err(|fault| fault.code);
        assert_eq!(read, expected.map(Value::Timestamptz), "{text}");
    }

    #[test]
    fn times_are_rfc_3339_with_an_offset() {
        check_time("1970-01-01T00:00:00Z", Ok(0));
        check_time("1970-01-01T08:00:00+08:00", Ok(0));
        check_time("1969-12-31t19:00:00-05:00", Ok(0));
        check_time("2024-02-29 12:00:00.5z", Ok(1_709_208_000_500_000));
        check_time("1970-01-01T00:00:00.123456789Z", Ok(123_456));
        check_time("0001-01-01T00:00:00Z", Ok(-62_135_596_800_000_000));
        check_time("9999-12-31T23:59:59.999999Z", Ok(253_402_300_799_999_999));
        check_time("1970-01-01T24:00:00Z", Err(code::OUT_OF_RANGE));
        check_time("2023-02-29T00:00:00Z", Err(code::OUT_OF_RANGE));
        check_time("0000-01-01T00:00:00Z", Err(code::OUT_OF_RANGE));
        for text in [
            "",
            "now",
            "2024-02-29",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+8",
            "1970-01-01T00:00:00+0800",
            "1970-01-01T00:00:00+08:61",
            "1970-01-01T00:00:00+08:000",
            "1970-01-0éT00:00:00Z",
        ] {
            check_time(text, Err(code::TYPE_MISMATCH));
        }
    }

    #[test]
    fn dates_exist() {
        assert_eq!(date("1970-01-02"), Ok(Value::Date(1)));
        assert_eq!(date("2000-01-01"), Ok(Value::Date(10_957)));
        assert_eq!(date("1969-12-31"), Ok(Value::Date(-1)));
        assert_eq!(
            date("2024-13-01").map_err(|fault| fault.code),
            Err(code::OUT_OF_RANGE)
        );
        assert_eq!(
            date("24-01-01").map_err(|fault| fault.code),
            Err(code::TYPE_MISMATCH)
        );
    }

    #[test]
    fn uuids_are_hexadecimal() {
        let bytes = *b"\x0f\x6b\x1c\x2e\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\xff";
        assert_eq!(
            uuid("0f6b1c2e-0001-0203-0405-060708090aFF"),
            Ok(Value::Uuid(bytes))
        );
        assert!(uuid("0f6b1c2e00010203040506070809 0aFF").is_err());
        assert!(uuid("0f6b1c2e0001020304050607080 90aFF").is_err());
        assert_eq!(uuid("0f6b1c2e000102030405060708090aFF"), Ok(Value::Uuid(bytes)));
        assert!(uuid("").is_err());
    }
}
