"""Starts the chat by one command, with Socket.IO of its own or behind Tidegate, without containers.

    python run.py [--port 8000]
    python run.py --tidegate ../../target/release/tidegate [--port 8000] [--listen 127.0.0.1:8080]
    python run.py --hook [--port 8000]      # the application alone, for a Tidegate that runs already

Says `clients: URL` and `pages: URL` when both are ready. SIGTERM and SIGINT end it: Tidegate first, which drains.
"""

import argparse
import asyncio
import os
import pathlib
import secrets
import signal
import socket
import sys
import tempfile

import uvicorn

HERE = pathlib.Path(__file__).parent


def arguments():
    parser = argparse.ArgumentParser(description="the chat, with and without Tidegate")
    parser.add_argument("--port", type=int, default=8000, help="of the application; 0 takes a free one")
    parser.add_argument("--tidegate", metavar="PATH", help="the tidegate binary to put in front")
    parser.add_argument("--listen", default="127.0.0.1:8080", help="where Tidegate listens; port 0 takes a free one")
    parser.add_argument("--hook", action="store_true", help="expect a Tidegate that runs already (TIDEGATE_URL)")
    return parser.parse_args()


async def start_tidegate(args, pages, folder):
    """Starts Tidegate with the settings beside this file, and returns the process and its URL."""
    settings = (HERE / "tidegate.toml").read_text()
    settings = settings.replace("http://127.0.0.1:8000", pages)
    database = os.environ["DATABASE_URL"]
    if database.startswith("postgresql"):
        # What is published by SQL reaches the clients too; see importer.py.
        os.environ["TIDEGATE_DATABASE_URL"] = "postgres" + database[database.index("://"):]
        settings += f'\n[store]\nurl_env = "TIDEGATE_DATABASE_URL"\ndata_dir = "{folder}"\n[store.relay]\nenabled = true\n'
    (folder / "tidegate.toml").write_text(settings)
    command = [args.tidegate, "serve", "-c", str(folder / "tidegate.toml"), "--listen", args.listen, "--json"]
    # A session of its own: an interrupt at the terminal comes here, and from here to Tidegate, once.
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    line = await process.stdout.readline()
    if not line:
        sys.exit(f"{args.tidegate} ended with {await process.wait()}")
    return process, line.decode().split('"listening":"')[1].split('"')[0]


async def serve(args, folder):
    listener = socket.create_server(("127.0.0.1", args.port))
    pages = clients = f"http://127.0.0.1:{listener.getsockname()[1]}"
    tidegate = None
    if args.tidegate:
        os.environ.setdefault("TIDEGATE_APP_SECRET", secrets.token_hex(32))
        os.environ.setdefault("TIDEGATE_API_KEY", secrets.token_hex(32))
        tidegate, clients = await start_tidegate(args, pages, folder)
        os.environ["TIDEGATE_URL"] = clients
    config = uvicorn.Config("main:app", log_level="warning", lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    ended = asyncio.Event()
    # uvicorn listens to signals too; here Tidegate goes first, while the application still hears its disconnects.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    if server.started:
        print(f"clients: {clients}\npages: {pages}", flush=True)
    over = [serving, asyncio.create_task(ended.wait())]
    if tidegate:
        over.append(asyncio.create_task(tidegate.wait()))
    await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
    if tidegate and tidegate.returncode is None:
        tidegate.terminate()
        await tidegate.wait()
    server.should_exit = True
    await serving


def main():
    args = arguments()
    if not args.tidegate and not args.hook:
        os.environ.pop("TIDEGATE_APP_SECRET", None)
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory(prefix="chat-") as folder:
        folder = pathlib.Path(folder)
        os.environ.setdefault("DATABASE_URL", f"sqlite+aiosqlite:///{folder / 'chat.db'}")
        asyncio.run(serve(args, folder))


if __name__ == "__main__":
    main()
