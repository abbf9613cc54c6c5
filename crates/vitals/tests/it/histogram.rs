//! Histograms: the promised error, merging, differences.

use proptest::prelude::*;
use tidegate_vitals::{Histogram, Id, Registry};

fn histogram() -> Histogram {
    Registry::new().histogram(Id::GatewayTurn, &[])
}

/// Values of all magnitudes, not just large ones.
fn any_value() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0_u32..64).prop_map(|(value, shift)| value >> shift)
}

proptest! {
    #[test]
    fn quantiles_are_within_one_percent(values in prop::collection::vec(any_value(), 1..200), p in 0.0_f64..=1.0) {
        let histogram = histogram();
        values.iter().for_each(|&value| histogram.record(value));
        let snapshot = histogram.snapshot();
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let rank = ((p * sorted.len() as f64).ceil() as usize).max(1);
        let exact = sorted[rank - 1];
        let error = snapshot.quantile(p).abs_diff(exact) as f64;
        prop_assert!(error <= exact as f64 * 0.01, "p {p}: {} for {exact}", snapshot.quantile(p));
        prop_assert_eq!(snapshot.count(), values.len() as u64);
        prop_assert_eq!(snapshot.max(), sorted[sorted.len() - 1]);
        prop_assert_eq!(snapshot.sum(), values.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value)));
    }

    #[test]
    fn merge_equals_recording_into_one(
        a in prop::collection::vec(any_value(), 0..50), b in prop::collection::vec(any_value(), 0..50)
    ) {
        let (left, right, both) = (histogram(), histogram(), histogram());
        a.iter().for_each(|&value| { left.record(value); both.record(value) });
        let before = both.snapshot();
        b.iter().for_each(|&value| { right.record(value); both.record(value) });
        let mut merged = left.snapshot();
        merged.merge(&right.snapshot());
        prop_assert_eq!(&merged, &both.snapshot());

        let since = both.snapshot().since(&before);
        prop_assert_eq!(since.count(), right.snapshot().count());
        prop_assert_eq!(since.sum(), right.snapshot().sum());
        prop_assert!(since.buckets().eq(right.snapshot().buckets()));
        let error = since.max().abs_diff(right.snapshot().max()) as f64;
        prop_assert!(error <= right.snapshot().max() as f64 * 0.016);
    }

    #[test]
    fn counts_below_a_bound_rise_to_the_whole(values in prop::collection::vec(any_value(), 1..100)) {
        let histogram = histogram();
        values.iter().for_each(|&value| histogram.record(value));
        let snapshot = histogram.snapshot();
        let below: Vec<_> = (0..64).map(|bit| snapshot.count_at_most((1 << bit) - 1)).collect();
        let exact: Vec<_> = (0..64).map(|bit| values.iter().filter(|&&v| v < (1 << bit)).count() as u64).collect();
        prop_assert_eq!(below, exact, "powers of two are borders of buckets");
        prop_assert_eq!(snapshot.count_at_most(u64::MAX), snapshot.count());
    }
}

#[test]
fn threads_lose_no_record() {
    let histogram = histogram();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let histogram = histogram.clone();
            scope.spawn(move || (0..10_000).for_each(|i| histogram.record(thread * 10_000 + i)));
        }
    });
    let snapshot = histogram.snapshot();
    assert_eq!(snapshot.count(), 80_000);
    assert_eq!(snapshot.sum(), (0..80_000).sum::<u64>());
    assert_eq!(snapshot.max(), 79_999);
}

#[test]
fn equal_values_may_be_recorded_together() {
    let histogram = histogram();
    histogram.record_n(100, 1000);
    histogram.record_n(5, 0);
    let snapshot = histogram.snapshot();
    assert_eq!(
        (snapshot.count(), snapshot.sum(), snapshot.quantile(0.99)),
        (1000, 100_000, 100)
    );
    assert!((snapshot.mean() - 100.0).abs() < f64::EPSILON);
}
