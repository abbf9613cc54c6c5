//! Properties: encoding and decoding are inverse, and how a stream is cut does not matter.

use proptest::collection::vec;
use proptest::prelude::*;
use tidegate_wire::deflate::{Deflater, Inflater};
use tidegate_wire::engineio::{self, decode_payload, decode_text, put_payload_binary, put_payload_text};
use tidegate_wire::socketio::{self, Kind, Limits};
use tidegate_wire::websocket::{OpCode, ReaderConfig, Role, WsEvent, put_frame, put_masked_frame};

use crate::harness::encode;
use crate::support::{DEFLATE, read};

/// One thing a client sends: a message in fragments, perhaps compressed, with pings between.
#[derive(Debug, Clone)]
struct Sent {
    body: Body,
    compressed: bool,
    fragment_bytes: usize,
    ping: Option<Vec<u8>>,
    mask: [u8; 4],
}

#[derive(Debug, Clone)]
enum Body {
    Text(String),
    Binary(Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let text = prop_oneof!["[a-z潮é😀\u{0}]{0,60}", ".{0,400}"].prop_map(Body::Text);
    let body = prop_oneof![text, vec(any::<u8>(), 0..400).prop_map(Body::Binary)];
    let ping = proptest::option::of(vec(any::<u8>(), 0..=125));
    (body, any::<bool>(), 1..200usize, ping, any::<[u8; 4]>()).prop_map(
        |(body, compressed, fragment_bytes, ping, mask)| Sent {
            body,
            compressed,
            fragment_bytes,
            ping,
            mask,
        },
    )
}

fn put_sent(stream: &mut Vec<u8>, sent: &Sent, deflater: &mut Deflater) {
    let (op, plain) = match &sent.body {
        Body::Text(text) => (OpCode::Text, text.as_bytes()),
        Body::Binary(bytes) => (OpCode::Binary, &bytes[..]),
    };
    let deflated = sent.compressed.then(|| deflater.deflate(plain, 15).unwrap());
    let mut rest = deflated.as_deref().unwrap_or(plain);
    let mut is_first = true;
    loop {
        let (part, after) = rest.split_at(sent.fragment_bytes.min(rest.len()));
        let op = if is_first { op } else { OpCode::Continuation };
        put_masked_frame(
            stream,
            op,
            after.is_empty(),
            is_first && sent.compressed,
            sent.mask,
            part,
        );
        if after.is_empty() {
            return;
        }
        if let Some(ping) = &sent.ping {
            put_masked_frame(stream, OpCode::Ping, true, false, sent.mask, ping);
        }
        (rest, is_first) = (after, false);
    }
}

/// Cuts `bytes` into pieces whose sizes repeat `sizes`.
fn cut<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(bytes.len().min(*size));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

fn packet() -> impl Strategy<Value = engineio::Packet<'static>> {
    use engineio::Packet;
    let text = "[^\u{1e}]{0,40}";
    prop_oneof![
        text.prop_map(|text| Packet::Open(text.into())),
        Just(Packet::Close),
        text.prop_map(|text| Packet::Ping(text.into())),
        text.prop_map(|text| Packet::Pong(text.into())),
        text.prop_map(|text| Packet::Message(text.into())),
        vec(any::<u8>(), 0..80).prop_map(|data| Packet::Binary(data.into())),
        Just(Packet::Upgrade),
        Just(Packet::Noop),
    ]
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((".{0,6}", inner), 0..4).prop_map(|items| Value::Object(items.into_iter().collect())),
        ]
    })
}

/// The parts of a packet: kind, namespace, id, attachments and data as JSON text.
fn socket_packet() -> impl Strategy<Value = (Kind, String, Option<u64>, usize, String)> {
    let namespace = prop_oneof![Just("/".to_owned()), "/[^,?]{1,20}"];
    let id = 0..=(1u64 << 53) - 1;
    (
        0..7u8,
        namespace,
        proptest::option::of(id),
        1..=16usize,
        vec(json(), 0..4),
    )
        .prop_map(|(kind, namespace, id, attachments, args)| {
            let array = serde_json::to_string(&args).unwrap();
            let event = serde_json::to_string(&[&[serde_json::json!("e\"1")], &args[..]].concat()).unwrap();
            let object = serde_json::json!({ "args": args }).to_string();
            let (kind, id, attachments, data) = match kind {
                0 => (Kind::Connect, None, 0, object),
                1 => (Kind::Disconnect, None, 0, String::new()),
                2 => (Kind::Event, id, 0, event),
                3 => (Kind::Ack, id.or(Some(0)), 0, array),
                4 => (Kind::ConnectError, None, 0, object),
                5 => (Kind::BinaryEvent, id, attachments, event),
                _ => (Kind::BinaryAck, id.or(Some(0)), attachments, array),
            };
            (kind, namespace, id, attachments, data)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn messages_survive_the_wire_however_it_is_cut(
        all in vec(sent(), 1..6),
        sizes in vec(1..300usize, 1..6),
    ) {
        let (mut stream, mut deflater) = (Vec::new(), Deflater::new(6));
        all.iter().for_each(|sent| put_sent(&mut stream, sent, &mut deflater));
        let whole = read([&stream[..]], &DEFLATE).unwrap();
        prop_assert_eq!(&read(cut(&stream, &sizes), &DEFLATE).unwrap(), &whole);
        let messages: Vec<_> = whole.iter().filter(|event| !matches!(event, WsEvent::Ping(_))).collect();
        prop_assert_eq!(messages.len(), all.len());
        for (event, sent) in messages.into_iter().zip(&all) {
            let same = match (&sent.body, event) {
                (Body::Text(text), WsEvent::Text(got)) => text == got,
                (Body::Binary(bytes), WsEvent::Binary(got)) => bytes == &got[..],
                _ => false,
            };
            prop_assert!(same, "sent {:?}, got {:?}", sent, event);
        }
    }

    #[test]
    fn server_frames_survive_the_wire(text in ".{0,300}", cut_at in 0..300usize) {
        let mut stream = Vec::new();
        put_frame(&mut stream, OpCode::Text, false, text.as_bytes());
        let (left, right) = stream.split_at(cut_at.min(stream.len()));
        let client = ReaderConfig { role: Role::Client, ..DEFLATE };
        prop_assert_eq!(read([left, right], &client).unwrap(), [WsEvent::Text(text.into())]);
    }

    #[test]
    fn deflate_and_inflate_are_inverse(
        data in prop_oneof![vec(any::<u8>(), 0..5000), vec(0..4u8, 0..20_000)],
        window_bits in 9..=15u8,
        level in 0..=9u32,
    ) {
        let deflated = Deflater::new(level).deflate(&data, window_bits).unwrap();
        prop_assert_eq!(Inflater::new().inflate(&deflated, data.len()).unwrap(), data);
    }

    #[test]
    fn engineio_packets_survive(packets in vec(packet(), 1..6)) {
        let mut body = Vec::new();
        for packet in &packets {
            let mut text = String::new();
            packet.put_text(&mut text);
            prop_assert_eq!(&decode_text(&text).unwrap(), packet);
            match packet {
                engineio::Packet::Binary(data) => put_payload_binary(&mut body, data),
                _ => put_payload_text(&mut body, &text),
            }
        }
        let body = String::from_utf8(body).unwrap();
        let decoded: Vec<_> = decode_payload(&body, packets.len()).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(decoded, packets);
    }

    #[test]
    fn socketio_packets_survive((kind, namespace, id, attachments, data) in socket_packet()) {
        let packet = socketio::Packet { kind, attachments, namespace: &namespace, id, data: &data };
        let text = encode(&packet);
        let engineio::Packet::Message(message) = decode_text(&text).unwrap() else { panic!("a message") };
        prop_assert_eq!(socketio::decode(&message, &Limits::default()).unwrap(), packet);
    }

    #[test]
    fn arguments_survive(name in ".{1,20}", args in vec(json(), 0..5), tail in "[a-z0-9-]{1,20}") {
        let mut array = "[".to_owned();
        socketio::put_event_name_json(&mut array, &name);
        for arg in &args {
            array.push(',');
            array.push_str(&arg.to_string());
        }
        array.push(']');
        let mut text = String::new();
        socketio::put_event(&mut text, "/", None, 0, &array, Some(&tail));
        let view = socketio::event(&text[2..]).unwrap();
        prop_assert_eq!(view.name.as_ref(), &name);
        prop_assert_eq!(view.args.len(), args.len() + 1);
        for (raw, arg) in view.args.iter().zip(&args) {
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(raw.get()).unwrap(), arg);
        }
        let last = socketio::last_string(&text[2..]);
        prop_assert_eq!(last.as_deref(), Some(&tail[..]));
    }
}
