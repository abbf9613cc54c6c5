//! A second reading of deflate (RFC 1951), only to learn how far back a stream refers.

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A canonical Huffman code: how many codes each length has, and the symbols in order.
struct Code {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

impl Bits<'_> {
    fn take(&mut self, n: u32) -> usize {
        (0..n).fold(0, |value, bit| {
            let next = self.bytes[self.at / 8] >> (self.at % 8) & 1;
            self.at += 1;
            value | usize::from(next) << bit
        })
    }

    fn symbol(&mut self, code: &Code) -> usize {
        let (mut value, mut first, mut index) = (0, 0, 0);
        for count in &code.counts[1..] {
            value |= self.take(1);
            if value < first + count {
                return code.symbols[index + value - first];
            }
            index += count;
            first = (first + count) << 1;
            value <<= 1;
        }
        panic!("no such code at bit {}", self.at);
    }
}

impl Code {
    fn new(lengths: &[usize]) -> Self {
        let mut counts = [0; 16];
        lengths.iter().for_each(|length| counts[*length] += 1);
        counts[0] = 0;
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|symbol| lengths[*symbol] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        Self { counts, symbols }
    }
}

/// The farthest distance in blocks without a final one, to their end; panics if they are not deflate.
pub(crate) fn farthest(deflated: &[u8]) -> usize {
    let input = [deflated, &[0, 0, 0xff, 0xff]].concat();
    let mut bits = Bits { bytes: &input, at: 0 };
    let mut farthest = 0;
    while bits.at < input.len() * 8 {
        assert_eq!(bits.take(1), 0, "no final block");
        match bits.take(2) {
            0 => skip_stored(&mut bits),
            1 => farthest = farthest.max(block(&mut bits, &fixed(), &Code::new(&[5; 30]))),
            2 => {
                let (literals, distances) = dynamic(&mut bits);
                farthest = farthest.max(block(&mut bits, &literals, &distances));
            }
            _ => panic!("reserved block type"),
        }
    }
    farthest
}

fn skip_stored(bits: &mut Bits<'_>) {
    bits.at = bits.at.next_multiple_of(8);
    let len = bits.take(16);
    assert_eq!(len ^ 0xffff, bits.take(16));
    bits.at += len * 8;
}

fn fixed() -> Code {
    let lengths: Vec<usize> = (0..288)
        .map(|symbol| match symbol {
            0..=143 | 280..=287 => 8,
            144..=255 => 9,
            _ => 7,
        })
        .collect();
    Code::new(&lengths)
}

fn dynamic(bits: &mut Bits<'_>) -> (Code, Code) {
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    let (literals, distances, used) = (bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4);
    let mut lengths = [0; 19];
    ORDER[..used]
        .iter()
        .for_each(|symbol| lengths[*symbol] = bits.take(3));
    let code = Code::new(&lengths);
    let mut lengths = Vec::new();
    while lengths.len() < literals + distances {
        let (value, times) = match bits.symbol(&code) {
            16 => (*lengths.last().expect("a length to repeat"), 3 + bits.take(2)),
            17 => (0, 3 + bits.take(3)),
            18 => (0, 11 + bits.take(7)),
            length => (length, 1),
        };
        lengths.resize(lengths.len() + times, value);
    }
    (Code::new(&lengths[..literals]), Code::new(&lengths[literals..]))
}

fn block(bits: &mut Bits<'_>, literals: &Code, distances: &Code) -> usize {
    let mut farthest = 0;
    loop {
        match bits.symbol(literals) {
            0..=255 => continue,
            256 => return farthest,
            length @ 265..=284 => drop(bits.take((length as u32 - 261) / 4)),
            _ => {}
        }
        let symbol = bits.symbol(distances) as u32;
        let extra = (symbol / 2).saturating_sub(1);
        let base = if symbol < 4 {
            symbol as usize
        } else {
            (2 + symbol as usize % 2) << extra
        };
        farthest = farthest.max(base + bits.take(extra) + 1);
    }
}
