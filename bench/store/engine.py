"""SQLite as several benches share it: foreign keys, a patient lock, write-ahead logging."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

# How long a writer waits for another one.
BUSY_S = 30.0


def prepare_sqlite(engine: sa.Engine) -> None:
    """Foreign keys, a patient lock and write-ahead logging on each connection; transactions begun by us.

    A transaction that will write takes the write lock when it begins: one that has read first could not wait for it.
    """

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
        cursor.execute("PRAGMA foreign_keys = ON")
        _switch_to_wal(cursor)
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _switch_to_wal(cursor: Any) -> None:
    """Of several connections that make the switch at once SQLite refuses all but one, whatever the busy timeout."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.fetchall()
            return
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def first_line(error: BaseException) -> str:
    """What the database says, without SQLAlchemy's explanations."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]
