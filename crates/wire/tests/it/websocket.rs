//! WebSocket encoding, limits, memory and the handshake.

use std::borrow::Cow;

use tidegate_wire::deflate::{Deflater, Inflater};
use tidegate_wire::websocket::{
    OpCode, Reader, ReaderConfig, Role, WsError, WsEvent, accept_key, put_close, put_frame, put_header,
};

use crate::support::{DEFLATE, MASK, SERVER, frame, noise, read, read_every_way};

#[test]
fn accept_key_is_that_of_the_rfc() {
    assert_eq!(
        accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
}

#[test]
fn headers_use_the_shortest_length() {
    fn check(payload_len: usize, expected: &[u8]) {
        let mut out = Vec::new();
        put_header(&mut out, OpCode::Binary, true, false, payload_len);
        assert_eq!(out, expected);
    }
    check(0, &[0x82, 0]);
    check(125, &[0x82, 125]);
    check(126, &[0x82, 126, 0, 126]);
    check(65_535, &[0x82, 126, 0xff, 0xff]);
    check(65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn header_bits_are_where_the_rfc_puts_them() {
    fn check(op: OpCode, fin: bool, rsv1: bool, expected: u8) {
        let mut out = Vec::new();
        put_header(&mut out, op, fin, rsv1, 0);
        assert_eq!(out, [expected, 0]);
    }
    check(OpCode::Text, true, false, 0x81);
    check(OpCode::Text, true, true, 0xc1);
    check(OpCode::Text, false, true, 0x41);
    check(OpCode::Continuation, false, false, 0x00);
    check(OpCode::Continuation, true, false, 0x80);
    check(OpCode::Pong, true, false, 0x8a);
}

#[test]
fn close_reason_is_cut_on_a_character() {
    fn check(reason: &str, expected: &str) {
        let mut out = Vec::new();
        put_close(&mut out, 1001, reason);
        assert!(out.len() <= 127);
        let client = ReaderConfig {
            role: Role::Client,
            ..SERVER
        };
        let events = read_every_way(&out, &client).unwrap();
        assert_eq!(
            events,
            [WsEvent::Close {
                code: Some(1001),
                reason: expected.into()
            }]
        );
    }
    check("", "");
    check("going away", "going away");
    check(&"x".repeat(200), &"x".repeat(123));
    check(&"断".repeat(60), &"断".repeat(41));
    check(&format!("x{}", "断".repeat(60)), &format!("x{}", "断".repeat(40)));
}

#[test]
fn idle_reader_is_two_words_at_most() {
    assert!(size_of::<Reader>() <= 16);
}

#[test]
fn reader_gives_its_memory_back_after_each_message() {
    let (mut reader, mut inflater) = (Reader::new(), Inflater::new());
    let mut stream = frame(OpCode::Text, false, false, &[b'x'; 1000]);
    stream.extend(frame(OpCode::Ping, true, false, b"still there?"));
    stream.extend(frame(OpCode::Continuation, true, false, &[b'y'; 1000]));
    let mut held = 0;
    for mut byte in stream {
        reader
            .step(std::slice::from_mut(&mut byte), &SERVER, &mut inflater)
            .unwrap();
        held = held.max(reader.buffered());
    }
    assert!((2000..8000).contains(&held), "held {held} bytes at most");
    assert_eq!(reader.buffered(), 0);
}

#[test]
fn whole_frames_are_borrowed_from_the_buffer() {
    let mut buf = frame(OpCode::Text, true, false, "κόσμε".as_bytes());
    buf.extend(frame(OpCode::Binary, true, false, &[7; 300]));
    buf.extend(frame(OpCode::Ping, true, false, b"p"));
    let (mut reader, mut inflater, mut at) = (Reader::new(), Inflater::new(), 0);
    for _ in 0..3 {
        let step = reader.step(&mut buf[at..], &SERVER, &mut inflater).unwrap();
        at += step.consumed;
        assert!(matches!(
            step.event.unwrap(),
            WsEvent::Text(Cow::Borrowed("κόσμε"))
                | WsEvent::Binary(Cow::Borrowed(_))
                | WsEvent::Ping(Cow::Borrowed(b"p"))
        ));
        assert_eq!(reader.buffered(), 0);
    }
    assert_eq!(at, buf.len());
}

#[test]
fn declared_length_above_the_limit_is_refused_from_the_header() {
    fn check(config: ReaderConfig, stream: &[u8], bytes: u64) {
        let (_, error) = read_every_way(stream, &config).unwrap_err();
        assert_eq!(error, WsError::TooBig { bytes, max: 1000 });
        assert_eq!(error.close_code(), 1009);
    }
    let server = ReaderConfig {
        message_bytes_max: 1000,
        ..SERVER
    };
    let mut client = Vec::new();
    put_header(&mut client, OpCode::Binary, true, false, 1 << 40);
    check(
        ReaderConfig {
            role: Role::Client,
            ..server
        },
        &client,
        1 << 40,
    );
    check(
        server,
        &frame(OpCode::Text, true, false, &[b'x'; 1001])[..8],
        1001,
    );

    let mut fragments = frame(OpCode::Text, false, false, &[b'x'; 600]);
    fragments.extend(&frame(OpCode::Continuation, true, false, &[b'x'; 401])[..8]);
    check(server, &fragments, 1001);
}

#[test]
fn message_of_exactly_the_limit_passes() {
    let config = ReaderConfig {
        message_bytes_max: 1000,
        ..DEFLATE
    };
    let noise = noise(1000);
    let deflated = Deflater::new(6).deflate(&noise, 15).unwrap();
    assert!(deflated.len() > 1000, "noise does not shrink");
    for stream in [
        frame(OpCode::Binary, true, false, &noise),
        frame(OpCode::Binary, true, true, &deflated),
    ] {
        let events = read_every_way(&stream, &config).unwrap();
        assert_eq!(events, [WsEvent::Binary(noise.clone().into())]);
    }
}

#[test]
fn deflate_bomb_is_refused_while_it_inflates() {
    let config = ReaderConfig {
        message_bytes_max: 100_000,
        ..DEFLATE
    };
    let bomb = Deflater::new(9).deflate(&vec![0; 10_000_000], 15).unwrap();
    assert!(bomb.len() < 20_000);
    let (_, error) = read([&frame(OpCode::Binary, true, true, &bomb)[..]], &config).unwrap_err();
    assert_eq!(
        error,
        WsError::TooBig {
            bytes: 100_001,
            max: 100_000
        }
    );
}

#[test]
fn sixteen_mebibytes_in_tiny_pieces_take_linear_time() {
    // Quadratic work would be 2 TB of copies: this test would not end.
    let text = "tide gate κόσμε ".repeat((1 << 24) / 21);
    let config = ReaderConfig {
        message_bytes_max: 1 << 24,
        ..SERVER
    };
    let mut stream = Vec::new();
    for (n, part) in text.as_bytes().chunks(1 << 20).enumerate() {
        let op = if n == 0 {
            OpCode::Text
        } else {
            OpCode::Continuation
        };
        stream.extend(frame(op, (n + 1) << 20 >= text.len(), false, part));
    }
    let events = read(stream.chunks(64), &config).unwrap();
    assert!(events == [WsEvent::Text(text.into())]);
}

#[test]
fn unmasking_agrees_with_the_byte_by_byte_definition() {
    for len in 0..70usize {
        let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let bytes = frame(OpCode::Binary, true, false, &payload);
        let by_hand: Vec<u8> = payload
            .iter()
            .enumerate()
            .map(|(n, byte)| byte ^ MASK[n % 4])
            .collect();
        assert_eq!(&bytes[6..], by_hand);
        assert_eq!(
            read_every_way(&bytes, &SERVER).unwrap(),
            [WsEvent::Binary(payload.into())]
        );
    }
}

#[test]
fn server_and_client_frames_are_not_confused() {
    let mut unmasked = Vec::new();
    put_frame(&mut unmasked, OpCode::Text, false, b"x");
    let (_, error) = read_every_way(&unmasked, &SERVER).unwrap_err();
    assert_eq!(error, WsError::NotMasked { op: OpCode::Text });
    let client = ReaderConfig {
        role: Role::Client,
        ..SERVER
    };
    let (_, error) = read_every_way(&frame(OpCode::Text, true, false, b"x"), &client).unwrap_err();
    assert_eq!(error, WsError::Masked { op: OpCode::Text });
}
