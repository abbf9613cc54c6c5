//! The strict cases that public WebSocket suites ask about, from RFC 6455 and RFC 7692.

use tidegate_wire::deflate::{Deflater, InflateError};
use tidegate_wire::websocket::{OpCode, WsError, WsEvent};

use crate::support::{DEFLATE, MASK, SERVER, frame, read, read_every_way};

use OpCode::{Binary, Close, Continuation, Ping, Pong, Text};

/// A masked frame whose two header bytes are given, for what no encoder would write.
fn raw(first: u8, second: u8, extended: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first, second];
    out.extend(extended);
    out.extend(MASK);
    out.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ MASK[n % 4]));
    out
}

fn text(text: &str) -> WsEvent<'static> {
    WsEvent::Text(text.to_owned().into())
}

fn ping(payload: &str) -> WsEvent<'static> {
    WsEvent::Ping(payload.as_bytes().to_vec().into())
}

#[track_caller]
fn check_error(stream: &[u8], expected: WsError, close_code: u16) {
    let (_, error) = read_every_way(stream, &SERVER).unwrap_err();
    assert_eq!(error, expected);
    assert_eq!(error.close_code(), close_code);
    assert!(!error.is_retryable());
}

#[test]
fn payloads_of_every_length_class_echo() {
    for len in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
        let payload = vec![b'*'; len];
        let stream = frame(Text, true, false, &payload);
        let expected = [text(&"*".repeat(len))];
        assert_eq!(read([&stream[..]], &SERVER).unwrap(), expected);
        assert_eq!(read(stream.chunks(997), &SERVER).unwrap(), expected);
    }
}

#[test]
fn control_frames_are_short_and_whole() {
    for op in [Close, Ping, Pong] {
        let byte = op as u8;
        check_error(
            &raw(0x80 | byte, 0x80 | 126, &[0, 126], &[0; 126]),
            WsError::LongControl { op },
            1002,
        );
        check_error(
            &raw(0x80 | byte, 0x80 | 127, &[0; 8], b""),
            WsError::LongControl { op },
            1002,
        );
        check_error(
            &raw(byte, 0x80, b"", b""),
            WsError::FragmentedControl { op },
            1002,
        );
    }
    let longest = frame(Ping, true, false, &[0xfe; 125]);
    assert_eq!(
        read_every_way(&longest, &SERVER).unwrap(),
        [WsEvent::Ping(vec![0xfe; 125].into())]
    );
    let empty = frame(Pong, true, false, b"");
    assert_eq!(
        read_every_way(&empty, &SERVER).unwrap(),
        [WsEvent::Pong(Vec::new().into())]
    );
}

#[test]
fn reserved_bits_are_refused() {
    for first in [0x90, 0xa0, 0xb0] {
        for op in [Text, Binary, Close, Ping, Pong] {
            let error = WsError::ReservedBits { bits: first & 0x30 };
            check_error(&raw(first | op as u8, 0x80, b"", b""), error, 1002);
        }
    }
    for op in [Text, Binary, Close, Ping, Pong] {
        check_error(
            &raw(0xc0 | op as u8, 0x80, b"", b""),
            WsError::UnexpectedRsv1 { op },
            1002,
        );
    }
}

#[test]
fn rsv1_is_legal_on_the_first_frame_of_a_message_only() {
    for op in [Close, Ping, Pong] {
        let (_, error) = read_every_way(&raw(0xc0 | op as u8, 0x80, b"", b""), &DEFLATE).unwrap_err();
        assert_eq!(error, WsError::UnexpectedRsv1 { op });
    }
    for first_compressed in [false, true] {
        let mut stream = frame(Text, false, first_compressed, b"\x00");
        stream.extend(frame(Continuation, true, true, b""));
        let (_, error) = read_every_way(&stream, &DEFLATE).unwrap_err();
        assert_eq!(error, WsError::UnexpectedRsv1 { op: Continuation });
    }
}

#[test]
fn reserved_opcodes_are_refused() {
    for op_code in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        check_error(
            &raw(0x80 | op_code, 0x80, b"", b""),
            WsError::ReservedOpCode { op_code },
            1002,
        );
        check_error(&[0x80 | op_code], WsError::ReservedOpCode { op_code }, 1002);
    }
}

#[test]
fn lengths_are_minimal_and_positive() {
    fn check(second: u8, field: &[u8], expected: WsError) {
        check_error(&raw(0x82, 0x80 | second, field, b""), expected, 1002);
    }
    check(
        126,
        &[0, 125],
        WsError::NotMinimalLength {
            payload_bytes: 125,
            length_bytes: 2,
        },
    );
    check(
        126,
        &[0, 0],
        WsError::NotMinimalLength {
            payload_bytes: 0,
            length_bytes: 2,
        },
    );
    let field = 65_535u64.to_be_bytes();
    check(
        127,
        &field,
        WsError::NotMinimalLength {
            payload_bytes: 65_535,
            length_bytes: 8,
        },
    );
    check(
        127,
        &[0xff; 8],
        WsError::LengthTopBit {
            payload_bytes: u64::MAX,
        },
    );
    check(
        127,
        &(1u64 << 63).to_be_bytes(),
        WsError::LengthTopBit {
            payload_bytes: 1 << 63,
        },
    );
}

#[test]
fn fragments_join_around_control_frames() {
    let mut stream = frame(Text, false, false, b"frag");
    stream.extend(frame(Ping, true, false, b"one"));
    stream.extend(frame(Continuation, false, false, b""));
    stream.extend(frame(Continuation, false, false, b"men"));
    stream.extend(frame(Ping, true, false, b"two"));
    stream.extend(frame(Continuation, true, false, b"t"));
    stream.extend(frame(Text, true, false, b"next"));
    let events = read_every_way(&stream, &SERVER).unwrap();
    assert_eq!(events, [ping("one"), ping("two"), text("fragment"), text("next")]);
}

#[test]
fn empty_fragments_make_an_empty_message() {
    let mut stream = frame(Text, false, false, b"");
    stream.extend(frame(Continuation, false, false, b""));
    stream.extend(frame(Continuation, true, false, b""));
    assert_eq!(read_every_way(&stream, &SERVER).unwrap(), [text("")]);
}

#[test]
fn fragments_out_of_order_are_refused() {
    check_error(
        &frame(Continuation, true, false, b"x"),
        WsError::OrphanContinuation,
        1002,
    );
    check_error(
        &frame(Continuation, false, false, b"x"),
        WsError::OrphanContinuation,
        1002,
    );
    for op in [Text, Binary] {
        for fin in [false, true] {
            let mut stream = frame(Text, false, false, b"first");
            stream.extend(frame(op, fin, false, b"second"));
            check_error(&stream, WsError::InterruptedMessage { op }, 1002);
        }
    }
    let mut stream = frame(Text, true, false, b"whole");
    stream.extend(frame(Continuation, true, false, b"x"));
    check_error(&stream, WsError::OrphanContinuation, 1002);
}

#[test]
fn close_frames_are_judged() {
    fn check(payload: &[u8], code: Option<u16>, reason: &'static str) {
        let events = read_every_way(&frame(Close, true, false, payload), &SERVER).unwrap();
        assert_eq!(
            events,
            [WsEvent::Close {
                code,
                reason: reason.into()
            }]
        );
    }
    check(b"", None, "");
    check(b"\x03\xe8", Some(1000), "");
    check(b"\x03\xe8\xe6\xbd\xae", Some(1000), "潮");
    check_error(&frame(Close, true, false, b"\x03"), WsError::ShortClose, 1002);
    let invalid = b"\x03\xe8\xce\xba\xed\xa0\x80";
    check_error(
        &frame(Close, true, false, invalid),
        WsError::InvalidUtf8 { op: Close },
        1007,
    );
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999,
    ] {
        check(&u16::to_be_bytes(code), Some(code), "");
    }
    for code in [
        0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        check_error(
            &frame(Close, true, false, &code.to_be_bytes()),
            WsError::CloseCode { code },
            1002,
        );
    }
}

/// Byte strings that are not UTF-8, and how many of their bytes it takes to know.
const INVALID: [(&[u8], usize); 20] = [
    (b"\x80", 1),
    (b"\xbf", 1),
    (b"\xfe", 1),
    (b"\xff", 1),
    (b"\xc0\xaf", 1),
    (b"\xc1\xbf", 1),
    (b"\xe0\x80\xaf", 2),
    (b"\xe0\x9f\xbf", 2),
    (b"\xf0\x80\x80\xaf", 2),
    (b"\xf0\x8f\xbf\xbf", 2),
    (b"\xf5\x80\x80\x80", 1),
    (b"\xf8\x88\x80\x80\x80", 1),
    (b"\xf4\x90\x80\x80", 2),
    (b"\xed\xa0\x80", 2),
    (b"\xed\xbf\xbf", 2),
    (b"\xed\xa0\x80\xed\xb0\x80", 2),
    (b"\xc3\x28", 2),
    (b"\xe2\x82\x28", 3),
    (b"\xf0\x9f\x98\x28", 4),
    (b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80\x80edited", 7),
];

#[test]
fn invalid_utf8_fails_in_whole_messages_and_in_fragments() {
    for (bytes, _) in INVALID {
        check_error(
            &frame(Text, true, false, bytes),
            WsError::InvalidUtf8 { op: Text },
            1007,
        );
        for at in 0..=bytes.len() {
            let mut stream = frame(Text, false, false, &bytes[..at]);
            stream.extend(frame(Continuation, true, false, &bytes[at..]));
            check_error(&stream, WsError::InvalidUtf8 { op: Text }, 1007);
        }
    }
}

#[test]
fn invalid_utf8_fails_on_the_first_impossible_byte() {
    for prefix in [
        "",
        "κόσμε ",
        "潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮潮",
    ] {
        for (bytes, needed) in INVALID {
            let payload = [prefix.as_bytes(), bytes, &[b'x'; 1000]].concat();
            let stream = frame(Text, true, false, &payload);
            let bad = stream.len() - payload.len() + prefix.len() + needed;
            assert_eq!(
                read_every_way(&stream[..bad - 1], &SERVER),
                Ok(Vec::new()),
                "{bytes:x?}"
            );
            let (_, error) = read_every_way(&stream[..bad], &SERVER).unwrap_err();
            assert_eq!(error, WsError::InvalidUtf8 { op: Text }, "{bytes:x?}");
        }
    }
}

#[test]
fn incomplete_utf8_fails_at_the_end_of_the_message() {
    let whole = "κόσμε😀".as_bytes();
    for len in 1..whole.len() {
        let is_boundary = std::str::from_utf8(&whole[..len]).is_ok();
        let one = read_every_way(&frame(Text, true, false, &whole[..len]), &SERVER);
        let mut stream = frame(Text, false, false, &whole[..len]);
        stream.extend(frame(Continuation, true, false, b""));
        let two = read_every_way(&stream, &SERVER);
        assert_eq!(
            (one.is_ok(), two.is_ok()),
            (is_boundary, is_boundary),
            "{len} bytes"
        );
    }
}

#[test]
fn valid_utf8_passes_at_the_edges_of_its_ranges() {
    let samples = [
        "\0",
        "\u{7f}",
        "\u{80}",
        "\u{7ff}",
        "\u{800}",
        "\u{d7ff}",
        "\u{e000}",
        "\u{fffd}",
        "\u{fffe}",
        "\u{ffff}",
        "\u{10000}",
        "\u{10ffff}",
        "Hello-µ@ßöäüàá-UTF-8!!",
    ];
    for sample in samples {
        assert_eq!(
            read_every_way(&frame(Text, true, false, sample.as_bytes()), &SERVER).unwrap(),
            [text(sample)]
        );
        let stream: Vec<u8> = sample
            .as_bytes()
            .iter()
            .enumerate()
            .flat_map(|(n, byte)| frame(if n == 0 { Text } else { Continuation }, false, false, &[*byte]))
            .chain(frame(Continuation, true, false, b""))
            .collect();
        assert_eq!(read_every_way(&stream, &SERVER).unwrap(), [text(sample)]);
    }
}

#[test]
fn compressed_messages_come_whole_or_in_fragments() {
    let message = "{\"symbol\":\"600519\",\"price\":1499.5}".repeat(40);
    for window_bits in 9..=15 {
        let deflated = Deflater::new(6).deflate(message.as_bytes(), window_bits).unwrap();
        let whole = frame(Text, true, true, &deflated);
        assert_eq!(read_every_way(&whole, &DEFLATE).unwrap(), [text(&message)]);
        for size in [1, 7, 64] {
            let n_parts = deflated.len().div_ceil(size);
            let mut stream = Vec::new();
            for (n, part) in deflated.chunks(size).enumerate() {
                let op = if n == 0 { Text } else { Continuation };
                stream.extend(frame(op, n + 1 == n_parts, n == 0, part));
                stream.extend(frame(Pong, true, false, b""));
            }
            stream.extend(frame(Text, true, false, b"plain"));
            let events = read(stream.chunks(5), &DEFLATE).unwrap();
            let texts: Vec<_> = events
                .into_iter()
                .filter(|event| matches!(event, WsEvent::Text(_)))
                .collect();
            assert_eq!(texts, [text(&message), text("plain")]);
        }
    }
}

#[test]
fn bad_compressed_messages_are_refused() {
    fn check(payload: &[u8], expected: WsError) {
        let (_, error) = read_every_way(&frame(Text, true, true, payload), &DEFLATE).unwrap_err();
        assert_eq!(error, expected);
        assert_eq!(error.close_code(), 1007);
    }
    let corrupt = |compressed_bytes| WsError::Deflate {
        compressed_bytes,
        source: InflateError::Corrupt,
    };
    check(b"\xff\xff\xff", corrupt(3));
    let mut deflater = Deflater::new(6);
    let deflated = deflater.deflate(&[b'x'; 500], 15).unwrap();
    check(&deflated[..deflated.len() - 2], corrupt(deflated.len() - 2));
    check(
        &deflater.deflate(b"\xce\xba\xff", 15).unwrap(),
        WsError::InvalidUtf8 { op: Text },
    );
}
