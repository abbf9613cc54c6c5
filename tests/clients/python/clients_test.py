"""The standard python-socketio clients, sync and async, used as programs use them, over real sockets."""

import asyncio
import inspect
import itertools
import queue
import threading

import pytest
import socketio
from socketio.exceptions import ConnectionError as Refused

SECONDS = 5
TRANSPORTS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}
TOKEN = {"token": "let-me-in"}

room_numbers = itertools.count(1)


@pytest.fixture
def room():
    """A room of its own for each test."""
    return f"py-room-{next(room_numbers)}"


@pytest.fixture(params=TRANSPORTS)
def transports(request):
    return TRANSPORTS[request.param]


def take(received, n):
    """`n` items of a queue."""
    return [received.get(timeout=SECONDS) for _ in range(n)]


# === sync ===


@pytest.fixture
def connect(server):
    """Connects sync clients and disconnects them at the end."""
    clients = []

    def make(transports=("websocket",), on=None, **options):
        client = socketio.Client(reconnection=options.pop("reconnection", False))
        for event, handler in (on or {}).items():
            client.on(event, handler, namespace=options.get("namespaces", ["/"])[0])
        clients.append(client)
        client.connect(server.url, transports=list(transports), wait_timeout=SECONDS, **options)
        return client

    yield make
    for client in clients:
        client.disconnect()


def call(client, event, data=None, **options):
    return client.call(event, data, timeout=SECONDS, **options)


def test_connects_and_echoes(connect, transports):
    client = connect(transports)
    assert call(client, "echo", {"text": "价格 🚀", "n": [1, None, True]}) == {"text": "价格 🚀", "n": [1, None, True]}


def burst(server, transports):
    """How many events to send at once: python-engineio drops a polling answer of more than 16 packets.

    Tidegate therefore sends it no more than that; the reference does.
    """
    return 10 if server.is_reference and transports == ["polling"] else 100


def test_handlers_of_one_argument_get_exactly_one(connect, server, transports, room):
    """Recovery is on at the server; a client that does not know it must see no extra argument."""
    n = burst(server, transports)
    ticks = queue.Queue()

    def on_m(data):
        ticks.put(data["i"])

    assert len(inspect.signature(on_m).parameters) == 1
    client = connect(transports, on={"m": on_m})
    assert call(client, "join", room)["ok"] is True
    call(client, "tick", {"room": room, "n": n})
    assert take(ticks, n) == list(range(n))


def test_no_event_carries_an_extra_argument(connect, transports, room):
    seen = queue.Queue()
    names = ["m", "echo-back", "s", "said"]
    client = connect(transports, on={name: lambda *args, name=name: seen.put((name, args)) for name in names})
    call(client, "join", room)
    call(client, "tick", {"room": room, "n": 1})
    call(client, "echo", "x")
    client.emit("string-tail")
    call(client, "publish", {"room": room, "event": "said", "data": "hi"})
    expected = {"m": ({"i": 0},), "echo-back": ("x",), "s": ("a", "b"), "said": ("hi",)}
    assert dict(take(seen, 4)) == expected


def test_binary_both_ways(connect, transports):
    seen = queue.Queue()
    on = {name: lambda *args: seen.put(args) for name in ("bin", "echo-back")}
    client = connect(transports, on=on)
    data = bytes(range(256))
    client.emit("echo", {"deep": data})
    assert seen.get(timeout=SECONDS)[0] == {"deep": data}
    client.emit("binary-me")
    assert isinstance(seen.get(timeout=SECONDS)[0], (bytes, dict))


def test_answers_a_question(connect, transports):
    answers = queue.Queue()
    client = connect(transports, on={"question": lambda *args: "yes", "answered": lambda *args: answers.put(args[0])})
    client.emit("ask-me")
    assert answers.get(timeout=SECONDS) == "yes"


def test_emit_with_callback(connect):
    client = connect()
    answers = queue.Queue()
    client.emit("echo", ("a", 1), callback=lambda *args: answers.put(args))
    assert answers.get(timeout=SECONDS) == ("a", 1)


def test_publish_reaches_the_room_and_leave_ends_it(connect, room):
    said = queue.Queue()
    reader, writer = connect(on={"said": lambda *args: said.put(args[0])}), connect()
    call(reader, "join", room)
    assert call(writer, "publish", {"room": room, "event": "said", "data": {"n": 1}})["ok"] is True
    assert said.get(timeout=SECONDS) == {"n": 1}
    assert call(reader, "leave", room)["ok"] is True
    call(writer, "publish", {"room": room, "event": "said", "data": {"n": 2}})
    call(reader, "echo", "a round trip later")
    assert said.empty()


def test_namespace_with_token(connect):
    client = connect(auth=TOKEN, namespaces=["/auth"])
    # The namespace may grant nothing; any answer of the usual shape shows that we are in.
    assert isinstance(call(client, "join", "py-room", namespace="/auth")["ok"], bool)


@pytest.mark.parametrize("auth", [{"token": "guess"}, None])
def test_refused_without_the_token(connect, auth):
    with pytest.raises(Refused, match="unauthenticated|refused|rejected|namespaces failed"):
        connect(auth=auth, namespaces=["/auth"])


def test_refusal_tells_why(server):
    client = socketio.Client(reconnection=False)
    reasons = queue.Queue()
    client.on("connect_error", reasons.put, namespace="/auth")
    with pytest.raises(Refused):
        client.connect(server.url, transports=["websocket"], namespaces=["/auth"], wait_timeout=SECONDS)
    reason = reasons.get(timeout=SECONDS)
    client.disconnect()
    assert "unauthenticated" in str(reason)


def test_disconnect_by_the_server(connect):
    gone = threading.Event()
    client = connect(on={"disconnect": lambda *args: gone.set()})
    client.emit("boom-disconnect")
    assert gone.wait(SECONDS)
    assert not client.connected


def test_reconnects_after_a_cut(connect, room):
    connected = queue.Queue()
    ticks = queue.Queue()
    on = {"connect": lambda: connected.put(True), "m": lambda *args: ticks.put(args[0]["i"])}
    client = connect(on=on, reconnection=True)
    connected.get(timeout=SECONDS)
    client.emit("cut-me")
    connected.get(timeout=SECONDS * 2)
    call(client, "join", room)
    call(client, "tick", {"room": room, "n": 3})
    assert take(ticks, 3) == [0, 1, 2]


# === async ===


def run(coroutine):
    """One event loop for each test, with a deadline."""
    asyncio.run(asyncio.wait_for(coroutine, SECONDS * 4))


async def connect_async(server, transports=("websocket",), on=None, **options):
    client = socketio.AsyncClient(reconnection=False)
    for event, handler in (on or {}).items():
        client.on(event, handler, namespace=options.get("namespaces", ["/"])[0])
    await client.connect(server.url, transports=list(transports), wait_timeout=SECONDS, **options)
    return client


async def take_async(received, n):
    return [await asyncio.wait_for(received.get(), SECONDS) for _ in range(n)]


def test_async_handlers_of_one_argument_get_exactly_one(server, transports, room):
    n = burst(server, transports)

    async def body():
        ticks = asyncio.Queue()

        async def on_m(data):
            await ticks.put(data["i"])

        client = await connect_async(server, transports, {"m": on_m})
        assert (await client.call("join", room, timeout=SECONDS))["ok"] is True
        await client.call("tick", {"room": room, "n": n}, timeout=SECONDS)
        # Handlers are tasks of their own, so the client itself keeps no order among them.
        assert sorted(await take_async(ticks, n)) == list(range(n))
        await client.disconnect()

    run(body())


def test_async_echo_binary_and_question(server, transports):
    async def body():
        seen = asyncio.Queue()

        async def on_question(*args):
            return "yes"

        async def keep(*args):
            await seen.put(args[0])

        client = await connect_async(
            server, transports, {"question": on_question, "answered": keep, "echo-back": keep, "bin": keep}
        )
        data = bytes(range(256))
        answer = await client.call("echo", {"deep": data}, timeout=SECONDS)
        assert answer == {"deep": data}
        assert await take_async(seen, 1) == [{"deep": data}]
        await client.emit("ask-me")
        assert await take_async(seen, 1) == ["yes"]
        await client.emit("binary-me")
        assert isinstance((await take_async(seen, 1))[0], (bytes, dict))
        await client.disconnect()

    run(body())


def test_async_namespace_with_token(server):
    async def body():
        client = await connect_async(server, auth=TOKEN, namespaces=["/auth"])
        answer = await client.call("join", "py-room", namespace="/auth", timeout=SECONDS)
        assert isinstance(answer["ok"], bool)
        await client.disconnect()
        refused = socketio.AsyncClient(reconnection=False)
        with pytest.raises(Refused):
            await refused.connect(server.url, auth={"token": "guess"}, namespaces=["/auth"], wait_timeout=SECONDS)
        await refused.disconnect()

    run(body())


def test_async_many_clients_share_a_room(server, room):
    async def body():
        received = [asyncio.Queue() for _ in range(20)]
        clients = []
        for ticks in received:
            handler = lambda data, ticks=ticks: ticks.put_nowait(data["i"])  # noqa: E731
            clients.append(await connect_async(server, on={"m": handler}))
        for client in clients:
            await client.call("join", room, timeout=SECONDS)
        await clients[0].call("tick", {"room": room, "n": 10}, timeout=SECONDS)
        for ticks in received:
            assert await take_async(ticks, 10) == list(range(10))
        for client in clients:
            await client.disconnect()

    run(body())
