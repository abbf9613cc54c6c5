//! A bounded run of the fuzz corpus: seeds of crates/tidegate/fuzz, mutated from a fixed start.

use std::path::Path;

use crate::harness;

/// About two seconds without optimisation.
const ITERATIONS: u32 = 50_000;
/// Mutants may grow, but not beyond what is interesting.
const MUTANT_BYTES_MAX: usize = 1_024;

/// Marsaglia's xorshift64: the same mutants in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/bridge");
    let mut paths: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 8, "{} seeds", paths.len());
    paths
        .into_iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// One change: flip a bit, set, remove, repeat or insert bytes, or splice in another seed.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    const INTERESTING: [u8; 16] = [
        0, 0x80, 0x8f, 0x91, 0xc0, 0xc1, 0xc4, 0xc7, 0xd9, 0xdd, 0xdf, 0xff, b'"', b'{', b'[', b'\\',
    ];
    let at = random.below(bytes.len());
    let end = (at + random.below(9)).min(bytes.len());
    match random.below(6) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = INTERESTING[random.below(16)],
        2 => drop(bytes.drain(at..end)),
        3 => bytes.extend_from_within(at..end),
        4 => bytes.insert(at, INTERESTING[random.below(16)]),
        _ => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len())..]);
        }
    }
    bytes.truncate(MUTANT_BYTES_MAX);
}

#[test]
fn mutated_messages_of_publishers_never_panic() {
    let seeds = seeds();
    seeds.iter().for_each(|seed| harness::bridge(seed));
    let mut random = Random(0x7469_6465_6761_7465);
    for _ in 0..ITERATIONS {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            let other = &seeds[random.below(seeds.len())];
            mutate(&mut bytes, other, &mut random);
        }
        harness::bridge(&bytes);
    }
}
