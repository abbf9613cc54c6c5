"""Peer row: one handler, `count`, in python-socketio itself or behind Tidegate by the adapter; uvicorn in both.

Usage: python hook_app.py HOST:PORT direct|adapter SECRET
"""

import sys
from pathlib import Path

import socketio
import uvicorn

EXAMPLE = Path(__file__).resolve().parents[3] / "examples/fastapi"


def server(kind, secret):
    if kind == "direct":
        return socketio.AsyncServer(async_mode="asgi")
    sys.path.insert(0, str(EXAMPLE))
    from tidegate_adapter import TidegateServer

    # Nobody is told anything outside of an answer, so the API is never asked.
    return TidegateServer(secret=secret, api_url="http://127.0.0.1:9", api_key="none")


if __name__ == "__main__":
    address, kind, secret = sys.argv[1:4]
    host, port = address.split(":")
    sio = server(kind, secret)

    @sio.event
    async def count(sid, n):
        return n + 1

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
