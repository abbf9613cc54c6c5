"""Rows in and out through python-socketio and plain HTTP, on the demo's database."""

import json
import pathlib
import queue
import urllib.request

import pytest
import socketio
from binary import running

SECONDS = 10
DECLARED = pathlib.Path(__file__).parent.parent / "store.toml"


@pytest.fixture(scope="module")
def demo():
    with running("demo", "--listen", "127.0.0.1:0", "-c", str(DECLARED)) as url:
        yield url


@pytest.fixture
def client(demo):
    client = socketio.Client(reconnection=False)
    client.connect(demo)
    yield client
    client.disconnect()


def test_rows_are_stored_once_told_and_read_back(client):
    told = queue.Queue()
    client.on("note", lambda note: told.put(note))
    assert client.call("join", "notes:python", timeout=SECONDS)["ok"]
    rows = [{"id": 50, "topic": "python", "body": "hello", "price": "0.10"}, {"id": 51, "topic": "python"}]
    request = {"feed": "notes", "rows": rows, "id": "python-1"}
    first = client.call("ingest", request, timeout=SECONDS)
    assert (first["ok"], first["stored"], first["state"]) == (True, 2, "committed"), first
    assert client.call("ingest", request, timeout=SECONDS) == first
    notes = [told.get(timeout=SECONDS) for _ in rows]
    assert [note["price"] for note in notes] == ["0.10", None]
    page = client.call("query", {"name": "notes", "params": {"topic": "python"}, "limit": 1}, timeout=SECONDS)
    assert page["rows"] == notes[:1]
    rest = {"name": "notes", "params": {"topic": "python"}, "after": page["next"]}
    assert client.call("query", rest, timeout=SECONDS)["rows"] == notes[1:]


def test_what_is_not_allowed_is_refused(client):
    refused = client.call("ingest", {"feed": "orders", "rows": [{"id": 1}]}, timeout=SECONDS)
    assert refused["error"]["code"] == "forbidden"
    refused = client.call("query", {"name": "notes", "params": {"topic": "a"}, "after": "forged"}, timeout=SECONDS)
    assert refused["error"]["code"] == "cursor_invalid"


def test_http_answers_the_same(demo, client):
    body = json.dumps({"id": 60, "topic": "http", "body": "x"}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": "python-http"}
    request = urllib.request.Request(f"{demo}/api/ingest/notes", body, headers)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        assert json.load(answer)["stored"] == 1
    with urllib.request.urlopen(f"{demo}/api/query/notes?topic=http", timeout=SECONDS) as answer:
        page = json.load(answer)
    assert page == client.call("query", {"name": "notes", "params": {"topic": "http"}}, timeout=SECONDS)
