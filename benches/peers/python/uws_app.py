"""Peer row: uWebSockets through the native library of socketify; every text message goes to every connection.

Python sees only the publisher's messages; the fan-out itself is the library's own publish and subscribe.

Usage: python uws_app.py HOST:PORT
"""

import sys

from socketify import App, AppListenOptions, CompressOptions, OpCode


def opened(ws):
    ws.subscribe("r")


def main():
    host, port = sys.argv[1].split(":")
    app = App()

    def received(ws, message, opcode):
        app.publish("r", message, OpCode.TEXT)

    app.ws(
        "/*",
        {
            "compression": CompressOptions.DISABLED,
            "max_payload_length": 1 << 20,
            "max_backpressure": 1 << 20,
            "idle_timeout": 0,
            "open": opened,
            "message": received,
        },
    )
    app.listen(AppListenOptions(port=int(port), host=host), lambda config: None)
    # Not `app.run()`: it polls the library's loop from asyncio's, and so burns the core or answers late.
    # Without asyncio the library waits in epoll, as it does in C++.
    app.loop.uv_loop.run()


if __name__ == "__main__":
    main()
