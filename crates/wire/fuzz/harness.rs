//! What must hold for any bytes whatever; shared by the fuzz targets and the seeded run in the tests.

use std::cell::RefCell;

use tidegate_wire::deflate::{Deflater, Inflater, negotiate};
use tidegate_wire::engineio::{self, decode_payload, decode_text};
use tidegate_wire::socketio::{self, Kind, Limits};
use tidegate_wire::websocket::{Reader, ReaderConfig, Role, WsError, WsEvent};

/// Small, so that limits are met often.
const BYTES_MAX: usize = 4096;
/// A vector grows by doubling; above that only the fixed state of an incomplete frame.
const BUFFERED_MAX: usize = 3 * BYTES_MAX + 512;

thread_local! {
    static DEFLATE: RefCell<(Inflater, Deflater)> = RefCell::new((Inflater::new(), Deflater::new(1)));
}

/// The first byte chooses the configuration, the second how the rest is cut. However it is cut, the same
/// events and the same error come out, and memory stays bounded.
pub(crate) fn websocket(data: &[u8]) {
    let [flags, cut, stream @ ..] = data else { return };
    let config = ReaderConfig {
        message_bytes_max: BYTES_MAX,
        deflate: flags & 1 != 0,
        role: if flags & 2 != 0 {
            Role::Client
        } else {
            Role::Server
        },
    };
    let whole = read(stream, stream.len().max(1), &config);
    let pieces = read(stream, usize::from(*cut) % 17 + 1, &config);
    assert_eq!(whole, pieces);
}

fn read(stream: &[u8], piece: usize, config: &ReaderConfig) -> (Vec<WsEvent<'static>>, Option<WsError>) {
    let (mut reader, mut events) = (Reader::new(), Vec::new());
    for chunk in stream.chunks(piece) {
        let mut buf = chunk.to_vec();
        let mut at = 0;
        while at < buf.len() {
            let step = DEFLATE.with_borrow_mut(|(inflater, _)| reader.step(&mut buf[at..], config, inflater));
            let step = match step {
                Ok(step) => step,
                Err(error) => return (events, Some(error)),
            };
            at += step.consumed;
            let Some(event) = step.event else { break };
            let is_close = matches!(event, WsEvent::Close { .. });
            events.push(own(&event));
            if is_close {
                return (events, None);
            }
        }
        assert!(
            reader.buffered() <= BUFFERED_MAX,
            "reader holds {} bytes",
            reader.buffered()
        );
    }
    (events, None)
}

/// The event, free of the buffer it was read from.
pub(crate) fn own(event: &WsEvent<'_>) -> WsEvent<'static> {
    match event {
        WsEvent::Text(text) => WsEvent::Text(text.to_string().into()),
        WsEvent::Binary(bytes) => WsEvent::Binary(bytes.to_vec().into()),
        WsEvent::Ping(bytes) => WsEvent::Ping(bytes.to_vec().into()),
        WsEvent::Pong(bytes) => WsEvent::Pong(bytes.to_vec().into()),
        WsEvent::Close { code, reason } => WsEvent::Close {
            code: *code,
            reason: reason.to_string().into(),
        },
    }
}

/// Anything inflates within the limit or fails; anything deflates and inflates to itself; any header is
/// negotiated or not.
pub(crate) fn inflate(data: &[u8]) {
    DEFLATE.with_borrow_mut(|(inflater, deflater)| {
        if let Ok(inflated) = inflater.inflate(data, BYTES_MAX) {
            assert!(inflated.len() <= BYTES_MAX && inflated.capacity() <= 2 * BYTES_MAX);
        }
        let window_bits = 9 + data.first().map_or(0, |byte| byte % 7);
        let deflated = deflater
            .deflate(data, window_bits)
            .expect("a window of 9 to 15 bits");
        assert_eq!(inflater.inflate(&deflated, data.len()).as_deref(), Ok(data));
    });
    if let Some(agreed) = std::str::from_utf8(data).ok().and_then(negotiate) {
        assert!((8..=15).contains(&agreed.server_window_bits));
    }
}

/// What decodes encodes to something that decodes to the same.
pub(crate) fn engineio(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    assert!(decode_payload(text, 8).count() <= 9);
    let Ok(packet) = decode_text(text) else { return };
    let mut again = String::new();
    packet.put_text(&mut again);
    assert_eq!(decode_text(&again), Ok(packet.clone()));
    let mut body = Vec::new();
    match &packet {
        engineio::Packet::Binary(data) => engineio::put_payload_binary(&mut body, data),
        _ => engineio::put_payload_text(&mut body, &again),
    }
    assert_eq!(body, again.as_bytes());
}

/// What decodes keeps its limits and encodes to something that decodes to the same.
pub(crate) fn socketio(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = socketio::check_placeholders(text, 2);
    let _ = socketio::last_string(text);
    let limits = Limits {
        attachments_max: 3,
        event_name_bytes_max: 8,
        namespace_bytes_max: 8,
    };
    let Ok(packet) = socketio::decode(text, &limits) else {
        return;
    };
    assert!(packet.attachments <= 3 && packet.namespace.len() <= 8);
    if matches!(packet.kind, Kind::Event | Kind::BinaryEvent) {
        let event = socketio::event(packet.data).expect("an event that was accepted has a name");
        assert!(event.name.len() <= 8);
    }
    let again = encode(&packet);
    let decoded = socketio::decode(&again[1..], &limits).expect("what was encoded decodes");
    assert_eq!(
        (decoded.namespace, decoded.data, decoded.attachments),
        (packet.namespace, packet.data, packet.attachments)
    );
}

/// The packet as the text of an Engine.IO message.
pub(crate) fn encode(packet: &socketio::Packet<'_>) -> String {
    let socketio::Packet {
        kind,
        attachments,
        namespace,
        id,
        data,
    } = *packet;
    let mut out = String::new();
    match kind {
        Kind::Connect => socketio::put_connect(&mut out, namespace, data),
        Kind::ConnectError => socketio::put_connect_error(&mut out, namespace, data),
        Kind::Disconnect => socketio::put_disconnect(&mut out, namespace),
        Kind::Event | Kind::BinaryEvent => {
            socketio::put_event(&mut out, namespace, id, attachments, data, None);
        }
        Kind::Ack | Kind::BinaryAck => {
            let id = id.expect("an acknowledgement that was accepted has an id");
            socketio::put_ack(&mut out, namespace, id, attachments, data);
        }
    }
    out
}
