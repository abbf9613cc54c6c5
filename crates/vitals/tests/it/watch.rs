//! The watch: figures of the process and the ledger reach the registry.

use tidegate_vitals::{Class, Id, Ledger, Registry, Value, Watch};

#[test]
fn ledger_and_process_are_written() {
    let registry = Registry::new();
    let ledger = Ledger::new(1000);
    let mut watch = Watch::new(&registry, ledger.clone());
    let _held = ledger.reserve(Class::Rings, 600).unwrap();
    for _ in 0..2 {
        assert!(ledger.reserve(Class::Frames, 600).is_err());
        watch.tick();
    }
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.gauge(Id::LedgerUsed), 600);
    let rings = snapshot
        .by_label(Id::LedgerUsed)
        .find(|(class, _)| *class == "rings")
        .unwrap();
    assert_eq!(rings.1, &Value::Gauge(600));
    assert_eq!(snapshot.gauge(Id::LedgerLimit), 1000);
    assert_eq!(snapshot.counter(Id::LedgerRefused), 2);
    assert!(snapshot.gauge(Id::ProcessRssBytes) > 0);
    assert!(snapshot.gauge(Id::ProcessThreads) > 0);
    assert!(snapshot.counter(Id::ProcessCpu) > 0);
    assert_eq!(snapshot.gauge(Id::Series) as usize, registry.n_series());
}
