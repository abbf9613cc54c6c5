//! permessage-deflate: negotiation, small windows, final blocks, limits.

use flate2::{Decompress, FlushDecompress, Status};
use tidegate_wire::deflate::{Deflater, InflateError, Inflater, negotiate};

use crate::distance::farthest;
use crate::support::noise;

const BASE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

#[test]
fn first_acceptable_offer_is_taken() {
    fn check(header: &str, expected: Option<(&str, u8)>) {
        let agreed = negotiate(header).map(|agreed| (agreed.response, agreed.server_window_bits));
        let expected = expected.map(|(rest, bits)| (format!("{BASE}{rest}"), bits));
        assert_eq!(agreed, expected, "{header}");
    }
    check("permessage-deflate", Some(("", 15)));
    check("permessage-deflate; client_max_window_bits", Some(("", 15)));
    check("permessage-deflate;client_max_window_bits=8", Some(("", 15)));
    check(
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        Some(("", 15)),
    );
    check(
        "permessage-deflate; server_max_window_bits=10",
        Some(("; server_max_window_bits=10", 10)),
    );
    check(
        "permessage-deflate ; server_max_window_bits = \"9\"",
        Some(("; server_max_window_bits=9", 9)),
    );
    check(
        "permessage-deflate; server_max_window_bits=8",
        Some(("; server_max_window_bits=8", 8)),
    );
    check(
        "permessage-deflate; server_max_window_bits=15",
        Some(("; server_max_window_bits=15", 15)),
    );
    check("x-webkit-deflate-frame, permessage-deflate", Some(("", 15)));
    check(
        "permessage-deflate; server_max_window_bits=7, permessage-deflate; server_max_window_bits=12",
        Some(("; server_max_window_bits=12", 12)),
    );
    check(
        "foo; bar=\"a,permessage-deflate;\\\"b\", permessage-deflate",
        Some(("", 15)),
    );

    for declined in [
        "",
        "permessage-bzip2",
        "foo; bar=\"permessage-deflate, permessage-deflate\"",
        "permessage-deflate;",
        "permessage-deflate; unknown",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=\"10",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
    ] {
        check(declined, None);
    }
}

/// Noise with repetitions at distances up to 40,000 bytes, some of them near.
fn repetitions() -> Vec<u8> {
    let mut data = noise(40_000);
    for n in 0..4000 {
        let back = 16 + n * 7919 % 39_000;
        data.extend_from_within(data.len() - back..data.len() - back + 16);
    }
    data
}

#[test]
fn deflater_stays_within_the_window_it_was_given() {
    let (data, mut inflater) = (repetitions(), Inflater::new());
    for level in [1, 6, 9] {
        let mut deflater = Deflater::new(level);
        for window_bits in 9..=15 {
            // Twice: a reset must keep the window.
            for _ in 0..2 {
                let deflated = deflater.deflate(&data, window_bits).unwrap();
                let (farthest, window) = (farthest(&deflated), 1 << window_bits);
                assert!(
                    farthest <= window,
                    "level {level}, window {window}: refers to {farthest}"
                );
                assert!(
                    farthest > window / 4,
                    "level {level}, window {window}: only {farthest} used"
                );
                assert!(inflater.inflate(&deflated, data.len()).unwrap() == data);
            }
        }
    }
}

#[test]
fn peers_with_a_small_window_can_inflate() {
    let data = repetitions();
    let mut deflater = Deflater::new(6);
    for window_bits in 9..=15 {
        let deflated = deflater.deflate(&data, window_bits).unwrap();
        let input = [&deflated[..], &[0, 0, 0xff, 0xff, 3, 0]].concat();
        let (mut peer, mut out) = (Decompress::new_with_window_bits(false, window_bits), Vec::new());
        let mut status = Status::Ok;
        while status != Status::StreamEnd {
            // Little output at a time leaves the peer nothing but its window to copy from.
            let (mut piece, at, before) = ([0; 16], peer.total_in() as usize, peer.total_out());
            status = peer
                .decompress(&input[at..], &mut piece, FlushDecompress::None)
                .unwrap();
            out.extend_from_slice(&piece[..(peer.total_out() - before) as usize]);
        }
        assert!(out == data, "window bits {window_bits}");
    }
}

#[test]
fn windows_outside_nine_to_fifteen_are_not_compressed() {
    let mut deflater = Deflater::new(6);
    for window_bits in [0, 8, 16, 255] {
        assert_eq!(deflater.deflate(b"tide", window_bits), None);
    }
}

#[test]
fn shared_streams_keep_nothing_between_messages() {
    let (mut deflater, mut inflater) = (Deflater::new(6), Inflater::new());
    let first = deflater.deflate(b"the same words again", 15).unwrap();
    let second = deflater.deflate(b"the same words again", 15).unwrap();
    assert_eq!(first, second);
    assert_eq!(inflater.inflate(b"\xff\xff", 100), Err(InflateError::Corrupt));
    assert_eq!(inflater.inflate(&second, 100).unwrap(), b"the same words again");
    assert_eq!(deflater.deflate(b"", 15).unwrap(), [0]);
}

#[test]
fn tail_is_removed_and_restored_at_every_size() {
    // Sizes around the output buffer's, where a flush may need a second call.
    let (mut deflater, mut inflater) = (Deflater::new(1), Inflater::new());
    let noise = noise(3000);
    for len in (0..300).chain(2700..3000) {
        let deflated = deflater.deflate(&noise[..len], 12).unwrap();
        assert_eq!(inflater.inflate(&deflated, len).unwrap(), &noise[..len]);
    }
}

#[test]
fn inflation_stops_at_the_limit() {
    let (mut deflater, mut inflater) = (Deflater::new(9), Inflater::new());
    let bomb = deflater.deflate(&vec![0; 1_000_000], 15).unwrap();
    for max in [0, 1, 511, 512, 513, 65_536, 999_999] {
        assert_eq!(inflater.inflate(&bomb, max), Err(InflateError::TooBig { max }));
    }
    assert_eq!(inflater.inflate(&bomb, 1_000_000).unwrap().len(), 1_000_000);
    assert_eq!(inflater.inflate(b"\x00", 0).unwrap(), b"");
}

#[test]
fn final_blocks_are_accepted_and_counted() {
    fn check(deflated: &[u8], expected: Result<&[u8], InflateError>) {
        assert_eq!(
            Inflater::new().inflate(deflated, 1000).as_deref(),
            expected.as_ref().copied()
        );
    }
    let hello = b"\xf3\x48\xcd\xc9\xc9\x07\x00";
    check(hello, Ok(b"Hello"));
    check(&[&hello[..], b"\x00"].concat(), Ok(b"Hello"));
    check(&[&hello[..], hello, b"\x00"].concat(), Ok(b"HelloHello"));
    check(b"\x01", Ok(b""));
    check(&b"\x03\x00".repeat(64), Ok(b""));
    check(&b"\x03\x00".repeat(65), Err(InflateError::Corrupt));
    check(&[&hello[..], b"\x00garbage"].concat(), Err(InflateError::Corrupt));
}

#[test]
fn truncated_messages_are_corrupt() {
    // One block of text: no cut can fall between two blocks.
    let text: String = (0..300)
        .map(|n| format!("{{\"symbol\":{n},\"price\":{}}}", n * 37))
        .collect();
    let deflated = Deflater::new(6).deflate(text.as_bytes(), 15).unwrap();
    let mut inflater = Inflater::new();
    for len in (1..deflated.len()).step_by(3) {
        assert_eq!(
            inflater.inflate(&deflated[..len], 1 << 20),
            Err(InflateError::Corrupt),
            "{len} bytes"
        );
    }
    assert_eq!(inflater.inflate(b"", 10).unwrap(), b"");
}
