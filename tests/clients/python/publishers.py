"""What python-socketio's write-only manager can say, and a Redis to say it through."""

import os
import shutil
import socket
import subprocess
import tempfile
import time

import socketio

START_SECONDS = 20
# The program that is started as Redis; valkey-server is another.
SERVER = os.environ.get("TIDEGATE_REDIS_SERVER", "redis-server")

# Each has a name and says something; `near` is the id of a session.
EMISSIONS = [
    ("everybody", lambda manager, near: manager.emit("said", {"text": "hello"})),
    ("no argument", lambda manager, near: manager.emit("said", None)),
    ("several arguments", lambda manager, near: manager.emit("said", (1, "two", {"three": 3}))),
    ("a list", lambda manager, near: manager.emit("said", [1, 2])),
    ("text", lambda manager, near: manager.emit("said", "价格 🎉")),
    ("numbers", lambda manager, near: manager.emit("said", (0, -1, 0.1, 2**53, True))),
    ("binary", lambda manager, near: manager.emit("said", b"\x00\x01\x02\xff")),
    ("binary inside", lambda manager, near: manager.emit("said", ({"parts": [b"one", {"two": b""}]}, "end"))),
    ("one room", lambda manager, near: manager.emit("said", "to a", room="a")),
    ("several rooms", lambda manager, near: manager.emit("said", "to a and b", to=["a", "b"])),
    ("a room with a number as its name", lambda manager, near: manager.emit("said", "to 7", room=7)),
    ("everybody but one", lambda manager, near: manager.emit("said", "not to one", skip_sid=near)),
    ("everybody but some", lambda manager, near: manager.emit("said", "not to some", skip_sid=[near])),
    ("one session", lambda manager, near: manager.emit("said", "to one", to=near)),
    ("another namespace", lambda manager, near: manager.emit("said", "in /other", namespace="/other")),
]

ACTIONS = [
    ("enter", lambda manager, near: manager.enter_room(near, "/", "a")),
    ("leave", lambda manager, near: manager.leave_room(near, "/", "a")),
    ("close", lambda manager, near: manager.close_room("a", "/")),
    ("disconnect", lambda manager, near: server_of(manager).disconnect(near)),
]


def server_of(manager):
    """A server beside the others: a write-only manager has none, and cannot disconnect without."""
    return socketio.Server(async_mode="threading", client_manager=socketio.RedisManager(manager.redis_url))


class Redis:
    """A server of one's own, on a port that was free and with a folder of its own."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="tidegate-redis-")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        command = [SERVER, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", self.folder]
        self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert time.monotonic() < deadline, f"{SERVER} does not start"

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)
