//! Profiles of this test itself: what it does on purpose must be found.

use std::future::Future;
use std::hint::black_box;
use std::time::Duration;

use tidegate_vitals::profile::cpu::{Choice, Source};
use tidegate_vitals::profile::findings::{self, Inputs, Kind};
use tidegate_vitals::profile::{self, Collector, Config, CpuProfile, Error, Report, TimedMutex, TimedRwLock};
use tidegate_vitals::{Clock, Id, Registry, Value};

use crate::alone;

const SHORT: Duration = Duration::from_millis(400);

#[inline(never)]
fn burns_on_purpose(clock: &Clock, length: Duration) -> u64 {
    let (start, mut x) = (clock.now(), 1_u64);
    while clock.now() - start < length {
        x = crunch(x);
    }
    x
}

/// Calls nothing, so that it is innermost also where frame pointers are missing.
#[inline(never)]
fn crunch(seed: u64) -> u64 {
    let (mut x, mut n) = (seed, 0);
    while n < 200_000 {
        x ^= x << 13;
        x ^= x >> 7;
        x = black_box(x ^ (x << 17));
        n += 1;
    }
    x
}

/// A profile in which this thread works instead of waiting: a fixed amount, so that a busy machine changes nothing.
fn profile(source: Choice) -> Report {
    let _alone = alone();
    let (clock, hand) = Clock::manual();
    let config = Config {
        length: SHORT,
        cpu: Some(profile::cpu::Config {
            source,
            ..profile::cpu::Config::default()
        }),
    };
    let collector = Collector::new(config, clock).expect("the length is allowed");
    collector.run(|length| {
        black_box((0..200).fold(1, |x, _| crunch(x)));
        hand.advance(length);
    })
}

fn check_finds_itself(cpu: &CpuProfile) {
    let hottest = cpu.hottest(200);
    let own = hottest.iter().find(|hot| hot.function.ends_with("crunch"));
    let own = own.unwrap_or_else(|| panic!("not found in {hottest:#?}"));
    // Other tests of this process run beside it, so it is not alone; but nobody else burns here as long.
    assert!(own.total > 0.02, "{own:?} of {} samples", cpu.samples);
    assert!(cpu.samples >= 10 && cpu.threads >= 1, "{} samples", cpu.samples);
    let frame = cpu.frames.iter().find(|frame| frame.function.ends_with("crunch"));
    let frame = frame.expect("it was found among the hottest");
    assert!(frame.file.ends_with("profile.rs") && frame.line > 0, "{frame:?}");
    let folded = cpu.folded();
    let sum: u64 = folded.lines().map(count_of).sum();
    assert_eq!(sum + cpu.lost, cpu.samples);
}

fn count_of(line: &str) -> u64 {
    let (_, count) = line.rsplit_once(' ').expect("a count ends each line");
    count.parse().expect("it is a number")
}

#[test]
fn the_best_sampler_finds_a_busy_function() {
    let report = profile(Choice::Best);
    let cpu = report.cpu.as_ref().unwrap();
    check_finds_itself(cpu);
    let own = report.threads.iter().find(|t| t.cpu_ns > 50_000_000);
    assert!(own.is_some(), "this thread burned: {:?}", report.threads);
    let found = findings::rank(&report, &Inputs::default());
    assert!(found.iter().any(|f| f.kind == Kind::HotStack), "{found:#?}");
    assert!(found.is_sorted_by(|a, b| a.score >= b.score));
}

#[test]
fn the_signal_finds_a_busy_function() {
    let report = profile(Choice::Signal);
    let cpu = report.cpu.unwrap();
    assert_eq!(cpu.source, Source::Signal);
    check_finds_itself(&cpu);
}

#[test]
fn a_profile_is_written_in_three_formats() {
    let cpu = profile(Choice::Best).cpu.unwrap();
    let svg = cpu.flame_graph("a <title>");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("a &lt;title&gt;") && svg.contains("crunch"));
    assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
    let encoded = cpu.pprof();
    let fields = fields_of(&encoded);
    let count = |field| fields.iter().filter(|(number, _)| *number == field).count();
    assert_eq!(
        (count(1), count(2)),
        (2, cpu.stacks.len()),
        "sample types and samples"
    );
    assert_eq!((count(4), count(5)), (cpu.frames.len(), cpu.frames.len()));
    let texts: Vec<&[u8]> = fields
        .iter()
        .filter(|(number, _)| *number == 6)
        .map(|(_, bytes)| *bytes)
        .collect();
    assert_eq!(texts[0], b"");
    assert!(texts.iter().any(|text| text.ends_with(b"crunch")));
}

/// The fields of a message: number and bytes, or no bytes for numbers.
fn fields_of(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let value = varint(&mut message);
        let bytes = match key & 7 {
            0 => &message[..0],
            2 => message.split_off(..value as usize).expect("it is that long"),
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, bytes));
    }
    fields
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes.split_off_first().expect("a number ends");
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

#[test]
fn two_profiles_do_not_run_at_once() {
    let _alone = alone();
    let config = Config {
        length: Duration::from_millis(20),
        ..Config::default()
    };
    let run = |inside: &mut dyn FnMut()| {
        let (clock, hand) = Clock::manual();
        let collector = Collector::new(config, clock).expect("the length is allowed");
        collector.run(|length| {
            inside();
            hand.advance(length);
        })
    };
    let mut inner = None;
    let outer = run(&mut || inner = Some(run(&mut || ())));
    assert!(outer.cpu.is_ok(), "{:?}", outer.cpu);
    assert_eq!(inner.unwrap().cpu, Err("another profile is running".to_owned()));
}

#[test]
fn lengths_and_rates_out_of_range_are_refused() {
    for length in [Duration::ZERO, Duration::from_secs(301)] {
        let config = Config { length, cpu: None };
        let error = Collector::new(config, Clock::real()).unwrap_err();
        assert!(matches!(error, Error::Length { .. }) && !error.is_retryable());
    }
    let _alone = alone();
    let config = Config {
        length: Duration::from_millis(1),
        cpu: Some(profile::cpu::Config {
            hertz: 1_000,
            source: Choice::Best,
        }),
    };
    let (clock, hand) = Clock::manual();
    let report = Collector::new(config, clock)
        .unwrap()
        .run(|length| hand.advance(length));
    assert_eq!(
        report.cpu,
        Err("1000 samples a second are outside 1 to 999".to_owned())
    );
    assert_eq!(
        report.length,
        Duration::from_millis(1),
        "the clock is the injected one"
    );
}

#[test]
fn a_contended_lock_is_found() {
    let _alone = alone();
    let lock = TimedMutex::new("contended on purpose", 0_u64);
    let (clock, hand) = Clock::manual();
    let config = Config {
        length: Duration::from_millis(50),
        cpu: None,
    };
    let report = Collector::new(config, clock).unwrap().run(|length| {
        std::thread::scope(|scope| {
            let held = lock.lock().unwrap();
            scope.spawn(|| *lock.lock().unwrap() += 1);
            // The other thread counts before it waits, so this ends when it does.
            while profile::lock::figures()
                .iter()
                .all(|l| l.name != "contended on purpose" || l.contended == 0)
            {
                std::thread::yield_now();
            }
            burns_on_purpose(&Clock::real(), Duration::from_millis(20));
            drop(held);
        });
        hand.advance(length);
    });
    let figures = report
        .locks
        .iter()
        .find(|l| l.name == "contended on purpose")
        .unwrap();
    assert_eq!((figures.acquisitions, figures.contended), (2, 1));
    assert!(figures.wait_ns >= 20_000_000 && figures.wait_max_ns <= figures.wait_ns);
    assert!(figures.wait_p99_ns >= 19_000_000, "{figures:?}");
    let found = findings::rank(&report, &Inputs::default());
    let finding = found
        .iter()
        .find(|f| f.kind == Kind::Contention && f.title_en.contains("on purpose"));
    assert!(finding.is_some_and(|f| f.score >= 40), "{found:#?}");
}

#[test]
fn a_timed_lock_is_a_lock() {
    let lock = TimedRwLock::new("plain", vec![1]);
    {
        let (first, second) = (lock.read().unwrap(), lock.read().unwrap());
        assert_eq!((first.len(), second.len()), (1, 1));
    }
    lock.write().unwrap().push(2);
    let figures = profile::lock::figures();
    let figures = figures.iter().find(|l| l.name == "plain").unwrap();
    assert_eq!(
        (figures.acquisitions, figures.contended, figures.wait_ns),
        (3, 0, 0)
    );

    let poisoned = TimedMutex::new("poisoned", 1);
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _held = poisoned.lock().unwrap();
        panic!("on purpose");
    }));
    assert!(unwound.is_err());
    assert!(poisoned.lock().is_err(), "std's rule holds");
}

#[test]
fn long_polls_are_counted_by_name() {
    let (clock, hand) = Clock::manual();
    let mut steps = [Duration::from_micros(10), Duration::from_millis(3)].into_iter();
    let future = std::future::poll_fn(|context| match steps.next() {
        Some(step) => {
            hand.advance(step);
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        }
        None => std::task::Poll::Ready(7),
    });
    let mut watched = std::pin::pin!(profile::poll::watch("a task", clock, future));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let output = loop {
        if let std::task::Poll::Ready(output) = watched.as_mut().poll(&mut context) {
            break output;
        }
    };
    assert_eq!(output, 7);
    let figures = profile::poll::figures();
    let figures = figures.iter().find(|p| p.name == "a task").unwrap();
    assert_eq!((figures.polls, figures.long_polls), (3, 1));
    assert_eq!((figures.busy_ns, figures.max_ns), (3_010_000, 3_000_000));
}

#[test]
fn findings_name_each_kind_with_its_change() {
    let report = report_with_everything();
    let inputs = Inputs {
        instances: vec![findings::Instances {
            name: "pools".into(),
            created: 50,
            hits: 50,
            creation_ns: 300_000_000,
            contended: 3,
        }],
        statements: vec![findings::Statement {
            text: "SELECT ? FROM t".into(),
            calls: 10,
            total_ns: 700_000_000,
            p99_ns: 90_000_000,
            rows: 10,
        }],
    };
    let found = findings::rank(&report, &inputs);
    let scores: Vec<(Kind, u32)> = found.iter().map(|f| (f.kind, f.score)).collect();
    let expected = [
        (Kind::Memory, 100),
        (Kind::SlowFunction, 80),
        (Kind::SlowStatement, 70),
        (Kind::RunQueue, 60),
        (Kind::Contention, 50),
        (Kind::Instances, 30),
        (Kind::LongPoll, 20),
    ];
    assert_eq!(scores, expected);
    for finding in &found {
        assert!(
            !finding.evidence.is_empty() && finding.change_en.len() > 20,
            "{finding:?}"
        );
        assert!(
            !finding.title_zh.is_ascii() && !finding.change_zh.is_ascii(),
            "{finding:?}"
        );
    }
}

fn report_with_everything() -> Report {
    Report {
        started_ms: 0,
        length: Duration::from_secs(1),
        cpu: Err("not asked for".into()),
        threads: vec![profile::threads::Figures {
            tid: 1,
            name: "shard-0".into(),
            cpu_ns: 300_000_000,
            run_delay_ns: 600_000_000,
            ..profile::threads::Figures::default()
        }],
        functions: vec![tidegate_vitals::span::Figures {
            name: "f".into(),
            calls: 100,
            total_ns: 800_000_000,
            mean_ns: 8_000_000.0,
            ..tidegate_vitals::span::Figures::default()
        }],
        locks: vec![profile::lock::Figures {
            name: "l".into(),
            acquisitions: 100,
            contended: 10,
            wait_ns: 500_000_000,
            ..profile::lock::Figures::default()
        }],
        polls: vec![profile::poll::Figures {
            name: "p".into(),
            polls: 400,
            long_polls: 200,
            busy_ns: 300_000_000,
            max_ns: 2_000_000,
        }],
        memory: profile::Memory {
            rss_before_bytes: 64 << 20,
            rss_after_bytes: 192 << 20,
        },
    }
}

#[test]
fn a_quiet_report_has_no_findings() {
    let report = Report {
        functions: Vec::new(),
        threads: Vec::new(),
        locks: Vec::new(),
        polls: Vec::new(),
        memory: profile::Memory::default(),
        ..report_with_everything()
    };
    assert_eq!(findings::rank(&report, &Inputs::default()), []);
}

#[test]
fn counts_reach_the_registry() {
    let registry = Registry::new();
    let mut watch = profile::Watch::new(&registry);
    let lock = TimedMutex::new("in the registry", ());
    drop(lock.lock());
    watch.tick();
    drop(lock.lock());
    watch.tick();
    let snapshot = registry.snapshot();
    let taken = snapshot
        .by_label(Id::LockAcquisitions)
        .find(|(name, _)| *name == "in the registry");
    assert_eq!(taken.map(|(_, value)| value.clone()), Some(Value::Counter(2)));
}

#[test]
fn a_profile_that_nobody_waits_for_ends_early() {
    let _alone = alone();
    let (clock, hand) = Clock::manual();
    let config = Config {
        length: Duration::from_secs(300),
        ..Config::default()
    };
    let collector = Collector::new(config, clock).expect("the length is allowed");
    let mut left = 3;
    let wait = |length| {
        hand.advance(length);
        left -= 1;
        left > 0
    };
    let mut is_measured = false;
    let report = collector.run_while(wait, || is_measured = true);
    assert!(is_measured);
    assert_eq!(report.length, Duration::from_millis(300));
    assert_eq!(report.cpu, Err("ended early".to_owned()));
}

#[test]
fn folded_lines_are_bounded_and_read_back() {
    let text = "main;a;[u8, 4]::b 7\nmain;a 2\nother 1\nno count\n";
    let (frames, stacks) = CpuProfile::parse_folded(text);
    let cpu = CpuProfile {
        source: Source::Signal,
        hertz: 99,
        length: Duration::from_secs(1),
        started_ms: 0,
        samples: 10,
        lost: 0,
        threads: 2,
        threads_refused: 0,
        frames,
        stacks,
    };
    assert_eq!(cpu.folded(), "main;a;[u8, 4]::b 7\nmain;a 2\nother 1\n");
    assert_eq!(cpu.folded_within(22), ("main;a;[u8, 4]::b 7\n".to_owned(), 3));
    assert_eq!(cpu.hottest(1)[0].function, "[u8, 4]::b");
    assert_eq!(
        Source::of_name(Source::PerfCycles.as_str()),
        Some(Source::PerfCycles)
    );
}

#[test]
fn polls_are_timed_only_while_recording() {
    let _alone = alone();
    let one = || profile::poll::watch_recording("polled while recording", std::future::ready(1));
    let count = || {
        let all = profile::poll::figures();
        all.iter()
            .find(|p| p.name == "polled while recording")
            .map_or(0, |p| p.polls)
    };
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut poll = || assert!(std::pin::pin!(one()).poll(&mut context).is_ready());
    poll();
    assert_eq!(count(), 0);
    let recording = tidegate_vitals::span::record();
    poll();
    drop(recording);
    poll();
    assert_eq!(count(), 1);
}
