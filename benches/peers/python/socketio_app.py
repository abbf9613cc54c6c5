"""Peer row: python-socketio on uvicorn; `join` puts the sender into a room, `pub` goes to room `r`.

Usage: python socketio_app.py HOST:PORT
"""

import sys

import socketio
import uvicorn

sio = socketio.AsyncServer(async_mode="asgi")


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
        log_level="warning",
    )
