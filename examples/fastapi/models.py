"""What the chat keeps in its database: messages."""

import os

from sqlalchemy import String, func, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///chat.db"))
Session = async_sessionmaker(engine, expire_on_commit=False)

HISTORY = 10


class Base(DeclarativeBase):
    pass


class Message(Base):
    __tablename__ = "chat_messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    room: Mapped[str] = mapped_column(String(64), index=True)
    user: Mapped[str] = mapped_column(String(64))
    text: Mapped[str] = mapped_column(String(2000))

    def as_dict(self):
        return {"id": self.id, "room": self.room, "user": self.user, "text": self.text}


async def create_tables():
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


async def store(room, user, text):
    async with Session() as session, session.begin():
        message = Message(room=room, user=user, text=text)
        session.add(message)
        await session.flush()
        return message.as_dict()


async def newest(room):
    async with Session() as session:
        found = await session.scalars(
            select(Message).where(Message.room == room).order_by(Message.id.desc()).limit(HISTORY)
        )
        return [message.as_dict() for message in reversed(found.all())]


async def count(room):
    async with Session() as session:
        return await session.scalar(select(func.count()).where(Message.room == room))
