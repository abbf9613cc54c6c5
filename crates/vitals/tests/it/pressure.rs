//! Memory pressure: what is read from the files of a machine, who is asked for how much, what is measured.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_vitals::pressure::{
    Ask, Cause, Config, Level, Machine, ManualReader, Part, Pressure, Reader, Reading, Shed, Thresholds,
};
use tidegate_vitals::{Class, Clock, Error, Id, Ledger, ManualClock, Registry, Value};

/// A folder with the files of a machine; removed at the end.
struct Fixture(PathBuf);

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "tidegate-pressure-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let fixture = Self(std::env::temp_dir().join(name));
        for (name, text) in files {
            fixture.write(name, text);
        }
        fixture
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a name has a folder")).expect("a temporary folder");
        std::fs::write(path, text).expect("a file of the fixture");
    }

    fn root(&self) -> &Path {
        &self.0
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const V2: &[(&str, &str)] = &[
    ("proc/self/cgroup", "0::/slice/app\n"),
    (
        "proc/self/mountinfo",
        "25 30 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    ),
    ("proc/self/statm", "5000 25 10 1 0 1 0\n"),
    (
        "proc/meminfo",
        "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:  700 kB\n",
    ),
    ("sys/fs/cgroup/slice/app/memory.max", "max\n"),
    ("sys/fs/cgroup/slice/app/memory.high", "max\n"),
    ("sys/fs/cgroup/slice/app/memory.current", "600\n"),
    (
        "sys/fs/cgroup/slice/app/memory.stat",
        "anon 500\ninactive_file 60\nactive_file 40\n",
    ),
];

const V1: &[(&str, &str)] = &[
    ("proc/self/cgroup", "4:memory:/docker/ab/app\n"),
    (
        "proc/self/mountinfo",
        "34 24 0:29 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
    ),
    ("sys/fs/cgroup/memory/app/memory.limit_in_bytes", "1000\n"),
    ("sys/fs/cgroup/memory/app/memory.usage_in_bytes", "900\n"),
    (
        "sys/fs/cgroup/memory/app/memory.stat",
        "inactive_file 1\nactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n",
    ),
];

/// The files of `base` with others over them; what the reader makes of it.
fn read(base: &[(&str, &str)], over: &[(&str, &str)]) -> Reading {
    let fixture = Fixture::new(base);
    for (name, text) in over {
        fixture.write(name, text);
    }
    Reader::under(fixture.root()).read()
}

fn check_cgroup(base: &[(&str, &str)], over: &[(&str, &str)], expected: Option<(u64, u64)>) {
    let cgroup = read(base, over).cgroup;
    let expected = expected.map(|(used_bytes, limit_bytes)| Part {
        used_bytes,
        limit_bytes,
    });
    assert_eq!(cgroup, expected, "{over:?}");
}

const APP: &str = "sys/fs/cgroup/slice/app";

#[test]
fn v2_takes_the_lower_of_max_and_high_and_leaves_out_the_page_cache() {
    let (max, high) = (format!("{APP}/memory.max"), format!("{APP}/memory.high"));
    check_cgroup(V2, &[], None);
    check_cgroup(V2, &[(&max, "1000\n")], Some((500, 1000)));
    check_cgroup(V2, &[(&max, "1000\n"), (&high, "800\n")], Some((500, 800)));
    check_cgroup(V2, &[(&high, "2000\n")], Some((500, 2000)));
    check_cgroup(V2, &[(&max, "0\n")], None);
}

#[test]
fn of_nested_cgroups_the_fullest_counts() {
    let max = format!("{APP}/memory.max");
    let over = [
        (max.as_str(), "1000\n"),
        ("sys/fs/cgroup/slice/memory.max", "2000\n"),
        ("sys/fs/cgroup/slice/memory.current", "1900\n"),
        ("sys/fs/cgroup/slice/memory.stat", "inactive_file 100\n"),
    ];
    check_cgroup(V2, &over, Some((1800, 2000)));
}

#[test]
fn v1_reads_the_totals_that_include_the_folders_below() {
    check_cgroup(V1, &[], Some((750, 1000)));
    let limit = "sys/fs/cgroup/memory/app/memory.limit_in_bytes";
    check_cgroup(V1, &[(limit, "9223372036854771712\n")], None);
}

#[test]
fn garbage_and_gaps_are_left_out() {
    let max = format!("{APP}/memory.max");
    let (current, stat) = (format!("{APP}/memory.current"), format!("{APP}/memory.stat"));
    check_cgroup(V2, &[(&max, "1000x\n")], None);
    check_cgroup(V2, &[(&max, "")], None);
    check_cgroup(V2, &[(&max, "1000\n"), (&current, "\u{1F600}\n")], None);
    check_cgroup(
        V2,
        &[(&max, "1000\n"), (&stat, "inactive_file\nx")],
        Some((600, 1000)),
    );
    check_cgroup(V2, &[("proc/self/cgroup", ":::\n0::\n"), (&max, "1000\n")], None);
    assert_eq!(read(&[], &[]), Reading::default());
    assert_eq!(read(V2, &[("proc/self/statm", "1\n")]).rss_bytes, None);
    assert_eq!(read(V2, &[("proc/meminfo", "MemTotal: x kB\n")]).host, None);
}

#[test]
fn rss_host_and_stalls_are_read() {
    let reading = read(V2, &[]);
    assert_eq!(reading.rss_bytes.unwrap() % 25, 0, "25 pages");
    assert_eq!(reading.host, Part::new(300 * 1024, 1000 * 1024));
    assert_eq!(reading.stall_per_mille, None);
    let host = ("proc/pressure/memory", "some avg10=3.50 avg60=0.00\n");
    assert_eq!(read(V2, &[host]).stall_per_mille, Some(35));
    let own = format!("{APP}/memory.pressure");
    let both = [host, (own.as_str(), "some avg10=7.00 avg60=0.00\n")];
    assert_eq!(read(V2, &both).stall_per_mille, Some(70), "our own cgroup first");
}

#[test]
fn open_files_follow_what_changes() {
    let fixture = Fixture::new(V1);
    let mut reader = Reader::under(fixture.root());
    assert_eq!(reader.read().cgroup.unwrap().used_bytes, 750);
    fixture.write("sys/fs/cgroup/memory/app/memory.usage_in_bytes", "400\n");
    fixture.write("sys/fs/cgroup/memory/app/memory.limit_in_bytes", "500\n");
    assert_eq!(reader.read().cgroup, Part::new(250, 500));
    assert_eq!(reader.machine().cgroup_bytes, Some(500));
}

#[test]
fn this_machine_tells_something() {
    let reading = Reader::system().read();
    assert!(reading.rss_bytes.unwrap() > 0);
    assert!(reading.host.unwrap().used_bytes > 0);
    let budget = Machine::read().host_bytes.unwrap();
    assert_eq!(Machine::default().check_budget(u64::MAX), Ok(()));
    assert!(Machine::read().check_budget(budget + 1).is_err());
}

#[test]
fn a_budget_above_the_machine_is_refused_or_clamped_with_a_finding() {
    let machine = Machine {
        host_bytes: Some(8_000),
        cgroup_bytes: Some(2_000),
    };
    let error = Error::BudgetAboveMachine {
        budget_bytes: 2_001,
        machine_bytes: 2_000,
        limited_by: "the cgroup",
    };
    assert_eq!(Config::new(2_000).check(&machine), Ok(()));
    assert_eq!(Config::new(2_001).check(&machine), Err(error.clone()));
    assert_eq!(
        error.to_string(),
        "memory budget of 2001 bytes is above the 2000 bytes of the cgroup"
    );
    let (clamped, finding) = Config::new(2_001).clamped(&machine);
    assert_eq!((clamped.budget_bytes, finding), (2_000, Some(error)));
    assert_eq!(Config::new(5).clamped(&machine), (Config::new(5), None));
    assert_eq!(Config::new(0).check(&machine), Err(Error::BudgetZero));
    let crossed = Config {
        thresholds: Thresholds {
            moderate: 800,
            ..Thresholds::DEFAULT
        },
        ..Config::new(5)
    };
    assert!(crossed.check(&machine).is_err());
}

/// A part with bytes to give; it notes what it was asked and told.
struct Store {
    name: &'static str,
    order: u8,
    bytes: AtomicU64,
    asks: Mutex<Vec<Ask>>,
    told: Mutex<Vec<Level>>,
}

impl Store {
    fn new(name: &'static str, order: u8, bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            name,
            order,
            bytes: AtomicU64::new(bytes),
            asks: Mutex::default(),
            told: Mutex::default(),
        })
    }

    fn wanted(&self) -> Vec<u64> {
        self.asks
            .lock()
            .expect("no test panics in here")
            .iter()
            .map(|ask| ask.bytes_wanted)
            .collect()
    }
}

impl Shed for Store {
    fn name(&self) -> &'static str {
        self.name
    }

    fn order(&self) -> u8 {
        self.order
    }

    fn shed(&self, ask: &Ask) -> u64 {
        self.asks.lock().expect("no test panics in here").push(*ask);
        let given = ask.bytes_wanted.min(self.bytes.load(Relaxed));
        self.bytes.fetch_sub(given, Relaxed);
        given
    }

    fn level(&self, level: Level) {
        self.told.lock().expect("no test panics in here").push(level);
    }
}

fn watch(budget_bytes: u64) -> (Pressure, ManualReader, ManualClock, Registry) {
    let (clock, hand) = Clock::manual();
    let (reader, memory) = Reader::manual();
    let registry = Registry::new();
    let pressure = Pressure::new(Config::new(budget_bytes), reader, &registry, clock);
    (pressure, memory, hand, registry)
}

const TICK: Duration = Duration::from_millis(100);

#[test]
fn parts_are_asked_in_order_for_what_is_still_missing() {
    let (pressure, memory, hand, _) = watch(1000);
    let (last, first) = (Store::new("last", 9, 1000), Store::new("first", 1, 30));
    pressure.register(last.clone());
    pressure.register(first.clone());
    memory.set_rss(650);
    assert_eq!(pressure.tick(), TICK);
    // Below the moderate edge by the hysteresis, or the level would stay.
    assert_eq!((first.wanted(), last.wanted()), (vec![81], vec![51]));
    // Nobody is asked again for bytes that are promised and not yet gone.
    hand.advance(TICK);
    pressure.tick();
    assert_eq!((first.wanted(), last.wanted()), (vec![81, 0], vec![51, 0]));
    // After a second the promise is not believed any more.
    hand.advance(Duration::from_secs(1));
    pressure.tick();
    assert_eq!(
        (first.wanted(), last.wanted()),
        (vec![81, 0, 81], vec![51, 0, 81])
    );
}

/// A thousand bytes to account for, so many in use at a level of the accounts: from where on the alarm goes off.
#[track_caller]
fn check_alarm(used: usize, expected: u64) {
    let (pressure, _, _, _) = watch(1_024);
    let ledger = Ledger::new(1_000);
    pressure.watch_ledger(ledger.clone());
    let rung = Arc::new(AtomicU64::new(0));
    let ringing = rung.clone();
    ledger.on_alarm(move || {
        ringing.fetch_add(1, Relaxed);
    });
    let mut held = ledger.reserve(Class::Rings, used).expect("there is room");
    pressure.tick();
    let accountable = 1_024 - 1_024 / 32;
    let edge = (accountable * expected).div_ceil(1_000);
    held.grow(edge as usize - 1 - used).expect("there is room");
    assert_eq!(rung.load(Relaxed), 0, "{used} bytes in use");
    held.grow(1).expect("there is room");
    held.grow(1).expect("there is room");
    assert_eq!(rung.load(Relaxed), 1, "{used} bytes in use");
}

#[test]
fn what_is_refused_calls_for_a_tick_at_any_level() {
    let (pressure, memory, _, _) = watch(1_024);
    let ledger = Ledger::new(500);
    pressure.watch_ledger(ledger.clone());
    let rung = Arc::new(AtomicU64::new(0));
    let ringing = rung.clone();
    ledger.on_alarm(move || {
        ringing.fetch_add(1, Relaxed);
    });
    for (rss, expected) in [(0, 1), (1_000, 2)] {
        memory.set_rss(rss);
        pressure.tick();
        ledger.reserve(Class::Rings, 501).unwrap_err();
        assert_eq!(rung.load(Relaxed), expected);
    }
}

#[test]
fn an_alarm_calls_for_a_tick_where_the_next_level_begins() {
    check_alarm(0, 600);
    check_alarm(600, 720);
    check_alarm(720, 800);
    check_alarm(800, 1_000);
}

#[test]
fn at_critical_nothing_is_taken_on_trust() {
    let (pressure, memory, hand, _) = watch(1000);
    let part = Store::new("part", 1, 10_000);
    pressure.register(part.clone());
    memory.set_rss(900);
    for _ in 0..3 {
        pressure.tick();
        hand.advance(TICK);
    }
    assert_eq!(part.wanted(), [331, 331, 331]);
    assert_eq!(part.asks.lock().unwrap()[0].within, 0.5);
}

#[test]
fn what_came_back_is_credited_by_the_next_tick() {
    let (pressure, memory, hand, registry) = watch(1000);
    let ledger = Ledger::new(1000);
    pressure.watch_ledger(ledger.clone());
    pressure.register(Store::new("a", 1, 60));
    pressure.register(Store::new("b", 2, 1000));
    let held = ledger.reserve(Class::Rings, 80).unwrap();
    memory.set_rss(700);
    pressure.tick();
    drop(held);
    memory.set_rss(690);
    hand.advance(TICK);
    pressure.tick();
    let sheds = pressure.stats().sheds;
    let figures = |at: usize| (sheds[at].name, sheds[at].promised_bytes, sheds[at].measured_bytes);
    // 80 bytes left the accounts; the promises of the first tick were 60 and 71. The second asked for 70 more.
    assert_eq!((figures(0), figures(1)), (("a", 60, 36), ("b", 141, 43)));
    let snapshot = registry.snapshot();
    let measured: Vec<_> = snapshot.by_label(Id::ShedMeasured).collect();
    assert_eq!(measured, [("a", &Value::Counter(36)), ("b", &Value::Counter(43))]);
    assert_eq!(snapshot.counter(Id::ShedCalls), 4);
}

#[test]
fn parts_hear_of_each_change_and_normal_comes_last() {
    let (pressure, memory, hand, registry) = watch(1000);
    let part = Store::new("part", 1, 0);
    pressure.register(part.clone());
    for (rss, wait) in [(100, 1000), (610, 100), (730, 2000), (100, 2000)] {
        memory.set_rss(rss);
        pressure.tick();
        hand.advance(Duration::from_millis(wait));
    }
    assert_eq!(pressure.level(), Level::Normal);
    assert_eq!(pressure.tick(), Duration::from_secs(1));
    assert_eq!(
        *part.told.lock().unwrap(),
        [Level::Moderate, Level::High, Level::Normal]
    );
    assert_eq!(part.wanted(), [41, 161], "nobody is asked at normal");
    let stats = pressure.stats();
    assert_eq!((stats.entered, stats.ticks), ([1, 1, 1, 0], 5));
    let causes: Vec<_> = stats
        .transitions
        .iter()
        .map(|t| (t.from, t.to, t.cause))
        .collect();
    assert_eq!(
        causes,
        [
            (Level::Normal, Level::Moderate, Cause::Rss),
            (Level::Moderate, Level::High, Cause::Rss),
            (Level::High, Level::Normal, Cause::Eased)
        ]
    );
    assert_eq!(registry.snapshot().counter(Id::PressureChanges), 3);
    assert_eq!(registry.snapshot().gauge(Id::PressureLevel), 0);
}

#[test]
fn a_part_that_comes_late_hears_of_the_level() {
    let (pressure, memory, _, _) = watch(1000);
    memory.set_rss(900);
    pressure.tick();
    let late = Store::new("late", 1, 0);
    pressure.register(late.clone());
    assert_eq!(*late.told.lock().unwrap(), [Level::Critical]);
}

#[test]
fn the_largest_source_decides_and_each_is_brought_below() {
    let (pressure, memory, _, registry) = watch(1000);
    let part = Store::new("part", 1, 0);
    pressure.register(part.clone());
    memory.set(Reading {
        cgroup: Part::new(73, 100),
        rss_bytes: Some(700),
        host: Part::new(5_700, 10_000),
        stall_per_mille: None,
    });
    pressure.tick();
    let stats = pressure.stats();
    assert_eq!(
        (stats.level, stats.per_mille, stats.source),
        (Level::High, 730, Some(Cause::Cgroup))
    );
    assert_eq!(
        part.wanted(),
        [131],
        "the budget lacks more bytes than the others"
    );
    let snapshot = registry.snapshot();
    let signal: Vec<_> = snapshot.by_label(Id::PressureSignal).collect();
    for (at, (source, share)) in [("accounts", 0), ("cgroup", 730), ("host", 570), ("rss", 700)]
        .into_iter()
        .enumerate()
    {
        assert_eq!(signal[at], (source, &Value::Gauge(share)));
    }
}

#[test]
fn stalls_raise_the_level_unless_they_are_off() {
    let (pressure, memory, _, _) = watch(1000);
    memory.set(Reading {
        rss_bytes: Some(650),
        stall_per_mille: Some(100),
        ..Reading::default()
    });
    let config = pressure.config();
    pressure.set_config(Config {
        use_psi: false,
        ..config
    });
    pressure.tick();
    assert_eq!(pressure.level(), Level::Moderate);
    pressure.set_config(config);
    pressure.tick();
    assert_eq!(pressure.level(), Level::High);
    let last = pressure.stats().transitions.pop().unwrap();
    assert_eq!((last.cause, last.per_mille), (Cause::Stalls, 650));
}

#[test]
fn new_settings_count_from_the_next_tick() {
    let (pressure, memory, _, _) = watch(1000);
    memory.set_rss(650);
    pressure.tick();
    assert_eq!(pressure.level(), Level::Moderate);
    pressure.set_config(Config::new(800));
    pressure.tick();
    assert_eq!(pressure.level(), Level::Critical);
}

#[test]
fn the_list_of_changes_is_bounded() {
    let (pressure, memory, hand, _) = watch(1000);
    for round in 0..100 {
        memory.set_rss(if round % 2 == 0 { 900 } else { 0 });
        pressure.tick();
        hand.advance(Duration::from_secs(3));
    }
    let stats = pressure.stats();
    assert_eq!((stats.transitions.len(), stats.entered[3]), (64, 50));
    assert_eq!(stats.transitions[63].to, Level::Normal);
}

#[test]
fn a_machine_that_tells_nothing_stays_normal() {
    let (pressure, _, _, _) = watch(1000);
    pressure.tick();
    let stats = pressure.stats();
    assert_eq!((stats.level, stats.source, stats.ticks), (Level::Normal, None, 1));
}

#[test]
fn parts_are_let_go() {
    struct Held;
    impl Shed for Held {
        fn name(&self) -> &'static str {
            "held"
        }
        fn order(&self) -> u8 {
            1
        }
        fn shed(&self, _ask: &Ask) -> u64 {
            0
        }
    }
    let (reader, _memory) = Reader::manual();
    let pressure = Pressure::new(Config::new(1000), reader, &Registry::new(), Clock::real());
    let held = Arc::new(Held);
    pressure.register(Arc::clone(&held) as Arc<dyn Shed>);
    pressure.unregister_all();
    pressure.tick();
    assert_eq!(Arc::strong_count(&held), 1);
}
