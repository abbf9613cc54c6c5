//! Decimal numbers of any length: added and compared exactly.

use std::cmp::Ordering;

/// A decimal number as its sign, its digits and how many of them stand behind the point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    /// Least significant first; never empty.
    digits: Vec<u8>,
    scale: usize,
}

// === impl Decimal ===

impl Decimal {
    /// Reads `-12.50`: an optional sign, digits, at most one point.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, body) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
        let all = || whole.bytes().chain(fraction.bytes());
        if all().next().is_none() || !all().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let mut digits: Vec<u8> = all().map(|byte| byte - b'0').collect();
        digits.reverse();
        Some(Self {
            negative,
            digits,
            scale: fraction.len(),
        })
    }

    pub(crate) fn from_int(value: i64) -> Self {
        Self::parse(&value.to_string()).expect("an integer is a decimal number")
    }

    /// The sum, with as many places as the longer of the two.
    #[must_use]
    pub(crate) fn add(mut self, mut other: Self) -> Self {
        self.align(&mut other);
        if self.negative == other.negative {
            add_into(&mut self.digits, &other.digits);
            return self;
        }
        let (mut larger, smaller) = match compare_digits(&self.digits, &other.digits) {
            Ordering::Less => (other, self),
            _ => (self, other),
        };
        subtract_from(&mut larger.digits, &smaller.digits);
        larger
    }

    pub(crate) fn compare(mut self, mut other: Self) -> Ordering {
        self.align(&mut other);
        match (self.is_negative(), other.is_negative()) {
            (false, false) => compare_digits(&self.digits, &other.digits),
            (true, true) => compare_digits(&other.digits, &self.digits),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }

    /// Minus zero is zero.
    fn is_negative(&self) -> bool {
        self.negative && self.digits.iter().any(|digit| *digit != 0)
    }

    /// Gives both the same places and the same number of digits.
    fn align(&mut self, other: &mut Self) {
        let scale = self.scale.max(other.scale);
        for number in [&mut *self, &mut *other] {
            let places = scale - number.scale;
            number.digits.splice(0..0, std::iter::repeat_n(0, places));
            number.scale = scale;
        }
        let length = self.digits.len().max(other.digits.len());
        self.digits.resize(length, 0);
        other.digits.resize(length, 0);
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::with_capacity(self.digits.len() + 2);
        if self.is_negative() {
            text.push('-');
        }
        let significant = self
            .digits
            .iter()
            .rposition(|digit| *digit != 0)
            .map_or(0, |at| at + 1);
        let shown = significant.max(self.scale + 1);
        for at in (0..shown).rev() {
            let digit = self.digits.get(at).copied().unwrap_or(0);
            text.push(char::from(b'0' + digit));
            if at == self.scale && at > 0 {
                text.push('.');
            }
        }
        f.write_str(&text)
    }
}

/// Both of one length.
fn compare_digits(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().rev().cmp(b.iter().rev())
}

fn add_into(a: &mut Vec<u8>, b: &[u8]) {
    let mut carry = 0;
    for (a, b) in a.iter_mut().zip(b) {
        let sum = *a + b + carry;
        *a = sum % 10;
        carry = sum / 10;
    }
    if carry > 0 {
        a.push(carry);
    }
}

/// `a` is not less than `b`.
fn subtract_from(a: &mut [u8], b: &[u8]) {
    let mut borrow = 0;
    for (a, b) in a.iter_mut().zip(b) {
        let taken = b + borrow;
        borrow = u8::from(*a < taken);
        *a = *a + 10 * borrow - taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn sums_are_exact() {
        fn check(a: &str, b: &str, expected: &str) {
            assert_eq!(decimal(a).add(decimal(b)).to_string(), expected, "{a} + {b}");
        }
        check("0.1", "0.2", "0.3");
        check("1.50", "1.5", "3.00");
        check("-1", "1", "0");
        check("-0.001", "0.0005", "-0.0005");
        check("999", "1", "1000");
        check("1", "-1000", "-999");
        check(
            "99999999999999999999999999999999999999999",
            "0.1",
            "99999999999999999999999999999999999999999.1",
        );
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "-", ".", "1e5", "NaN", "1.2.3", " 1", "一"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn behaves_like_integers_of_one_scale(a in -1_000_000_000_i64..1_000_000_000, b in -1_000_000_000_i64..1_000_000_000) {
            let text = |value: i64| format!("{}{}.{:03}", if value < 0 { "-" } else { "" }, value.abs() / 1000, value.abs() % 1000);
            let (da, db) = (decimal(&text(a)), decimal(&text(b)));
            prop_assert_eq!(da.clone().compare(db.clone()), a.cmp(&b));
            prop_assert_eq!(da.add(db).to_string(), text(a + b));
        }
    }
}
