"""The adapter alone: who is believed, what is answered, and what is said about things it does not do."""

import asyncio
import hashlib
import hmac
import itertools
import json
import time

import httpx
import pytest
import socketio
from socketio.exceptions import ConnectionRefusedError

import tidegate_adapter
from tidegate_adapter import NotBehindTidegate, Refused, Seen, TidegateServer, TidegateUnavailable, verify

SECRET = b"a secret of the hook, of more than thirty-two bytes"
NOW = 1_700_000_000
numbers = itertools.count(1)


def signed(request, secret=SECRET, stamp=NOW, body=None):
    body = json.dumps(request).encode() if body is None else body
    signature = hmac.new(secret, f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {"x-tidegate-timestamp": f"{stamp}", "x-tidegate-signature": f"v1={signature}"}, body


def request(kind, **more):
    common = {"boot": "b1", "session": "sid-1", "namespace": "/", "user": None, "data": None}
    return {"id": f"{next(numbers):032x}", "kind": kind, **common, **more}


def event(name, *args, **more):
    return request("event", **{"event": name, "args": list(args), "wants_ack": True, **more})


class House:
    """A server, what it sent to Tidegate's API, and a way to ask it."""

    def __init__(self, answers=(), **options):
        self.posts, self.answers = [], list(answers)
        transport = httpx.MockTransport(self.api)
        client = httpx.AsyncClient(base_url="http://tidegate", transport=transport)
        self.sio = TidegateServer(SECRET, "http://tidegate", "key", client=client, **options)

    def api(self, asked):
        self.posts.append((asked.url.path, json.loads(asked.content or b"null")))
        answer = self.answers.pop(0) if self.answers else {"ok": True, "results": []}
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(200 if answer.get("ok") else 403, json=answer)

    def ask(self, body):
        return asyncio.run(self.asked(body))

    async def asked(self, body):
        return await self.sio.answer(*signed(body, stamp=int(time.time())))


# === Who is believed ===


def check(made, refused=None, now=NOW):
    headers, body = made
    if refused is None:
        assert verify(SECRET, headers, body, 60, lambda: now)["kind"] == "event"
        return
    with pytest.raises(Refused, match=refused):
        verify(SECRET, headers, body, 60, lambda: now)


def test_a_signature_counts_for_its_time_body_and_secret():
    headers, body = good = signed(event("x"))
    check(good)
    check(good, now=NOW + 60)
    check(good, "timestamp", NOW + 61)
    check(good, "timestamp", NOW - 61)
    check(signed(event("x"), secret=SECRET + b"!"), "signature")
    check((headers, body + b" "), "signature")
    check(({**headers, "x-tidegate-timestamp": f"{NOW + 1}"}, body), "signature")
    check(({**headers, "x-tidegate-signature": headers["x-tidegate-signature"].upper()}, body), "signature")
    check(({**headers, "x-tidegate-signature": "v1=é"}, body), "signature")
    check(({"x-tidegate-timestamp": f"{NOW}"}, body), "signature")
    check(({}, body), "timestamp")
    for stamp in ("now", "-1", "١٢", "1e9"):
        check(({**headers, "x-tidegate-timestamp": stamp}, body), "timestamp")


def test_a_body_that_is_no_request_is_refused_although_it_is_signed():
    check(signed(None, body=b"["), "body")
    check(signed(None), "body")
    check(signed({"kind": "event"}), "body")
    check(signed({**event("x"), "id": "short"}), "body")
    check(signed({**event("x"), "id": "x" * 32}), "body")
    check(signed({**event("x"), "kind": "party"}), "body")


def test_an_id_counts_once_is_forgotten_in_time_and_the_memory_is_bounded():
    now = 0
    seen = Seen(10, ids_max=3, clock=lambda: now)
    assert [seen.first("aa"), seen.first("bb"), seen.first("aa")] == [True, True, False]
    now = 11
    assert [seen.first("aa"), seen.first("cc")] == [False, True]
    with pytest.raises(Refused) as full:
        seen.first("dd")
    assert full.value.status == 503
    now = 22
    assert seen.first("aa")
    now = 100
    assert seen.first("cc")
    assert len(seen.young) + len(seen.old) == 1


def test_a_short_secret_stops_the_start():
    with pytest.raises(ValueError, match="5 bytes, at least 32"):
        TidegateServer("short", "http://tidegate", "key")


def asgi(sio, method, headers, body):
    """The status and the body that the server gives to an ASGI request."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/socket.io/", "query_string": b""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(socketio.ASGIApp(sio)(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_what_is_refused_has_a_status_and_is_counted():
    sio = House().sio
    headers, body = signed(event("x"), stamp=int(time.time()))
    assert asgi(sio, "POST", headers, body) == (200, {})
    assert asgi(sio, "POST", headers, body) == (409, {"error": "replayed"})
    assert asgi(sio, "POST", headers, body + b" ") == (401, {"error": "signature"})
    assert asgi(sio, "POST", {}, body) == (401, {"error": "timestamp"})
    assert asgi(sio, "GET", {}, b"")[0] == 405
    assert sio.refused["signature"] == 1


def test_a_body_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(tidegate_adapter, "BODY_BYTES_MAX", 10)
    assert asgi(House().sio, "POST", {}, b"x" * 11)[0] == 413


# === What is answered ===


def test_a_replayed_request_is_refused_and_a_disconnect_is_done_once():
    house, n = House(), 0

    @house.sio.event
    def add(sid):
        nonlocal n
        n += 1
        return n

    @house.sio.event
    def disconnect(sid, reason):
        nonlocal n
        n += 10 if reason == "client disconnect" else 1_000

    one = event("add")
    assert house.ask(one)["ack"] == [1]
    with pytest.raises(Refused) as refused:
        house.ask(one)
    assert refused.value.status == 409
    gone = request("disconnect", reason="client_left")
    assert [house.ask(gone), house.ask(gone)] == [{}, {}]
    assert n == 11


def test_a_connect_lets_in_and_refuses():
    house = House(user=lambda session: session.get("user"))

    @house.sio.event
    async def connect(sid, environ, auth):
        answers = {"args": ConnectionRefusedError("no", {"code": 7}), "bare": ConnectionRefusedError()}
        if auth and auth["how"] in answers:
            raise answers[auth["how"]]
        if auth and auth["how"] == "false":
            return False
        assert environ["REMOTE_ADDR"] == "10.0.0.1" and environ["QUERY_STRING"] == "EIO=4"
        assert (b"cookie", b"ada") in environ["asgi.scope"]["headers"]
        await house.sio.save_session(sid, {"user": environ["HTTP_COOKIE"]})
        await house.sio.enter_room(sid, "a")
        await house.sio.emit("came", ("x", b"\x00"), skip_sid=sid)

    refuse = lambda how: house.ask(request("connect", auth={"how": how}))["disconnect"]  # noqa: E731
    assert refuse("args") == {"message": "no", "data": {"code": 7}}
    assert refuse("bare") == refuse("false") == {"message": "Connection rejected by server"}
    answer = house.ask(request("connect", headers={"cookie": "ada"}, query="EIO=4", address="10.0.0.1"))
    assert answer == {
        "join": ["a"],
        "emit": [
            {
                "event": "came",
                "args": ["x", {"$binary": "AA=="}],
                "to": {},
                "except": {"sessions": ["sid-1"]},
                "namespace": "/",
            }
        ],
        "data": {"session": {"user": "ada"}, "rooms": ["a"]},
        "user": "ada",
    }


def test_handlers_of_older_forms_and_of_classes_are_called():
    house, called = House(), []
    house.sio.on("connect", lambda sid, environ: called.append("connect"))
    house.sio.on("disconnect", lambda sid: called.append("disconnect"))
    house.sio.on("*", lambda name, sid, *args: (name, *args))

    class Other(socketio.AsyncNamespace):
        async def on_move(self, sid, to):
            await self.enter_room(sid, to)
            await self.emit("moved", to, room=to)
            return to

    house.sio.register_namespace(Other("/other"))
    assert house.ask(request("connect")) == {}
    house.ask(request("disconnect", reason="ping_timeout"))
    assert called == ["connect", "disconnect"]
    assert house.ask(event("anything", 1, {"$binary": "AQ=="}))["ack"] == ["anything", 1, {"$binary": "AQ=="}]
    moved = house.ask(event("move", "there", namespace="/other"))
    assert (moved["join"], moved["ack"], moved["emit"][0]["namespace"]) == (["there"], ["there"], "/other")


def test_messages_know_the_rooms_of_their_moment():
    house = House()

    @house.sio.event
    async def come(sid):
        await house.sio.emit("before", room="r")
        await house.sio.enter_room(sid, "r")
        await house.sio.emit("after", room="r")

    @house.sio.event
    async def go(sid):
        await house.sio.emit("before", room="r")
        await house.sio.leave_room(sid, "r")
        await house.sio.emit("after", room="r")

    def emitted(answer):
        return [(one["event"], one["to"].get("sessions", []), one["except"]["sessions"]) for one in answer["emit"]]

    came = house.ask(event("come"))
    assert (came["join"], emitted(came)) == (["r"], [("before", [], ["sid-1"]), ("after", [], [])])
    went = house.ask(event("go", data=came["data"]))
    assert (went["leave"], emitted(went)) == (["r"], [("before", ["sid-1"], []), ("after", [], [])])


def test_a_session_is_kept_with_its_changes_and_only_then():
    house = House()

    @house.sio.event
    async def rename(sid, name):
        async with house.sio.session(sid) as session:
            session["name"] = name

    kept = {"session": {"name": "ada"}, "rooms": ["r"]}
    assert "data" not in house.ask(event("rename", "ada", data=kept))
    changed = house.ask(event("rename", "bob", data=kept))
    assert changed["data"] == {"session": {"name": "bob"}, "rooms": ["r"]}


def test_a_handler_that_fails_is_not_acknowledged_and_what_it_emitted_is_sent():
    house = House()

    @house.sio.event
    async def stumble(sid):
        await house.sio.emit("first", to=sid)
        raise RuntimeError

    answer = house.ask(event("stumble"))
    assert [one["event"] for one in answer["emit"]] == ["first"]
    assert "ack" not in answer
    assert house.ask(event("nobody")) == {}


def test_what_is_acknowledged_is_what_was_returned():
    house = House()
    house.sio.on("give", lambda sid, what: {"none": None, "two": (1, 2), "list": [1, 2]}[what])
    assert [house.ask(event("give", what))["ack"] for what in ("none", "two", "list")] == [[], [1, 2], [[1, 2]]]
    assert house.ask(event("give", "two", wants_ack=False)) == {}


# === What goes to Tidegate's API ===


def test_emits_from_outside_go_to_the_api_once():
    house = House(answers=[httpx.ConnectError("closed meanwhile")])

    async def emit():
        await house.sio.emit("news", (1, 2), room=["a", "b"], skip_sid="sid-9")

    asyncio.run(emit())
    (path, first), (_, again) = house.posts
    assert path == "/api/publish" and first == again
    assert (first["to"], first["except"], first["args"]) == ({"rooms": ["a", "b"]}, {"sessions": ["sid-9"]}, [1, 2])
    assert len(first["id"]) == 32


def test_emits_after_the_answer_and_in_a_disconnect_go_to_the_api():
    house = House()

    @house.sio.event
    async def begin(sid):
        house.sio.start_background_task(later)

    async def later():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await house.sio.emit("later")

    @house.sio.event
    async def disconnect(sid, reason):
        await house.sio.emit("gone")

    async def both():
        assert "emit" not in await house.asked(event("begin"))
        await house.asked(request("disconnect", reason="client_left"))
        for _ in range(50):
            await asyncio.sleep(0)

    asyncio.run(both())
    assert sorted(body["event"] for _, body in house.posts) == ["gone", "later"]


def test_what_a_handler_emits_before_it_asks_its_client_is_sent_before():
    house = House(answers=[{"ok": True, "results": []}, {"ok": True, "answers": [{"session": "sid-1", "args": ["yes"]}]}])

    @house.sio.event
    async def go(sid):
        await house.sio.emit("first", to=sid)
        answer = await house.sio.call("question", to=sid, timeout=0.1)
        await house.sio.emit("last", to=sid)
        return answer

    answer = house.ask(event("go"))
    assert (answer["ack"], [one["event"] for one in answer["emit"]]) == (["yes"], ["last"])
    assert [body.get("event") or body["messages"][0]["event"] for _, body in house.posts] == ["first", "question"]
    assert house.posts[1][1]["ack_timeout_ms"] == 100


def test_a_question_without_answer_times_out():
    house = House(answers=[{"ok": True, "answers": [], "timed_out": True}])
    with pytest.raises(socketio.exceptions.TimeoutError):
        asyncio.run(house.sio.call("question", to="sid-1", timeout=1))


def test_a_callback_hears_the_answer():
    house, heard = House(answers=[{"ok": True, "answers": [{"session": "sid-1", "args": [1, 2]}]}]), []

    async def emit():
        await house.sio.emit("question", to="sid-1", callback=lambda *args: heard.append(args))
        await asyncio.gather(*house.sio.tasks)

    asyncio.run(emit())
    assert heard == [(1, 2)]


def test_other_clients_join_leave_and_are_disconnected_by_name():
    house = House()

    async def change():
        await house.sio.enter_room("sid-2", "r")
        await house.sio.leave_room("sid-2", "r")
        await house.sio.disconnect("sid-2")

    asyncio.run(change())
    assert house.posts == [
        ("/api/sessions/sid-2/join", {"rooms": ["r"], "namespace": "/"}),
        ("/api/sessions/sid-2/leave", {"rooms": ["r"], "namespace": "/"}),
        ("/api/sessions/sid-2/disconnect", {"namespace": "/"}),
    ]


def test_what_a_handler_does_to_others_comes_in_its_order():
    house = House(answers=[{"ok": True, "results": []}, {"ok": True}, {"ok": True, "session": {"data": None}}])

    @house.sio.event
    async def go(sid):
        await house.sio.emit("before", room="r")
        await house.sio.close_room("r")
        await house.sio.emit("after", room="r")
        return await house.sio.get_session("sid 2")

    answer = house.ask(event("go", data={"session": {}, "rooms": ["r"]}))
    assert (answer["leave"], answer["ack"], [one["event"] for one in answer["emit"]]) == (["r"], [{}], ["after"])
    (_, first), second, (path, _) = house.posts
    assert first["messages"][0]["event"] == "before"
    assert second == ("/api/rooms/r/leave", {"rooms": ["r"], "namespace": "/"})
    assert path == "/api/sessions/sid 2"


def test_a_refusal_of_the_api_is_an_error_of_the_caller():
    house = House(answers=[{"ok": False, "error": {"code": "forbidden"}}])
    with pytest.raises(TidegateUnavailable, match="403 .*forbidden"):
        asyncio.run(house.sio.emit("x"))


def test_what_is_not_covered_says_what_to_do_instead():
    sio = House().sio
    for call in (
        lambda: sio.rooms("sid-1"),
        lambda: sio.get_environ("sid-1"),
        lambda: sio.transport("sid-1"),
        lambda: sio.instrument(),
        lambda: asyncio.run(sio.save_session("sid-1", {})),
        lambda: asyncio.run(sio.save_session("sid-1", {"x": object()})),
    ):
        with pytest.raises(NotBehindTidegate):
            call()
