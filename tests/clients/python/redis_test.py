"""Publishers in Python that speak through Redis, and what clients of Tidegate hear of it."""

import json
import pickle
import queue
import threading
import time
import urllib.request

import flask_socketio
import pytest
import redis
import socketio
from binary import running
from publishers import EMISSIONS, Redis, server_of

START_SECONDS = 30
SECONDS = 10

# What the session hears that is in room `a` and in room `7`. What is said to others, or in another namespace, is not in it.
HEARD = [
    [{"text": "hello"}],
    [],
    [1, "two", {"three": 3}],
    [[1, 2]],
    ["价格 🎉"],
    [0, -1, 0.1, 2**53, True],
    [b"\x00\x01\x02\xff"],
    [{"parts": [b"one", {"two": b""}]}, "end"],
    ["to a"],
    ["to a and b"],
    ["to 7"],
    ["to one"],
]


@pytest.fixture(scope="module")
def broker():
    broker = Redis()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def tidegate(broker, tmp_path_factory):
    file = tmp_path_factory.mktemp("tidegate") / "tidegate.toml"
    file.write_text(
        f'listen = "127.0.0.1:0"\n[auth]\nanonymous = true\n[bridge]\nurl = "{broker.url}"\nformats = ["python"]\n'
    )
    with running("serve", "-c", str(file)) as url:
        until("the bridge stands", lambda: stats(url)["links"]["pubsub"]["state"] == "up")
        yield url


def stats(url):
    with urllib.request.urlopen(f"{url}/api/performance/bridge/stats", timeout=SECONDS) as answer:
        return json.load(answer)


def until(what, holds):
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not seen: {what}"


@pytest.fixture
def client(tidegate):
    client = socketio.Client(reconnection=False)
    client.heard = queue.Queue()
    client.on("said", lambda *args: client.heard.put(list(args)))
    client.connect(tidegate, transports=["websocket"])
    yield client
    client.disconnect()


@pytest.fixture
def manager(broker):
    return socketio.RedisManager(broker.url, write_only=True)


def test_what_a_write_only_manager_says_is_heard(client, manager):
    near = client.get_sid()
    for room in ["a", 7]:
        manager.enter_room(near, "/", room)
    for _, say in EMISSIONS:
        say(manager, near)
    assert [client.heard.get(timeout=SECONDS) for _ in HEARD] == HEARD
    manager.leave_room(near, "/", 7)
    manager.emit("said", "not in 7", room=7)
    manager.close_room("a", "/")
    manager.emit("said", "not in a", room="a")
    manager.emit("said", "last")
    assert client.heard.get(timeout=SECONDS) == ["last"]
    assert client.heard.empty()


def test_flask_socketio_is_heard_on_its_own_channel(client, broker):
    elsewhere = flask_socketio.SocketIO(message_queue=broker.url)
    elsewhere.emit("said", {"from": "flask"})
    assert client.heard.get(timeout=SECONDS) == [{"from": "flask"}]
    elsewhere.send("text")
    elsewhere.emit("said", ("two", b"arguments"), to=client.get_sid())
    assert client.heard.get(timeout=SECONDS) == ["two", b"arguments"]


def test_a_server_beside_it_disconnects_sessions(client, manager):
    gone = threading.Event()
    client.on("disconnect", lambda *_: gone.set())
    server_of(manager).disconnect(client.get_sid())
    assert gone.wait(SECONDS)


def test_pickles_are_refused_and_counted(tidegate, client, manager, broker):
    refused = lambda: stats(tidegate)["formats"]["python"]["refused"].get("pickle", 0)
    before = refused()
    message = {"method": "emit", "event": "said", "data": "pickled", "namespace": "/", "room": None}
    raw = redis.Redis.from_url(broker.url)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        raw.publish("socketio", pickle.dumps(message, protocol))
    manager.emit("said", "after them")
    assert client.heard.get(timeout=SECONDS) == ["after them"]
    assert refused() == before + pickle.HIGHEST_PROTOCOL + 1
