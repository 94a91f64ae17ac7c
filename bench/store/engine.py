"""A database as several benches share it: transactions that write go one after the other, in each kind of database."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from bench.errors import UsageError

# How long a writer waits for another one.
BUSY_S = 30.0
# "bench" in ASCII: which of the database's advisory locks is ours.
_WRITERS = 0x62656E6368


def prepare(engine: sa.Engine) -> None:
    """Set up an engine that nobody has used yet. Raises UsageError for a database of which this is not known."""
    known = {"sqlite": _prepare_sqlite, "postgresql": _prepare_postgresql}
    name = engine.dialect.name
    if name not in known:
        raise UsageError(f"store: {name} is not one of {', '.join(known)}")
    known[name](engine)


def _prepare_postgresql(engine: sa.Engine) -> None:
    """A transaction that will write waits for its turn when it begins, as it does in SQLite: what it reads first stays
    true. The lock is the database's own, given back with the transaction (PostgreSQL, 13.3.5: advisory locks)."""

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(BUSY_S * 1000)}ms'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")


def _prepare_sqlite(engine: sa.Engine) -> None:
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
