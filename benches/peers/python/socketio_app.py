"""Peer row: python-socketio on uvicorn; `join` puts the sender into a room, `pub` goes to room `r`.

Usage: python socketio_app.py HOST:PORT
"""

import sys

import socketio
import uvicorn

# A burst of 64 messages to 1,000 clients keeps the loop from its pongs for longer than the default timeouts.
sio = socketio.AsyncServer(async_mode="asgi", ping_timeout=120)


@sio.event
async def join(sid, room):
    await sio.enter_room(sid, room)


@sio.event
async def pub(sid, message):
    await sio.emit("m", message, room="r")


if __name__ == "__main__":
    host, port = sys.argv[1].split(":")
    uvicorn.run(
        socketio.ASGIApp(sio),
        host=host,
        port=int(port),
        loop="uvloop",
        http="httptools",
        backlog=4096,
        ws_ping_interval=None,
        log_level="warning",
    )
