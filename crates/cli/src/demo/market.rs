//! The simulated market: symbols, and prices that wander, a few of them much more often than the rest.

use serde::Serialize;

use super::random::Random;

/// Symbols traded.
pub(crate) const N_SYMBOLS: usize = 400;

/// The symbol that is always there, and always moves.
pub(crate) const FIRST_SYMBOL: &str = "600519";

/// How far a price may move in a day, as a share of the price before.
const DAY_RANGE: f64 = 0.10;

/// Smallest change of a price.
const CENT: f64 = 0.01;

/// Beginnings of codes by board.
const PREFIXES: [&str; 6] = ["600", "601", "603", "000", "002", "300"];

/// Invented names: a first and a second part, in English and Chinese.
const FIRST: [(&str, &str); 20] = [
    ("Harbour", "海港"),
    ("Lantern", "明灯"),
    ("Cedar", "雪松"),
    ("Summit", "峰顶"),
    ("River", "江河"),
    ("Granite", "花岗"),
    ("Orchid", "兰草"),
    ("Meridian", "子午"),
    ("Copper", "铜山"),
    ("Willow", "垂柳"),
    ("Falcon", "飞隼"),
    ("Jade", "碧玉"),
    ("Comet", "彗星"),
    ("Delta", "三角洲"),
    ("Amber", "琥珀"),
    ("Beacon", "灯塔"),
    ("Quartz", "石英"),
    ("Maple", "红枫"),
    ("Tide", "潮汐"),
    ("Prairie", "草原"),
];
const SECOND: [(&str, &str); 20] = [
    ("Bank", "银行"),
    ("Steel", "钢铁"),
    ("Foods", "食品"),
    ("Energy", "能源"),
    ("Pharma", "医药"),
    ("Motors", "汽车"),
    ("Chips", "芯片"),
    ("Cement", "水泥"),
    ("Airlines", "航空"),
    ("Media", "传媒"),
    ("Textiles", "纺织"),
    ("Logistics", "物流"),
    ("Optics", "光学"),
    ("Robotics", "机器人"),
    ("Water", "水务"),
    ("Solar", "光伏"),
    ("Ports", "港务"),
    ("Software", "软件"),
    ("Insurance", "保险"),
    ("Chemicals", "化工"),
];

/// One change of a price, as clients receive it in `price_update`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Tick<'a> {
    /// Counts up from 1.
    pub(crate) trade_id: u64,
    /// Six digits.
    pub(crate) symbol: &'a str,
    /// Last price.
    pub(crate) price: f64,
    /// Percent against the close of the day before.
    pub(crate) change: f64,
    /// Shares of this trade.
    pub(crate) volume: u64,
    /// Shares of the day.
    pub(crate) total: u64,
    /// Highest price of the day.
    pub(crate) high: f64,
    /// Lowest price of the day.
    pub(crate) low: f64,
    /// Unix milliseconds.
    pub(crate) ts: u64,
}

/// A symbol with its names, as the page lists it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Listed {
    pub(crate) symbol: String,
    pub(crate) name: String,
    pub(crate) name_zh: String,
}

/// The whole market.
#[derive(Debug)]
pub(crate) struct Market {
    random: Random,
    stocks: Vec<Stock>,
    /// Running sum of how often each symbol trades, for drawing one.
    weights: Vec<f64>,
    /// Where the market as a whole leans, a share per step.
    mood: f64,
    n_trades: u64,
}

#[derive(Debug)]
struct Stock {
    listed: Listed,
    /// Close of the day before.
    base: f64,
    price: f64,
    high: f64,
    low: f64,
    total: u64,
    /// Deviation of one step, a share of the price.
    volatility: f64,
}

// === impl Market ===

impl Market {
    /// A market before its first trade.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let stocks: Vec<Stock> = (0..N_SYMBOLS)
            .map(|index| Stock::new(index, &mut random))
            .collect();
        // Popularity falls like one over the rank, as it does on real boards.
        let mut sum = 0.0;
        let weights = (0..N_SYMBOLS).map(|rank| {
            sum += 1.0 / (rank as f64 + 8.0);
            sum
        });
        Self {
            random,
            weights: weights.collect(),
            stocks,
            mood: 0.0,
            n_trades: 0,
        }
    }

    /// All symbols, the most traded first.
    pub(crate) fn listed(&self) -> impl Iterator<Item = &Listed> {
        self.stocks.iter().map(|stock| &stock.listed)
    }

    /// Yesterday's close becomes today's base.
    pub(crate) fn begin_day(&mut self) {
        for stock in &mut self.stocks {
            (stock.base, stock.high, stock.low, stock.total) = (stock.price, stock.price, stock.price, 0);
        }
        self.mood = 0.0;
    }

    /// The next trade, of a symbol drawn by its popularity.
    pub(crate) fn trade(&mut self, ts: u64) -> Tick<'_> {
        let all = self.weights.last().copied().unwrap_or(0.0);
        let drawn = self.random.unit() * all;
        let index = self
            .weights
            .partition_point(|sum| *sum <= drawn)
            .min(N_SYMBOLS - 1);
        self.mood = self.mood * 0.999 + self.random.normal() * 2e-6;
        self.trade_of(index, ts)
    }

    /// A trade of one symbol, by its rank.
    pub(crate) fn trade_of(&mut self, index: usize, ts: u64) -> Tick<'_> {
        self.n_trades += 1;
        self.stocks[index].trade(self.mood, &mut self.random, (self.n_trades, ts))
    }

    /// A symbol with its price, drawn by chance; for orders.
    pub(crate) fn quote(&mut self) -> (String, f64) {
        let stock = &self.stocks[self.random.below(N_SYMBOLS)];
        (stock.listed.symbol.clone(), stock.price)
    }
}

// === impl Stock ===

impl Stock {
    fn new(index: usize, random: &mut Random) -> Self {
        let symbol = match index {
            0 => FIRST_SYMBOL.to_owned(),
            // A step of 7 through a thousand endings meets none twice; 519 of the first board is taken.
            _ => {
                let (prefix, ending) = (index % PREFIXES.len(), index / PREFIXES.len());
                let ending = (ending * 7 + 100 + prefix) % 1_000;
                let ending = if prefix == 0 && ending == 519 { 999 } else { ending };
                format!("{}{ending:03}", PREFIXES[prefix])
            }
        };
        let (first, second) = (FIRST[index % 20], SECOND[(index / 20 + index) % 20]);
        let price = if index == 0 {
            1_685.0
        } else {
            cents(4.0 * (random.unit() * 3.6).exp())
        };
        let listed = Listed {
            symbol,
            name: format!("{} {}", first.0, second.0),
            name_zh: format!("{}{}", first.1, second.1),
        };
        let volatility = 0.0004 + random.unit() * 0.0012;
        Self {
            listed,
            base: price,
            price,
            high: price,
            low: price,
            total: 0,
            volatility,
        }
    }

    fn trade(&mut self, mood: f64, random: &mut Random, (trade_id, ts): (u64, u64)) -> Tick<'_> {
        // A weak pull towards the base keeps a long demo from running into the limits of the day.
        let pull = (self.base / self.price - 1.0) * 0.002;
        let moved = self.price * (1.0 + mood + pull + random.normal() * self.volatility);
        let (floor, ceiling) = (self.base * (1.0 - DAY_RANGE), self.base * (1.0 + DAY_RANGE));
        self.price = cents(moved.clamp(floor, ceiling)).max(CENT);
        self.high = self.high.max(self.price);
        self.low = self.low.min(self.price);
        let volume = 100 * (1 + (random.unit().powi(4) * 200.0) as u64);
        self.total += volume;
        Tick {
            trade_id,
            symbol: &self.listed.symbol,
            price: self.price,
            change: ((self.price / self.base - 1.0) * 10_000.0).round() / 100.0,
            volume,
            total: self.total,
            high: self.high,
            low: self.low,
            ts,
        }
    }
}

fn cents(price: f64) -> f64 {
    (price * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn symbols_are_different_codes_of_six_digits() {
        let market = Market::new(1);
        let symbols: HashSet<&str> = market.listed().map(|listed| listed.symbol.as_str()).collect();
        assert_eq!(symbols.len(), N_SYMBOLS);
        assert!(symbols.contains(FIRST_SYMBOL));
        assert!(
            symbols
                .iter()
                .all(|s| s.len() == 6 && s.bytes().all(|b| b.is_ascii_digit()))
        );
        let names: HashSet<&str> = market.listed().map(|listed| listed.name.as_str()).collect();
        assert_eq!(names.len(), N_SYMBOLS);
    }

    #[test]
    fn the_same_seed_makes_the_same_day() {
        let day = |seed| {
            let mut market = Market::new(seed);
            (0..1_000)
                .map(|ts| serde_json::to_string(&market.trade(ts)).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(day(7), day(7));
        assert_ne!(day(7), day(8));
    }

    #[test]
    fn prices_stay_in_the_range_of_the_day() {
        let mut market = Market::new(3);
        for ts in 0..200_000 {
            let tick = market.trade(ts);
            assert!(
                tick.price >= CENT && tick.low <= tick.price && tick.price <= tick.high,
                "{tick:?}"
            );
            // Rounding to cents may pass the range by half a cent.
            assert!(tick.change.abs() <= 10.2, "{tick:?}");
            assert!(tick.volume >= 100 && tick.total >= tick.volume);
        }
        market.begin_day();
        assert!(market.trade_of(0, 1).change.abs() < 2.0);
    }

    #[test]
    fn popular_symbols_trade_more() {
        let mut market = Market::new(5);
        let first = (0..20_000)
            .filter(|ts| market.trade(*ts).symbol == FIRST_SYMBOL)
            .count();
        assert!(first > 20_000 / N_SYMBOLS * 3, "{first} of 20,000");
    }
}
