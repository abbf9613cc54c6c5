//! The orders table of the demo: four stores, the same rows on every machine, loaded through the server's own feed.

use std::io::Write as _;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use tidegate::store::ingest::{Ingest, Request, Rows};

use super::random::Random;

/// Rows of the table.
pub(crate) const N_ORDERS: u64 = 93_728;

/// The feed that takes them.
const FEED: &str = "orders";

/// The rows never change, so whoever loads them again stores none twice.
const ID: &str = "demo-orders-1";

/// Rows in one request, a multiple of what is claimed together.
const PIECE_ROWS: u64 = 5_000;

/// Days from the first order to the last.
const N_DAYS: u64 = 420;

/// 2024-01-01 in days since 1970.
const FIRST_DAY: u64 = 19_723;

const SEED: u64 = 93_728;

/// Each with how much more it sells than the last.
const STORES: [(&str, f64); 4] = [
    ("Harbour", 0.40),
    ("Old Town", 0.28),
    ("Station", 0.20),
    ("University", 0.12),
];
const CHANNELS: [(&str, f64); 3] = [("counter", 0.5), ("app", 0.32), ("delivery", 0.18)];
const SCENES: [(&str, f64); 4] = [
    ("breakfast", 0.2),
    ("work", 0.35),
    ("meeting", 0.15),
    ("on the way", 0.3),
];
const PERIODS: [(&str, f64); 5] = [
    ("early", 0.12),
    ("morning", 0.3),
    ("noon", 0.26),
    ("afternoon", 0.22),
    ("evening", 0.1),
];

/// Product, category, price in hundredths.
const PRODUCTS: [(&str, &str, u64); 24] = [
    ("Espresso", "coffee", 220),
    ("Americano", "coffee", 260),
    ("Flat white", "coffee", 340),
    ("Latte", "coffee", 360),
    ("Cappuccino", "coffee", 350),
    ("Mocha", "coffee", 390),
    ("Cold brew", "coffee", 380),
    ("Green tea", "tea", 240),
    ("Black tea", "tea", 230),
    ("Oolong", "tea", 280),
    ("Jasmine", "tea", 260),
    ("Matcha latte", "tea", 400),
    ("Croissant", "bakery", 250),
    ("Bagel", "bakery", 290),
    ("Muffin", "bakery", 270),
    ("Cinnamon roll", "bakery", 310),
    ("Cheesecake", "cake", 450),
    ("Brownie", "cake", 320),
    ("Carrot cake", "cake", 430),
    ("Club sandwich", "food", 680),
    ("Caesar salad", "food", 720),
    ("Soup of the day", "food", 540),
    ("Beans 250 g", "retail", 1_150),
    ("Travel mug", "retail", 1_890),
];

/// Writes the orders one after the other.
pub(crate) struct Sales {
    random: Random,
    next: u64,
}

impl Sales {
    /// Before the first order.
    pub(crate) const fn new() -> Self {
        Self {
            random: Random::new(SEED),
            next: 0,
        }
    }

    /// Appends the next order as a line of JSON; `false` after the last.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>) -> bool {
        if self.next == N_ORDERS {
            return false;
        }
        let id = self.next + 1;
        let (year, month, day) = civil(FIRST_DAY + self.next * N_DAYS / N_ORDERS);
        let (store, channel) = (self.one_of(&STORES), self.one_of(&CHANNELS));
        let (scene, period) = (self.one_of(&SCENES), self.one_of(&PERIODS));
        // The front of the list sells best.
        let (product, category, price) =
            PRODUCTS[(self.random.unit().powi(2) * PRODUCTS.len() as f64) as usize];
        let quantity = 1 + (self.random.unit().powi(3) * 5.0) as u64;
        let hundredths = price * quantity;
        let (whole, part) = (hundredths / 100, hundredths % 100);
        writeln!(
            out,
            "{{\"id\":{id},\"store\":\"{store}\",\"date\":\"{year:04}-{month:02}-{day:02}\",\"channel\":\"{channel}\",\
             \"product\":\"{product}\",\"category_l1\":\"{category}\",\"scene\":\"{scene}\",\"time_period\":\"{period}\",\
             \"quantity\":{quantity},\"amount\":\"{whole}.{part:02}\"}}"
        )
        .expect("writing to memory cannot fail");
        self.next += 1;
        true
    }

    fn one_of(&mut self, words: &[(&'static str, f64)]) -> &'static str {
        let mut drawn = self.random.unit();
        for (word, share) in words {
            if drawn < *share {
                return word;
            }
            drawn -= share;
        }
        words[words.len() - 1].0
    }
}

/// Loads the table; a bar on a terminal shows how far it is. Rows that are there already are not stored again.
///
/// # Errors
/// What the store said.
///
/// # Cancel safety
/// Dropped, some rows are loaded; the next start loads the others.
pub(crate) async fn load(ingest: &Ingest, label: &str) -> Result<u64, tidegate::store::Error> {
    // On anything but a terminal nothing is drawn.
    let bar = ProgressBar::new(N_ORDERS).with_prefix(label.to_owned());
    bar.set_style(style());
    let (mut sales, mut first_row, mut stored) = (Sales::new(), 0, 0);
    while first_row < N_ORDERS {
        let mut lines = Vec::new();
        let n_rows = (0..PIECE_ROWS).take_while(|_| sales.write(&mut lines)).count() as u64;
        let request = Request {
            feed: FEED.to_owned(),
            principal: "demo".to_owned(),
            id: Some(ID.to_owned()),
            operation: None,
            rows: Rows::Ndjson(Bytes::from(lines)),
            first_row,
        };
        stored += ingest.submit(request).await?.stored;
        first_row += n_rows;
        bar.set_position(first_row);
    }
    bar.finish_and_clear();
    Ok(stored)
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {per_sec} {eta}")
        .expect("the template names fields that exist")
}

/// Year, month and day of a day since 1970 (Howard Hinnant, chrono-Compatible Low-Level Date Algorithms).
const fn civil(day: u64) -> (u64, u64, u64) {
    let z = day + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn the_table_is_the_same_everywhere() {
        let (mut sales, mut text) = (Sales::new(), Vec::new());
        while sales.write(&mut text) {}
        let text = String::from_utf8(text).unwrap();
        let mut stores: BTreeMap<String, u64> = BTreeMap::new();
        let (mut products, mut last) = (BTreeSet::new(), String::new());
        for line in text.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            *stores
                .entry(row["store"].as_str().unwrap().to_owned())
                .or_default() += 1;
            products.insert(row["product"].as_str().unwrap().to_owned());
            row["date"].as_str().unwrap().clone_into(&mut last);
        }
        assert_eq!(stores.values().sum::<u64>(), N_ORDERS);
        assert_eq!(stores.len(), STORES.len());
        assert!(stores.values().all(|n| *n > N_ORDERS / 20), "{stores:?}");
        assert_eq!(products.len(), PRODUCTS.len());
        assert!(text.starts_with("{\"id\":1,\"store\":\""));
        assert_eq!(last, "2025-02-23");
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(FIRST_DAY), (2024, 1, 1));
        assert_eq!(civil(FIRST_DAY + 59), (2024, 2, 29));
        assert_eq!(civil(FIRST_DAY + 366), (2025, 1, 1));
    }
}
