"""The adapter alone: who is believed, what is answered, and what is said about things it does not do."""

import asyncio
import hashlib
import hmac
import itertools
import json
import time
import tracemalloc
from random import Random

import httpx
import pytest
import socketio
from socketio.exceptions import ConnectionRefusedError

import tidegate_adapter
from tidegate_adapter import (
    NotBehindTidegate, Refused, Seen, TidegateServer, TidegateUnavailable, verify, with_bytes, without_bytes,
)

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
        self.pauses = []
        self.sio.pause = self.paused

    def api(self, asked):
        self.posts.append((asked.url.path, json.loads(asked.content or b"null")))
        answer = self.answers.pop(0) if self.answers else {"ok": True, "results": []}
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(200 if answer.get("ok") else 403, json=answer)

    async def paused(self, seconds):
        self.pauses.append(seconds)

    def ask(self, body):
        return asyncio.run(self.asked(body))

    async def asked(self, body):
        return await self.sio.answer(*signed(body, stamp=int(time.time())))

    async def refused(self, body):
        """The status that a request is refused with."""
        with pytest.raises(Refused) as refused:
            await self.asked(body)
        return refused.value.status

    def published(self):
        """The messages that went to the API, in order."""
        bodies = [body for path, body in self.posts if path == "/api/publish"]
        return [message for body in bodies for message in body.get("messages", [body])]


def refusal(status, code, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=headers, json={"ok": False, "error": {"code": code}})


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


def test_a_timestamp_has_few_digits_and_is_hardly_ahead():
    headers, body = signed(event("x"))
    for digits in (14, 400, 5_000):
        check(({**headers, "x-tidegate-timestamp": "9" * digits}, body), "timestamp")
        check(signed(event("x"), stamp="0" * digits), "timestamp")
    check(signed(event("x"), stamp=f"{NOW:013}"))
    check(signed(event("x"), stamp=NOW + 5))
    check(signed(event("x"), stamp=NOW + 6), "timestamp")


def test_an_id_counts_once_and_is_forgotten_in_time():
    now = 0
    seen = Seen(10, clock=lambda: now)
    assert [seen.first("aa", 1), seen.first("bb", 1), seen.first("aa", 1)] == [True, True, False]
    assert [seen.has("aa", 1), seen.has("cc", 1)] == [True, False]
    now = 11
    assert [seen.first("aa", 2), seen.first("cc", 2)] == [False, True]
    now = 22
    assert seen.first("aa", 3)
    now = 100
    assert seen.first("cc", 4)
    assert (len(seen.young) + len(seen.old), seen.n_early) == (1, 0)


def test_more_requests_than_are_remembered_are_no_outage():
    seen = Seen(65, ids_max=10, clock=lambda: 0)
    for n in range(1_000):
        assert seen.first(f"{n:032x}", 1_000 + n // 2)
        assert len(seen.young) + len(seen.old) <= 10
    assert seen.n_early == 198
    # What is as old as the forgotten is refused in words of its own; those that are remembered are known.
    for n in range(990):
        with pytest.raises(Refused, match="forgotten: signed at") as refused:
            seen.first(f"{n:032x}", 1_000 + n // 2)
        assert refused.value.status == 401
    assert not any(seen.first(f"{n:032x}", 1_000 + n // 2) for n in range(990, 1_000))
    # A fresh one with the timestamp of a forgotten one may be a replay for all that is known.
    with pytest.raises(Refused):
        seen.first("ff" * 16, seen.forgotten)
    assert seen.first("ff" * 16, seen.forgotten + 1)


def test_no_replay_passes_whatever_the_traffic():
    """Against a memory without end: no id passes twice while its signature counts, and what is new and newer passes."""
    for seed in range(50):
        random = Random(seed)
        now, sent, passed = 1_000.0, [], set()
        seen = Seen(20, ids_max=random.choice((2, 7, 40)), clock=lambda: now)
        for _ in range(600):
            now += random.choice((0, 0, 0.2, 3, 30))
            if sent and random.random() < 0.3:
                request_id, stamp = random.choice(sent[-60:])
            else:
                request_id, stamp = f"{random.getrandbits(128):032x}", int(now) + random.choice((0, 0, -1, -5, 5))
                sent.append((request_id, stamp))
            if not -5 <= now - stamp <= 15:
                continue
            try:
                is_first = seen.first(request_id, stamp)
            except Refused:
                assert stamp <= seen.forgotten, (seed, request_id)
                continue
            assert is_first == (request_id not in passed), (seed, request_id)
            passed.add(request_id)


def test_an_id_is_remembered_in_about_a_hundred_bytes():
    seen = Seen(65)
    tracemalloc.start()
    for n in range(100_000):
        seen.first(f"{n:032x}", NOW)
    n_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_bytes / 100_000 < 120


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
    for digits in (400, 5_000):
        assert asgi(sio, "POST", {**headers, "x-tidegate-timestamp": "9" * digits}, body) == (401, {"error": "timestamp"})
    assert sio.refused == {"replayed": 1, "signature": 1, "timestamp": 3, "method": 1}


def test_a_body_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(tidegate_adapter, "BODY_BYTES_MAX", 10)
    assert asgi(House().sio, "POST", {}, b"x" * 11)[0] == 413


# === What is answered ===


def test_bytes_and_what_looks_like_them():
    """What stands in the hook's JSON, and what a handler has for it; both ways."""
    for said, meant in (
        ({"$binary": "AP8="}, b"\x00\xff"),
        ({"$binary": ""}, b""),
        ([{"a": [{"$binary": "AQ=="}]}], [{"a": [b"\x01"]}]),
        ({"$$binary": "AP8="}, {"$binary": "AP8="}),
        ({"$$binary": 5}, {"$binary": 5}),
        ({"$$$binary": {"$binary": "AQ=="}}, {"$$binary": b"\x01"}),
        ({"$$binary": {"$$$binary": None}}, {"$binary": {"$$binary": None}}),
        ({"$binary": "AP8=", "more": 1}, {"$binary": "AP8=", "more": 1}),
        ({"binary": "AP8="}, {"binary": "AP8="}),
        ({"$binary$": 1}, {"$binary$": 1}),
        ({"x$$binary": 1}, {"x$$binary": 1}),
        ({"$$binary\n": 1}, {"$$binary\n": 1}),
        ({}, {}),
        ("$$binary", "$$binary"),
    ):
        assert with_bytes(said) == meant, said
        assert without_bytes(meant) == said, meant
    # Only from a server that does not escape yet; it stays as it is.
    for literal in ({"$binary": "%"}, {"$binary": "AP8"}, {"$binary": 5}, {"$binary": "é"}):
        assert with_bytes(literal) == literal


def test_what_json_cannot_say_is_an_error_where_it_is_said():
    house = House()

    @house.sio.event
    async def go(sid, what):
        await house.sio.emit("x", {"n": {"nan": float("nan"), "set": {1}, "key": {(1, 2): 3}, "fine": (1, None)}[what]})

    for what, n_sent in (("nan", 0), ("set", 0), ("key", 0), ("fine", 1)):
        answer = house.ask(event("go", what))
        assert (len(answer.get("emit", [])), "ack" in answer) == (n_sent, n_sent == 1), what
    house.sio.on("give", lambda sid: {1, 2})
    assert house.ask(event("give")) == {}


def test_an_empty_list_of_rooms_is_nobody_and_no_list_is_everybody():
    house = House(answers=[{"ok": True}] * 20)
    everybody = [{}, {"room": None}, {"to": None}, {"skip_sid": []}, {"skip_sid": None}]
    nobody = [{"room": []}, {"to": []}, {"room": ()}, {"to": set()}, {"room": [], "skip_sid": []}, {"to": [], "room": []}]

    async def say(**whom):
        await house.sio.emit("secret", 1, **whom)

    @house.sio.on("say")
    async def on_say(sid, n):
        await say(**(everybody + nobody)[n])

    for n, whom in enumerate(everybody + nobody):
        expected = [{}] if whom in everybody else []
        asyncio.run(say(**whom))
        assert [one["to"] for one in house.published()] == expected, whom
        assert [one["to"] for one in house.ask(event("say", n)).get("emit", [])] == expected, whom
        house.posts.clear()
    asyncio.run(say(to=[], room="r"))
    assert house.published()[0]["to"] == {"rooms": ["r"]}
    house.posts.clear()
    asyncio.run(say(to=[], callback=print))
    assert house.posts == []


def test_rooms_that_are_numbers_have_names_of_digits():
    house = House()

    @house.sio.event
    async def go(sid):
        await house.sio.enter_room(sid, 5)
        await house.sio.enter_room(sid, "7")
        await house.sio.leave_room(sid, 7)
        await house.sio.emit("x", to=[5, "5", -1, 0], skip_sid=["sid-9", None])
        await house.sio.emit("y", room=0)
        await house.sio.enter_room(sid, sid)
        return house.sio.rooms(sid)

    answer = house.ask(event("go"))
    assert (answer["join"], answer["ack"], answer["data"]["rooms"]) == (["5"], [["sid-1", "5"]], ["5"])
    assert [one["to"] for one in answer["emit"]] == [{"rooms": ["5", "-1", "0"]}, {"rooms": ["0"]}]
    assert answer["emit"][0]["except"] == {"sessions": ["sid-9"]}

    async def elsewhere():
        await house.sio.enter_room("sid-2", 5)
        await house.sio.close_room(5)

    asyncio.run(elsewhere())
    assert [(path, body["rooms"]) for path, body in house.posts] == [
        ("/api/sessions/sid-2/join", ["5"]),
        ("/api/rooms/5/leave", ["5"]),
    ]
    for room in (1.5, True, b"x", None, ("a", "b")):
        with pytest.raises(NotBehindTidegate, match="text or a whole number"):
            asyncio.run(house.sio.enter_room("sid-2", room))
    with pytest.raises(NotBehindTidegate):
        asyncio.run(house.sio.emit("x", room=["a", None]))


def test_a_message_that_tidegate_would_refuse_is_refused_where_it_is_said():
    sio = House().sio
    for name in ("", "connect", "disconnect", "connect_error", 5):
        with pytest.raises(ValueError, match="reserved"):
            asyncio.run(sio.emit(name))
    asyncio.run(sio.emit("x", to=[f"r{n}" for n in range(998)], skip_sid="sid-1"))
    with pytest.raises(NotBehindTidegate, match="more than 999 rooms"):
        asyncio.run(sio.emit("x", to=[f"r{n}" for n in range(999)], skip_sid="sid-1"))


def test_a_handler_may_emit_more_than_an_answer_holds():
    house = House()

    @house.sio.event
    async def go(sid, n, size):
        await house.sio.enter_room(sid, "r")
        for i in range(n):
            await house.sio.emit(f"e{i}", "x" * size, room="r")
        return n

    for n, size, n_posts in ((1_000, 1, 0), (1_001, 1, 1), (3_500, 1, 3), (20, 100_000, 3), (1, 600_000, 1), (2, 600_000, 2)):
        house.posts.clear()
        answer = house.ask(event("go", n, size))
        assert (answer["join"], answer["ack"]) == (["r"], [n])
        sent = house.published()
        # In order, and to the client itself by its name: Tidegate does not have it in the room yet.
        assert [one["event"] for one in sent + answer.get("emit", [])] == [f"e{i}" for i in range(n)]
        assert all(one["to"] == {"rooms": ["r"], "sessions": ["sid-1"]} for one in sent)
        assert all(one["to"] == {"rooms": ["r"]} for one in answer.get("emit", []))
        assert len(house.posts) == n_posts, (n, size)
        assert all(len(body["messages"]) <= 1_000 and len(json.dumps(body)) < 1 << 20 for _, body in house.posts)
        assert len(json.dumps(answer)) < 1 << 20


def test_a_large_acknowledgement_has_its_place():
    house = House()

    @house.sio.event
    async def go(sid):
        await house.sio.emit("first", "x" * 400_000)
        return "y" * 400_000

    answer = house.ask(event("go"))
    assert ("emit" in answer, len(answer["ack"][0])) == (False, 400_000)
    assert [one["event"] for one in house.published()] == ["first"]


def test_a_client_that_is_being_connected_hears_its_part_in_the_answer():
    house = House()

    @house.sio.event
    async def connect(sid, environ, auth):
        await house.sio.emit("early", room="r")
        await house.sio.enter_room(sid, "r")
        for whom in ({}, {"room": "r"}, {"to": sid}, {"room": "r", "skip_sid": sid}, {"room": "s"}, {"namespace": "/n"}):
            await house.sio.emit("x", **whom)
        for i in range(auth["n"]):
            await house.sio.emit("other", i, room="s")
        await house.sio.close_room("old")

    answer = house.ask(request("connect", auth={"n": 1_500}))
    assert [one["to"] for one in answer["emit"]] == [{"sessions": ["sid-1"]}] * 3
    sent = house.published()
    assert [one["event"] for one in sent] == ["early"] + ["x"] * 5 + ["other"] * 1_500
    assert [one["to"] for one in sent[:6]] == [{"rooms": ["r"]}, {}, {"rooms": ["r"]}, {"rooms": ["r"]}, {"rooms": ["s"]}, {}]
    assert house.posts[-1][0] == "/api/rooms/old/leave"


def test_more_to_a_client_that_is_being_connected_than_an_answer_holds_is_an_error():
    house = House()

    @house.sio.event
    async def connect(sid, environ, auth):
        for i in range(auth["emits"]):
            await house.sio.emit("x", i, to=sid)
        for i in range(auth["rooms"]):
            await house.sio.enter_room(sid, i)

    assert len(house.ask(request("connect", auth={"emits": 1_000, "rooms": 1_000}))["join"]) == 1_000
    for more, said in (({"emits": 1_001, "rooms": 0}, "1000 messages"), ({"emits": 0, "rooms": 1_001}, "1000 rooms")):
        with pytest.raises(NotBehindTidegate, match=said):
            house.ask(request("connect", auth=more))
    assert house.posts == []


def test_a_handler_may_change_more_rooms_than_an_answer_holds():
    house = House(answers=[{"ok": True}] * 9)

    @house.sio.event
    async def go(sid):
        await house.sio.emit("first", room="r1")
        for i in range(1_002):
            await house.sio.enter_room(sid, f"r{i}")
        await house.sio.emit("last", room="r1")

    answer = house.ask(event("go", data={"session": {}, "rooms": ["a"]}))
    assert [path for path, _ in house.posts] == ["/api/publish", "/api/sessions/sid-1/join", "/api/sessions/sid-1/join"]
    first, rooms = house.published()[0], [room for _, body in house.posts[1:] for room in body["rooms"]]
    assert (first["event"], len(rooms), answer["join"]) == ("first", 1_001, ["r1001"])
    assert [(one["event"], one["to"]) for one in answer["emit"]] == [("last", {"rooms": ["r1"]})]
    assert len(answer["data"]["rooms"]) == 1_003
    house.answers = [{"ok": True, "sessions": 1, "refused": 1}]
    with pytest.raises(TidegateUnavailable, match="rooms_per_session"):
        asyncio.run(house.sio.enter_room("sid-2", "r"))


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


def test_the_whole_user_reaches_tidegate_whenever_it_has_changed():
    """Each step: what the session's user is, and what the answer says of it."""
    house = House(user=lambda session: session.get("user"))

    @house.sio.on("connect")
    @house.sio.event
    async def become(sid, user, *_):
        async with house.sio.session(sid) as session:
            session["user"] = turns[0] if isinstance(user, dict) else user

    nothing = object()
    ada = {"id": "ada", "roles": ["trader"], "expires_at_ms": 1}
    later, twice = {**ada, "expires_at_ms": 2}, {**ada, "roles": ("trader", "admin")}
    steps = [
        (ada, ada), (ada, nothing), (later, later), (later, nothing), (twice, {**ada, "roles": ["trader", "admin"]}),
        (twice, nothing), ("ada", "ada"), ("ada", nothing), (ada, ada), ("bob", "bob"), (None, None), (None, nothing),
        ({"id": "eve"}, {"id": "eve"}),
    ]
    data, user = None, None
    for kind in ("connect", "event"):
        for to_be, said in steps:
            turns = [to_be]
            of_kind = {"event": "become", "args": [{}], "wants_ack": False} if kind == "event" else {}
            answer = house.ask(request(kind, user=user, data=data, **of_kind))
            assert answer.get("user", nothing) == said, (kind, to_be)
            data = answer.get("data", data)
            user = answer.get("user", user)
            user = user["id"] if isinstance(user, dict) else user
    # Another program has named somebody else: the session's own counts.
    turns = [{"id": "eve"}]
    assert house.ask(event("become", {}, user="mallory", data=data))["user"] == {"id": "eve"}


def test_a_namespace_without_handlers_lets_nobody_in():
    house = House(namespaces=["/", "/named"])
    house.sio.on("x", lambda sid: 1, namespace="/handled")
    house.sio.register_namespace(socketio.AsyncNamespace("/class"))
    for namespace, is_in in (("/", True), ("/named", True), ("/handled", True), ("/class", True), ("/other", False)):
        answer = house.ask(request("connect", namespace=namespace))
        assert answer == ({} if is_in else {"disconnect": {"message": "Unable to connect"}}), namespace


# === The ends of sessions ===


def gone(**more):
    return request("disconnect", **{"reason": "client_left", **more})


def test_what_a_disconnect_says_while_tidegate_is_away_does_not_stop_it():
    away, cleaned = [httpx.ConnectError("away")] * 2, []
    house = House(answers=away * 6)

    @house.sio.event
    async def disconnect(sid, reason):
        await house.sio.emit("offline", room="lobby")
        await house.sio.send("bye", room="lobby")
        await house.sio.enter_room("sid-2", "r")
        await house.sio.leave_room("sid-2", "r")
        await house.sio.close_room("s")
        await house.sio.disconnect("sid-2")
        cleaned.append((await house.sio.get_session(sid), house.sio.rooms(sid)))

    assert house.ask(gone(data={"session": {"user": "ada"}, "rooms": ["r"]})) == {}
    assert cleaned == [({"user": "ada"}, ["sid-1", "r"])]
    assert house.sio.counts["lost_in_disconnect"] == 6


def test_a_disconnect_whose_handler_fails_is_done():
    house, n = House(), 0

    @house.sio.event
    async def disconnect(sid, reason):
        nonlocal n
        n += 1
        raise RuntimeError

    one = gone()
    assert [house.ask(one), house.ask(one), n] == [{}, {}, 1]


def test_a_disconnect_that_is_told_again_meanwhile_is_put_off_and_one_that_was_cut_off_is_handled_again():
    house, begun, may_end, n = House(), asyncio.Event(), asyncio.Event(), 0

    @house.sio.event
    async def disconnect(sid, reason):
        nonlocal n
        n += 1
        begun.set()
        await may_end.wait()

    async def script():
        one = gone()
        first = asyncio.ensure_future(house.asked(one))
        await begun.wait()
        assert await house.refused(one) == 425
        first.cancel()
        await asyncio.wait([first])
        # The process went down under it: it is not done.
        assert first.cancelled()
        begun.clear()
        second = asyncio.ensure_future(house.asked(one))
        await begun.wait()
        may_end.set()
        assert [await second, await house.asked(one), n] == [{}, {}, 2]

    asyncio.run(script())


class Store:
    """What several workers share; `away` is what it raises."""

    def __init__(self):
        self.ids, self.away = set(), None

    async def first(self, request_id, stamp):
        return not await self.has(request_id, stamp) and not self.ids.add(request_id)

    async def has(self, request_id, stamp):
        if self.away:
            raise self.away
        return request_id in self.ids


def test_workers_share_what_is_done_and_a_store_that_is_away_loses_no_disconnect():
    store, n = Store(), []
    houses = [House(seen=store), House(seen=store)]
    for house in houses:
        house.sio.on("disconnect", lambda sid, reason: n.append((sid, len(store.ids))))
        house.sio.on("x", lambda sid: 1)

    async def script():
        one, left = event("x"), gone()
        assert (await houses[0].asked(one))["ack"] == [1]
        assert await houses[1].refused(one) == 409
        store.away = ConnectionError("away")
        assert [await houses[0].refused(left), await houses[0].refused(event("x"))] == [503, 503]
        store.away = None
        assert [await houses[0].asked(left), await houses[1].asked(left)] == [{}, {}]
        # Marked after the handler, not before.
        assert n == [("sid-1", 1)]

    asyncio.run(script())


def test_a_disconnect_among_forgotten_ids_is_put_off_until_it_is_signed_anew():
    seen = Seen(65, ids_max=2)
    house, n = House(), []
    house.sio.seen = seen
    house.sio.on("disconnect", lambda sid, reason: n.append(sid))
    now = int(time.time())
    for i in range(3):
        seen.first(f"{i:032x}", now + 3)

    async def script():
        one = gone()
        assert await house.refused(one) == 425
        assert await house.refused(event("x")) == 401
        assert await house.sio.answer(*signed(one, stamp=now + 4)) == {}

    asyncio.run(script())
    assert n == ["sid-1"]


def test_sessions_of_a_tidegate_that_was_killed_end_once():
    house, ended, met = House(on_boot=lambda boot: met.append(boot)), [], []

    @house.sio.event
    async def connect(sid, environ):
        assert environ["tidegate.boot"] == met[-1]
        if sid == "no":
            return False
        await house.sio.save_session(sid, {"name": sid.upper()})
        await house.sio.enter_room(sid, "r")

    @house.sio.event
    async def disconnect(sid, reason):
        session = await house.sio.get_session(sid)
        ended.append((sid, reason, session.get("name"), house.sio.rooms(sid)))

    @house.sio.event
    async def rename(sid):
        await house.sio.save_session(sid, {"name": "renamed"})

    async def script():
        for sid in ("one", "two", "left", "no"):
            await house.asked(request("connect", boot="b1", session=sid))
        await house.asked(gone(boot="b1", session="left"))
        await house.asked(event("rename", boot="b1", session="one", data={"session": {"name": "ONE"}, "rooms": ["r"]}))
        del ended[:]
        await house.asked(request("connect", boot="b2", session="new"))
        await asyncio.gather(*house.sio.ending)
        assert ended == [
            ("two", "transport close", "TWO", ["two", "r"]),
            ("one", "transport close", "renamed", ["one", "r"]),
        ]
        # Told after all, from its disk: those that were ended have had it, one that was not known here has not.
        for sid in ("one", "two", "unknown"):
            await house.asked(gone(boot="b1", session=sid))
        assert [sid for sid, *_ in ended[2:]] == ["unknown"]
        # A straggler of before is no new start.
        await house.asked(event("rename", boot="b1", session="late"))
        await house.asked(event("rename", boot="b2", session="new"))
        assert (met, len(house.sio.ending), len(ended)) == (["b1", "b2"], 0, 3)

    asyncio.run(script())


def test_an_end_that_is_told_while_it_goes_on_is_put_off():
    house, may_end, n = House(), asyncio.Event(), []

    @house.sio.event
    async def disconnect(sid, reason):
        await may_end.wait()
        n.append(reason)

    async def script():
        await house.asked(request("connect", boot="b1"))
        await house.asked(request("connect", boot="b2", session="new"))
        told = gone(boot="b1")
        assert await house.refused(told) == 425
        may_end.set()
        await asyncio.gather(*house.sio.ending)
        assert [await house.asked(told), await house.asked(told), n] == [{}, {}, ["transport close"]]

    asyncio.run(script())


def test_with_several_tidegates_the_one_that_was_silent_is_over():
    house, ended = House(nodes=2), []
    house.sio.on("disconnect", lambda sid, reason: ended.append(sid))

    async def script():
        for boot in ("b1", "b2", "b1", "b3"):
            await house.asked(event("x", boot=boot, session=f"of {boot}"))
        await asyncio.gather(*house.sio.ending)
        assert ended == ["of b2"]

    asyncio.run(script())


def test_sessions_that_are_remembered_are_bounded_and_a_slow_on_boot_holds_up_the_first_requests(monkeypatch):
    monkeypatch.setattr(tidegate_adapter, "SESSIONS_MAX", 2)
    may_begin, order = asyncio.Event(), []

    async def on_boot(boot):
        await may_begin.wait()
        order.append(boot)

    house = House(on_boot=on_boot)
    house.sio.on("x", lambda sid: order.append(sid))

    async def script():
        asked = [asyncio.ensure_future(house.asked(event("x", session=f"s{n}"))) for n in range(3)]
        asyncio.get_running_loop().call_soon(may_begin.set)
        await asyncio.gather(*asked)

    asyncio.run(script())
    assert order == ["b1", "s0", "s1", "s2"]
    assert ([sid for _, sid in house.sio.sessions], house.sio.counts["sessions_forgotten"]) == (["s1", "s2"], 1)


def test_with_several_workers_none_ends_sessions_of_the_others():
    house, ended, met = House(seen=Store(), on_boot=lambda boot: met.append(boot)), [], []
    house.sio.on("disconnect", lambda sid, reason: ended.append(sid))

    async def script():
        for boot in ("b1", "b2", "b2"):
            await house.asked(event("x", boot=boot))

    asyncio.run(script())
    assert (ended, met, len(house.sio.sessions)) == ([], ["b1", "b2"], 0)


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
        await asyncio.gather(*house.sio.asking)

    asyncio.run(emit())
    assert heard == [(1, 2)]


def test_a_question_comes_after_what_was_emitted_before():
    asked = {"ok": True, "answers": [{"session": "sid-1", "args": ["yes"]}]}
    house, heard = House(answers=[{"ok": True, "results": []}, asked]), []

    @house.sio.event
    async def go(sid):
        await house.sio.emit("first", to=sid)
        await house.sio.emit("question", to=sid, callback=lambda *args: heard.append(args))
        await house.sio.emit("last", to=sid)

    async def script():
        answer = await house.asked(event("go"))
        await asyncio.gather(*house.sio.asking)
        assert [one["event"] for one in answer["emit"]] == ["last"]
        assert [one["event"] for one in house.published()] == ["first", "question"]
        assert heard == [("yes",)]

    asyncio.run(script())


def test_a_client_that_is_being_connected_cannot_be_asked_and_others_can():
    house = House(answers=[{"ok": True, "answers": []}] * 2)

    @house.sio.event
    async def connect(sid, environ, auth):
        to = sid if auth["me"] else "sid-2"
        if auth["callback"]:
            await house.sio.emit("question", to=to, callback=print)
        else:
            await house.sio.call("question", to=to, timeout=1)

    for callback, what in ((True, r"emit\(callback=\)"), (False, r"call\(\)")):
        with pytest.raises(NotBehindTidegate, match=f"{what} to a client that is being connected"):
            house.ask(request("connect", auth={"me": True, "callback": callback}))
        assert house.posts == []
    assert house.ask(request("connect", auth={"me": False, "callback": True})) == {}
    with pytest.raises(socketio.exceptions.TimeoutError):
        house.ask(request("connect", auth={"me": False, "callback": False}))


def test_questions_are_bounded(monkeypatch):
    monkeypatch.setattr(tidegate_adapter, "ASKED_MAX", 2)
    house = House(answers=[{"ok": True, "answers": []}] * 9)

    async def script():
        for _ in range(2):
            await house.sio.emit("question", to="sid-1", callback=print)
        for asking in (house.sio.emit("question", to="sid-1", callback=print), house.sio.call("question", to="sid-1")):
            with pytest.raises(TidegateUnavailable, match="2 questions"):
                await asking
        await asyncio.gather(*house.sio.asking)
        await house.sio.emit("question", to="sid-1", callback=print)
        await asyncio.gather(*house.sio.asking)
        assert (len(house.posts), house.sio.counts["questions_refused"]) == (3, 2)

    asyncio.run(script())


def test_a_class_based_namespace_asks_without_a_timeout():
    house = House(answers=[{"ok": True, "answers": [{"session": "sid-1", "args": [1]}]}])

    class Other(socketio.AsyncNamespace):
        async def on_go(self, sid):
            return await self.call("question", to=sid)

    house.sio.register_namespace(Other("/other"))
    assert house.ask(event("go", namespace="/other"))["ack"] == [1]
    assert house.posts[0][1]["ack_timeout_ms"] == 60_000


def test_what_tidegate_has_no_room_for_is_tried_again_for_a_while():
    """Each case: what the API answers, how long was waited before each further try, and what the caller gets."""
    busy, limited = refusal(503, "overloaded", retry_after="1"), refusal(429, "rate_limited", retry_after="2")
    done = {"ok": True}
    for answers, pauses, refused in (
        ([busy, done], [1], None),
        ([limited, busy, done], [2, 1], None),
        ([refusal(503, "overloaded"), done], [1], None),
        ([busy] * 9, [1, 1, 1], "503 .*overloaded"),
        ([limited, limited], [2], "429 .*rate_limited"),
        ([refusal(503, "overloaded", retry_after="4")], [], "503"),
        ([refusal(503, "overloaded", retry_after="soon"), done], [1], None),
        ([refusal(503, "unavailable", retry_after="1")], [], "503 .*unavailable"),
        ([refusal(403, "forbidden")], [], "403 .*forbidden"),
        ([httpx.Response(502, text="<html>")], [], "502 and no JSON"),
        ([httpx.Response(500, json=[])], [], "500"),
    ):
        house = House(answers=answers)
        if refused is None:
            asyncio.run(house.sio.emit("x", 1))
            assert all(one == house.published()[0] for one in house.published())
        else:
            with pytest.raises(TidegateUnavailable, match=refused):
                asyncio.run(house.sio.emit("x", 1))
        assert (house.pauses, len(house.posts), house.sio.counts["retried"]) == (pauses, len(pauses) + 1, len(pauses)), refused


def test_of_many_messages_only_those_without_room_are_tried_again():
    results = [{"ok": True}, {"ok": False, "error": {"code": "overloaded"}}, {"ok": False, "error": {"code": "rate_limited"}}]
    house = House(answers=[{"ok": True, "results": results}, {"ok": True, "results": results[:2]}, {"ok": True, "results": []}])

    @house.sio.event
    async def go(sid):
        for name in "abc":
            await house.sio.emit(name)
        await house.sio.close_room("r")

    house.ask(event("go"))
    sent = [[one["event"] for one in body.get("messages", [])] for _, body in house.posts]
    assert (sent, house.pauses) == ([["a", "b", "c"], ["b", "c"], ["c"], []], [1, 1])
    assert house.posts[0][1]["messages"][2] == house.posts[2][1]["messages"][0]
    # One that is refused for good is told when the others are through.
    forbidden = {"ok": False, "error": {"code": "forbidden"}}
    house = House(answers=[{"ok": True, "results": [forbidden, results[1]]}, {"ok": True, "results": [{"ok": True}]}])
    with pytest.raises(TidegateUnavailable, match="forbidden"):
        asyncio.run(house.sio._call("POST", "/api/publish", {"messages": [{"event": "a"}, {"event": "b"}]}))
    assert [one["event"] for one in house.published()] == ["a", "b", "b"]


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
        lambda: sio.attach(None),
        lambda: sio.environ["sid-1"],
        lambda: sio.environ.get("sid-1"),
        lambda: "sid-1" in sio.environ,
        lambda: list(sio.environ),
        lambda: len(sio.environ),
        lambda: sio.eio.sockets,
        lambda: setattr(sio.manager, "x", 1),
        lambda: asyncio.run(sio.save_session("sid-1", {})),
        lambda: asyncio.run(sio.save_session("sid-1", {"x": object()})),
    ):
        with pytest.raises(NotBehindTidegate):
            call()


# Each public name of python-socketio's server: done here as there, or raising, or nothing that tells of clients.
COVERED = {
    "call", "close_room", "disconnect", "emit", "enter_room", "event", "get_session", "handle_request", "leave_room", "on",
    "register_namespace", "save_session", "send", "session", "shutdown", "sleep", "start_background_task",
}  # fmt: skip
RAISING = {"attach", "eio", "environ", "get_environ", "instrument", "manager", "rooms", "transport"}
PLAIN = {
    "async_handlers", "async_mode", "always_connect", "handlers", "is_asyncio_based", "logger", "manager_initialized",
    "namespace_handlers", "namespaces", "not_handled", "packet_class", "reason", "reserved_events",
}  # fmt: skip


def public(of):
    return {name for name in dir(of) if not name.startswith("_")}


def test_every_public_name_of_python_socketio_is_covered_or_raises():
    theirs, sio = socketio.AsyncServer(async_mode="asgi"), House().sio
    assert public(theirs) == COVERED | RAISING | PLAIN
    # What asks Engine.IO or the manager there is a method of the adapter's own here.
    inherited = {"event", "on", "register_namespace", "send", "session"}
    for name in COVERED - inherited:
        assert getattr(TidegateServer, name) is not getattr(socketio.AsyncServer, name), name
    for holder, name in ((theirs.manager, "manager"), (theirs.eio, "eio")):
        for member in public(holder):
            with pytest.raises(NotBehindTidegate, match=rf"^sio\.{name}\.{member}: .{{10}}"):
                getattr(getattr(sio, name), member)


def test_options_that_are_settings_of_tidegate_stop_the_start():
    for name, instead in (
        ("client_manager", "seen"),
        ("cors_allowed_origins", "`origins`"),
        ("ping_interval", "transport.ping_interval"),
        ("max_http_buffer_size", "transport.payload_bytes_max"),
        ("serializer", "JSON"),
        ("always_connect", "refusal"),
        ("anything", "settings of Tidegate"),
    ):
        with pytest.raises(NotBehindTidegate, match=f"^{name}: .*{instead}"):
            House(**{name: 1})
    with pytest.raises(NotBehindTidegate, match="ASGI"):
        House(async_mode="aiohttp")
    House(async_handlers=True, logger=False, engineio_logger=False, namespaces="*", async_mode="asgi")


def test_tasks_and_pauses_are_those_of_python_socketio():
    sio, done = House().sio, []

    async def later(what):
        await sio.sleep(0)
        done.append(what)

    async def script():
        await sio.start_background_task(later, "x")

    asyncio.run(script())
    assert done == ["x"]
