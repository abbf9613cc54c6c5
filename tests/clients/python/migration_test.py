"""The code of docs/migration.md: Flask handlers as answers of one route behind a real Tidegate, and a store for several workers."""

import asyncio
import hashlib
import hmac
import json
import os
import pathlib
import queue
import re
import secrets
import textwrap
import threading
import time

import flask
import pytest
import redis.asyncio
import socketio
from binary import running
from publishers import Redis
from werkzeug.serving import make_server

SECONDS = 10
DOCS = pathlib.Path(__file__).parents[3] / "docs"
SECRET = secrets.token_hex(32)


def snippet(page, place, contains):
    """The first block of Python with this text behind a place of a page."""
    _, rest = (DOCS / page).read_text().split(place, 1)
    blocks = re.findall(r"^( *)```python\n(.*?)^\1```$", rest, re.M | re.S)
    return textwrap.dedent(next(code for _, code in blocks if contains in code))


def user_of(cookies):
    return cookies.removeprefix("user=") if cookies.startswith("user=") else None


def store(room, user, text):
    return {"id": 7, "room": room, "user": user, "text": text}


@pytest.fixture(scope="module")
def page():
    """What the page's route and the verifier that it copies define."""
    os.environ["TIDEGATE_APP_SECRET"] = SECRET
    names = {"__name__": __name__, "flask": flask, "os": os, "user_of": user_of, "store": store}
    exec(snippet("protocol.md", "\n**Verifying.**", "def verify("), names)
    exec(snippet("migration.md", "\n## From Flask-SocketIO\n", "flask.Flask"), names)
    return names


@pytest.fixture(scope="module")
def tidegate(page, tmp_path_factory):
    server = make_server("127.0.0.1", 0, page["app"], threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    file = tmp_path_factory.mktemp("tidegate") / "tidegate.toml"
    file.write_text(
        f'listen = "127.0.0.1:0"\n[auth]\nanonymous = true\n[app]\nurl = "http://127.0.0.1:{server.port}/tidegate"\n'
        'secret_env = "TIDEGATE_APP_SECRET"\n'
    )
    with running("serve", "-c", str(file)) as url:
        yield url
    server.shutdown()


def entered(tidegate, user, heard=None):
    client = socketio.Client(reconnection=False)
    client.heard = queue.Queue() if heard is None else heard
    for name in ("online", "message", "connect_error"):
        client.on(name, lambda *args, name=name: client.heard.put((name, *args)))
    client.connect(tidegate, headers={"Cookie": f"user={user}"} if user else {}, transports=["websocket"])
    return client


def test_flask_handlers_as_the_page_has_them_serve_clients(tidegate):
    ada = entered(tidegate, "ada")
    assert ada.heard.get(timeout=SECONDS) == ("online", "ada")
    bob = entered(tidegate, "bob")
    assert [one.heard.get(timeout=SECONDS) for one in (ada, bob)] == [("online", "bob")] * 2
    assert ada.call("say", ("lobby", "hello"), timeout=SECONDS) == 7
    message = ("message", {"id": 7, "room": "lobby", "user": "ada", "text": "hello"})
    assert [one.heard.get(timeout=SECONDS) for one in (ada, bob)] == [message] * 2
    refused = queue.Queue()
    with pytest.raises(socketio.exceptions.ConnectionError):
        entered(tidegate, None, refused)
    assert refused.get(timeout=SECONDS) == ("connect_error", {"message": "who are you?"})
    ada.disconnect()
    bob.disconnect()


def signed(body, stamp):
    mac = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Tidegate-Timestamp": stamp, "X-Tidegate-Signature": f"v1={mac}"}


def test_the_page_refuses_what_is_forged_old_or_repeated(page):
    client, now = page["app"].test_client(), f"{int(time.time())}"
    body = json.dumps({"id": "a" * 32, "kind": "event", "event": "nobody", "args": []}).encode()

    def check(headers, expected):
        assert client.post("/tidegate", data=body, headers=headers).status_code == expected, headers

    check(signed(body, now), 200)
    check(signed(body, now), 401)
    check({}, 401)
    check({**signed(body, now), "X-Tidegate-Signature": "v1="}, 401)
    for stamp in ("1", "9" * 13, "9" * 14, "9" * 400, "9" * 5_000, "-1", "1e9"):
        check(signed(body, stamp), 401)


def test_the_pages_store_for_several_workers_knows_each_id_once():
    broker, names = Redis(), {}
    exec(snippet("migration.md", "\n## From python-socketio\n", "class SharedSeen"), names)

    async def script():
        async with redis.asyncio.Redis.from_url(broker.url) as one, redis.asyncio.Redis.from_url(broker.url) as other:
            first, second = names["SharedSeen"](one), names["SharedSeen"](other)
            assert [await first.has("a", 1), await first.first("a", 1)] == [False, True]
            assert [await second.has("a", 1), await second.first("a", 1), await second.first("b", 1)] == [True, False, True]
            # Longer than a signature counts, and not for ever.
            assert 65 < await one.ttl("tidegate:a") <= 130

    try:
        asyncio.run(script())
    finally:
        broker.stop()
