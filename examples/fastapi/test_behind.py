"""The adapter behind a real Tidegate (TIDEGATE_BIN): what its answers do to sessions, and what a killed Tidegate leaves."""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import time

import httpx
import pytest
import socketio
import uvicorn

from tidegate_adapter import TidegateServer

SECONDS = 20
KEY = secrets.token_hex(16)
SETTINGS = """
listen = "127.0.0.1:0"
[app]
url = "{url}/socket.io/"
secret_env = "TIDEGATE_APP_SECRET"
[auth]
anonymous = true
[[auth.api_keys]]
name = "app"
key_env = "TIDEGATE_API_KEY"
user = "service:app"
roles = ["service"]
[roles.service]
publish = ["*"]
act = ["*"]
"""


class Behind:
    """An application in this process and the Tidegate in front of it, which can be killed and started again."""

    def __init__(self, folder, **options):
        self.folder, self.secret = folder, secrets.token_hex(32)
        self.sio = TidegateServer(self.secret, "http://tidegate", KEY, **options)

    @contextlib.asynccontextmanager
    async def running(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.pages = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(socketio.ASGIApp(self.sio), log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await self.start()
        try:
            async with asyncio.timeout(SECONDS):
                yield
        finally:
            self.process.kill()
            await self.process.wait()
            server.should_exit = True
            await serving
            await self.sio.shutdown()

    async def start(self):
        program = os.environ.get("TIDEGATE_BIN")
        if not program:
            pytest.fail("TIDEGATE_BIN is not set: run these tests with `cargo xtask clients applications`")
        file = self.folder / "tidegate.toml"
        file.write_text(SETTINGS.format(url=self.pages))
        env = {**os.environ, "TIDEGATE_APP_SECRET": self.secret, "TIDEGATE_API_KEY": KEY}
        command = [program, "serve", "-c", str(file), "--json"]
        self.process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.PIPE)
        line = (await self.process.stdout.readline()).decode()
        self.url = line.split('"listening":"')[1].split('"')[0]
        self.sio.http.base_url = self.url


class Client:
    """Socket.IO by long-polling, packet by packet."""

    def __init__(self, url):
        self.http = httpx.AsyncClient(base_url=url, timeout=SECONDS)
        self.params, self.packets = {"EIO": "4", "transport": "polling"}, []

    async def connect(self):
        self.params["sid"] = json.loads((await self.poll())[1:])["sid"]
        await self.send("40")
        self.sid = json.loads((await self.next())[2:])["sid"]
        return self

    async def poll(self):
        answer = await self.http.get("/socket.io/", params=self.params)
        answer.raise_for_status()
        return answer.text

    async def send(self, packet):
        (await self.http.post("/socket.io/", params=self.params, content=packet)).raise_for_status()

    async def next(self):
        """The next packet that is no ping."""
        while True:
            if not self.packets:
                self.packets = (await self.poll()).split("\x1e")
            packet = self.packets.pop(0)
            if packet != "2":
                return packet

    async def ask(self, event, *args):
        await self.send(f"421{json.dumps([event, *args])}")
        while True:
            packet = await self.next()
            if packet.startswith("431"):
                return json.loads(packet[3:])
            if packet.startswith("41"):
                return packet


def now_ms():
    return int(time.time() * 1000)


def test_a_session_whose_user_is_renewed_outlives_its_first_expiry_and_ends_at_the_next(tmp_path):
    behind = Behind(tmp_path, user=lambda session: session["user"])
    sio, over = behind.sio, {}

    @sio.event
    async def connect(sid, environ):
        over[sid] = asyncio.get_running_loop().create_future()
        await sio.save_session(sid, {"user": {"id": "ada", "expires_at_ms": now_ms() + 1_500}})

    @sio.event
    async def disconnect(sid, reason):
        over[sid].set_result((reason, now_ms()))

    @sio.event
    async def renew(sid, ms):
        async with sio.session(sid) as session:
            session["user"]["expires_at_ms"] = now_ms() + ms

    async def script():
        async with behind.running():
            stays, goes = await Client(behind.url).connect(), await Client(behind.url).connect()
            assert await stays.ask("renew", 60_000) == []
            began = now_ms()
            reason, ended = await over[goes.sid]
            assert (reason, ended - began < 5_000) == ("token_expired", True)
            # It was to end before the other one.
            assert await stays.ask("renew", 500) == []
            assert not over[stays.sid].done()
            assert (await over[stays.sid])[0] == "token_expired"

    asyncio.run(script())


def test_sessions_of_a_killed_tidegate_end_when_the_next_one_asks(tmp_path):
    behind = Behind(tmp_path)
    sio, online = behind.sio, {}

    @sio.event
    async def connect(sid, environ):
        online[sid] = asyncio.get_running_loop().create_future()

    @sio.event
    async def disconnect(sid, reason):
        online[sid].set_result(reason)

    async def script():
        async with behind.running():
            ghosts = [await Client(behind.url).connect() for _ in range(3)]
            behind.process.kill()
            await behind.process.wait()
            await behind.start()
            fresh = await Client(behind.url).connect()
            assert [await online[ghost.sid] for ghost in ghosts] == ["transport close"] * 3
            assert not online[fresh.sid].done()

    asyncio.run(script())


def test_many_emits_rooms_of_numbers_and_nobody_reach_whom_they_should(tmp_path):
    behind = Behind(tmp_path)
    sio = behind.sio

    @sio.event
    async def go(sid, n):
        await sio.enter_room(sid, 7)
        await sio.emit("secret", "nobody", room=[])
        for i in range(n):
            await sio.emit("e", i, room="7")
        return n

    async def script():
        async with behind.running():
            client = await Client(behind.url).connect()
            await client.send('421["go",2500]')
            heard = []
            while not (packet := await client.next()).startswith("431"):
                heard.append(json.loads(packet[2:])[:2])
            assert heard == [["e", i] for i in range(2_500)]
            assert packet == "431[2500]"

    asyncio.run(script())
