"""Captures what python-socketio's write-only manager publishes, as fixtures of the parser.

For each version in an environment of its own, with `pip install python-socketio==VERSION redis`:

    python capture.py >> ../../../crates/tidegate/tests/fixtures/bridge/python.txt

One line each: version | what was said | payload in hexadecimal. The id of the host is random, so a new capture differs in it.
"""

import os
import sys
from importlib.metadata import version

import redis
import socketio
from publishers import ACTIONS, EMISSIONS, Redis

NEAR = "aaaaaaaaaaaaaaaaaaaA"

server = Redis()
heard = redis.Redis.from_url(server.url).pubsub(ignore_subscribe_messages=True)
heard.subscribe("socketio")
while not heard.subscribed or heard.get_message(timeout=1) is not None:
    pass
manager = socketio.RedisManager(server.url, write_only=True)
# Older versions cannot say everything.
for name, say in EMISSIONS + ACTIONS:
    try:
        say(manager, NEAR)
    except (AttributeError, TypeError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
    message = heard.get_message(timeout=1)
    if message is None:
        print(f"nothing was heard of {name!r}", file=sys.stderr)
    else:
        print(f"{version('python-socketio')} | {name} | {message['data'].hex()}")
server.stop()
sys.stdout.flush()
# The threads of a server beside it would go on.
os._exit(0)
