//! Simulated orders: each is placed, filled in parts or cancelled, and told to room `orders`.

use std::collections::VecDeque;

use serde::Serialize;

use super::random::Random;

/// Orders open at a time; the oldest is settled before a new one comes.
const OPEN_MAX: usize = 40;

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Placed. Then `Partial`, `Filled` or `Cancelled`.
    New,
    /// Filled in part. Then `Partial`, `Filled` or `Cancelled`.
    Partial,
    /// Done.
    Filled,
    /// Withdrawn.
    Cancelled,
}

/// One order, as clients receive it in `order_update`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Order {
    /// Counts up from 1.
    pub(crate) id: u64,
    /// Six digits.
    pub(crate) symbol: String,
    /// `buy` or `sell`.
    pub(crate) side: &'static str,
    /// Limit.
    pub(crate) price: f64,
    /// Shares asked for.
    pub(crate) quantity: u64,
    /// Shares done.
    pub(crate) filled: u64,
    /// What became of it.
    pub(crate) status: Status,
    /// Unix milliseconds of this update.
    pub(crate) ts: u64,
}

/// All open orders.
#[derive(Debug)]
pub(crate) struct Orders {
    random: Random,
    open: VecDeque<Order>,
    next: u64,
}

impl Orders {
    /// No orders yet.
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            open: VecDeque::new(),
            next: 1,
        }
    }

    /// The next update: a new order at the quoted price, or a change of an open one.
    pub(crate) fn step(&mut self, quote: (String, f64), ts: u64) -> Order {
        let change = self.open.len() >= OPEN_MAX || (!self.open.is_empty() && self.random.unit() < 0.6);
        if change {
            return self.change(ts);
        }
        let (symbol, price) = quote;
        let side = if self.random.unit() < 0.5 { "buy" } else { "sell" };
        let quantity = 100 * (1 + self.random.below(50) as u64);
        let order = Order {
            id: self.next,
            symbol,
            side,
            price,
            quantity,
            filled: 0,
            status: Status::New,
            ts,
        };
        self.next += 1;
        self.open.push_back(order.clone());
        order
    }

    fn change(&mut self, ts: u64) -> Order {
        let index = if self.open.len() >= OPEN_MAX {
            0
        } else {
            self.random.below(self.open.len())
        };
        let order = &mut self.open[index];
        order.ts = ts;
        let draw = self.random.unit();
        let rest = order.quantity - order.filled;
        if draw < 0.15 {
            order.status = Status::Cancelled;
        } else if draw < 0.55 || rest <= 100 {
            (order.status, order.filled) = (Status::Filled, order.quantity);
        } else {
            let lots = 1 + self.random.below((rest / 100 - 1) as usize) as u64;
            order.status = Status::Partial;
            order.filled += 100 * lots;
        }
        let update = order.clone();
        if matches!(update.status, Status::Filled | Status::Cancelled) {
            self.open.remove(index);
        }
        update
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn orders_follow_their_states() {
        let mut orders = Orders::new(9);
        let mut known: HashMap<u64, Order> = HashMap::new();
        for ts in 0..50_000 {
            let order = orders.step(("600519".to_owned(), 10.0), ts);
            assert!(orders.open.len() <= OPEN_MAX);
            assert!(order.filled <= order.quantity);
            let before = known.get(&order.id).map(|before| (before.status, before.filled));
            let legal = match (before, order.status) {
                (None, Status::New) => order.filled == 0,
                (Some((Status::New | Status::Partial, filled)), Status::Partial) => {
                    filled < order.filled && order.filled < order.quantity
                }
                (Some((Status::New | Status::Partial, _)), Status::Filled) => order.filled == order.quantity,
                (Some((Status::New | Status::Partial, filled)), Status::Cancelled) => filled == order.filled,
                _ => false,
            };
            assert!(legal, "{before:?} to {order:?}");
            known.insert(order.id, order);
        }
    }
}
