"""Puts a python-socketio application behind Tidegate: one line changes, the handlers do not.

    sio = socketio.AsyncServer(async_mode="asgi")          # before: the application serves Socket.IO itself
    sio = TidegateServer(secret, api_url, api_key)         # behind Tidegate

`socketio.ASGIApp(sio, other_asgi_app=app)` stays as it is. The path that served Socket.IO (`/socket.io/`) now answers
Tidegate's hook: `[app] url = "http://127.0.0.1:8000/socket.io/"`. Needs python-socketio 5 and httpx.

What it covers
  * `event`, `on`, `register_namespace`: handlers with and without async, class-based ones, catch-alls, several namespaces
    (name them in `app.namespaces`), `connect` with and without `auth`, `disconnect` with and without the reason, what a
    handler returns as acknowledgement, refusals by `ConnectionRefusedError` and by `False`.
  * For the client whose event is handled: `emit`, `send`, `enter_room`, `leave_room`, `rooms`, `disconnect`,
    `get_session`, `save_session`, `session`, `call`. All of it travels in the answer to the hook and is done when the
    handler has returned, in the order in which it was called.
  * From anywhere else (a route, a background task, another client's handler): `emit` and `send` to everybody, rooms and
    clients with `skip_sid` and `callback`, `call`, `close_room`, and for a client that is named `enter_room`, `leave_room`,
    `disconnect`, `get_session`. They go to Tidegate's API, with a key whose role has `publish = ["*"]` and `act = ["*"]`.
  * Signatures, age and repetition of requests are checked; what is forged, old or repeated is refused and counted
    (`sio.refused`, `sio.counts`).

What it does not cover raises `NotBehindTidegate` with what to do instead: `sio.manager`, `sio.eio`, `sio.environ`, `attach`,
`transport`, `instrument`, options that are settings of Tidegate now, `save_session` and `rooms` of another client than the one
being handled, `get_environ` after `connect`, `call` and `emit(callback=)` to a client that is being connected.

What differs
  * The events of one client come one after the other, not side by side, and each within Tidegate's `app.timeout`.
  * A session is kept by Tidegate as JSON (`app.data_bytes_max`), with the names of the rooms that the client's own handlers
    put it into, and the user where it is an object; it survives a restart of this process and is there in each worker.
  * `disconnect` is told when the session is over for good: a client that comes back in time has only been away. It is told
    until its handler has ended: at least once, a second time perhaps when this process is killed. What a handler of `disconnect`
    emits while Tidegate is away is logged and counted, and the handler goes on.
  * When Tidegate was killed, the sessions that this process knows of end with "transport close", as soon as the next start of
    Tidegate asks something. With several workers (a `seen` of yours) none of them knows them all: clean up in `on_boot`.
  * Rooms have names of text: `7` and `"7"` are one room. An empty list of rooms is nobody.
  * An emit that Tidegate refuses as overloaded is tried again for 3 s. `call` waits a minute at most.
"""

import asyncio
import base64
import binascii
import collections
import contextlib
import contextvars
import hashlib
import hmac
import json
import logging
import math
import re
import time
import uuid
from urllib.parse import quote

import httpx
import socketio
from socketio import exceptions

__all__ = ["NotBehindTidegate", "Refused", "Seen", "TidegateServer", "TidegateUnavailable", "verify"]

log = logging.getLogger("tidegate")

SECRET_BYTES_MIN = 32
BODY_BYTES_MAX = 16 << 20
# How far Tidegate's clock may be ahead of this one, and the digits of a timestamp.
AHEAD_SECONDS_MAX = 5
STAMP_DIGITS_MAX = 13
ACK_SECONDS_MAX = 60
# Of one answer or one call of the API; more is sent before. Bytes: half of what `app.answer_bytes_max` and `http.body_bytes_max` allow.
MESSAGES_MAX = 1_000
ROOMS_MAX = 1_000
MESSAGES_BYTES_MAX = 512 << 10
# Rooms and skipped clients of one message. Tidegate takes a thousand; one place is for the client itself.
TARGETS_MAX = 999
# Clients that are asked at the same time; each holds a connection.
ASKED_MAX = 1_000
# How long is waited, in all, for a Tidegate that says that it has too much to do; and at once where it does not say how long.
RETRY_SECONDS_MAX = 3
RETRY_SECONDS = 1
RETRIED = ("overloaded", "rate_limited")
# Sessions that this process remembers, to end them when Tidegate was killed. Above it the one longest without an event is forgotten.
SESSIONS_MAX = 100_000
BOOTS_MAX = 16
BINARY = "$binary"
ESCAPED = re.compile(r"\$+binary")
NOTHING_KEPT = {"session": {}, "rooms": []}
RESERVED = ("", "connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")

# Tidegate's close reasons in the words of python-socketio.
REASONS = {
    "client_left": "client disconnect",
    "kicked": "server disconnect",
    "ping_timeout": "ping timeout",
    "transport_closed": "transport close",
    "transport_error": "transport error",
}

_current = contextvars.ContextVar("tidegate_turn", default=None)


class NotBehindTidegate(RuntimeError):
    """Something python-socketio can do that has no counterpart here; the text says what to do instead."""


class TidegateUnavailable(ConnectionError):
    """Tidegate did not take a message or a call; the text says why."""


class Refused(Exception):
    """A request that is not to be acted on, with the HTTP status that says so. It is counted by its reason."""

    def __init__(self, status, reason, details=""):
        super().__init__(f"{reason}: {details}" if details else reason)
        self.status, self.reason = status, reason


# === What Tidegate sends ===


class Seen:
    """Ids of requests that were acted on, for as long as a signature counts. Two generations: nothing is searched.

    Never more than `ids_max`, of 91 bytes each: when the young generation is full, the old one is forgotten early, and a request is
    then only believed if it was signed after all that were forgotten so. No replay passes, and what Tidegate has just signed does:
    by default 20,000 requests a second are remembered for 5 s.

    It belongs to one process. With several workers give `TidegateServer(seen=…)` an object with the same `first` and `has`, which
    may be coroutines, over one store for all, such as Redis with SET NX EX and EXISTS; docs/migration.md shows one.
    """

    def __init__(self, seconds, ids_max=200_000, clock=time.monotonic):
        self.seconds, self.generation_max, self.clock = seconds, max(1, ids_max // 2), clock
        self.young, self.old, self.turned = set(), set(), clock()
        # Signed at: the newest of each generation, and of what was forgotten early; how often that was.
        self.young_newest = self.old_newest = self.forgotten = self.n_early = 0

    def first(self, request_id, stamp):
        """Whether this id, in a request signed at `stamp`, was not there before; it is from now on."""
        if self.has(request_id, stamp):
            return False
        if len(self.young) >= self.generation_max:
            self.forgotten = max(self.forgotten, self.old_newest)
            self.n_early += bool(self.old)
            self._turn(self.young, self.young_newest)
        self.young.add(bytes.fromhex(request_id))
        self.young_newest = max(self.young_newest, stamp)
        return True

    def has(self, request_id, stamp):
        """Whether it was there before; `Refused` where that is forgotten."""
        passed = self.clock() - self.turned
        if passed > self.seconds:
            # Whatever is forgotten by age, now or before, is older than a signature may be.
            self.forgotten = 0
            self._turn(*((set(), 0) if passed > 2 * self.seconds else (self.young, self.young_newest)))
        key = bytes.fromhex(request_id)
        if key in self.young or key in self.old:
            return True
        if stamp <= self.forgotten:
            raise Refused(401, "forgotten", f"signed at {stamp}, and not all ids up to {self.forgotten} are remembered")
        return False

    def _turn(self, old, old_newest):
        self.old, self.old_newest, self.young, self.young_newest, self.turned = old, old_newest, set(), 0, self.clock()


def verify(secret, headers, body, max_age=60, now=time.time):
    """The request, if it is Tidegate's and fresh; else `Refused`. `headers` has names in lower case."""
    stamp = headers.get("x-tidegate-timestamp", "")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= STAMP_DIGITS_MAX):
        raise Refused(401, "timestamp")
    if not -AHEAD_SECONDS_MAX <= now() - int(stamp) <= max_age:
        raise Refused(401, "timestamp")
    expected = "v1=" + hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), headers.get("x-tidegate-signature", "").encode()):
        raise Refused(401, "signature")
    try:
        request = json.loads(body)
        if len(request["id"]) != 32 or request["kind"] not in ("connect", "event", "disconnect"):
            raise ValueError(request["kind"])
        bytes.fromhex(request["id"])
        return {**request, "stamp": int(stamp)}
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(400, "body", f"{error}") from error


def is_mark(value):
    """Whether an object reads like bytes, or like one that was escaped for reading so."""
    if len(value) != 1:
        return False
    (name,) = value
    return isinstance(name, str) and ESCAPED.fullmatch(name) is not None


def with_bytes(value):
    """Arguments as handlers want them: marked texts become bytes, what only looks like them has one `$` less again."""
    if isinstance(value, list):
        return [with_bytes(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not is_mark(value):
        return {key: with_bytes(item) for key, item in value.items()}
    ((name, item),) = value.items()
    if name != BINARY:
        return {name[1:]: with_bytes(item)}
    try:
        return base64.b64decode(item, validate=True)
    except (TypeError, ValueError):
        return {name: with_bytes(item)}


def without_bytes(value, dumps=json.dumps):
    """Arguments as JSON can say them; what it cannot say is an error now, and not when the handler has ended."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {BINARY: base64.b64encode(value).decode()}
    if isinstance(value, (list, tuple)):
        return [without_bytes(item, dumps) for item in value]
    if isinstance(value, dict):
        is_marked = is_mark(value)
        return {f"${key}" if is_marked else key: without_bytes(item, dumps) for key, item in value.items()}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"JSON has no {value}")
        return value
    # Of a type that only an application's own `json` may know; the usual one raises.
    return json.loads(dumps(value))


def room_name(room):
    """The name of a room as Tidegate has it, which is text: a number is its digits, as for python-socketio's Redis manager."""
    if isinstance(room, str):
        return room
    if isinstance(room, int) and not isinstance(room, bool):
        return str(room)
    raise NotBehindTidegate(f"a room's name is text or a whole number, not {room!r}: give str() of it")


def as_list(value):
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set)) else [value]


def arguments(data, dumps=json.dumps):
    """The arguments that `emit(event, data)` means: a tuple is several, None is none."""
    if data is None:
        return []
    return without_bytes(list(data) if isinstance(data, tuple) else [data], dumps)


async def settled(value):
    """What a function gave, which may be a coroutine."""
    return await value if asyncio.iscoroutine(value) else value


# === One request ===


class Turn:
    """One request of Tidegate, and what its handler wants done.

    Tidegate changes rooms before it sends messages, a handler may do it the other way round. Each message therefore
    remembers the rooms of its moment, and names the client itself where the rooms of the end would say otherwise.
    """

    def __init__(self, request):
        self.request = request
        self.kind, self.sid, self.namespace = request["kind"], request["session"], request["namespace"]
        # A copy: handlers change a session in place.
        self.kept = request.get("data") or NOTHING_KEPT
        kept = json.loads(json.dumps(self.kept))
        self.session = kept["session"]
        self.before = set(kept["rooms"])
        self.rooms = set(self.before)
        self.messages, self.bytes = [], 0
        self.is_open, self.is_leaving = True, False
        self.environ = environ(request) if self.kind == "connect" else None

    def is_me(self, sid, namespace):
        return sid == self.sid and (namespace or "/") == self.namespace

    def is_full(self, n_bytes):
        """Whether a message of so many bytes has no place beside the others in one answer."""
        return len(self.messages) >= MESSAGES_MAX or self.bytes + n_bytes > MESSAGES_BYTES_MAX

    def emit(self, message, n_bytes):
        self.messages.append((message, set(self.rooms), n_bytes))
        self.bytes += n_bytes

    def take(self, rooms):
        """The messages so far, for a moment when Tidegate has the client in `rooms`."""
        taken = [self.directed(message, then, rooms) for message, then, _ in self.messages]
        self.messages, self.bytes = [], 0
        return taken

    def take_early(self):
        """The messages so far, to be sent now. A client that is being connected hears its own in the answer: it is not there yet."""
        if self.kind != "connect":
            return self.take(self.before)
        earlier, self.messages, self.bytes = self.messages, [], 0
        for message, then, n_bytes in earlier:
            if self.hears(message, then):
                only_me = {**message, "to": {"sessions": [self.sid]}, "except": {"sessions": []}}
                self.messages.append((only_me, then, n_bytes))
                self.bytes += n_bytes
        to_me_alone = ({"sessions": [self.sid]}, {"rooms": [self.sid]})
        return [message for message, _, _ in earlier if message["to"] not in to_me_alone]

    def hears(self, message, then):
        """Whether the client gets a message that was sent when it was in the rooms `then`."""
        to = message["to"]
        if message["namespace"] != self.namespace or self.sid in message["except"]["sessions"]:
            return False
        named = [*to.get("rooms", []), *to.get("sessions", [])]
        return not to or self.sid in named or not then.isdisjoint(named)

    def directed(self, message, then, rooms):
        targets = message["to"].get("rooms", [])
        if not targets or message["namespace"] != self.namespace or self.sid in targets:
            return message
        was, will_be = not then.isdisjoint(targets), not rooms.isdisjoint(targets)
        skipped = message["except"]["sessions"]
        if was and not will_be and self.sid not in skipped:
            return {**message, "to": {**message["to"], "sessions": [self.sid]}}
        if will_be and not was:
            return {**message, "except": {"sessions": [*skipped, self.sid]}}
        return message

    def answer(self, user):
        """The body of the answer, without acknowledgement."""
        answer = {
            "join": sorted(self.rooms - self.before),
            "leave": sorted(self.before - self.rooms),
            "emit": self.take(self.rooms),
        }
        kept = {"session": self.session, "rooms": sorted(self.rooms)}
        if user is not None:
            named = json.loads(json.dumps(user(self.session)))
            if self.is_news(named):
                answer["user"] = named
            if isinstance(named, dict):
                # Tidegate tells no more of it than the id.
                kept["user"] = named
        if kept != self.kept:
            answer["data"] = kept
        if self.is_leaving:
            answer["disconnect"] = True
        return {name: value for name, value in answer.items() if value or name in ("data", "user")}

    def is_news(self, named):
        """Whether Tidegate has another user than this: other roles, or another time at which it ends, are another user."""
        known = self.request.get("user")
        return (named.get("id") if isinstance(named, dict) else named) != known or named != self.kept.get("user", known)


def environ(request):
    """What a `connect` handler finds in its `environ`: WSGI's names, and the headers of an ASGI scope."""
    headers = request.get("headers") or {}
    found = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/socket.io/",
        "QUERY_STRING": request.get("query") or "",
        "REMOTE_ADDR": request.get("address") or "",
        "tidegate.boot": request.get("boot"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": headers.get("x-forwarded-proto", "http"),
        "asgi.scope": {
            "type": "http",
            "path": "/socket.io/",
            "query_string": (request.get("query") or "").encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        },
    }
    for name, value in headers.items():
        name = name.upper().replace("-", "_")
        found[name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"] = value
    return found


# === What is not here ===


class Absent:
    """Stands where python-socketio keeps what Tidegate keeps now: whatever is asked of it raises, and nothing is silently empty."""

    def __init__(self, name, instead, others):
        self.__dict__.update(_name=name, _instead=instead, _others=others)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotBehindTidegate(f"sio.{self._name}.{name}: {self._instead.get(name, self._others)}")

    def _refuse(self, *_):
        raise NotBehindTidegate(f"sio.{self._name}: {self._others}")

    __setattr__ = __getitem__ = __setitem__ = __contains__ = __iter__ = __len__ = _refuse


IN_ROOM, OF_CLIENT = "ask GET /api/rooms/{room}/sessions of Tidegate", "ask GET /api/sessions/{sid} of Tidegate"
MANAGER = {
    "rooms": IN_ROOM,
    "get_participants": IN_ROOM,
    "is_connected": OF_CLIENT,
    "get_rooms": f"within a handler sio.rooms(sid); else {OF_CLIENT}",
    "get_namespaces": "they are `app.namespaces` of Tidegate",
    **{name: f"call sio.{name}()" for name in ("emit", "enter_room", "leave_room", "close_room", "disconnect")},
}
OPTIONS = {
    "client_manager": "Tidegate is it; give several workers a common `seen`",
    "cors_allowed_origins": "set `origins` of Tidegate",
    "cors_credentials": "set `origins` of Tidegate",
    "ping_interval": "set `transport.ping_interval` of Tidegate",
    "ping_timeout": "set `transport.ping_timeout` of Tidegate",
    "max_http_buffer_size": "set `transport.payload_bytes_max` of Tidegate",
    "transports": "set `transport.websocket` and `transport.polling` of Tidegate",
    "http_compression": "set `deflate` of Tidegate",
    "compression_threshold": "set `deflate.threshold_bytes` of Tidegate",
    "serializer": "clients of Tidegate speak JSON",
    "always_connect": "a client is told of its refusal before it is in",
}
# They mean the same here, or nothing.
OPTIONS_TAKEN = ("async_handlers", "engineio_logger", "json", "logger", "namespaces")


# === The server's surface ===


class TidegateServer(socketio.AsyncServer):
    """python-socketio's server for handlers and senders, with Tidegate at the clients.

    `secret`: what signs the hook (`app.secret_env`). `api_url`, `api_key`: Tidegate and a key for it. `user`: a function from a
    client's session to Tidegate's user (a name, `{id, roles, expires_at_ms, …}` or None), asked after each handler. `seen`: see
    `Seen`. `nodes`: how many Tidegates ask this application; with one, the sessions of before are over when it was started
    anew. `on_boot`: a function, or coroutine, that is called with the `boot` of each start of Tidegate that is new to this
    process, before its first request is handled (`connect` finds it in `environ["tidegate.boot"]`).
    """

    def __init__(self, secret, api_url, api_key, user=None, max_age=60, seen=None, client=None, nodes=1, on_boot=None,
                 async_mode="asgi", **options):
        if async_mode != "asgi":
            raise NotBehindTidegate(f"async_mode={async_mode!r}: Tidegate's hook is answered by ASGI")
        for name in options.keys() - OPTIONS_TAKEN:
            raise NotBehindTidegate(f"{name}: {OPTIONS.get(name, 'look for it among the settings of Tidegate')}")
        super().__init__(async_mode="asgi", **options)
        self.secret = secret.encode() if isinstance(secret, str) else secret
        if len(self.secret) < SECRET_BYTES_MIN:
            raise ValueError(f"the secret has {len(self.secret)} bytes, at least {SECRET_BYTES_MIN}")
        self._engineio, others = self.eio, "Tidegate holds the clients; ask its API, or save what you need in their sessions"
        self.manager, self.eio = Absent("manager", MANAGER, others), Absent("eio", {}, "see `transport` of Tidegate's settings")
        self.environ = Absent("environ", {}, "only the argument of `connect` has it; keep what you need with save_session()")
        self.user, self.max_age, self.nodes, self.on_boot = user, max_age, nodes, on_boot
        self.keeps_sessions = seen is None
        # A signature may be ahead of this clock, and counts for max_age after it.
        self.seen = seen if seen is not None else Seen(max_age + AHEAD_SECONDS_MAX)
        self.refused, self.counts = collections.Counter(), collections.Counter()
        self.running, self.asking, self.ending, self.n_calls = set(), set(), set(), 0
        self.sessions, self.boots = collections.OrderedDict(), collections.OrderedDict()
        self.boots_over = collections.deque(maxlen=BOOTS_MAX)
        # Questions are bounded by ASKED_MAX; what is said meanwhile does not wait for their connections.
        self.http = client or httpx.AsyncClient(
            base_url=api_url, headers={"X-API-Key": api_key}, timeout=ACK_SECONDS_MAX + 5,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        )
        self.pause = asyncio.sleep

    async def emit(self, event, data=None, to=None, room=None, skip_sid=None, namespace=None, callback=None,
                   ignore_queue=False):
        turn = self._turn()
        rooms = self._rooms(to, room)
        if rooms == []:
            return
        message = self._message(event, data, {} if rooms is None else {"rooms": rooms}, namespace)
        message["except"] = {"sessions": [room_name(sid) for sid in as_list(skip_sid) if sid]}
        if len(rooms or []) + len(message["except"]["sessions"]) > TARGETS_MAX:
            raise NotBehindTidegate(f"emit() to or except more than {TARGETS_MAX} rooms or clients: put them into one room")
        n_bytes = len(json.dumps(message))
        if callback is not None:
            await self._may_ask(turn, rooms or [], namespace, "emit(callback=)")
            return self._keep(self.asking, self._ask_and_tell(message, callback))
        if turn is None or turn.kind == "disconnect":
            return await self._unless_away(turn, self._post("/api/publish", with_id(message)))
        if turn.is_full(n_bytes):
            await self._flush(turn)
        if turn.is_full(n_bytes) and turn.kind == "connect" and turn.hears(message, turn.rooms):
            raise NotBehindTidegate(
                f"more than {MESSAGES_MAX} messages or {MESSAGES_BYTES_MAX} bytes to a client that is being connected: "
                "emit them in its first event"
            )
        turn.emit(message, n_bytes)
        if turn.bytes > MESSAGES_BYTES_MAX:
            await self._flush(turn)

    async def call(self, event, data=None, to=None, sid=None, namespace=None, timeout=60, ignore_queue=False):
        target = to or sid
        if not isinstance(target, str):
            raise ValueError("Cannot use call() to broadcast.")
        message = self._message(event, data, {"sessions": [target]}, namespace)
        await self._may_ask(self._turn(), [target], namespace, "call()")
        self.n_calls += 1
        try:
            answers = await self._ask(message, ACK_SECONDS_MAX if timeout is None else timeout)
        finally:
            self.n_calls -= 1
        if not answers:
            raise exceptions.TimeoutError()
        args = answers[0]
        return tuple(args) if len(args) > 1 else args[0] if args else None

    async def enter_room(self, sid, room, namespace=None):
        await self._change_room(sid, room_name(room), namespace, "join")

    async def leave_room(self, sid, room, namespace=None):
        await self._change_room(sid, room_name(room), namespace, "leave")

    async def close_room(self, room, namespace=None):
        turn, room = self._turn(), room_name(room)
        if turn is not None and turn.namespace == (namespace or "/"):
            turn.rooms.discard(room)
        await self._change("rooms", room, "leave", {"rooms": [room], "namespace": namespace or "/"})

    async def disconnect(self, sid, namespace=None, ignore_queue=False):
        turn = self._turn()
        if turn is not None and turn.is_me(sid, namespace):
            turn.is_leaving = True
        else:
            await self._change("sessions", sid, "disconnect", {"namespace": namespace or "/"})

    def rooms(self, sid, namespace=None):
        return [sid, *sorted(self._mine(sid, namespace, "rooms()").rooms)]

    async def get_session(self, sid, namespace=None):
        turn = self._turn()
        if turn is not None and turn.is_me(sid, namespace):
            return turn.session
        found = await self._call("GET", f"/api/sessions/{quote(sid, safe='')}")
        return (found["session"]["data"] or NOTHING_KEPT)["session"]

    async def save_session(self, sid, session, namespace=None):
        try:
            json.dumps(session, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise NotBehindTidegate(f"save_session(): a session is kept as JSON: {error}") from error
        self._mine(sid, namespace, "save_session()").session = session

    def get_environ(self, sid, namespace=None):
        turn = self._turn()
        if turn is None or turn.environ is None or not turn.is_me(sid, namespace):
            raise NotBehindTidegate("get_environ(): only in `connect`; keep what you need of it with save_session()")
        return turn.environ

    def transport(self, sid, namespace=None):
        raise NotBehindTidegate("transport(): ask GET /api/connections/{sid} of Tidegate")

    def instrument(self, *args, **kwargs):
        raise NotBehindTidegate("instrument(): Tidegate has /api/performance/websocket/stats and /metrics")

    def attach(self, *args, **kwargs):
        raise NotBehindTidegate("attach(): put socketio.ASGIApp(sio) at the path that `app.url` of Tidegate names")

    def start_background_task(self, target, *args, **kwargs):
        return self._engineio.start_background_task(target, *args, **kwargs)

    async def sleep(self, seconds=0):
        await self._engineio.sleep(seconds)

    async def shutdown(self):
        for task in list(self.asking):
            task.cancel()
        await asyncio.gather(*self.ending, return_exceptions=True)
        await self.http.aclose()

    # --- The hook ---

    async def handle_request(self, scope, receive, send):
        """The ASGI application at the path that `[app] url` names."""
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 4000, "reason": "clients connect to Tidegate"})
        try:
            if scope["method"] != "POST":
                raise Refused(405, "method", "Socket.IO clients connect to Tidegate; this path answers its hook")
            body = await whole(receive)
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            status, answer = 200, await self.answer(headers, body)
        except Refused as refused:
            self.refused[refused.reason] += 1
            log.warning("request refused: %s", refused)
            status, answer = refused.status, {"error": str(refused)}
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def answer(self, headers, body):
        """The answer to one request; `Refused` if it is not to be acted on."""
        request = verify(self.secret, headers, body, self.max_age)
        if request["kind"] == "disconnect":
            return await self._disconnect_once(request)
        if not await self._remembered(self.seen.first, request):
            raise Refused(409, "replayed")
        await self._meet(request.get("boot"))
        turn = Turn(request)
        with self._at(turn):
            answer = await (self._on_connect(turn) if turn.kind == "connect" else self._on_event(turn))
        if turn.kind == "event" or not answer.get("disconnect"):
            self._know(turn, answer.get("data", turn.kept))
        return answer

    @contextlib.contextmanager
    def _at(self, turn):
        token = _current.set(turn)
        try:
            yield
        finally:
            turn.is_open = False
            _current.reset(token)

    async def _remembered(self, ask, request):
        try:
            return await settled(ask(request["id"], request["stamp"]))
        except Refused as refused:
            if request["kind"] == "disconnect":
                # A 401 would give it up; after "too early" it is told again, signed anew.
                refused.status = 425
            raise
        except Exception as error:
            # A store that is away is not for ever: Tidegate tells a disconnect again, and has clients come back.
            log.exception("`seen` failed")
            raise Refused(503, "seen") from error

    async def _on_connect(self, turn):
        auth = turn.request.get("auth") or None
        if not self._has_namespace(turn.namespace):
            return {"disconnect": {"message": "Unable to connect"}}
        try:
            accepted = await self._connect(turn, auth)
        except exceptions.ConnectionRefusedError as refused:
            return {"disconnect": refused.error_args}
        except ConnectionRefusedError:
            return {"disconnect": {"message": "Connection refused by server"}}
        if accepted is False:
            return {"disconnect": exceptions.ConnectionRefusedError().error_args}
        return turn.answer(self.user)

    def _has_namespace(self, name):
        return name in self.handlers or name in self.namespace_handlers or self.namespaces == "*" or name in self.namespaces

    async def _connect(self, turn, auth):
        arguments = ("connect", turn.namespace, turn.sid, turn.environ)
        if auth:
            return await self._trigger_event(*arguments, auth)
        try:
            return await self._trigger_event(*arguments, None)
        except TypeError as error:
            # A handler of the older form, without `auth`.
            try:
                return await self._trigger_event(*arguments)
            except TypeError:
                raise error from None

    async def _on_event(self, turn):
        request, ack = turn.request, None
        try:
            args = with_bytes(request["args"])
            returned = await self._trigger_event(request["event"], turn.namespace, turn.sid, *args)
            if request["wants_ack"] and returned is not self.not_handled:
                ack = arguments(returned, self.packet_class.json.dumps)
                if turn.bytes + len(json.dumps(ack)) > MESSAGES_BYTES_MAX:
                    await self._flush(turn)
        except Exception:
            # As python-socketio does: what was emitted is sent, and nobody is acknowledged.
            log.exception("handler of %r failed", request["event"])
            ack = None
        answer = turn.answer(self.user)
        return answer if ack is None else {**answer, "ack": ack}

    def _turn(self):
        """The request that is being handled here; none in routes, in background tasks and after the answer."""
        turn = _current.get()
        return turn if turn is not None and turn.is_open else None

    def _mine(self, sid, namespace, what):
        turn = self._turn()
        if turn is None or not turn.is_me(sid, namespace):
            raise NotBehindTidegate(f"{what}: only for the client whose event is handled")
        return turn

    # --- The ends of sessions ---

    async def _disconnect_once(self, request):
        """A disconnect counts as told when its handler has ended. Until then Tidegate tells it again, and is put off."""
        key = (request["namespace"], request["session"])
        known = self.sessions.get(key)
        if request["id"] in self.running or known is not None and known.state == "ending":
            raise Refused(425, "running")
        self.running.add(request["id"])
        try:
            is_done = await self._remembered(self.seen.has, request)
            self.sessions.pop(key, None)
            if not is_done:
                # One whose Tidegate was found to be gone has had its end.
                if known is None or known.state != "over":
                    await self._end(Turn(request))
                await self._done(request)
            return {}
        finally:
            self.running.discard(request["id"])

    async def _done(self, request):
        try:
            # Signed now, so to say: it may have taken long.
            await settled(self.seen.first(request["id"], int(time.time())))
        except Exception:
            # It is done all the same, and handled again only if this answer is lost.
            log.exception("`seen` failed")

    async def _end(self, turn):
        reason = turn.request["reason"]
        with self._at(turn):
            try:
                await self._trigger_event("disconnect", turn.namespace, turn.sid, REASONS.get(reason, reason))
            except Exception:
                log.exception("handler of 'disconnect' failed")
        if asyncio.current_task().cancelling():
            # python-socketio's dispatch swallows it; this disconnect is not done.
            raise asyncio.CancelledError

    def _know(self, turn, kept):
        if not self.keeps_sessions:
            return
        key = (turn.namespace, turn.sid)
        known = self.sessions.setdefault(key, Known(turn.request.get("boot")))
        known.kept = kept
        self.sessions.move_to_end(key)
        if len(self.sessions) > SESSIONS_MAX:
            self.sessions.popitem(last=False)
            self.counts["sessions_forgotten"] += 1

    async def _meet(self, boot):
        """Looks whether a Tidegate has been started anew: sessions of before are over, though one that was killed could not say so."""
        if boot in self.boots_over:
            return
        if boot not in self.boots:
            self.boots[boot] = asyncio.ensure_future(self._begin(boot))
        self.boots.move_to_end(boot)
        await asyncio.shield(self.boots[boot])

    async def _begin(self, boot):
        if self.on_boot is not None:
            try:
                await settled(self.on_boot(boot))
            except Exception:
                log.exception("on_boot failed")
        while len(self.boots) > self.nodes:
            # The one that was silent for the longest time.
            over = next(one for one in self.boots if one != boot)
            del self.boots[over]
            self.boots_over.append(over)
            self.sessions = collections.OrderedDict((key, one) for key, one in self.sessions.items() if one.state != "over")
            ended = [(key, one) for key, one in self.sessions.items() if one.boot == over]
            for _, known in ended:
                known.state = "ending"
            self._keep(self.ending, self._end_all(ended))

    async def _end_all(self, ended):
        for (namespace, sid), known in ended:
            gone = {"session": sid, "namespace": namespace, "data": known.kept, "reason": "transport_closed"}
            await self._end(Turn({"kind": "disconnect", **gone}))
            known.state = "over"

    # --- What is said to clients ---

    def _rooms(self, to, room):
        """The names that `to` and `room` mean: None is everybody, an empty list nobody."""
        rooms = to or room
        if rooms is None:
            rooms = to
        return None if rooms is None else list(dict.fromkeys(room_name(one) for one in as_list(rooms)))

    def _message(self, event, data, to, namespace):
        if not isinstance(event, str) or event in RESERVED:
            raise ValueError(f"the name {event!r} of an event is reserved")
        args = arguments(data, self.packet_class.json.dumps)
        return {"event": event, "args": args, "to": to, "except": {"sessions": []}, "namespace": namespace or "/"}

    async def _may_ask(self, turn, targets, namespace, what):
        """Sends what was emitted before a question, if this is one that can be asked."""
        if len(self.asking) + self.n_calls >= ASKED_MAX:
            self.counts["questions_refused"] += 1
            raise TidegateUnavailable(f"{ASKED_MAX} questions to clients wait for their answers")
        if turn is not None and turn.kind == "connect" and any(turn.is_me(one, namespace) for one in targets):
            raise NotBehindTidegate(f"{what} to a client that is being connected: ask it in its first event")
        await self._flush(turn)

    async def _change_room(self, sid, room, namespace, verb):
        turn = self._turn()
        if turn is None or not turn.is_me(sid, namespace):
            return await self._change("sessions", sid, verb, {"rooms": [room], "namespace": namespace or "/"})
        if room == sid:
            return
        (turn.rooms.add if verb == "join" else turn.rooms.discard)(room)
        if len(turn.rooms ^ turn.before) > ROOMS_MAX:
            await self._flush_rooms(turn)

    async def _flush_rooms(self, turn):
        """Changes the client's rooms before the answer does, because one answer has no place for so many."""
        if turn.kind == "disconnect":
            return
        if turn.kind == "connect":
            raise NotBehindTidegate(f"more than {ROOMS_MAX} rooms in `connect`: enter them in the client's first event")
        await self._flush(turn)
        for verb, rooms in (("join", turn.rooms - turn.before), ("leave", turn.before - turn.rooms)):
            for some in batches(sorted(rooms), lambda room: len(json.dumps(room))):
                await self._act("sessions", turn.sid, verb, {"rooms": some, "namespace": turn.namespace})
        turn.before = set(turn.rooms)

    async def _flush(self, turn):
        """Sends what was emitted so far, before something is said that must come after it."""
        if turn is not None and turn.messages:
            messages = [with_id(message) for message in turn.take_early()]
            for some in batches(messages, lambda message: len(json.dumps(message))):
                await self._post("/api/publish", {"messages": some})

    async def _ask(self, message, timeout):
        """The arguments of each acknowledgement that came in time."""
        milliseconds = max(1, int(min(timeout, ACK_SECONDS_MAX) * 1000))
        answer = await self._post("/api/publish", {**message, "ack_timeout_ms": milliseconds})
        return [with_bytes(one["args"]) for one in answer["answers"]]

    async def _ask_and_tell(self, message, callback):
        for args in await self._ask(message, ACK_SECONDS_MAX):
            await settled(callback(*args))

    async def _change(self, what, name, verb, body):
        turn = self._turn()
        await self._flush(turn)
        await self._unless_away(turn, self._act(what, name, verb, body))

    async def _act(self, what, name, verb, body):
        path = f"/api/{what}/{quote(name, safe='')}/{verb}"
        if (await self._post(path, body)).get("refused"):
            raise TidegateUnavailable(f"{path}: more rooms than `limits.rooms_per_session`")

    async def _unless_away(self, turn, saying):
        """In a `disconnect` Tidegate may be on its way out as well: what cannot be said then must not stop the handler."""
        try:
            await saying
        except TidegateUnavailable as error:
            if turn is None or turn.kind != "disconnect":
                raise
            self.counts["lost_in_disconnect"] += 1
            log.warning("not said in 'disconnect': %s", error)

    # --- Tidegate's API ---

    async def _post(self, path, body):
        return await self._call("POST", path, body)

    async def _call(self, method, path, body=None):
        """One call; what Tidegate had no room for is tried again for a while. Ids make it harmless for messages."""
        left, failed = RETRY_SECONDS_MAX, []
        while True:
            response = await self._request(method, path, body)
            answer = parsed(path, response)
            results = answer.get("results", [answer])
            failures = [n for n, one in enumerate(results) if response.status_code != 200 or not one.get("ok")]
            again = [n for n in failures if problem(results[n]).get("code") in RETRIED]
            failed += [results[n] for n in failures if n not in again]
            wait = seconds_to_wait(response)
            if not again or wait > left:
                failed += [results[n] for n in again]
                break
            if "results" in answer:
                body = {"messages": [body["messages"][n] for n in again]}
            left -= wait
            self.counts["retried"] += 1
            await self.pause(wait)
        if failed:
            raise TidegateUnavailable(f"{path}: {response.status_code} {problem(failed[0]) or failed[0]}")
        return answer

    async def _request(self, method, path, body):
        for is_last in (False, True):
            try:
                return await self.http.request(method, path, json=body)
            except httpx.TransportError as error:
                # A kept connection that the other side has closed meanwhile; ids make a second time harmless.
                if is_last or (body and "ack_timeout_ms" in body):
                    raise TidegateUnavailable(f"{path}: {error!r}") from error

    def _keep(self, tasks, coroutine):
        """Runs it beside what goes on here, outside of the turn."""
        task = asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(told_of_failure)


class Known:
    """A session that this process has heard of: here; ending, while its handler runs; over, until Tidegate says so too."""

    __slots__ = ("boot", "kept", "state")

    def __init__(self, boot):
        self.boot, self.kept, self.state = boot, None, "here"


def batches(items, bytes_of):
    """Lists of as many as one call may have."""
    some, n_bytes = [], 0
    for item in items:
        size = bytes_of(item)
        if some and (len(some) == MESSAGES_MAX or n_bytes + size > MESSAGES_BYTES_MAX):
            yield some
            some, n_bytes = [], 0
        some.append(item)
        n_bytes += size
    if some:
        yield some


def parsed(path, response):
    try:
        answer = response.json() if response.content else {}
        return answer if isinstance(answer, dict) else {}
    except ValueError as error:
        raise TidegateUnavailable(f"{path}: {response.status_code} and no JSON") from error


def problem(answer):
    error = answer.get("error")
    return error if isinstance(error, dict) else {}


def seconds_to_wait(response):
    text = response.headers.get("retry-after", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else RETRY_SECONDS


def with_id(message):
    return {**message, "id": uuid.uuid4().hex}


def told_of_failure(task):
    if not task.cancelled() and task.exception() is not None:
        log.error("failed beside a request", exc_info=task.exception())


async def whole(receive):
    parts, n_bytes = [], 0
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise Refused(400, "body", "cut off")
        parts.append(event.get("body", b""))
        n_bytes += len(parts[-1])
        if n_bytes > BODY_BYTES_MAX:
            raise Refused(413, "body", f"more than {BODY_BYTES_MAX} bytes")
        if not event.get("more_body"):
            return b"".join(parts)
