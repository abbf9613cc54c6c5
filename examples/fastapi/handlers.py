"""The chat itself: python-socketio handlers, the same with and without Tidegate."""

import hashlib

from socketio.exceptions import ConnectionRefusedError, TimeoutError

import models
from identity import user_of
from realtime import sio

BANNED = {"mallory"}


@sio.event
async def connect(sid, environ, auth):
    user = user_of(environ.get("HTTP_COOKIE", ""))
    if user is None:
        raise ConnectionRefusedError("who are you?", {"login": "/login"})
    if user in BANNED:
        return False
    await sio.save_session(sid, {"user": user, "nick": (auth or {}).get("nick", user)})
    await sio.emit("online", {"user": user}, room="lobby")
    await sio.enter_room(sid, "lobby")
    await sio.enter_room(sid, f"user:{user}")


@sio.event
async def disconnect(sid, reason):
    await sio.emit("offline", {"sid": sid, "reason": reason}, room="lobby", skip_sid=sid)


@sio.event
async def enter(sid, room):
    if not isinstance(room, str) or not 1 <= len(room) <= 64:
        return {"ok": False, "error": "a room has 1 to 64 characters"}
    session = await sio.get_session(sid)
    await sio.emit("entered", {"user": session["user"], "room": room}, room=room)
    await sio.enter_room(sid, room)
    return {"ok": True, "history": await models.newest(room)}


@sio.event
async def leave(sid, room):
    session = await sio.get_session(sid)
    await sio.emit("left", {"user": session["user"], "room": room}, room=room)
    await sio.leave_room(sid, room)
    return {"ok": True}


@sio.event
async def say(sid, room, text):
    session = await sio.get_session(sid)
    message = await models.store(room, session["user"], text)
    await sio.emit("message", message, room=room)
    return "stored", message["id"]


@sio.event
async def whisper(sid, user, text):
    session = await sio.get_session(sid)
    await sio.emit("whisper", {"from": session["nick"], "text": text}, to=f"user:{user}")


@sio.event
async def typing(sid, room):
    session = await sio.get_session(sid)
    await sio.emit("typing", (room, session["nick"]), room=room, skip_sid=sid)


@sio.event
async def upload(sid, room, name, content):
    digest = hashlib.sha256(content).hexdigest()
    await sio.emit("file", {"room": room, "name": name, "content": content}, room=room, skip_sid=sid)
    return {"size": len(content), "sha256": digest, "head": content[:4]}


@sio.on("rename")
async def rename(sid, nick):
    async with sio.session(sid) as session:
        before, session["nick"] = session["nick"], nick
    return {"before": before, "now": nick}


@sio.event
async def where(sid):
    return sorted(room for room in sio.rooms(sid) if room != sid)


@sio.event
def count(sid, n):
    return n + 1


@sio.event
async def echo(sid, *args):
    await sio.emit("echoed", args, to=sid)


@sio.event
async def confirm(sid, question):
    await sio.emit("asking", question, to=sid)
    try:
        answer = await sio.call("confirm?", {"question": question}, to=sid, timeout=2)
    except TimeoutError:
        answer = None
    return {"answer": answer}


@sio.event
async def invite(sid, other, room):
    session = await sio.get_session(sid)
    await sio.emit("entered", {"user": "a guest", "room": room}, room=room)
    await sio.enter_room(other, room)
    await sio.emit("message", {"id": 0, "room": room, "user": session["user"], "text": "welcome"}, room=room)
    return {"guest": (await sio.get_session(other))["user"]}


@sio.event
async def expel(sid, other):
    await sio.emit("bye", "out", to=other)
    await sio.disconnect(other)


@sio.event
async def clear(sid, room):
    await sio.close_room(room)
    await sio.emit("left", {"user": "nobody hears this", "room": room}, room=room)


@sio.event
async def stumble(sid):
    await sio.emit("stumbled", to=sid)
    raise RuntimeError("a handler that fails")


@sio.event
async def quit(sid, word):
    await sio.emit("bye", word, to=sid)
    await sio.disconnect(sid)
