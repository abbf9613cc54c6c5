"""A small chat: FastAPI for pages, python-socketio for what is live, SQLAlchemy for what stays.

    uvicorn main:app                # with Socket.IO of its own
    python run.py --tidegate PATH   # behind Tidegate
"""

from contextlib import asynccontextmanager

import socketio
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import handlers  # noqa: F401 - registers them
import identity
import models
from realtime import sio


@asynccontextmanager
async def lifespan(_):
    await models.create_tables()
    yield
    await sio.shutdown()
    await models.engine.dispose()


api = FastAPI(title="chat", lifespan=lifespan)
app = socketio.ASGIApp(sio, other_asgi_app=api)


class Login(BaseModel):
    user: str = Field(pattern=r"^[a-z]{1,32}$")


class Announcement(BaseModel):
    text: str = Field(max_length=2000)
    room: str | None = None


@api.post("/login")
async def login(body: Login):
    answer = JSONResponse({"user": body.user})
    answer.set_cookie(identity.COOKIE, identity.sign(body.user), httponly=True, samesite="lax")
    return answer


@api.post("/announce")
async def announce(body: Announcement, cookie: str = Header("")):
    user = identity.user_of(cookie)
    if user is None:
        raise HTTPException(401)
    await sio.emit("announcement", {"from": user, "text": body.text}, room=body.room)
    return {"ok": True}


@api.get("/rooms/{room}/messages")
async def messages(room: str):
    return {"count": await models.count(room), "messages": await models.newest(room)}
