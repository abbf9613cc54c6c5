"""What three people do in the chat of `examples/`, with python-socketio: prints the transcript as JSON.

    python application_scenario.py CLIENTS_URL PAGES_URL

`node/applications/scenario.mjs` does the same with `socket.io-client`; the transcripts are compared.
"""

import asyncio
import json
import sys

import aiohttp
import socketio

SECONDS = 5
SILENCE = 0.7
EVENTS = [
    "online", "offline", "entered", "left", "message", "whisper", "typing", "file", "echoed", "asking", "stumbled",
    "announcement", "bye",
]  # fmt: skip
# python-engineio takes no more than 16 packets in one request.
N_AT_ONCE = 12
CONTENT = bytes(i % 256 for i in range(3_000))


class Person:
    """One person with a connection, and what it received."""

    def __init__(self, name, clients):
        self.name, self.clients, self.heard = name, clients, []
        self.changed = asyncio.Event()
        self.refusal = None
        self.client = socketio.AsyncClient(reconnection=False)
        for event in EVENTS:
            self.client.on(event, self.hears(event))
        self.client.on("disconnect", self.hears("disconnect"))
        self.client.on("connect_error", self.refused)

    def hears(self, event):
        def hear(*args):
            self.heard.append([event, *args])
            self.changed.set()

        return hear

    def refused(self, data):
        self.refusal = data

    async def heard_of(self, event, n=1):
        async with asyncio.timeout(SECONDS):
            while sum(1 for name, *_ in self.heard if name == event) < n:
                self.changed.clear()
                await self.changed.wait()

    async def enter(self, cookie="", auth=None, transports=("websocket",)):
        headers = {"Cookie": cookie} if cookie else {}
        try:
            await self.client.connect(
                self.clients, headers=headers, auth=auth, transports=list(transports), wait_timeout=SECONDS
            )
        except socketio.exceptions.ConnectionError:
            return ["refused", self.refusal["message"], self.refusal.get("data")]
        return "connected"

    async def ask(self, event, *args):
        wait = SILENCE if event in ("stumble", "nobody-handles-this") else SECONDS
        try:
            answer = await self.client.call(event, args, timeout=wait)
        except socketio.exceptions.TimeoutError:
            return "timeout"
        return [] if answer is None else list(answer) if isinstance(answer, tuple) else [answer]


class Scene:
    """The people, the steps, and the application's own pages."""

    def __init__(self, clients, pages, http):
        self.clients, self.pages, self.http = clients, pages, http
        self.steps, self.people, self.ids = [], [], {}

    def person(self, name):
        self.people.append(Person(name, self.clients))
        return self.people[-1]

    async def step(self, name, coroutine):
        self.steps.append([name, await coroutine])

    async def cookie(self, user):
        async with self.http.post(f"{self.pages}/login", json={"user": user}) as answer:
            return answer.headers["Set-Cookie"].split(";")[0]

    async def announce(self, cookie, body):
        async with self.http.post(f"{self.pages}/announce", json=body, headers={"Cookie": cookie}) as answer:
            return answer.status

    async def play(self):
        refused = [("nobody", ""), ("forger", "chat_user=ada.0123456789abcdef"), ("mallory", await self.cookie("mallory"))]
        for name, cookie in refused:
            await self.step(f"{name} is refused", self.person(name).enter(cookie))
        cookies = {name: await self.cookie(name) for name in ("ada", "bob", "eve")}
        ada = self.person("ada")
        await self.step("ada comes", ada.enter(cookies["ada"], {"nick": "Ada"}))
        bob = self.person("bob")
        await self.step("bob comes", bob.enter(cookies["bob"]))
        await ada.heard_of("online")
        self.ids |= {ada.client.get_sid(): "<ada>", bob.client.get_sid(): "<bob>"}
        await self.talk(ada, bob)
        await self.step("an announcement to all", self.announce(cookies["ada"], {"text": "tea is ready"}))
        await asyncio.gather(ada.heard_of("announcement"), bob.heard_of("announcement"))
        await self.step("an announcement to a room", self.announce(cookies["bob"], {"text": "in here", "room": "tea"}))
        await asyncio.gather(ada.heard_of("announcement", 2), bob.heard_of("announcement", 2))
        await self.step("a stranger announces", self.announce("", {"text": "x"}))
        await self.step("bob leaves the room", bob.ask("leave", "tea"))
        await self.step("ada says what bob does not hear", ada.ask("say", "tea", "is he gone?"))
        await self.step("bob is where", bob.ask("where"))
        eve = self.person("eve")
        # Its `disconnect` by polling puts two packets into one request, which servers take in different orders.
        await self.step("eve comes by both ways", eve.enter(cookies["eve"], transports=["polling", "websocket"]))
        await asyncio.gather(ada.heard_of("online", 2), bob.heard_of("online"))
        self.ids[eve.client.get_sid()] = "<eve>"
        await self.step("eve enters and finds the history", eve.ask("enter", "tea"))
        await eve.client.disconnect()
        await asyncio.gather(ada.heard_of("offline"), bob.heard_of("offline"))
        await self.others(ada, bob)
        zoe = self.person("zoe")
        await self.step("zoe comes", zoe.enter(await self.cookie("zoe")))
        self.ids[zoe.client.get_sid()] = "<zoe>"
        await self.step("ada expels her", ada.ask("expel", zoe.client.get_sid()))
        await asyncio.gather(zoe.heard_of("disconnect"), ada.heard_of("offline", 2), bob.heard_of("offline", 2))
        await bob.client.emit("quit", "good night")
        await asyncio.gather(bob.heard_of("disconnect"), ada.heard_of("offline", 3))
        await self.step("ada is still there", ada.ask("count", 1))
        heard = {person.name: person.heard for person in self.people}
        return self.plain({"steps": self.steps, "heard": heard})

    async def talk(self, ada, bob):
        await self.step("ada enters", ada.ask("enter", "tea"))
        await self.step("bob enters", bob.ask("enter", "tea"))
        await self.step("bob enters again", bob.ask("enter", "tea"))
        await self.step("no such room", ada.ask("enter", ""))
        for text in ("one", "two", "three"):
            await self.step(f"ada says {text}", ada.ask("say", "tea", text))
        await self.step("bob answers", bob.ask("say", "tea", "喝茶 ☕"))
        await self.step("bob whispers", bob.ask("whisper", "ada", "psst"))
        await self.step("ada types", ada.ask("typing", "tea"))
        await self.step("ada uploads", ada.ask("upload", "tea", "leaf.bin", CONTENT))
        await self.step("ada renames herself", ada.ask("rename", "Countess"))
        await self.step("ada whispers", ada.ask("whisper", "bob", "it is me"))
        await self.step("ada is where", ada.ask("where"))
        await self.step("twelve at once", self.twelve(ada))
        nested = {"deep": [{"bytes": b"\x00\xff", "no": None, "yes": True}], "text": "\u0000\u2028𝄞"}
        await self.step("an echo", ada.ask("echo", nested, b"raw", 1.5, [[]]))
        ada.client.on("confirm?", lambda question: {"yes": question})
        await self.step("ada is asked back", ada.ask("confirm", "sure?"))
        await self.step("bob is asked back and says nothing", bob.ask("confirm", "sure?"))
        await self.step("a handler that fails", ada.ask("stumble"))
        await self.step("an event that nobody handles", ada.ask("nobody-handles-this"))

    async def others(self, ada, bob):
        await self.step("bob enters the den", bob.ask("enter", "den"))
        await self.step("bob invites ada", bob.ask("invite", ada.client.get_sid(), "den"))
        await self.step("bob says what ada hears now", bob.ask("say", "den", "sit down"))
        await ada.heard_of("message", 7)
        await self.step("ada closes the den", ada.ask("clear", "den"))
        await self.step("bob says what nobody hears", bob.ask("say", "den", "hello?"))
        await self.step("bob counts", bob.ask("count", 1))

    async def twelve(self, ada):
        acks, all_there = [], asyncio.Event()

        def acked(answer):
            acks.append(answer)
            if len(acks) == N_AT_ONCE:
                all_there.set()

        for i in range(N_AT_ONCE):
            await ada.client.emit("count", i, callback=acked)
        await asyncio.wait_for(all_there.wait(), SECONDS)
        return acks

    def plain(self, value):
        if isinstance(value, bytes):
            return f"bytes {value.hex()}"
        if isinstance(value, (list, tuple)):
            return [self.plain(item) for item in value]
        if isinstance(value, dict):
            return {name: self.plain(item) for name, item in value.items()}
        return self.ids.get(value, value) if isinstance(value, str) else value


async def main(clients, pages):
    async with aiohttp.ClientSession() as http:
        scene = Scene(clients, pages, http)
        try:
            return await scene.play()
        finally:
            for person in scene.people:
                await person.client.disconnect()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:3]))))
