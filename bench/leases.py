"""One owner a machine, across threads, processes, users and controllers; queues, and reservations until a time.

A lease is two things at once. A lock file (flock) is gone the moment its process is, however it ended, but says nothing
on another controller. A row in the store says who, where and since when, and is renewed every few seconds; it is what
other controllers see. A machine is taken only with both. Rows of owners that are dead (same controller: the process is
gone and its lock free; another: not renewed for a minute) are cleared by whoever comes next.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Float, Integer, MetaData, String, Table

from bench.errors import LabError, UsageError
from bench.owners import Holder, alive, default_owner, ourselves
from bench.records import Machine
from bench.store import Store, place_of

COMPONENT = "lock"
HEARTBEAT_S = 5.0
POLL_S = 0.1

_metadata = MetaData()
_WHO = (
    ("owner", String), ("host", String), ("pid", Integer), ("boot_id", String), ("process_start", String),
    ("since", Float), ("heartbeat", Float), ("purpose", String),
)  # fmt: skip
_leases = Table(
    "leases",
    _metadata,
    Column("machine", String, primary_key=True),
    Column("token", String, nullable=False),
    *(Column(name, kind, nullable=False) for name, kind in _WHO),
)
_waiters = Table(
    "lease_waiters",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("machine", String, nullable=False, index=True),
    *(Column(name, kind, nullable=False) for name, kind in _WHO),
    sqlite_autoincrement=True,  # a ticket's number never comes again
)
_reservations = Table(
    "lease_reservations",
    _metadata,
    Column("machine", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("since", Float, nullable=False),
    Column("until", Float, nullable=False),
    Column("reason", String, nullable=False),
)


@dataclass(frozen=True)
class Reservation:
    """A machine that only `owner` may use until a time (seconds since 1970)."""

    machine: str
    owner: str
    since: float
    until: float
    reason: str

    def __str__(self) -> str:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.until))
        return f"{self.owner} until {until}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class Situation:
    """How it stands with a machine."""

    machine: str
    holder: Holder | None
    reservation: Reservation | None
    waiting: tuple[Holder, ...]


class Lease:
    """A machine that is ours. `lost` is set when it was taken away by force, or another controller thought us dead."""

    def __init__(self, machine: str, token: str) -> None:
        self.machine = machine
        self.token = token
        self.lost = threading.Event()
        self.why_lost = ""

    def check(self) -> None:
        """Raise LabError if the machine is not ours any more."""
        if self.lost.is_set():
            raise LabError(f"{self.machine}: {self.why_lost}", component=COMPONENT, witness=self.why_lost)


class Leases:
    """The leases in `store`, with lock files in `folder`. `owner` is ``BENCH_OWNER`` or USER@HOST by default.

    All benches of a lab must share both. Raises UsageError if the folder cannot be used.
    """

    def __init__(self, store: Store, folder: Path, *, owner: str = "", poll_s: float = POLL_S) -> None:
        self._store = store
        self._folder = folder
        self._poll_s = poll_s
        self.owner = owner or default_owner()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder}: no lock files can be made there: {error.strerror}") from error
        with suppress(PermissionError):  # another user has made it
            folder.chmod(0o1777)
        with store.reading() as connection:
            made = all(sa.inspect(connection).has_table(name) for name in _metadata.tables)
        if not made:
            with store.writing() as connection:
                _metadata.create_all(connection)

    @contextmanager
    def lease(
        self,
        machine: str,
        *,
        purpose: str,
        wait_s: float = 0.0,
        cancel: threading.Event | None = None,
        waiting: Callable[[str], None] | None = None,
    ) -> Iterator[Lease]:
        """Have `machine` for the length of a `with`. Waits its turn for at most `wait_s`; `waiting` hears why.

        `cancel` ends the waiting, and is set when the machine is lost later on: whoever uses it has to stop. Raises
        LabError (component ``lock``; the witness names the owner) if it does not become free in time or `cancel` is
        set, and at the end if it was lost on the way.
        """
        cancel = cancel or threading.Event()
        with self._lock_file(machine) as file:
            lease = self._wait(machine, file, purpose, wait_s, cancel, waiting)
            over = threading.Event()
            arguments = (lease, over, cancel)
            keeper = threading.Thread(target=self._keep, args=arguments, name=f"lease of {machine}", daemon=True)
            keeper.start()
            try:
                yield lease
            finally:
                over.set()
                keeper.join()
                self._give_back(lease)
        lease.check()

    @contextmanager
    def _lock_file(self, machine: str) -> Iterator[int]:
        path = self._folder / f"{machine}.lock"
        try:
            try:
                # Without O_CREAT: in a sticky folder the kernel refuses that for another user's file.
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            yield file
        finally:
            os.close(file)

    def _wait(
        self,
        machine: str,
        file: int,
        purpose: str,
        wait_s: float,
        cancel: threading.Event,
        waiting: Callable[[str], None] | None,
    ) -> Lease:
        deadline = time.monotonic() + wait_s
        told = ""
        who = ourselves(self.owner, purpose)
        with self._store.writing() as connection:
            ticket = connection.execute(sa.insert(_waiters).values(machine=machine, **who)).inserted_primary_key
        assert ticket is not None
        number, renewed = int(ticket[0]), time.monotonic()
        try:
            while True:
                taken = self._try(machine, number, file, who)
                if isinstance(taken, Lease):
                    return taken
                if waiting is not None and taken != told:
                    waiting(taken)
                told = taken
                if time.monotonic() >= deadline or cancel.is_set():
                    how = "interrupted" if cancel.is_set() else f"not free within {wait_s:g} s"
                    raise LabError(f"{machine}: {how}: {taken}", component=COMPONENT, witness=taken)
                if time.monotonic() - renewed > HEARTBEAT_S:
                    renewed = time.monotonic()
                    with self._store.writing() as connection:
                        query = sa.update(_waiters).where(_waiters.c.id == number)
                        connection.execute(query.values(heartbeat=time.time()))
                cancel.wait(self._poll_s)
        finally:
            with self._store.writing() as connection:
                connection.execute(sa.delete(_waiters).where(_waiters.c.id == number))

    def _try(self, machine: str, ticket: int, file: int, who: dict[str, Any]) -> Lease | str:
        """The lease, or the reason why not yet."""
        with self._store.reading() as connection:  # so that those who wait do not keep others from writing
            reason = self._obstacle(connection, machine, ticket)
        if reason:
            return reason
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return f"its lock file {self._folder / f'{machine}.lock'} is held by a process of this controller"
        taken = False
        try:
            with self._store.writing() as connection:
                # If there is a row and no obstacle, its owner is dead. That row is cleared and no other: in a database
                # with several writers a new one may have come, and then the insertion fails.
                there = sa.select(_leases.c.token).where(_leases.c.machine == machine)
                dead = connection.execute(there).scalar()
                reason = self._obstacle(connection, machine, ticket)
                if not reason:
                    self._clear_dead_waiters(connection, machine)
                    lease = Lease(machine, secrets.token_hex(8))
                    connection.execute(sa.delete(_leases).where(_leases.c.token == dead))
                    now = time.time()
                    row = who | {"since": now, "heartbeat": now}
                    connection.execute(sa.insert(_leases).values(machine=machine, token=lease.token, **row))
                    taken = True
            return lease if taken else reason
        except sa.exc.IntegrityError:  # a database with several writers: another controller's row came first
            taken = False
            return "another controller was faster"
        finally:
            if not taken:
                fcntl.flock(file, fcntl.LOCK_UN)

    def _clear_dead_waiters(self, connection: sa.Connection, machine: str) -> None:
        dead = [number for number, one in _queue(connection, machine) if not alive(one)]
        if dead:
            connection.execute(sa.delete(_waiters).where(_waiters.c.id.in_(dead)))

    def _obstacle(self, connection: sa.Connection, machine: str, ticket: int) -> str:
        """Why the machine cannot be had now; empty if it can."""
        reservation = _reservation(connection, machine)
        if reservation is not None and reservation.owner != self.owner:
            return f"reserved by {reservation}"
        holder = _holder(connection, machine)
        if holder is not None and alive(holder):
            return f"in use by {holder}"
        before = [one for number, one in _queue(connection, machine) if number < ticket and alive(one)]
        if before:
            return f"{len(before)} before us, the first is {before[0]}"
        return ""

    def _keep(self, lease: Lease, over: threading.Event, cancel: threading.Event) -> None:
        while not over.wait(HEARTBEAT_S):
            try:
                with self._store.writing() as connection:
                    query = sa.update(_leases).where(_leases.c.machine == lease.machine, _leases.c.token == lease.token)
                    ours = connection.execute(query.values(heartbeat=time.time())).rowcount
                    holder = _holder(connection, lease.machine)
            except sa.exc.SQLAlchemyError:
                continue  # a store that is busy or away: the lock file still holds
            if not ours:
                lease.why_lost = f"its lease was taken away; now: {holder or 'nobody'}"
                lease.lost.set()
                cancel.set()
                return

    def _give_back(self, lease: Lease) -> None:
        with self._store.writing() as connection:
            connection.execute(
                sa.delete(_leases).where(_leases.c.machine == lease.machine, _leases.c.token == lease.token)
            )

    def reserve(self, machine: str, *, until: float, reason: str = "") -> Reservation:
        """Keep `machine` for our own runs until a time; a run that is on it goes on.

        Raises UsageError if another has reserved it.
        """
        now = time.time()
        if until <= now:
            raise UsageError(f"{machine}: a reservation until a time that has passed")
        with self._store.writing() as connection:
            there = _reservation(connection, machine)
            if there is not None and there.owner != self.owner:
                raise UsageError(f"{machine}: reserved by {there}")
            connection.execute(sa.delete(_reservations).where(_reservations.c.machine == machine))
            ours = Reservation(machine, self.owner, now, until, reason)
            connection.execute(sa.insert(_reservations).values(**vars(ours)))
        return ours

    def release(self, machine: str, *, force: bool = False) -> list[str]:
        """Give up our reservation, and clear what dead owners left; with `force` everybody's. Says what was done.

        Raises UsageError if somebody else's is in the way. The process that a lease is taken from keeps the lock
        file until it has noticed, so that nobody else gets the machine before.
        """
        done: list[str] = []
        with self._store.writing() as connection:
            reservation, holder = _reservation(connection, machine), _holder(connection, machine)
            if reservation is not None:
                if reservation.owner != self.owner and not force:
                    raise UsageError(f"{machine}: reserved by {reservation}; --force takes it away")
                connection.execute(sa.delete(_reservations).where(_reservations.c.machine == machine))
                done.append(f"no longer reserved by {reservation}")
            if holder is not None:
                living = alive(holder)
                if living and not force:
                    if not done:
                        raise UsageError(f"{machine}: in use by {holder}; end that, or --force takes it away")
                else:
                    connection.execute(sa.delete(_leases).where(_leases.c.machine == machine))
                    done.append(f"taken from {holder}" if living else f"cleared after {holder}, which is gone")
        return done

    def situations(self) -> list[Situation]:
        """Every machine that somebody has, waits for or has reserved, in order of their names."""
        with self._store.reading() as connection:
            tables = (_leases, _waiters, _reservations)
            names = {name for table in tables for name in connection.execute(sa.select(table.c.machine)).scalars()}
            found = [
                Situation(
                    name,
                    _holder(connection, name),
                    _reservation(connection, name),
                    tuple(one for _, one in _queue(connection, name) if alive(one)),
                )
                for name in sorted(names)
            ]
        return [one for one in found if one.holder or one.reservation or one.waiting]


@contextmanager
def lease(
    machine: Machine,
    results: Path,
    *,
    purpose: str = "bench run",
    wait_s: float = 0.0,
    cancel: threading.Event | None = None,
    waiting: Callable[[str], None] | None = None,
) -> Iterator[Lease]:
    """Have `machine` for the length of a `with`, by the store and the lock files in `results`.

    A virtual machine is made anew for each run and is nobody's: its lease is had at once. Raises as `Leases.lease`.
    """
    if machine.virtual is not None:
        yield Lease(machine.name, "")
        return
    with (
        Store(place_of(results)) as store,
        Leases(store, results / "locks").lease(
            machine.name, purpose=purpose, wait_s=wait_s, cancel=cancel, waiting=waiting
        ) as had,
    ):
        yield had


def _holder(connection: sa.Connection, machine: str) -> Holder | None:
    row = connection.execute(sa.select(_leases).where(_leases.c.machine == machine)).mappings().first()
    return None if row is None else Holder(**{key: value for key, value in row.items() if key != "token"})


def _queue(connection: sa.Connection, machine: str) -> list[tuple[int, Holder]]:
    rows = connection.execute(sa.select(_waiters).where(_waiters.c.machine == machine).order_by(_waiters.c.id))
    return [(row["id"], Holder(**{k: v for k, v in row.items() if k != "id"})) for row in rows.mappings()]


def _reservation(connection: sa.Connection, machine: str) -> Reservation | None:
    query = sa.select(_reservations).where(_reservations.c.machine == machine, _reservations.c.until > time.time())
    row = connection.execute(query).mappings().first()
    return None if row is None else Reservation(**dict(row))
