//! Examples of the protocol texts, from crates/wire/fixtures: packet on the left, meaning on the right.

use tidegate_wire::engineio::{self, decode_payload};
use tidegate_wire::socketio::{self, Limits};
use tidegate_wire::websocket::{ReaderConfig, Role, WsEvent};

use crate::harness::encode;
use crate::support::{DEFLATE, read_every_way};

/// The lines of a fixture: left side, right side, and whether it holds in both directions (`<=>`) or
/// only for decoding (`=>`).
fn lines(text: &str) -> impl Iterator<Item = (&str, &str, bool)> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            if let Some((left, right)) = line.split_once(" <=> ") {
                return (left, right, true);
            }
            let (left, right) = line
                .split_once(" => ")
                .unwrap_or_else(|| panic!("no arrow in {line:?}"));
            (left, right, false)
        })
}

#[test]
fn websocket_examples_mean_what_the_rfcs_say() {
    for (left, right, _) in lines(include_str!("../../fixtures/websocket.txt")) {
        let (reader, hex) = left.split_once(' ').unwrap();
        let role = if reader == "server" {
            Role::Server
        } else {
            Role::Client
        };
        let bytes: Vec<u8> = hex
            .split(' ')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        let meaning = match read_every_way(&bytes, &ReaderConfig { role, ..DEFLATE }) {
            Ok(events) => events.iter().map(describe_event).collect::<Vec<_>>().join("; "),
            Err((_, error)) => format!("{} {error}", error.close_code()),
        };
        assert_eq!(meaning, right, "{left}");
    }
}

fn describe_event(event: &WsEvent<'_>) -> String {
    match event {
        WsEvent::Text(text) => format!("text {text}"),
        WsEvent::Binary(bytes) => format!("binary {bytes:?}"),
        WsEvent::Ping(bytes) => format!("ping {}", String::from_utf8_lossy(bytes)),
        WsEvent::Pong(bytes) => format!("pong {}", String::from_utf8_lossy(bytes)),
        WsEvent::Close {
            code: Some(code),
            reason,
        } => format!("close {code} {reason}"),
        WsEvent::Close { code: None, .. } => "close".to_owned(),
    }
}

#[test]
fn engineio_examples_mean_what_the_protocol_says() {
    for (left, right, both_ways) in lines(include_str!("../../fixtures/engineio.txt")) {
        let body = left.replace('␞', "\u{1e}");
        let packets: Result<Vec<_>, _> = decode_payload(&body, 16).collect();
        let packets = match packets {
            Ok(packets) => packets,
            Err(error) => {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                assert_eq!(format!("error {error}{}", source.unwrap_or_default()), right);
                continue;
            }
        };
        assert_eq!(
            packets.iter().map(describe_packet).collect::<Vec<_>>().join("; "),
            right,
            "{left}"
        );
        if both_ways {
            let mut again = Vec::new();
            for packet in &packets {
                let mut text = String::new();
                packet.put_text(&mut text);
                engineio::put_payload_text(&mut again, &text);
            }
            assert_eq!(String::from_utf8(again).unwrap(), body);
        }
    }
}

fn describe_packet(packet: &engineio::Packet<'_>) -> String {
    use engineio::Packet;
    match packet {
        Packet::Open(json) => format!("open {json}"),
        Packet::Close => "close".to_owned(),
        Packet::Ping(data) => format!("ping {data}").trim_end().to_owned(),
        Packet::Pong(data) => format!("pong {data}").trim_end().to_owned(),
        Packet::Message(text) => format!("message {text}"),
        Packet::Binary(data) => format!("binary {data:?}"),
        Packet::Upgrade => "upgrade".to_owned(),
        Packet::Noop => "noop".to_owned(),
    }
}

#[test]
fn socketio_examples_mean_what_the_protocol_says() {
    for (left, right, both_ways) in lines(include_str!("../../fixtures/socketio.txt")) {
        let packet = match socketio::decode(left, &Limits::default()) {
            Ok(packet) => packet,
            Err(error) => {
                assert_eq!(format!("error {error}"), right, "{left}");
                continue;
            }
        };
        let mut meaning = format!("{} in {}", packet.kind, packet.namespace);
        if let Some(id) = packet.id {
            meaning.push_str(&format!(", id {id}"));
        }
        if packet.attachments > 0 {
            meaning.push_str(&format!(", {} attached", packet.attachments));
            socketio::check_placeholders(packet.data, packet.attachments).unwrap();
        }
        if !packet.data.is_empty() {
            meaning.push_str(&format!(": {}", packet.data));
        }
        assert_eq!(meaning, right, "{left}");
        if both_ways {
            assert_eq!(encode(&packet)[1..], *left);
        }
    }
}
