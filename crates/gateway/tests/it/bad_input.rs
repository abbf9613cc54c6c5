//! Hostile input: a clear answer or a documented close, and healthy clients that notice nothing.

use std::time::{Duration, Instant};

use tidegate_gateway::CloseReason;
use tidegate_vitals::Id as Metric;
use tidegate_wire::websocket::{OpCode, put_masked_frame};
use tokio::io::AsyncWriteExt;

use crate::{
    client::{Client, Opening, Packet, raw_http},
    house::{House, code_of, open_house},
};

/// Garbage before the upgrade: the status of the answer, 0 for a connection that just ends.
async fn check_http(house: &House, request: &[u8], allowed: &[u16]) {
    let answer = raw_http(house.at, request).await;
    let text = String::from_utf8_lossy(&answer);
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    assert!(
        allowed.contains(&status),
        "{:?}: {text}",
        String::from_utf8_lossy(request)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_answered_or_cut() {
    let house =
        House::start(open_house().configure(|c| c.request_head_timeout = Duration::from_millis(100))).await;
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
    for (request, allowed) in [
        (
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            &[0, 400][..],
        ),
        (b"hello\r\n\r\n", &[0, 400]),
        (b"GET / HTTP/9.9\r\n\r\n", &[0, 400, 505]),
        (
            b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost",
            &[0, 408],
        ),
        (
            b"GET /\xff\xfe HTTP/1.1\r\nConnection: close\r\n\r\n",
            &[0, 400, 404],
        ),
        (many.as_bytes(), &[0, 400, 431]),
        (long.as_bytes(), &[0, 400, 414, 431]),
        (
            b"POST /socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA HTTP/1.1\r\n\
           Connection: close\r\nContent-Length: 99999999999999999999\r\n\r\n",
            &[0, 400],
        ),
        (
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nConnection: upgrade, close\r\n\
           Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n",
            &[400],
        ),
    ] {
        check_http(&house, request, allowed).await;
    }
    assert_eq!(house.gateway.n_connections(), 0);
    house.end().await;
}

fn frame(op: OpCode, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_masked_frame(&mut bytes, op, true, false, [1, 2, 3, 4], data);
    bytes
}

fn text(data: &str) -> Vec<u8> {
    frame(OpCode::Text, data.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_breach_of_protocol_has_its_close_code_and_no_goodbye() {
    let house = House::start(open_house()).await;
    let (parse, data, large) = (
        CloseReason::ParseError,
        CloseReason::InvalidData,
        CloseReason::TooLarge,
    );
    let mut announced = vec![0x81, 0xff];
    announced.extend_from_slice(&2_000_000_u64.to_be_bytes());
    announced.extend_from_slice(&[0; 4]);
    for (name, bytes, reason) in [
        ("unmasked", b"\x81\x01x".to_vec(), parse),
        ("reserved opcode", b"\x83\x80\0\0\0\0".to_vec(), parse),
        ("reserved bit", b"\xc1\x80\0\0\0\0".to_vec(), parse),
        ("long ping", frame(OpCode::Ping, &[0; 126]), parse),
        ("orphan continuation", frame(OpCode::Continuation, b"x"), parse),
        ("not UTF-8", frame(OpCode::Text, b"4\xff"), data),
        ("over the limit", announced, large),
        ("no Engine.IO packet", text("x"), parse),
        ("empty", text(""), parse),
        ("a second open", text("0{}"), parse),
        ("no Socket.IO packet", text("49"), parse),
        ("an array that does not end", text(r#"42["a""#), parse),
        ("no event name", text("42[]"), parse),
        ("unknown namespace", text(r#"42/x,["a"]"#), parse),
        ("a second CONNECT", text("40"), parse),
        (
            "too many attachments",
            text(r#"4599-["a",{"_placeholder":true,"num":0}]"#),
            parse,
        ),
        ("an attachment of nothing", frame(OpCode::Binary, b"x"), parse),
        (
            "text instead of the attachment",
            [
                text(r#"451-["a",{"_placeholder":true,"num":0}]"#),
                text("42[\"a\"]"),
            ]
            .concat(),
            parse,
        ),
        (
            "a placeholder of nothing",
            [
                text(r#"451-["a",{"_placeholder":true,"num":7}]"#),
                frame(OpCode::Binary, b"x"),
            ]
            .concat(),
            parse,
        ),
    ] {
        let mut client = Client::connect(house.at).await;
        client.send_raw(&bytes).await;
        let (before, code, said) = client.closed().await;
        assert_eq!(
            (before, code, said.as_str()),
            (vec![], Some(reason.code()), reason.as_str()),
            "{name}"
        );
    }
    house
        .eventually("all are gone", || house.gateway.n_connections() == 0)
        .await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_connects_at_once_make_one_session() {
    let house = House::start(crate::house::named_house()).await;
    let mut client = Client::open(house.at).await;
    client
        .send_raw(&[text(r#"40{"user":"a"}"#), text(r#"40{"user":"a"}"#)].concat())
        .await;
    assert_eq!(client.close_code().await, Some(1_002));
    let sessions = house.gateway.inspector().connections(None, 10).await.items;
    assert!(sessions.len() <= 1, "{sessions:?}");
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deflate_bomb_is_cut_at_the_message_limit() {
    let house = House::start(open_house()).await;
    let mut client = Client::connect_with(
        house.at,
        &Opening {
            deflate: true,
            ..Opening::default()
        },
        "",
    )
    .await;
    let honest = format!(r#"42["echo","{}"]"#, "x".repeat(500_000));
    client.send_deflated(honest.as_bytes()).await;
    assert_eq!(client.data_of("echo").await.as_str().unwrap().len(), 500_000);
    client.send_deflated(&vec![b'4'; 64 << 20]).await;
    let (_, code, reason) = client.closed().await;
    assert_eq!((code, reason.as_str()), (Some(1_009), "too_large"));
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_namespaces_are_too_many_for_one_connection() {
    let builder = (0..100).fold(open_house(), |builder, n| {
        builder.namespace(&format!("/n{n}"), |space| space)
    });
    let house = House::start(builder).await;
    let mut client = Client::open(house.at).await;
    let (mut entered, mut refused) = (0, 0);
    for n in 0..100 {
        client.send(&format!("40/n{n},")).await;
        match client.next().await {
            Packet::Connect { .. } => entered += 1,
            Packet::Refused { data, .. } => {
                assert_eq!(code_of(&data["data"]), "rate_limited");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((entered, refused), (16, 84));
    house.figure(Metric::GatewaySessions, 16).await;
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_joins_stop_at_the_limit() {
    let house = House::start(open_house().configure(|c| c.limits.rooms_per_session = 100)).await;
    let mut client = Client::connect(house.at).await;
    let list: Vec<String> = (0..1_000).map(|n| format!("l{n}")).collect();
    let list = serde_json::to_string(&list).unwrap();
    assert_eq!(code_of(&client.ask("join", &list).await), "rate_limited");
    for n in 0..3_000 {
        client.emit("join", &format!(r#""s{n}""#)).await;
    }
    assert_eq!(
        code_of(&client.ask("join", r#""one-more""#).await),
        "rate_limited"
    );
    assert_eq!(
        code_of(&client.ask("join", r#""s7""#).await),
        "",
        "a member already"
    );
    assert_eq!(house.gateway.inspector().rooms("/", None, 1_000).items.len(), 100);
    let name = format!(r#""{}""#, "x".repeat(257));
    assert_eq!(code_of(&client.ask("join", &name).await), "too_large");
    drop(client);
    house.end().await;
}

/// xorshift: the same bytes for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Something that a broken client might send.
    fn rubbish(&mut self) -> Vec<u8> {
        const WORDS: [&str; 10] = [
            "40",
            "41",
            "42[\"join\",\"x\"]",
            "420[\"publish\",{}]",
            "451-[\"a\"]",
            "3",
            "1",
            "5",
            "43999[]",
            "40/x,{",
        ];
        let n = self.next() as usize % 300;
        match self.next() % 5 {
            0 => self.bytes(n),
            1 => frame(OpCode::Binary, &self.bytes(n)),
            2 => frame(OpCode::Text, &self.bytes(n)),
            3 => text(&WORDS.map(|word| word)[self.next() as usize % WORDS.len()].repeat(1 + n % 3)),
            _ => text(WORDS[self.next() as usize % WORDS.len()]),
        }
    }
}

/// One connection that sends rubbish, half of them after a proper beginning.
async fn misbehave(at: std::net::SocketAddr, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    if random.next().is_multiple_of(4) {
        let bytes = random.bytes(400);
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let _closed = stream.write_all(&bytes).await;
        return;
    }
    let deflate = random.next().is_multiple_of(2);
    let resets = random.next().is_multiple_of(2);
    let opening = Opening {
        deflate,
        resets,
        ..Opening::default()
    };
    let mut client = Client::try_open(at, &opening)
        .await
        .unwrap_or_else(|answer| panic!("{answer:?}"));
    if random.next().is_multiple_of(2) {
        client.send("40").await;
    }
    for _ in 0..random.next() % 8 {
        client.send_raw(&random.rubbish()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_on_five_hundred_connections_disturbs_nobody() {
    let house = House::start(open_house().configure(|c| c.recovery.window = Duration::from_secs(1))).await;
    let mut healthy = Client::connect(house.at).await;
    let at = house.at;
    let rubbish = tokio::spawn(async move {
        let mut running = tokio::task::JoinSet::new();
        for seed in 1..=500 {
            if running.len() >= 50 {
                running.join_next().await.unwrap().unwrap();
            }
            running.spawn(misbehave(at, seed));
        }
        running.join_all().await;
    });
    let mut latencies = Vec::new();
    while !rubbish.is_finished() || latencies.len() < 50 {
        let began = Instant::now();
        assert_eq!(healthy.ask("echo", "1").await, 1);
        latencies.push(began.elapsed());
    }
    rubbish.await.unwrap();
    latencies.sort_unstable();
    let (median, worst) = (latencies[latencies.len() / 2], latencies[latencies.len() - 1]);
    println!(
        "echo beside rubbish: {} times, median {median:?}, worst {worst:?}",
        latencies.len()
    );
    // Generous, since other work may share the machine: what is wanted is that nobody waits for a stranger.
    assert!(
        median < Duration::from_millis(250) && worst < Duration::from_secs(5),
        "{median:?}, {worst:?}"
    );
    house
        .eventually("all others are gone", || house.gateway.n_connections() == 1)
        .await;
    house.figure(Metric::GatewaySessions, 1).await;
    assert_eq!(house.count(Metric::GatewayHandlerErrors), 0);
    drop(healthy);
    house.end().await;
}
