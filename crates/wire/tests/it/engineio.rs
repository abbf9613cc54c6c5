//! Engine.IO 4: what is refused, payload positions, encoders.

use tidegate_wire::engineio::{
    EngineError, Handshake, Packet, SEPARATOR, decode_payload, decode_text, put_payload_binary,
    put_payload_text,
};

#[test]
fn packets_that_are_none_are_refused() {
    fn check(text: &str, expected: &str) {
        let error = decode_text(text).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(!error.is_retryable());
    }
    check("", "empty packet");
    check("7", "unknown packet type '7'");
    check("abc", "unknown packet type 'a'");
    check("潮", "unknown packet type '潮'");
    check("1bye", "close packet with 3 bytes of payload, expected none");
    check("5x", "upgrade packet with 1 bytes of payload, expected none");
    check("6x", "noop packet with 1 bytes of payload, expected none");
    check("b!!", "binary packet of 2 bytes is not base64");
    check("bA", "binary packet of 1 bytes is not base64");
}

#[test]
fn base64_padding_is_optional() {
    for text in ["bAQIDBA==", "bAQIDBA=", "bAQIDBA"] {
        assert_eq!(decode_text(text), Ok(Packet::Binary(vec![1, 2, 3, 4].into())));
    }
    assert_eq!(decode_text("b"), Ok(Packet::Binary(Vec::new().into())));
}

#[test]
fn payload_errors_say_where() {
    fn check(body: &str, expected: &EngineError) {
        let mut packets = decode_payload(body, 3);
        let error = packets.find_map(Result::err).unwrap();
        assert_eq!(&error, expected);
        assert_eq!(packets.next(), None, "nothing after an error");
    }
    let at = |index, offset, source| EngineError::InPayload {
        index,
        offset,
        source: Box::new(source),
    };
    check("", &at(0, 0, EngineError::Empty));
    check("4ab\x1e", &at(1, 4, EngineError::Empty));
    check("4é\x1e\x1e4b", &at(1, 4, EngineError::Empty));
    check("4ab\x1exy", &at(1, 4, EngineError::UnknownType { found: 'x' }));
    check("2\x1e2\x1e2\x1e2", &EngineError::TooManyPackets { max: 3 });
}

#[test]
fn payload_encoders_separate_packets() {
    let mut body = Vec::new();
    put_payload_text(&mut body, "4hello");
    put_payload_binary(&mut body, &[1, 2, 3, 4]);
    put_payload_text(&mut body, "2");
    put_payload_binary(&mut body, b"");
    assert_eq!(body, b"4hello\x1ebAQIDBA==\x1e2\x1eb");
    assert_eq!(body.iter().filter(|byte| **byte == SEPARATOR).count(), 3);
}

#[test]
fn handshake_has_the_names_of_the_protocol() {
    let handshake = Handshake {
        sid: "lv_VI97HAXpY6yYWAAAC",
        upgrades: &["websocket"],
        ping_interval_ms: 25_000,
        ping_timeout_ms: 20_000,
        max_payload: 1_000_000,
    };
    assert_eq!(
        handshake.encode(),
        r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
    );
}
