//! Exact decimals between their text and PostgreSQL's binary form.
//!
//! The binary form is four 16-bit words (number of digits, weight of the first digit, sign, digits shown after the point)
//! followed by digits of base 10,000.

use bytes::BufMut;

/// Most digits after the point that a value may show.
const SCALE_MAX: usize = 16_383;
/// Most digits before the point that the server takes.
const WHOLE_MAX: usize = 131_072;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// Appends the binary form of `text` such as `-12.50` or `1e6`.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn encode(text: &str, out: &mut impl BufMut) -> Result<(), String> {
    let decimal = Decimal::parse(text).ok_or_else(|| format!("{} is not a decimal number", shown(text)))?;
    if decimal.whole.len() > WHOLE_MAX || decimal.fraction.len() > SCALE_MAX {
        return Err(format!(
            "a numeric has at most {WHOLE_MAX} digits before and {SCALE_MAX} after the point, not {} and {}",
            decimal.whole.len(),
            decimal.fraction.len()
        ));
    }
    let (weight, digits) = decimal.groups();
    let sign = if decimal.is_negative && !digits.is_empty() {
        NEGATIVE
    } else {
        0
    };
    out.put_u16(digits.len() as u16);
    out.put_i16(weight);
    out.put_u16(sign);
    out.put_u16(decimal.fraction.len() as u16);
    for digit in digits {
        out.put_u16(digit);
    }
    Ok(())
}

/// Reads the binary form back into text, with as many digits after the point as the server shows.
///
/// # Errors
/// NaN, an infinity, or bytes that are no numeric.
pub(super) fn decode(raw: &[u8]) -> Result<Box<str>, String> {
    const BROKEN: &str = "a numeric of the wrong length";
    let (head, digits) = raw.split_at_checked(8).ok_or(BROKEN)?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (n_digits, weight, sign, scale) = (word(0), word(2) as i16, word(4), word(6) as usize);
    match sign {
        0 | NEGATIVE => {}
        NAN => return Err("NaN has no place in a numeric".to_owned()),
        INFINITY | NEGATIVE_INFINITY => return Err("infinity has no place in a numeric".to_owned()),
        _ => return Err("a numeric with an unknown sign".to_owned()),
    }
    if digits.len() != usize::from(n_digits) * 2 {
        return Err(BROKEN.to_owned());
    }
    let group = |at: i32| -> u16 {
        let found = usize::try_from(at)
            .ok()
            .and_then(|at| digits.get(at * 2..at * 2 + 2));
        found.map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
    };
    let weight = i32::from(weight);
    let mut text = String::with_capacity(digits.len() * 2 + scale + 8);
    if sign == NEGATIVE {
        text.push('-');
    }
    push_whole(&mut text, weight, group);
    push_fraction(&mut text, weight, scale, group);
    Ok(text.into_boxed_str())
}

fn push_whole(text: &mut String, weight: i32, group: impl Fn(i32) -> u16) {
    use std::fmt::Write;
    if weight < 0 {
        text.push('0');
        return;
    }
    for at in 0..=weight {
        let written = match at {
            0 => write!(text, "{}", group(0)),
            _ => write!(text, "{:04}", group(at)),
        };
        written.expect("writing to a string cannot fail");
    }
}

fn push_fraction(text: &mut String, weight: i32, scale: usize, group: impl Fn(i32) -> u16) {
    use std::fmt::Write;
    if scale == 0 {
        return;
    }
    text.push('.');
    let end = text.len() + scale;
    let mut at = weight + 1;
    while text.len() < end {
        // Groups before the first digit are zeros.
        write!(text, "{:04}", group(at)).expect("writing to a string cannot fail");
        at += 1;
    }
    text.truncate(end);
}

/// The start of a text that may be long.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    format!("{start:?}")
}

/// A decimal as its digits, without leading zeros before the point.
struct Decimal {
    is_negative: bool,
    whole: Vec<u8>,
    fraction: Vec<u8>,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (is_negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let values = |part: &str| part.bytes().map(|byte| byte - b'0').collect::<Vec<_>>();
        let mut decimal = Self {
            is_negative,
            whole: values(whole),
            fraction: values(fraction),
        };
        decimal.shift(exponent)?;
        let zeros = decimal.whole.iter().take_while(|digit| **digit == 0).count();
        decimal.whole.drain(..zeros);
        Some(decimal)
    }

    /// Moves the point by `exponent` places.
    fn shift(&mut self, exponent: i32) -> Option<()> {
        let places = exponent.unsigned_abs() as usize;
        // More would be refused anyway; this keeps `1e999999999` from taking memory.
        if places > WHOLE_MAX + SCALE_MAX {
            return None;
        }
        if exponent >= 0 {
            let taken = places.min(self.fraction.len());
            self.whole.extend(self.fraction.drain(..taken));
            self.whole.resize(self.whole.len() + places - taken, 0);
        } else {
            let missing = places.saturating_sub(self.whole.len());
            let mut moved = vec![0; missing];
            moved.extend(self.whole.split_off(self.whole.len() - (places - missing)));
            moved.append(&mut self.fraction);
            self.fraction = moved;
        }
        Some(())
    }

    /// The weight of the first group and the groups of four digits, without zero groups at either end.
    fn groups(&self) -> (i16, Vec<u16>) {
        let n_whole = self.whole.len().div_ceil(4);
        let pad = n_whole * 4 - self.whole.len();
        let digits = std::iter::repeat_n(&0, pad)
            .chain(&self.whole)
            .chain(&self.fraction);
        let digits: Vec<u8> = digits.copied().collect();
        let value =
            |group: &[u8]| (0..4).fold(0, |sum, at| sum * 10 + u16::from(*group.get(at).unwrap_or(&0)));
        let mut groups: Vec<u16> = digits.chunks(4).map(value).collect();
        while groups.last() == Some(&0) {
            groups.pop();
        }
        let zeros = groups.iter().take_while(|group| **group == 0).count();
        groups.drain(..zeros);
        let weight = if groups.is_empty() {
            0
        } else {
            n_whole as i32 - 1 - zeros as i32
        };
        (weight as i16, groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let mut raw = Vec::new();
        let written = encode(text, &mut raw).ok().map(|()| decode(&raw).unwrap());
        assert_eq!(written.as_deref(), expected, "{text}");
    }

    #[test]
    fn decimals_keep_their_digits() {
        check("0", Some("0"));
        check("-0.00", Some("0.00"));
        check("12.50", Some("12.50"));
        check("-12.50", Some("-12.50"));
        check("10000", Some("10000"));
        check("0.0001", Some("0.0001"));
        check("0.00000001", Some("0.00000001"));
        check("1000000000000.000000000001", Some("1000000000000.000000000001"));
        check("007", Some("7"));
        check(".5", Some("0.5"));
        check("5.", Some("5"));
        check("+1e3", Some("1000"));
        check("1.25e1", Some("12.5"));
        check("1.25e-3", Some("0.00125"));
        check("125e-2", Some("1.25"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "-",
            ".",
            "NaN",
            "Infinity",
            "1,5",
            "1e",
            "0x10",
            "1 ",
            "１",
            "1e999999999",
        ] {
            check(text, None);
        }
        check(&"9".repeat(WHOLE_MAX + 1), None);
        check(&format!("0.{}", "1".repeat(SCALE_MAX + 1)), None);
    }

    #[test]
    fn nan_and_infinity_are_named() {
        let with_sign = |sign: u16| {
            let mut raw = vec![0; 8];
            raw[4..6].copy_from_slice(&sign.to_be_bytes());
            decode(&raw).unwrap_err()
        };
        assert!(with_sign(NAN).contains("NaN"));
        assert!(with_sign(INFINITY).contains("infinity"));
        assert!(with_sign(NEGATIVE_INFINITY).contains("infinity"));
        assert!(decode(&[0; 3]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_decimal_survives(whole in "0|[1-9][0-9]{0,30}", fraction in "(\\.[0-9]{1,30})?") {
            check(&format!("{whole}{fraction}"), Some(&format!("{whole}{fraction}")));
        }
    }
}
