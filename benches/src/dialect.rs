//! What the generator says to each kind of server, as text inside WebSocket frames.

use std::fmt::Write;

/// The protocol of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Engine.IO 4 with Socket.IO 5: event `join` enters a room, event `pub` goes to room `r`.
    SocketIo,
    /// Bare text messages; whatever is sent goes to everybody.
    Plain,
    /// Centrifuge's JSON protocol; the server subscribes everybody to channel `r`.
    Centrifuge,
}

/// What to do about a text that is not a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It needs no answer.
    Nothing,
    /// Send these texts.
    Send(Vec<String>),
    /// Send these texts; the connection now takes part.
    Live(Vec<String>),
    /// The server turned the connection down.
    Refused,
}

impl Dialect {
    /// The path of the upgrade request.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::SocketIo => "/socket.io/?EIO=4&transport=websocket",
            Self::Plain => "/",
            Self::Centrifuge => "/connection/websocket",
        }
    }

    /// What the client does as soon as the WebSocket is open.
    pub(crate) fn opened(self) -> Answer {
        match self {
            Self::SocketIo => Answer::Nothing,
            Self::Plain => Answer::Live(Vec::new()),
            Self::Centrifuge => Answer::Send(vec![r#"{"id":1,"connect":{}}"#.into()]),
        }
    }

    /// What the client does about `text`; a Socket.IO client joins `rooms` once it is connected.
    pub(crate) fn answer(self, text: &[u8], rooms: &[&str]) -> Answer {
        match self {
            Self::SocketIo => socket_io(text, rooms),
            Self::Plain => Answer::Nothing,
            Self::Centrifuge if text == b"{}" => Answer::Send(vec!["{}".into()]),
            Self::Centrifuge if text.starts_with(br#"{"id":1,"connect""#) => Answer::Live(Vec::new()),
            Self::Centrifuge if text.starts_with(br#"{"id":1,"error""#) => Answer::Refused,
            Self::Centrifuge => Answer::Nothing,
        }
    }

    /// The text that publishes a JSON argument.
    pub(crate) fn publication(self, argument: &str) -> String {
        match self {
            Self::SocketIo => format!(r#"42["pub",{argument}]"#),
            Self::Plain => argument.to_owned(),
            Self::Centrifuge => format!(r#"{{"id":2,"publish":{{"channel":"r","data":{argument}}}}}"#),
        }
    }
}

/// Engine.IO: `0` open, `1` close, `2` ping, `3` pong, `4` message; Socket.IO in it: `0` connect, `1` disconnect,
/// `2` event, `4` refused.
fn socket_io(text: &[u8], rooms: &[&str]) -> Answer {
    match text {
        b"2" => Answer::Send(vec!["3".into()]),
        [b'0', ..] => Answer::Send(vec!["40".into()]),
        [b'4', b'0', ..] => Answer::Live(
            rooms
                .iter()
                .map(|room| format!(r#"42["join","{room}"]"#))
                .collect(),
        ),
        [b'1'] | [b'4', b'1' | b'4', ..] => Answer::Refused,
        _ => Answer::Nothing,
    }
}

/// What a message carries beside its time and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many letters, which bring the frame to its wanted length.
    Pad(usize),
    /// So many ticks of a price feed as JSON objects, about 70 bytes each, different in every message.
    Ticks(usize),
}

/// Where the sending time stands in an argument: sixteen hex digits of nanoseconds follow.
pub(crate) const STAMP_KEY: &[u8] = br#""t":""#;
/// Where the number stands: eight hex digits follow.
pub(crate) const NUMBER_KEY: &[u8] = br#""n":""#;

/// The JSON argument of one message; its length depends on the body alone.
pub(crate) fn argument(stamp_ns: u64, number: u32, body: Body) -> String {
    let mut text = format!(r#"{{"t":"{stamp_ns:016x}","n":"{number:08x}","p":"#);
    match body {
        Body::Pad(n_letters) => text.extend(
            std::iter::once('"')
                .chain(std::iter::repeat_n('x', n_letters))
                .chain(std::iter::once('"')),
        ),
        Body::Ticks(n_ticks) => push_ticks(&mut text, number, n_ticks),
    }
    text.push('}');
    text
}

fn push_ticks(text: &mut String, number: u32, n_ticks: usize) {
    // A linear congruential generator (Knuth's MMIX constants): equal runs send equal bytes.
    let mut state = u64::from(number) + 1;
    let mut below = |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    text.push('[');
    for index in 0..n_ticks {
        let comma = if index == 0 { "" } else { "," };
        // No digit may vanish when a server parses and writes the number again.
        let (symbol, yuan, tenths, cents) = (
            600_000 + below(4_000),
            1_000 + below(900),
            below(10),
            1 + below(9),
        );
        let (volume, ts) = (10_000 + below(90_000), 1_763_683_200_000 + below(86_400_000));
        write!(
            text,
            r#"{comma}{{"symbol":"{symbol}","price":{yuan}.{tenths}{cents},"volume":{volume},"ts":{ts}}}"#
        )
        .expect("a String takes any text");
    }
    text.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(dialect: Dialect, text: &str, expected: &Answer) {
        assert_eq!(
            &dialect.answer(text.as_bytes(), &["r", "q"]),
            expected,
            "to {text}"
        );
    }

    fn send(text: &str) -> Answer {
        Answer::Send(vec![text.into()])
    }

    #[test]
    fn socket_io_is_greeted_joined_and_kept_alive() {
        check(
            Dialect::SocketIo,
            r#"0{"sid":"a","pingInterval":25000}"#,
            &send("40"),
        );
        let joins = vec![r#"42["join","r"]"#.to_owned(), r#"42["join","q"]"#.to_owned()];
        check(Dialect::SocketIo, r#"40{"sid":"b"}"#, &Answer::Live(joins));
        check(Dialect::SocketIo, "2", &send("3"));
        check(Dialect::SocketIo, r#"44{"message":"no"}"#, &Answer::Refused);
        check(Dialect::SocketIo, "41", &Answer::Refused);
        check(Dialect::SocketIo, r#"42["hello"]"#, &Answer::Nothing);
    }

    #[test]
    fn centrifuge_is_greeted_and_kept_alive() {
        check(
            Dialect::Centrifuge,
            r#"{"id":1,"connect":{"client":"c"}}"#,
            &Answer::Live(Vec::new()),
        );
        check(Dialect::Centrifuge, "{}", &send("{}"));
        check(
            Dialect::Centrifuge,
            r#"{"id":1,"error":{"code":100}}"#,
            &Answer::Refused,
        );
    }

    #[test]
    fn arguments_are_json_of_constant_length() {
        for body in [Body::Pad(0), Body::Pad(40), Body::Ticks(15)] {
            let lengths: Vec<usize> = (0..200)
                .map(|number| {
                    let text = argument(u64::from(number) << 40, number, body);
                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(serde_json::to_string(&value).unwrap().len(), text.len(), "{text}");
                    text.len()
                })
                .collect();
            assert!(
                lengths.iter().all(|&length| length == lengths[0]),
                "{body:?}: {lengths:?}"
            );
        }
    }
}
