"""Brings messages in from elsewhere, in a process of its own that knows nothing of Socket.IO: SQLAlchemy writes the rows, and
the clients hear of them when their transaction is committed, and of none if it is rolled back.

    DATABASE_URL=postgresql+psycopg://user@host/database python importer.py ROOM USER < lines

Tidegate reads what is published here on the same database, with `store.relay.enabled = true`; run.py sets that for PostgreSQL.
"""

import argparse
import asyncio
import json
import sys

from sqlalchemy import text

import models

PUBLISH = text("SELECT tidegate.publish(:room, 'message', CAST(:message AS jsonb))")


async def bring_in(room, user, lines):
    async with models.Session() as session, session.begin():
        for line in lines:
            message = models.Message(room=room, user=user, text=line.rstrip("\n"))
            session.add(message)
            await session.flush()
            await session.execute(PUBLISH, {"room": room, "message": json.dumps(message.as_dict())})
    await models.engine.dispose()


def main():
    parser = argparse.ArgumentParser(description="messages from elsewhere, one a line")
    parser.add_argument("room")
    parser.add_argument("user")
    args = parser.parse_args()
    asyncio.run(bring_in(args.room, args.user, sys.stdin))


if __name__ == "__main__":
    main()
