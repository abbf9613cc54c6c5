//! A heap profile: which stacks hold how much, from the text that jemalloc dumps.
//!
//! The text begins with `heap_v2/<bytes between samples>`; each stack is a line `@ address …` with a line
//! `t*: <objects>: <bytes> […]` below it. Samples are scaled to what they stand for as jeprof does: an allocation of `s`
//! bytes was seen with the probability `1 − exp(−s / rate)`.

use std::collections::HashMap;

use super::symbol;
use crate::error::Error;

/// The sampled allocations that are alive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeapProfile {
    /// Bytes between two samples, on average.
    pub rate_bytes: u64,
    /// The stacks, largest first.
    pub sites: Vec<HeapSite>,
}

/// What one stack holds, scaled to all allocations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeapSite {
    /// Return addresses, innermost first.
    pub addresses: Vec<u64>,
    /// Bytes alive.
    pub bytes: u64,
    /// Objects alive.
    pub objects: u64,
}

// === impl HeapProfile ===

impl HeapProfile {
    /// Reads a dump.
    ///
    /// # Errors
    /// [`Error::HeapDump`] if the text is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |what: &str| Error::HeapDump(what.to_owned());
        let mut lines = text.lines();
        let head = lines.next().and_then(|line| line.strip_prefix("heap_v2/"));
        let rate_bytes: u64 = head
            .and_then(|rate| rate.trim().parse().ok())
            .ok_or_else(|| bad("it does not begin with heap_v2/<rate>"))?;
        let mut sites: HashMap<Vec<u64>, HeapSite> = HashMap::new();
        let mut stack = None;
        for line in lines.take_while(|line| !line.starts_with("MAPPED_LIBRARIES")) {
            if let Some(addresses) = line.strip_prefix('@') {
                stack = Some(parse_addresses(addresses).ok_or_else(|| bad("a stack is garbled"))?);
            } else if let Some(counts) = line.trim_start().strip_prefix("t*:") {
                // The first such line, before any stack, is the sum.
                let Some(addresses) = stack.take() else { continue };
                let (objects, bytes) = parse_counts(counts).ok_or_else(|| bad("a count is garbled"))?;
                let site = sites.entry(addresses).or_default();
                let factor = scale(objects, bytes, rate_bytes);
                site.objects += (objects as f64 * factor).round() as u64;
                site.bytes += (bytes as f64 * factor).round() as u64;
            }
        }
        let named = |(addresses, site): (_, HeapSite)| HeapSite { addresses, ..site };
        Ok(Self::new(rate_bytes, sites.into_iter().map(named).collect()))
    }

    /// Bytes alive over all stacks.
    pub fn bytes(&self) -> u64 {
        self.sites.iter().map(|site| site.bytes).sum()
    }

    /// What grew since `earlier`, largest growth first.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before: HashMap<_, _> = earlier.sites.iter().map(|site| (&site.addresses, site)).collect();
        let grown = self.sites.iter().map(|site| {
            let old = before.get(&site.addresses);
            HeapSite {
                addresses: site.addresses.clone(),
                bytes: site.bytes.saturating_sub(old.map_or(0, |old| old.bytes)),
                objects: site.objects.saturating_sub(old.map_or(0, |old| old.objects)),
            }
        });
        Self::new(self.rate_bytes, grown.filter(|site| site.bytes > 0).collect())
    }

    fn new(rate_bytes: u64, mut sites: Vec<HeapSite>) -> Self {
        // The address decides between equals, so that the order is the same each time.
        sites.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.addresses.cmp(&b.addresses)));
        Self { rate_bytes, sites }
    }
}

// === impl HeapSite ===

impl HeapSite {
    /// The functions of the stack, innermost first. Looking them up reads the program's debug information.
    pub fn functions(&self) -> Vec<String> {
        // A return address lies behind its call, perhaps already in the next function.
        self.addresses
            .iter()
            .map(|address| symbol(address.wrapping_sub(1)))
            .collect()
    }
}

fn parse_addresses(text: &str) -> Option<Vec<u64>> {
    text.split_ascii_whitespace()
        .map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect()
}

/// `<objects>: <bytes> […]`.
fn parse_counts(text: &str) -> Option<(u64, u64)> {
    let (objects, rest) = text.split_once(':')?;
    let bytes = rest.split_ascii_whitespace().next()?;
    Some((objects.trim().parse().ok()?, bytes.parse().ok()?))
}

fn scale(objects: u64, bytes: u64, rate_bytes: u64) -> f64 {
    if objects == 0 || bytes == 0 || rate_bytes == 0 {
        return 1.0;
    }
    let mean = bytes as f64 / objects as f64;
    1.0 / (1.0 - (-mean / rate_bytes as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "heap_v2/1000\n  t*: 3: 30 [0: 0]\n  t0: 3: 30 [0: 0]\n@ 0x10 0x20\n  t*: 1: 10 [0: 0]\n  t0: 1: 10 [0: 0]\n\
        @ 0x30\n  t*: 2: 200000 [0: 0]\n\nMAPPED_LIBRARIES:\n@ not a stack\n";

    #[test]
    fn a_dump_is_scaled_to_what_it_stands_for() {
        let profile = HeapProfile::parse(DUMP).unwrap();
        assert_eq!(profile.rate_bytes, 1000);
        assert_eq!(profile.sites.len(), 2);
        assert_eq!(
            (profile.sites[0].addresses.as_slice(), profile.sites[0].bytes),
            (&[0x30][..], 200_000)
        );
        // One of a hundred allocations of ten bytes is seen.
        assert_eq!((profile.sites[1].objects, profile.sites[1].bytes), (101, 1005));
    }

    #[test]
    fn growth_is_by_stack() {
        let site = |address, bytes| HeapSite {
            addresses: vec![address],
            bytes,
            objects: 1,
        };
        let old = HeapProfile::new(1, vec![site(1, 100), site(2, 50), site(3, 9)]);
        let new = HeapProfile::new(1, vec![site(1, 110), site(2, 90), site(4, 5), site(3, 9)]);
        let grown: Vec<_> = new
            .since(&old)
            .sites
            .iter()
            .map(|s| (s.addresses[0], s.bytes))
            .collect();
        assert_eq!(grown, [(2, 40), (1, 10), (4, 5)]);
    }

    #[test]
    fn garbage_is_refused() {
        for text in [
            "",
            "heap_v1/1\n",
            "heap_v2/x\n",
            "heap_v2/1\n@ 0xzz\n",
            "heap_v2/1\n@ 0x1\n t*: x\n",
        ] {
            assert!(
                matches!(HeapProfile::parse(text), Err(Error::HeapDump(_))),
                "{text:?}"
            );
        }
    }
}
