//! What must hold for any bytes that come out of Redis; shared by the fuzz target and the seeded run in the tests.

use tidegate::bridge::formats::{
    Ask, Refused, read_broadcast, read_entry, read_python, read_request, read_sharded,
};

/// The first byte chooses the format. Nothing panics, the same bytes always mean the same, and what is understood is never
/// much larger than what was read.
pub(crate) fn bridge(data: &[u8]) {
    let Some((choice, payload)) = data.split_first() else {
        return;
    };
    let first = read(*choice, payload);
    assert_eq!(format!("{first:?}"), format!("{:?}", read(*choice, payload)));
    if let Ok(Ask::Publish(publication)) = first {
        // A control character takes six letters in JSON, and an empty attachment its placeholder.
        const GROWTH: usize = 64;
        assert!(publication.args.bytes() <= GROWTH * (payload.len() + 1));
        assert!(publication.namespace.starts_with('/'));
    }
}

fn read(choice: u8, payload: &[u8]) -> Result<Ask, Refused> {
    match choice % 6 {
        0 => read_broadcast("socket.io", b"socket.io#/#", payload),
        1 => read_request("socket.io", b"socket.io-request#/#", payload),
        2 => read_sharded(payload),
        3 => read_python(payload),
        // The first line is the channel.
        4 => {
            let end = payload
                .iter()
                .position(|&byte| byte == b'\n')
                .unwrap_or(payload.len());
            let (channel, rest) = payload.split_at(end);
            read_broadcast("socket.io", channel, rest.get(1..).unwrap_or_default())
        }
        _ => read_entry([(&b"type"[..], &b"3"[..]), (b"nsp", b"/"), (b"data", payload)]),
    }
}
