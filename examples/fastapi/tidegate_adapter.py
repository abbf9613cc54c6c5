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
  * Signatures, age and repetition of requests are checked; what is forged, old or repeated is refused and counted.

What it does not cover raises `NotBehindTidegate` with what to do instead: `save_session` and `rooms` of another client than
the one being handled, `get_environ` after `connect`, `transport`, `instrument`, `call` to a client that is being connected.

What differs
  * The events of one client come one after the other, not side by side, and each within Tidegate's `app.timeout`.
  * A session is kept by Tidegate as JSON (`app.data_bytes_max`), with the names of the rooms that the client's own handlers
    put it into; it survives a restart of this process and is there in each of its workers.
  * `disconnect` is told when the session is over for good: a client that comes back in time has only been away.
"""

import asyncio
import base64
import binascii
import contextvars
import hashlib
import hmac
import json
import logging
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
ACK_SECONDS_MAX = 60
BINARY = "$binary"
NOTHING_KEPT = {"session": {}, "rooms": []}

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
    """A request that is not to be acted on, with the HTTP status that says so."""

    def __init__(self, status, why):
        super().__init__(why)
        self.status = status


# === What Tidegate sends ===


class Seen:
    """Ids of requests that were acted on, for as long as a signature counts. Two generations: nothing is searched.

    It belongs to one process. With several workers give `TidegateServer(seen=…)` an object with the same `first(id)`, which
    may be a coroutine, over one store for all, such as Redis with SET NX EX.
    """

    def __init__(self, seconds, ids_max=1_000_000, clock=time.monotonic):
        self.seconds, self.ids_max, self.clock = seconds, ids_max, clock
        self.young, self.old, self.turned = set(), set(), clock()

    def first(self, request_id):
        """Whether this id was not there before; it is from now on."""
        now = self.clock()
        if now - self.turned > self.seconds:
            is_long_ago = now - self.turned > 2 * self.seconds
            self.old = set() if is_long_ago else self.young
            self.young, self.turned = set(), now
        key = binascii.unhexlify(request_id)
        if key in self.young or key in self.old:
            return False
        if len(self.young) + len(self.old) >= self.ids_max:
            raise Refused(503, f"{self.ids_max} requests within {2 * self.seconds} seconds")
        self.young.add(key)
        return True


def verify(secret, headers, body, max_age=60, now=time.time):
    """The request, if it is Tidegate's and fresh; else `Refused`. `headers` has names in lower case."""
    stamp = headers.get("x-tidegate-timestamp", "")
    if not (stamp.isascii() and stamp.isdigit()) or abs(now() - int(stamp)) > max_age:
        raise Refused(401, "timestamp")
    expected = "v1=" + hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), headers.get("x-tidegate-signature", "").encode()):
        raise Refused(401, "signature")
    try:
        request = json.loads(body)
        if len(request["id"]) != 32 or request["kind"] not in ("connect", "event", "disconnect"):
            raise ValueError(request["kind"])
        bytes.fromhex(request["id"])
        return request
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(400, f"body: {error}") from error


def with_bytes(value):
    """Arguments as handlers want them: marked texts become bytes."""
    if isinstance(value, list):
        return [with_bytes(item) for item in value]
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get(BINARY), str):
            return base64.b64decode(value[BINARY])
        return {key: with_bytes(item) for key, item in value.items()}
    return value


def without_bytes(value):
    """Arguments as JSON can say them."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {BINARY: base64.b64encode(value).decode()}
    if isinstance(value, (list, tuple)):
        return [without_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: without_bytes(item) for key, item in value.items()}
    return value


def as_list(value):
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set)) else [value]


def arguments(data):
    """The arguments that `emit(event, data)` means: a tuple is several, None is none."""
    if data is None:
        return []
    return without_bytes(list(data) if isinstance(data, tuple) else [data])


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
        kept = json.loads(json.dumps(request.get("data") or NOTHING_KEPT))
        self.session = kept["session"]
        self.before = set(kept["rooms"])
        self.rooms = set(self.before)
        self.messages, self.is_open, self.is_leaving = [], True, False
        self.environ = environ(request) if self.kind == "connect" else None

    def is_me(self, sid, namespace):
        return sid == self.sid and (namespace or "/") == self.namespace

    def emit(self, message):
        self.messages.append((message, set(self.rooms)))

    def take(self, rooms):
        """The messages so far, for a moment when Tidegate has the client in `rooms`."""
        taken = [self.directed(message, then, rooms) for message, then in self.messages]
        self.messages = []
        return taken

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
        if kept != (self.request.get("data") or NOTHING_KEPT):
            answer["data"] = kept
        if user is not None:
            named = user(self.session)
            if (named.get("id") if isinstance(named, dict) else named) != self.request.get("user"):
                answer["user"] = named
        if self.is_leaving:
            answer["disconnect"] = True
        return {name: value for name, value in answer.items() if value or name in ("data", "user")}


def environ(request):
    """What a `connect` handler finds in its `environ`: WSGI's names, and the headers of an ASGI scope."""
    headers = request.get("headers") or {}
    found = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/socket.io/",
        "QUERY_STRING": request.get("query") or "",
        "REMOTE_ADDR": request.get("address") or "",
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


# === The server's surface ===


class TidegateServer(socketio.AsyncServer):
    """python-socketio's server for handlers and senders, with Tidegate at the clients.

    `secret`: what signs the hook (`app.secret_env`). `api_url`, `api_key`: Tidegate and a key for it. `user`: a function from a client's session to Tidegate's user (a name, `{id, roles, …}` or None).
    """

    def __init__(self, secret, api_url, api_key, user=None, max_age=60, seen=None, client=None, **options):
        super().__init__(async_mode="asgi", **options)
        self.secret = secret.encode() if isinstance(secret, str) else secret
        if len(self.secret) < SECRET_BYTES_MIN:
            raise ValueError(f"the secret has {len(self.secret)} bytes, at least {SECRET_BYTES_MIN}")
        self.user, self.max_age = user, max_age
        # A signature may be ahead of this clock by max_age, and counts for max_age after it.
        self.seen = seen if seen is not None else Seen(2 * max_age)
        self.refused = {}
        self.tasks = set()
        self.http = client or httpx.AsyncClient(
            base_url=api_url, headers={"X-API-Key": api_key}, timeout=ACK_SECONDS_MAX + 5
        )

    async def emit(self, event, data=None, to=None, room=None, skip_sid=None, namespace=None, callback=None,
                   ignore_queue=False):
        rooms = to or room
        message = {
            "event": event,
            "args": arguments(data),
            "to": {} if rooms is None else {"rooms": as_list(rooms)},
            "except": {"sessions": as_list(skip_sid)},
            "namespace": namespace or "/",
        }
        if callback is not None:
            return self._keep(self._emit_and_tell(message, callback))
        turn = self._turn()
        if turn is not None and turn.kind != "disconnect":
            turn.emit(message)
        else:
            await self._publish(message)

    async def call(self, event, data=None, to=None, sid=None, namespace=None, timeout=60, ignore_queue=False):
        target = to or sid
        if not isinstance(target, str):
            raise ValueError("Cannot use call() to broadcast.")
        turn = self._turn()
        if turn is not None and turn.kind == "connect" and turn.is_me(target, namespace):
            raise NotBehindTidegate("call() to a client that is being connected: call it from its first event")
        await self._flush(turn)
        message = {"event": event, "args": arguments(data), "to": {"sessions": [target]}, "namespace": namespace or "/"}
        args = await self._ask(message, timeout)
        if args is None:
            raise exceptions.TimeoutError()
        return tuple(args) if len(args) > 1 else args[0] if args else None

    async def enter_room(self, sid, room, namespace=None):
        turn = self._turn()
        if turn is not None and turn.is_me(sid, namespace):
            turn.rooms.add(room)
        else:
            await self._change("sessions", sid, "join", {"rooms": [room], "namespace": namespace or "/"})

    async def leave_room(self, sid, room, namespace=None):
        turn = self._turn()
        if turn is not None and turn.is_me(sid, namespace):
            turn.rooms.discard(room)
        else:
            await self._change("sessions", sid, "leave", {"rooms": [room], "namespace": namespace or "/"})

    async def close_room(self, room, namespace=None):
        turn = self._turn()
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
            json.dumps(session)
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

    async def shutdown(self):
        for task in list(self.tasks):
            task.cancel()
        await self.http.aclose()

    # --- The hook ---

    async def handle_request(self, scope, receive, send):
        """The ASGI application at the path that `[app] url` names."""
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 4000, "reason": "clients connect to Tidegate"})
        try:
            if scope["method"] != "POST":
                raise Refused(405, "Socket.IO clients connect to Tidegate; this path answers its hook")
            body = await whole(receive)
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            status, answer = 200, await self.answer(headers, body)
        except Refused as refused:
            self.refused[str(refused)] = self.refused.get(str(refused), 0) + 1
            log.warning("request refused: %s", refused)
            status, answer = refused.status, {"error": str(refused)}
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def answer(self, headers, body):
        """The answer to one request; `Refused` if it is not to be acted on."""
        request = verify(self.secret, headers, body, self.max_age)
        first = self.seen.first(request["id"])
        if asyncio.iscoroutine(first):
            first = await first
        if not first:
            if request["kind"] == "disconnect":
                return {}
            raise Refused(409, "replayed")
        turn = Turn(request)
        token = _current.set(turn)
        try:
            return await getattr(self, f"_on_{turn.kind}")(turn)
        finally:
            turn.is_open = False
            _current.reset(token)

    async def _on_connect(self, turn):
        auth = turn.request.get("auth") or None
        try:
            accepted = await self._connect(turn, auth)
        except exceptions.ConnectionRefusedError as refused:
            return {"disconnect": refused.error_args}
        except ConnectionRefusedError:
            return {"disconnect": {"message": "Connection refused by server"}}
        if accepted is False:
            return {"disconnect": exceptions.ConnectionRefusedError().error_args}
        return turn.answer(self.user)

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
        request, returned = turn.request, self.not_handled
        try:
            args = with_bytes(request["args"])
            returned = await self._trigger_event(request["event"], turn.namespace, turn.sid, *args)
        except Exception:
            # As python-socketio does: what was emitted is sent, and nobody is acknowledged.
            log.exception("handler of %r failed", request["event"])
        answer = turn.answer(self.user)
        if request["wants_ack"] and returned is not self.not_handled:
            answer["ack"] = arguments(returned)
        return answer

    async def _on_disconnect(self, turn):
        reason = turn.request["reason"]
        try:
            await self._trigger_event("disconnect", turn.namespace, turn.sid, REASONS.get(reason, reason))
        except Exception:
            log.exception("handler of 'disconnect' failed")
        return {}

    def _turn(self):
        """The request that is being handled here; none in routes, in background tasks and after the answer."""
        turn = _current.get()
        return turn if turn is not None and turn.is_open else None

    def _mine(self, sid, namespace, what):
        turn = self._turn()
        if turn is None or not turn.is_me(sid, namespace):
            raise NotBehindTidegate(f"{what}: only for the client whose event is handled")
        return turn

    # --- Tidegate's API ---

    async def _flush(self, turn):
        """Sends what was emitted so far, before something is said that must come after it."""
        if turn is not None and turn.messages:
            await self._post("/api/publish", {"messages": [with_id(one) for one in turn.take(turn.before)]})

    async def _publish(self, message):
        await self._post("/api/publish", with_id(message))

    async def _ask(self, message, timeout):
        """The arguments of the one acknowledgement, or None if there is none in time."""
        milliseconds = max(1, int(min(timeout, ACK_SECONDS_MAX) * 1000))
        answer = await self._post("/api/publish", {**message, "ack_timeout_ms": milliseconds})
        return with_bytes(answer["answers"][0]["args"]) if answer["answers"] else None

    async def _emit_and_tell(self, message, callback):
        args = await self._ask(message, ACK_SECONDS_MAX)
        if args is not None:
            told = callback(*args)
            if asyncio.iscoroutine(told):
                await told

    async def _change(self, what, name, verb, body):
        await self._flush(self._turn())
        await self._post(f"/api/{what}/{quote(name, safe='')}/{verb}", body)

    async def _post(self, path, body):
        return await self._call("POST", path, body)

    async def _call(self, method, path, body=None):
        for is_last in (False, True):
            try:
                response = await self.http.request(method, path, json=body)
                break
            except httpx.TransportError as error:
                # A kept connection that the other side has closed meanwhile; ids make a second time harmless.
                if is_last or (body and "ack_timeout_ms" in body):
                    raise TidegateUnavailable(f"{path}: {error!r}") from error
        answer = response.json() if response.content else {}
        failed = [one for one in answer.get("results", [answer]) if not one.get("ok")]
        if response.status_code != 200 or failed:
            problem = (failed or [answer])[0].get("error", answer)
            raise TidegateUnavailable(f"{path}: {response.status_code} {problem}")
        return answer

    def _keep(self, coroutine):
        """Runs it beside what goes on here, outside of the turn."""
        task = asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(told_of_failure)


def with_id(message):
    return {**message, "id": uuid.uuid4().hex}


def told_of_failure(task):
    if not task.cancelled() and task.exception() is not None:
        log.error("emit with callback failed", exc_info=task.exception())


async def whole(receive):
    parts, n_bytes = [], 0
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise Refused(400, "body: cut off")
        parts.append(event.get("body", b""))
        n_bytes += len(parts[-1])
        if n_bytes > BODY_BYTES_MAX:
            raise Refused(413, f"body: more than {BODY_BYTES_MAX} bytes")
        if not event.get("more_body"):
            return b"".join(parts)
