"""Stores rows of the ticks table in one of Python's usual ways and prints the seconds it took.

Usage: python ingest_rows.py WAY URL ROWS ROWS_A_COMMIT
"""

import sys
import time
from datetime import datetime, timedelta, timezone

import psycopg
from sqlalchemy import BigInteger, Column, DateTime, Float, MetaData, Table, Text, create_engine, insert

START = datetime(2024, 3, 1, tzinfo=timezone.utc)
SQL = "INSERT INTO ticks (id, symbol, at, price, volume) VALUES (%s, %s, %s, %s, %s)"
COPY = "COPY ticks (id, symbol, at, price, volume) FROM STDIN"


def rows(n_rows):
    """The same rows that everybody stores."""
    return [
        (
            row,
            f"{600000 + row * 7 % 300:06}",
            START + timedelta(seconds=row // 20),
            10.0 + (row % 1000) / 100,
            row % 977,
        )
        for row in range(n_rows)
    ]


def pieces(all_rows, size):
    return [all_rows[at : at + size] for at in range(0, len(all_rows), size)]


def sqlalchemy_core(url, batches):
    # The driver reads the URL: SQLAlchemy's own reader takes the encoded folder of a socket for a host's name.
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    table = Table(
        "ticks",
        MetaData(),
        Column("id", BigInteger),
        Column("symbol", Text),
        Column("at", DateTime(timezone=True)),
        Column("price", Float),
        Column("volume", BigInteger),
    )
    names = [column.name for column in table.columns]
    batches = [[dict(zip(names, row)) for row in batch] for batch in batches]
    engine.connect().close()
    since = time.perf_counter()
    for batch in batches:
        with engine.begin() as connection:
            connection.execute(insert(table), batch)
    return time.perf_counter() - since


def psycopg_executemany(url, batches):
    with psycopg.connect(url) as connection:
        since = time.perf_counter()
        for batch in batches:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(SQL, batch)
        connection.commit()
        return time.perf_counter() - since


def psycopg_copy(url, batches):
    with psycopg.connect(url) as connection:
        since = time.perf_counter()
        for batch in batches:
            with connection.cursor() as cursor:
                with cursor.copy(COPY) as copy:
                    for row in batch:
                        copy.write_row(row)
            connection.commit()
        return time.perf_counter() - since


WAYS = {
    "SQLAlchemy Core insert": sqlalchemy_core,
    "psycopg executemany": psycopg_executemany,
    "psycopg copy": psycopg_copy,
}

if __name__ == "__main__":
    way, url, n_rows, commit = sys.argv[1:]
    print(WAYS[way](url, pieces(rows(int(n_rows)), int(commit))))
