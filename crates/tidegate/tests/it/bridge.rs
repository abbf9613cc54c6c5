//! The bridge on a real Redis: what publishers write reaches clients, and what goes wrong hurts nobody else.

use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use serde_json::{Value, json};
use tidegate::{Settings, Tidegate};
use tidegate_cluster::Redis;

use crate::{
    bridge_formats::{NODE, PYTHON, lines},
    client::{Client, get},
    support::layered,
};

/// A publisher's connection.
fn publisher(redis: &Redis) -> Connection {
    redis::Client::open(redis.url())
        .unwrap()
        .get_connection()
        .unwrap()
}

const OPEN: &str = r#"
listen = "127.0.0.1:0"
[auth]
anonymous = true
anonymous_roles = ["visitor"]
[roles.visitor]
join = ["*"]
"#;

/// A server that hears `redis` as `more` says, connected.
async fn serve(redis: &Redis, more: &str) -> Tidegate {
    let bridge = format!("[bridge]\nurl = \"{}\"\n{more}", redis.url());
    let settings = Settings::parse(&layered(&[OPEN, &bridge])).unwrap();
    let server = Tidegate::builder()
        .settings(settings)
        .gateway(|builder| builder.namespace("/other", |namespace| namespace))
        .start()
        .await
        .unwrap();
    until("every connection stands", async || {
        let links = stats(&server).await["links"].clone();
        links
            .as_object()
            .unwrap()
            .values()
            .all(|link| link["state"] == "up")
    })
    .await;
    server
}

async fn stats(server: &Tidegate) -> Value {
    get(server.local_addr(), "/api/performance/bridge/stats")
        .await
        .json()
}

/// Waits for something that comes about by itself; fails if it does not come at all.
async fn until(what: &str, mut happens: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !happens().await {
        assert!(start.elapsed() < Duration::from_secs(60), "not seen: {what}");
        tokio::task::yield_now().await;
    }
}

/// Figures by format, once every message that came is counted by what became of it: a client may hear one a moment before.
async fn settled(server: &Tidegate) -> Value {
    let mut formats = Value::Null;
    until("all that was received is counted", async || {
        formats = stats(server).await["formats"].clone();
        formats.as_object().unwrap().values().all(|of| {
            let number = |name: &str| of[name].as_u64().unwrap();
            let refused = of["refused"].as_object().unwrap().values();
            let refused: u64 = refused.map(|n| n.as_u64().unwrap()).sum();
            number("received") == number("delivered") + number("ignored") + refused
        })
    })
    .await;
    formats
}

/// A session that gets events as they were said, without the place from which it could be recovered.
async fn connect(server: &Tidegate) -> Client {
    Client::connect(server.local_addr(), r#"{"recovery":false}"#).await
}

/// The next event.
async fn event(client: &mut Client) -> String {
    loop {
        let packet = client.read().await;
        if packet.starts_with("42") || packet.starts_with("45") {
            return packet;
        }
    }
}

fn publish(redis: &mut Connection, channel: &str, payload: &[u8]) {
    let _heard: i64 = redis.publish(channel, payload).unwrap();
}

fn spublish(redis: &mut Connection, channel: &str, payload: &str) {
    let _heard: i64 = redis::cmd("SPUBLISH")
        .arg(channel)
        .arg(payload)
        .query(redis)
        .unwrap();
}

/// A broadcast of a cluster to one room, or to everybody.
fn broadcast(room: &str, n: usize) -> String {
    let rooms = if room.is_empty() { json!([]) } else { json!([room]) };
    let opts = json!({"rooms": rooms, "except": [], "flags": {}});
    json!({"opts": opts, "packet": {"type": 2, "data": ["n", n], "nsp": "/"}}).to_string()
}

fn xadd(redis: &mut Connection, n: usize) {
    let data = broadcast("", n);
    let mut command = redis::cmd("XADD");
    command.arg(&[
        "socket.io",
        "*",
        "uid",
        "emitter",
        "nsp",
        "/",
        "type",
        "3",
        "data",
        &data,
    ]);
    let _id: String = command.query(redis).unwrap();
}

/// Says one thing that Python can say.
fn emit(redis: &mut Connection, n: usize) {
    let said = json!({"method": "emit", "event": "n", "data": [n], "binary": false, "namespace": "/"});
    publish(redis, "socketio", said.to_string().as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_format_reaches_clients_in_order() {
    let redis = Redis::start().unwrap();
    let server = serve(&redis, "").await;
    let mut client = connect(&server).await;
    let mut publisher = publisher(&redis);
    for n in 0..20 {
        let said = rmp_classic(n);
        publish(&mut publisher, "socket.io#/#", &said);
        emit(&mut publisher, 100 + n);
        spublish(
            &mut publisher,
            "socket.io#/#",
            &format!(
                r#"{{"uid":"x","nsp":"/","type":3,"data":{}}}"#,
                broadcast("", 200 + n)
            ),
        );
    }
    for n in 0..20 {
        for base in [0, 100, 200] {
            assert_eq!(event(&mut client).await, format!(r#"42["n",{}]"#, base + n));
        }
    }
    for n in 0..20 {
        xadd(&mut publisher, 300 + n);
    }
    for n in 0..20 {
        assert_eq!(event(&mut client).await, format!(r#"42["n",{}]"#, 300 + n));
    }
    let formats = settled(&server).await;
    for format in ["classic", "sharded", "streams", "python"] {
        let of = &formats[format];
        assert_eq!(
            (&of["received"], &of["delivered"]),
            (&json!(20), &json!(20)),
            "{format}: {of}"
        );
        assert_eq!(of["refused"], json!({}), "{format}");
    }
    server.shutdown().await;
}

/// `["emitter", {type: 2, data: ["n", n], nsp: "/"}, {rooms: [], flags: {}, except: []}]`
fn rmp_classic(n: usize) -> Vec<u8> {
    let mut bytes = b"\x93\xa7emitter\x83\xa4type\x02\xa4data\x92\xa1n".to_vec();
    bytes.push(n as u8);
    bytes.extend(b"\xa3nsp\xa1/\x83\xa5rooms\x90\xa5flags\x80\xa6except\x90");
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_carried_out_is_counted_and_the_next_message_comes() {
    let redis = Redis::start().unwrap();
    let server = serve(&redis, "message_bytes_max = \"4KiB\"\n").await;
    let mut client = connect(&server).await;
    let mut publisher = publisher(&redis);
    let pickle = lines(PYTHON).find(|line| line.of == "5.13.0").unwrap().payload;
    publish(&mut publisher, "socketio", &pickle);
    publish(&mut publisher, "flask-socketio", &pickle);
    publish(&mut publisher, "socketio", b"{");
    publish(
        &mut publisher,
        "socketio",
        br#"{"method":"emit","event":"n","data":[1],"binary":false,"namespace":"/nowhere"}"#,
    );
    publish(
        &mut publisher,
        "socketio",
        br#"{"method":"emit","event":"disconnect","data":[1],"binary":false}"#,
    );
    publish(&mut publisher, "socketio", &[b'x'; 5_000]);
    publish(&mut publisher, "socket.io#/#", &[0xdd, 0xff, 0xff, 0xff, 0xff]);
    publish(&mut publisher, "socket.io#/#", &[0x91; 200]);
    let asked = lines(NODE)
        .find(|line| line.name == "with acknowledgement")
        .unwrap();
    publish(&mut publisher, asked.channel, &asked.payload);
    publish(
        &mut publisher,
        "socket.io-request#/#",
        br#"{"uid":"emitter","type":6,"data":["x"]}"#,
    );
    spublish(
        &mut publisher,
        "socket.io#/#",
        r#"{"uid":"x","nsp":"/","type":2}"#,
    );
    spublish(
        &mut publisher,
        "socket.io#/#",
        r#"{"uid":"x","nsp":"/","type":44}"#,
    );
    emit(&mut publisher, 7);
    assert_eq!(event(&mut client).await, r#"42["n",7]"#);
    let formats = settled(&server).await;
    let expected = json!({"pickle": 2, "malformed": 1, "no_namespace": 1, "rejected": 1, "too_large": 1});
    assert_eq!(formats["python"]["refused"], expected);
    assert_eq!(
        (&formats["python"]["received"], &formats["python"]["delivered"]),
        (&json!(7), &json!(1))
    );
    let expected = json!({"malformed": 1, "too_deep": 1, "answer_wanted": 1, "server_side": 1});
    assert_eq!(formats["classic"]["refused"], expected);
    assert_eq!(formats["sharded"]["refused"], json!({"unknown_method": 1}));
    assert_eq!(formats["sharded"]["ignored"], 1);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_join_leave_and_end_as_publishers_say() {
    let redis = Redis::start().unwrap();
    let server = serve(&redis, "").await;
    let (mut near, mut far) = (connect(&server).await, connect(&server).await);
    let mut publisher = publisher(&redis);
    let request = |value: Value| value.to_string().into_bytes();
    let of_near = json!({"rooms": [near.id], "except": []});
    let join = request(json!({"type": 2, "opts": of_near, "rooms": ["a", "b"]}));
    publish(&mut publisher, "socket.io-request#/#", &join);
    let to_a = |n: usize| json!({"method": "emit", "event": "n", "data": [n], "binary": false, "room": "a"});
    publish(&mut publisher, "socketio", &request(to_a(1)));
    assert_eq!(event(&mut near).await, r#"42["n",1]"#);
    let enter = request(json!({"method": "enter_room", "sid": far.id, "room": "a", "namespace": "/"}));
    publish(&mut publisher, "socketio", &enter);
    publish(&mut publisher, "socketio", &request(to_a(2)));
    assert_eq!(event(&mut near).await, r#"42["n",2]"#);
    assert_eq!(event(&mut far).await, r#"42["n",2]"#);
    let leave = request(json!({"type": 3, "opts": {"rooms": ["b"]}, "rooms": "a"}));
    publish(&mut publisher, "socket.io-request#/#", &leave);
    publish(&mut publisher, "socketio", &request(to_a(3)));
    assert_eq!(event(&mut far).await, r#"42["n",3]"#);
    let close = request(json!({"method": "close_room", "room": "a", "namespace": "/"}));
    publish(&mut publisher, "socketio", &close);
    publish(&mut publisher, "socketio", &request(to_a(4)));
    emit(&mut publisher, 5);
    assert_eq!(event(&mut near).await, r#"42["n",5]"#);
    assert_eq!(event(&mut far).await, r#"42["n",5]"#);
    let end = request(json!({"method": "disconnect", "sid": far.id, "namespace": "/"}));
    publish(&mut publisher, "socketio", &end);
    assert_eq!(far.read().await, "41");
    let end = request(json!({"type": 4, "opts": {"rooms": [], "except": []}, "close": true}));
    publish(&mut publisher, "socket.io-request#/#", &end);
    assert_eq!(near.read().await, "41");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_channel_of_a_room_is_heard_while_the_room_exists() {
    let redis = Redis::start().unwrap();
    let server = serve(&redis, "formats = [\"sharded\"]\n").await;
    let mut client = connect(&server).await;
    let mut publisher = publisher(&redis);
    let heard = async |n: i64| {
        until("the rooms that are heard", async || {
            let stats = stats(&server).await;
            stats["rooms_heard"] == n
        })
        .await;
    };
    let said = |n| format!(r#"{{"uid":"x","nsp":"/","type":3,"data":{}}}"#, broadcast("a", n));
    client.call("join", r#""a""#).await;
    heard(1).await;
    until("the channel is heard", async || {
        let command = ["SHARDNUMSUB", "socket.io#/#a#"];
        let n: (String, i64) = redis::cmd("PUBSUB").arg(&command).query(&mut publisher).unwrap();
        n.1 == 1
    })
    .await;
    spublish(&mut publisher, "socket.io#/#a#", &said(1));
    assert_eq!(event(&mut client).await, r#"42["n",1]"#);
    client.call("leave", r#""a""#).await;
    heard(0).await;
    until("the channel is left", async || {
        let command = ["SHARDNUMSUB", "socket.io#/#a#"];
        let n: (String, i64) = redis::cmd("PUBSUB").arg(&command).query(&mut publisher).unwrap();
        n.1 == 0
    })
    .await;
    server.shutdown().await;
}

/// A server that reads as a user who may do all but this.
async fn serve_as_reader(redis: &Redis, without: &str) -> Tidegate {
    let user = [
        "SETUSER",
        "reader",
        "on",
        ">secret",
        "allchannels",
        "allkeys",
        "+@all",
        without,
    ];
    let () = redis::cmd("ACL").arg(&user).query(&mut publisher(redis)).unwrap();
    let bridge = format!("[bridge]\nurl = \"{}?user=reader&pass=secret\"\n", redis.url());
    let settings = Settings::parse(&layered(&[OPEN, &bridge])).unwrap();
    Tidegate::builder().settings(settings).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_redis_refuses_costs_that_format_alone() {
    let redis = Redis::start().unwrap();
    let mut publisher = publisher(&redis);
    let server = serve_as_reader(&redis, "-ssubscribe").await;
    until("the connection stands", async || {
        stats(&server).await["links"]["pubsub"]["state"] == "up"
    })
    .await;
    assert_eq!(stats(&server).await["channels_refused"], 1);
    let mut client = connect(&server).await;
    client.call("join", r#""a""#).await;
    emit(&mut publisher, 1);
    assert_eq!(event(&mut client).await, r#"42["n",1]"#);
    // A wrong password is a state, with its cause.
    let changed = ["SETUSER", "reader", ">other", "<secret"];
    let () = redis::cmd("ACL").arg(&changed).query(&mut publisher).unwrap();
    let kill = ["KILL", "USER", "reader"];
    let _killed: i64 = redis::cmd("CLIENT").arg(&kill).query(&mut publisher).unwrap();
    until("it is not let in", async || {
        let cause = stats(&server).await["links"]["pubsub"]["cause"].clone();
        cause.as_str().is_some_and(|cause| cause.contains("WRONGPASS"))
    })
    .await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_that_redis_refuses_is_no_refused_channel() {
    let redis = Redis::start().unwrap();
    let mut publisher = publisher(&redis);
    let server = serve_as_reader(&redis, "-ping").await;
    let mut client = connect(&server).await;
    until("a ping was refused", async || {
        let log: redis::Value = redis::cmd("ACL").arg("LOG").query(&mut publisher).unwrap();
        format!("{log:?}").contains("ping")
    })
    .await;
    // Its answer came before this.
    emit(&mut publisher, 1);
    assert_eq!(event(&mut client).await, r#"42["n",1]"#);
    let now = stats(&server).await;
    assert_eq!(
        (&now["channels_refused"], &now["links"]["pubsub"]["state"]),
        (&json!(0), &json!("up"))
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_may_go_and_come_back() {
    let mut redis = Redis::start().unwrap();
    let server = serve(&redis, "").await;
    let mut client = connect(&server).await;
    emit(&mut publisher(&redis), 1);
    assert_eq!(event(&mut client).await, r#"42["n",1]"#);
    redis.kill().unwrap();
    let is = async |state: &str| {
        let links = stats(&server).await["links"].clone();
        links
            .as_object()
            .unwrap()
            .values()
            .all(|link| link["state"] == state)
    };
    until("it is noticed", async || is("away").await).await;
    let ready = get(server.local_addr(), "/readyz").await;
    assert_eq!((ready.status, &ready.json()["redis"]), (200, &json!("away")));
    assert!(stats(&server).await["links"]["pubsub"]["cause"].is_string());
    redis.start_again().unwrap();
    until("it is back", async || is("up").await).await;
    assert_eq!(get(server.local_addr(), "/readyz").await.json()["redis"], "up");
    let mut publisher = publisher(&redis);
    emit(&mut publisher, 2);
    assert_eq!(event(&mut client).await, r#"42["n",2]"#);
    // The new stream is read from its beginning.
    xadd(&mut publisher, 3);
    assert_eq!(event(&mut client).await, r#"42["n",3]"#);
    assert_eq!(stats(&server).await["links"]["streams"]["connects"], 2);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_starts_without_redis_and_hears_it_when_it_comes() {
    let mut redis = Redis::start().unwrap();
    redis.kill().unwrap();
    let bridge = format!("[bridge]\nurl = \"{}\"\n", redis.url());
    let settings = Settings::parse(&layered(&[OPEN, &bridge])).unwrap();
    let server = Tidegate::builder().settings(settings).start().await.unwrap();
    let mut client = connect(&server).await;
    redis.start_again().unwrap();
    until("it is there", async || {
        stats(&server).await["links"]["pubsub"]["state"] == "up"
    })
    .await;
    emit(&mut publisher(&redis), 1);
    assert_eq!(event(&mut client).await, r#"42["n",1]"#);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_where_it_was_and_what_was_cut_away_is_counted() {
    let redis = Redis::start().unwrap();
    let server = serve(&redis, "formats = [\"streams\"]\n").await;
    let mut client = connect(&server).await;
    let mut publisher = publisher(&redis);
    for n in 0..150 {
        xadd(&mut publisher, n);
    }
    // What was said before it may have been read or not; in between the reader is not there.
    let mut commands = redis::pipe();
    commands
        .atomic()
        .cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
    for n in 150..300 {
        let data = broadcast("", n);
        let add = commands
            .cmd("XADD")
            .arg(&["socket.io", "*", "uid", "emitter", "nsp", "/"]);
        add.arg(&["type", "3", "data", &data]);
    }
    let () = commands.ignore().query(&mut publisher).unwrap();
    for n in 0..300 {
        assert_eq!(event(&mut client).await, format!(r#"42["n",{n}]"#));
    }
    assert_eq!(stats(&server).await["stream_entries_trimmed"], 0);
    until("it is connected again", async || {
        stats(&server).await["links"]["streams"]["connects"] == 2
    })
    .await;
    let mut commands = redis::pipe();
    commands
        .atomic()
        .cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
    for n in 300..320 {
        let data = broadcast("", n);
        let add = commands
            .cmd("XADD")
            .arg(&["socket.io", "*", "uid", "emitter", "nsp", "/"]);
        add.arg(&["type", "3", "data", &data]);
    }
    commands.cmd("XTRIM").arg(&["socket.io", "MAXLEN", "5"]);
    let () = commands.ignore().query(&mut publisher).unwrap();
    for n in 315..320 {
        assert_eq!(event(&mut client).await, format!(r#"42["n",{n}]"#));
    }
    until("the loss is counted", async || {
        stats(&server).await["stream_entries_trimmed"] == 15
    })
    .await;
    server.shutdown().await;
}

/// A server with one small inbox, which stands still from the event `stop` until the sender is used or dropped.
async fn serve_stoppable(redis: &Redis, more: &str) -> (Tidegate, std::sync::mpsc::Sender<()>) {
    let (go_on, stopped) = std::sync::mpsc::channel();
    let stopped = std::sync::Mutex::new(stopped);
    let bridge = format!("[bridge]\nurl = \"{}\"\n{more}", redis.url());
    let settings = Settings::parse(&layered(&[OPEN, &bridge])).unwrap();
    let server = Tidegate::builder()
        .settings(settings)
        .gateway(move |builder| {
            let builder = builder.configure(|config| {
                config.shards = 1;
                config.inbox_commands_max = INBOX;
            });
            builder.on_inline("stop", move |_, _| {
                let _gone = stopped.lock().unwrap().recv();
            })
        })
        .start()
        .await
        .unwrap();
    until("every connection stands", async || {
        let links = stats(&server).await["links"].clone();
        links
            .as_object()
            .unwrap()
            .values()
            .all(|link| link["state"] == "up")
    })
    .await;
    (server, go_on)
}

const INBOX: usize = 256;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_gateway_holds_channels_for_one_wait_and_then_drops_with_a_count() {
    let redis = Redis::start().unwrap();
    let (server, go_on) = serve_stoppable(&redis, "formats = [\"python\"]\nwait = \"50ms\"\n").await;
    let mut client = connect(&server).await;
    client.send(r#"42["stop"]"#).await;
    let mut publisher = publisher(&redis);
    let n_more = 40;
    for n in 0..INBOX + n_more {
        emit(&mut publisher, n);
    }
    let counted = async || stats(&server).await["formats"]["python"].clone();
    let received = INBOX + n_more;
    until("all were read", async || counted().await["received"] == received).await;
    until("all are decided", async || {
        let now = counted().await;
        let dropped = now["refused"]["overloaded"].as_u64().unwrap_or(0);
        now["delivered"].as_u64().unwrap() + dropped == received as u64
    })
    .await;
    let now = counted().await;
    let dropped = now["refused"]["overloaded"].as_u64().unwrap();
    assert!((1..=n_more as u64 + 8).contains(&dropped), "{now}");
    // One waited; those after it did not.
    assert_eq!(now["waited"], 1, "{now}");
    go_on.send(()).unwrap();
    for n in 0..received - dropped as usize {
        assert_eq!(event(&mut client).await, format!(r#"42["n",{n}]"#));
    }
    emit(&mut publisher, 1_000);
    assert_eq!(event(&mut client).await, r#"42["n",1000]"#);
    drop(go_on);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_streams_there_is_no_connection_for_them() {
    let redis = Redis::start().unwrap();
    let server = serve(&redis, "streams = []\n").await;
    let links = stats(&server).await["links"].clone();
    let names: Vec<&String> = links.as_object().unwrap().keys().collect();
    assert_eq!(names, ["pubsub"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_waits_for_a_full_gateway_and_nothing_is_lost() {
    let redis = Redis::start().unwrap();
    let (server, go_on) = serve_stoppable(&redis, "formats = [\"streams\"]\nwait = \"0s\"\n").await;
    let mut client = connect(&server).await;
    client.send(r#"42["stop"]"#).await;
    let mut publisher = publisher(&redis);
    let n_said = INBOX + 100;
    for n in 0..n_said {
        xadd(&mut publisher, n);
    }
    until("one waits", async || {
        stats(&server).await["formats"]["streams"]["waited"] == 1
    })
    .await;
    go_on.send(()).unwrap();
    for n in 0..n_said {
        assert_eq!(event(&mut client).await, format!(r#"42["n",{n}]"#));
    }
    let now = stats(&server).await;
    assert_eq!(now["formats"]["streams"]["refused"], json!({}));
    assert_eq!(now["stream_entries_trimmed"], 0);
    drop(go_on);
    server.shutdown().await;
}

#[tokio::test]
async fn settings_of_the_bridge_are_checked_before_anything_opens() {
    let check = |text: &str, named: &str| {
        let settings = Settings::parse(&layered(&[OPEN, text]));
        let refused = settings.and_then(|settings| settings.bridge(&tidegate::Outside::none()));
        let error = refused.err().unwrap_or_else(|| panic!("{text} is accepted"));
        assert!(error.to_string().contains(named), "{error}");
    };
    check("[bridge]\nurl = \"http://x\"\n", "bridge.url");
    check("[bridge]\nurl = \"rediss://x\"\n", "bridge.url");
    check(
        "[bridge]\nurl = \"redis://x\"\nurl_env = \"X\"\n",
        "bridge.url_env",
    );
    check("[bridge]\nurl_env = \"X\"\n", "bridge.url_env");
    check("[bridge]\nformats = [\"kafka\"]\n", "bridge.formats");
    check("[bridge]\nstreams = [\"a\", \"a\"]\n", "bridge.streams");
    check(
        "[bridge]\nmessage_bytes_max = \"1GiB\"\n",
        "bridge.message_bytes_max",
    );
    let none = Settings::parse(OPEN).unwrap().bridge(&tidegate::Outside::none());
    assert!(none.unwrap().is_none());
}
