"""The Socket.IO server of the chat: its own, or Tidegate's. This file is all that changes."""

import os

import socketio

if "TIDEGATE_APP_SECRET" in os.environ:
    from tidegate_adapter import TidegateServer

    sio = TidegateServer(
        secret=os.environ["TIDEGATE_APP_SECRET"],
        api_url=os.environ["TIDEGATE_URL"],
        api_key=os.environ["TIDEGATE_API_KEY"],
        user=lambda session: session.get("user"),
    )
else:
    sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
