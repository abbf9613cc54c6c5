//! What an application does with its sessions over HTTP: rooms, ends and lists.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tidegate::{Tidegate, gateway::CloseReason};

use crate::{
    api::{KEY, OPEN, start},
    application::{App, Reply, in_front_of},
    client::{Answer, Client, get, request},
    schema::mismatch,
    support::Folder,
};

/// A server whose backend may act on everybody, and whose visitors on the rooms of ticks.
pub(crate) async fn house() -> Tidegate {
    let service = "[roles.service]\npublish = [\"*\"]";
    let text = OPEN
        .replace(service, &format!("{service}\nact = [\"*\"]"))
        .replace(
            "presence = [\"chat\"]",
            "presence = [\"chat\"]\nact = [\"ticks:*\"]",
        );
    start(&text).await
}

/// A session that has joined these rooms.
pub(crate) async fn client(server: &Tidegate, rooms: &str) -> Client {
    let mut client = Client::connect(server.local_addr(), "").await;
    let joined = client.call("join", rooms).await;
    assert_eq!(joined[0]["ok"], true, "{joined}");
    client
}

pub(crate) async fn post(at: SocketAddr, path: &str, body: &str) -> Answer {
    request(at, "POST", path, &[KEY], Some(body)).await
}

/// Acts with the key of the backend; how many sessions it was done to.
async fn act(at: SocketAddr, path: &str, body: Value) -> (u64, u64) {
    let answer = post(at, path, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body);
    let json = answer.json();
    (
        json["sessions"].as_u64().unwrap(),
        json["refused"].as_u64().unwrap(),
    )
}

/// The rooms of a session, in order.
async fn rooms_of(at: SocketAddr, id: &str) -> Vec<String> {
    let answer = request(at, "GET", &format!("/api/sessions/{id}"), &[KEY], None).await;
    let mut rooms: Vec<String> = serde_json::from_value(answer.json()["session"]["rooms"].clone()).unwrap();
    rooms.sort();
    rooms
}

/// Acts on `path` and says how many sessions it was done to; then in which rooms the two clients are, of whom the first is
/// in `chat` and both in `ticks:1`.
async fn check_rooms(path: &str, body: Value, sessions: u64, rooms: [&[&str]; 2]) {
    let server = house().await;
    let at = server.local_addr();
    let clients = [
        client(&server, r#"["chat","ticks:1"]"#).await,
        client(&server, r#"["ticks:1"]"#).await,
    ];
    let path = path.replace("{0}", &clients[0].id).replace("{1}", &clients[1].id);
    let body = serde_json::from_str(&body.to_string().replace("{0}", &clients[0].id)).unwrap();
    assert_eq!(act(at, &path, body).await, (sessions, 0), "{path}");
    for (client, expected) in clients.iter().zip(rooms) {
        assert_eq!(rooms_of(at, &client.id).await, expected, "after {path}");
    }
    drop(clients);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_join_and_leave_by_who_they_are_and_where() {
    let two: &[&str] = &["chat", "ticks:1"];
    let one: &[&str] = &["ticks:1"];
    let three: &[&str] = &["a", "b", "ticks:1"];
    let ab = json!({"rooms": ["a", "b"]});
    check_rooms("/api/sessions/{1}/join", ab.clone(), 1, [two, three]).await;
    check_rooms(
        "/api/rooms/chat/join",
        ab,
        1,
        [&["a", "b", "chat", "ticks:1"], one],
    )
    .await;
    check_rooms(
        "/api/rooms/ticks:1/leave",
        json!({"rooms": ["ticks:1", "chat"]}),
        2,
        [&[], &[]],
    )
    .await;
    check_rooms(
        "/api/rooms/ticks:1/leave",
        json!({"rooms": ["ticks:1"], "except": ["chat"]}),
        1,
        [two, &[]],
    )
    .await;
    let except = json!({"rooms": ["ticks:1"], "except": {"sessions": ["{0}"]}, "namespace": "/"});
    check_rooms("/api/rooms/ticks%3A1/leave", except, 1, [two, &[]]).await;
    // Nobody is called so, and nobody is in such a room: no failure, since they may come and go at any time.
    check_rooms("/api/users/ann/join", json!({"rooms": ["a"]}), 0, [two, one]).await;
    check_rooms("/api/rooms/empty/join", json!({"rooms": ["a"]}), 0, [two, one]).await;
    check_rooms(
        "/api/rooms/chat/leave",
        json!({"rooms": ["never"]}),
        1,
        [two, one],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_has_happened_when_it_is_answered() {
    let server = house().await;
    let at = server.local_addr();
    let mut client = client(&server, r#"["chat"]"#).await;
    for n in 0..20 {
        act(at, "/api/rooms/chat/join", json!({"rooms": ["news"]})).await;
        post(
            at,
            "/api/publish",
            &format!(r#"{{"room":"news","event":"in","data":{n}}}"#),
        )
        .await;
        act(at, "/api/rooms/news/leave", json!({"rooms": ["news"]})).await;
        post(
            at,
            "/api/publish",
            &format!(r#"{{"room":"news","event":"out","data":{n}}}"#),
        )
        .await;
        let message = client.read().await;
        assert!(message.starts_with(&format!(r#"42["in",{n},"#)), "{message}");
    }
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_ends_sessions_for_good_or_the_whole_connection() {
    let server = house().await;
    let at = server.local_addr();
    for (body, other_goes_on) in [(json!({}), true), (json!({"close": true}), false)] {
        let mut gone = client(&server, r#"["chat"]"#).await;
        gone.send("40/other,").await;
        assert!(gone.read().await.starts_with("40/other,"));
        let mut stays = client(&server, r#"["ticks:1"]"#).await;
        assert_eq!(
            act(at, &format!("/api/sessions/{}/disconnect", gone.id), body).await,
            (1, 0)
        );
        assert_eq!(gone.read().await, "41");
        if other_goes_on {
            let body = r#"{"event":"still","namespace":"/other"}"#;
            assert_eq!(post(at, "/api/publish", body).await.status, 200);
            assert!(gone.read().await.starts_with(r#"42/other,["still""#));
        } else {
            assert_eq!(gone.read().await, "41/other,");
            assert_eq!(gone.close_code().await, CloseReason::Kicked.code());
        }
        assert_eq!(stays.call("join", r#"["chat"]"#).await[0]["ok"], true);
    }
    let empty = request(at, "POST", "/api/rooms/chat/disconnect", &[KEY], Some("")).await;
    assert_eq!(
        empty.json(),
        json!({"ok": true, "sessions": 2, "refused": 0}),
        "no body is the usual end"
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_as_many_rooms_as_it_may_be_is_counted() {
    let text = OPEN.replace("[roles.service]", "[roles.service]\nact = [\"*\"]");
    let server = start(&format!("{text}\n[limits]\nrooms_per_session = 2\n")).await;
    let at = server.local_addr();
    let clients = [
        client(&server, r#"["chat","ticks:1"]"#).await,
        client(&server, r#"["chat"]"#).await,
    ];
    assert_eq!(
        act(at, "/api/rooms/chat/join", json!({"rooms": ["new"]})).await,
        (2, 1)
    );
    assert_eq!(rooms_of(at, &clients[1].id).await, ["chat", "new"]);
    drop(clients);
    server.shutdown().await;
}

/// Every page of a list: the ids in it, and how many pages there were.
async fn pages(at: SocketAddr, path: &str) -> (Vec<String>, usize) {
    let document = get(at, "/api/openapi.json").await.json();
    let schema = &document["components"]["schemas"]["SessionPage"];
    let (mut ids, mut n, mut after) = (Vec::new(), 0, String::new());
    loop {
        let answer = request(at, "GET", &format!("{path}{after}"), &[KEY], None).await;
        let page = answer.json();
        assert_eq!(mismatch(&document, schema, &page, path), None, "{page}");
        let items = page["items"].as_array().unwrap();
        ids.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        n += 1;
        let Some(next) = page["next"].as_str() else {
            return (ids, n);
        };
        after = format!("&after={next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_room_are_pages_that_continue() {
    let server = house().await;
    let at = server.local_addr();
    let mut clients = Vec::new();
    for n in 0..7 {
        clients.push(client(&server, if n < 5 { r#"["chat"]"# } else { "[]" }).await);
    }
    let mut expected: Vec<String> = clients[..5].iter().map(|client| client.id.clone()).collect();
    expected.sort();
    assert_eq!(
        pages(at, "/api/rooms/chat/sessions?limit=2").await,
        (expected.clone(), 3)
    );
    assert_eq!(pages(at, "/api/rooms/chat/sessions?limit=5").await, (expected, 1));
    assert_eq!(
        pages(at, "/api/rooms/nowhere/sessions?limit=5").await,
        (vec![], 1)
    );
    assert_eq!(
        pages(at, "/api/rooms/chat/sessions?namespace=/other").await,
        (vec![], 1)
    );
    assert_eq!(pages(at, "/api/users/nobody/sessions?limit=5").await, (vec![], 1));
    drop(clients);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_what_the_application_knows_of_its_sessions() {
    let large = "x".repeat(60_000);
    let app = App::start(move |asked| {
        let user = asked["auth"]["user"].clone();
        let data = json!({"basket": user, "large": large});
        std::future::ready(Reply::Json(
            json!({"user": user, "data": data, "join": ["lobby"]}),
        ))
    })
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "data_bytes_max = \"64KiB\"\n").await;
    let at = server.local_addr();
    let mut clients = Vec::new();
    for n in 0..80 {
        let user = if n % 2 == 0 { "ann" } else { "bob" };
        clients.push(Client::connect(at, &format!(r#"{{"user":"{user}"}}"#)).await);
    }
    let page = get(at, "/api/users/bob/sessions?limit=1").await.json();
    let session = &page["items"][0];
    let expected = (&json!("bob"), &json!("bob"), &json!(["lobby"]));
    assert_eq!(
        (&session["user"], &session["data"]["basket"], &session["rooms"]),
        expected
    );
    // Eighty times sixty thousand bytes are more than one page holds.
    let (ids, n) = pages(at, "/api/rooms/lobby/sessions?limit=1000").await;
    assert_eq!((ids.len(), n), (80, 2));
    drop(clients);
    server.shutdown().await;
}

/// A request that is refused: how, and what its message says. `{id}` is the session of a client in `chat`.
struct Refused<'a> {
    call: (&'a str, &'a str, &'a str),
    key: bool,
    status: u16,
    code: &'a str,
    says: &'a str,
}

async fn check_refused(server: &Tidegate, id: &str, refused: Refused<'_>) {
    let (method, path, body) = refused.call;
    let (path, body) = (path.replace("{id}", id), body.replace("{id}", id));
    let headers: &[&str] = if refused.key { &[KEY] } else { &[] };
    let body = (method == "POST").then_some(&*body);
    let answer = request(server.local_addr(), method, &path, headers, body).await;
    let short = body.map(|body| &body[..body.len().min(200)]);
    let message = answer.json()["error"]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(
        (answer.status, &*answer.code()),
        (refused.status, refused.code),
        "{path} {short:?}: {message}"
    );
    assert!(message.contains(refused.says), "{path} {short:?}: {message}");
    let rooms = rooms_of(server.local_addr(), id).await;
    assert_eq!(rooms, ["chat"], "nobody was touched by {path} {short:?}");
}

/// Path, body, and the refusal: status, code, what the message says.
type Wrong<'a> = (&'a str, &'a str, u16, &'a str, &'a str);

const A: &str = r#"{"rooms":["a"]}"#;
const JOIN: &str = "/api/rooms/chat/join";
const LEAVE: &str = "/api/rooms/chat/leave";
const END: &str = "/api/rooms/chat/disconnect";

/// What is wrong with the body.
const WRONG_BODIES: [(&str, &str, &str); 16] = [
    (JOIN, "", "EOF"),
    (JOIN, "{}", "missing field `rooms`"),
    (JOIN, "7", "invalid type"),
    (JOIN, r#"{"rooms":true}"#, "a name or a list of names"),
    (JOIN, r#"{"rooms":[true]}"#, "boolean `true`"),
    (JOIN, r#"{"rooms":[]}"#, "rooms has 0 entries"),
    (LEAVE, r#"{"rooms":["chat",""]}"#, "a name in rooms is empty"),
    (LEAVE, r#"{"rooms":["chat"],"room":"a"}"#, "unknown field `room`"),
    (
        LEAVE,
        r#"{"rooms":["chat"],"close":true}"#,
        "unknown field `close`",
    ),
    (LEAVE, r#"{"rooms":["chat"],"namespace":7}"#, "expected a string"),
    (LEAVE, r#"{"rooms":["chat"],"except":"chat"}"#, "invalid type"),
    (
        LEAVE,
        r#"{"rooms":["chat"],"except":[{"a":1}]}"#,
        "invalid type: map",
    ),
    (
        LEAVE,
        r#"{"rooms":["chat"],"except":{"room":[]}}"#,
        "unknown field `room`",
    ),
    (END, r#"{"close":1}"#, "expected a boolean"),
    (END, r#"{"rooms":["a"]}"#, "unknown field `rooms`"),
    (END, r#"{"close":true"#, "EOF"),
];

/// What is wrong with where it goes and whom it names.
const WRONG_PLACES: [Wrong<'_>; 10] = [
    (
        "/api/rooms/chat/dance",
        A,
        404,
        "not_found",
        "/api/rooms/chat/dance",
    ),
    (
        "/api/planets/chat/join",
        A,
        404,
        "not_found",
        "/api/planets/chat/join",
    ),
    ("/api/rooms/chat/presence", A, 405, "bad_request", "method"),
    ("/api/rooms//join", A, 400, "bad_request", "room has 0 bytes"),
    (
        JOIN,
        r#"{"rooms":["a","{id}"]}"#,
        403,
        "forbidden",
        "not allowed to join",
    ),
    (
        LEAVE,
        r#"{"rooms":["chat"],"namespace":"/none"}"#,
        404,
        "not_found",
        "namespace",
    ),
    (
        "/api/sessions/nobody/join",
        A,
        404,
        "not_found",
        "no session named \"nobody\"",
    ),
    (
        "/api/sessions/nobody/disconnect",
        "{}",
        404,
        "not_found",
        "no session named",
    ),
    (
        "/api/sessions/{id}/leave",
        r#"{"rooms":["chat"],"namespace":"/other"}"#,
        404,
        "not_found",
        "no session",
    ),
    (
        "/api/sessions/{id}/leave",
        r#"{"rooms":["chat"],"namespace":""}"#,
        404,
        "not_found",
        "namespace",
    ),
];

async fn check_wrong(server: &Tidegate, id: &str, (path, body, status, code, says): Wrong<'_>) {
    let call = ("POST", path, body);
    let key = true;
    check_refused(
        server,
        id,
        Refused {
            call,
            key,
            status,
            code,
            says,
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_action_is_said_and_nothing_is_done() {
    let server = house().await;
    let client = client(&server, r#"["chat"]"#).await;
    for (path, body, says) in WRONG_BODIES {
        check_wrong(&server, &client.id, (path, body, 400, "bad_request", says)).await;
    }
    for wrong in WRONG_PLACES {
        check_wrong(&server, &client.id, wrong).await;
    }
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_in_an_action_is_said_and_nothing_is_done() {
    let server = house().await;
    let client = client(&server, r#"["chat"]"#).await;
    let check = async |path: &str, body: Value, status: u16, code: &str, says: &str| {
        check_wrong(&server, &client.id, (path, &body.to_string(), status, code, says)).await;
    };
    let many = json!((0..1_001).map(|n| n.to_string()).collect::<Vec<_>>());
    let rooms = json!({"rooms": many});
    check(JOIN, rooms, 400, "bad_request", "rooms has 1001 entries").await;
    let except = json!({"rooms": ["chat"], "except": many});
    check(LEAVE, except, 400, "bad_request", "except has 1001 entries").await;
    let long = json!({"rooms": ["a", "x".repeat(257)]});
    check(JOIN, long, 413, "too_large", "257 bytes").await;
    let huge = json!({"rooms": ["x".repeat(1 << 20)]});
    check(JOIN, huge, 413, "too_large", "request body").await;
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acting_needs_a_role_for_each_room_and_for_everybody_the_pattern_of_all() {
    let server = house().await;
    let client = client(&server, r#"["chat"]"#).await;
    let check = async |method: &str, path: &str, body: &str, says: &str| {
        let (call, status, code) = ((method, path, body), 403, "forbidden");
        check_refused(
            &server,
            &client.id,
            Refused {
                call,
                key: false,
                status,
                code,
                says,
            },
        )
        .await;
    };
    let a = r#"{"rooms":["a"]}"#;
    check("POST", "/api/rooms/chat/join", a, "act on \"chat\"").await;
    check("POST", "/api/rooms/ticks:1/join", a, "act on \"a\"").await;
    check(
        "POST",
        "/api/rooms/ticks:1/leave",
        r#"{"rooms":["ticks:1","chat"]}"#,
        "act on \"chat\"",
    )
    .await;
    check("POST", "/api/rooms/chat/disconnect", "{}", "act on \"chat\"").await;
    check("POST", "/api/users/ann/disconnect", "{}", "act on \"*\"").await;
    check("POST", "/api/sessions/{id}/disconnect", "{}", "act on \"*\"").await;
    check("GET", "/api/sessions/{id}", "", "act on \"*\"").await;
    check("GET", "/api/users/ann/sessions", "", "act on \"*\"").await;
    check("GET", "/api/rooms/chat/sessions", "", "act on \"chat\"").await;
    let allowed = r#"{"rooms":["ticks:2"]}"#;
    let answer = request(
        server.local_addr(),
        "POST",
        "/api/rooms/ticks:1/join",
        &[],
        Some(allowed),
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_caller_without_a_key_acts_on_a_single_session() {
    let server = start(&OPEN.replace("presence = [\"chat\"]", "presence = [\"chat\"]\nact = [\"*\"]")).await;
    let at = server.local_addr();
    let client = client(&server, "[]").await;
    let own = format!(r#"{{"rooms":["{}"]}}"#, client.id);
    let room = |tail: &str| format!("/api/rooms/{}/{tail}", client.id);
    let one = |tail: &str| format!("/api/sessions/{}/{tail}", client.id);
    for (path, body) in [
        (one("join"), r#"{"rooms":["a"]}"#),
        (room("join"), r#"{"rooms":["a"]}"#),
        (room("disconnect"), "{}"),
        ("/api/rooms/chat/join".to_owned(), &own),
    ] {
        let answer = request(at, "POST", &path, &[], Some(body)).await;
        assert_eq!(answer.code(), "forbidden", "{path}");
    }
    assert_eq!(get(at, &room("sessions")).await.code(), "forbidden");
    assert_eq!(get(at, "/api/rooms/chat/sessions").await.status, 200);
    drop(client);
    server.shutdown().await;
}
