"""The store: what every run came to, in SQLite (WAL) or any database that SQLAlchemy has a URL for.

A run with its scenarios and findings is written in one transaction, so that nobody ever reads half of it; several
benches may write at once. Raw captures stay files; the store has their paths.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, MetaData, String, Table

from bench.errors import UsageError
from bench.records import Finding, ScenarioResult, Verdict

SCHEMA_VERSION = 1
# How long a writer waits for another one.
BUSY_S = 30.0

_metadata = MetaData()
_schema = Table("schema", _metadata, Column("version", Integer, nullable=False))
_runs = Table(
    "runs",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("started", String, nullable=False),
    Column("machine", String, nullable=False, index=True),
    Column("model", String, nullable=False, index=True),
    # Unsigned numbers are hexadecimal text: SQLite's integers end at 2^63 - 1.
    Column("signature", String, nullable=False),
    Column("image", String, nullable=False),
    Column("image_sha256", String, nullable=False),
    Column("virtual", Boolean, nullable=False),
    Column("verdict", String, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("capture", String, nullable=False),
)
_scenarios = Table(
    "scenarios",
    _metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("scenario", String, nullable=False),
    Column("verdict", String, nullable=False),
    Column("windows", Integer, nullable=False),
    Column("predicted", Integer, nullable=False),
    Column("replayed", Integer, nullable=False),
    Column("resets", Integer, nullable=False),
    Column("digests", Integer, nullable=False),
    Column("reason", String, nullable=False),
)
_findings = Table(
    "findings",
    _metadata,
    Column("run", Integer, primary_key=True),
    Column("scenario", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("component", String, nullable=False),
    Column("summary", String, nullable=False),
    Column("window", Integer),
    Column("event", Integer),
    Column("step", Integer),
    Column("field", String, nullable=False),
    Column("expected", String),
    Column("observed", String),
    Column("why", String, nullable=False),
    Column("witness", String, nullable=False),
    sa.ForeignKeyConstraint(["run", "scenario"], ["scenarios.run", "scenarios.position"], ondelete="CASCADE"),
)


@dataclass(frozen=True)
class RunRecord:
    """One run: one machine, one image, its scenarios with their findings."""

    started: datetime
    """With its time zone."""
    machine: str
    model: str
    signature: int
    image: str
    image_sha256: str
    virtual: bool
    verdict: Verdict
    seconds: float
    capture: str
    """Folder of the run's captures."""
    scenarios: tuple[ScenarioResult, ...] = ()


@dataclass(frozen=True)
class StoredRun:
    """A run as it lies in the store."""

    id: int
    record: RunRecord


class Store:
    """An open store; close it, or use it in a `with`.

    `where` is a path of an SQLite file, made with its folder if it is not there, or a SQLAlchemy URL. Raises
    UsageError if it cannot be opened, or if a newer bench has made it.
    """

    def __init__(self, where: Path | str) -> None:
        self.where = str(where)
        if isinstance(where, Path) or "://" not in where:
            Path(where).parent.mkdir(parents=True, exist_ok=True)
            where = f"sqlite:///{where}"
        try:
            self._engine = sa.create_engine(where)
            if self._engine.dialect.name == "sqlite":
                _prepare_sqlite(self._engine)
            self._open_schema()
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise UsageError(f"store {self.where}: {_first_line(error)}") from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def save_run(self, record: RunRecord) -> int:
        """Write a run, all of it or nothing; returns its id."""
        scenarios = [
            {"position": i, "scenario": s.scenario, "verdict": s.verdict.value, "windows": s.windows,
             "predicted": s.predicted, "replayed": s.replayed, "resets": s.resets, "digests": s.digests,
             "reason": s.reason}
            for i, s in enumerate(record.scenarios)
        ]  # fmt: skip
        findings = [
            {"scenario": i, "position": j, **_finding_row(f)}
            for i, s in enumerate(record.scenarios)
            for j, f in enumerate(s.findings)
        ]
        with self._writing() as connection:
            result = connection.execute(sa.insert(_runs).values(_run_row(record)))
            key = result.inserted_primary_key
            assert key is not None
            run = int(key[0])
            for table, rows in ((_scenarios, scenarios), (_findings, findings)):
                if rows:
                    connection.execute(sa.insert(table), [{"run": run, **row} for row in rows])
        return run

    def runs(
        self, *, machine: str | None = None, model: str | None = None, limit: int | None = None
    ) -> list[StoredRun]:
        """Runs with their scenarios, the latest first."""
        query = sa.select(_runs).order_by(_runs.c.id.desc())
        if machine is not None:
            query = query.where(_runs.c.machine == machine)
        if model is not None:
            query = query.where(_runs.c.model == model)
        return self._load(query.limit(limit) if limit is not None else query)

    def run(self, run_id: int) -> StoredRun:
        """One run. Raises UsageError if there is none of that id."""
        found = self._load(sa.select(_runs).where(_runs.c.id == run_id))
        if not found:
            raise UsageError(f"store {self.where}: has no run {run_id}")
        return found[0]

    def _load(self, query: sa.Select[Any]) -> list[StoredRun]:
        with self._engine.begin() as connection:
            runs = connection.execute(query).mappings().all()
            return [StoredRun(row["id"], _record(row, _scenarios_of(connection, row["id"]))) for row in runs]

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads; for tables beside those of runs (`bench.leases`)."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes, committed at the end; for tables beside those of runs."""
        with self._writing() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def _open_schema(self) -> None:
        with self._engine.begin() as connection:
            made = sa.inspect(connection).has_table(_schema.name)
        if not made:
            self._make_schema()
        with self._engine.begin() as connection:
            version = connection.execute(sa.select(_schema.c.version)).scalar_one()
        if version > SCHEMA_VERSION:
            self._engine.dispose()
            raise UsageError(
                f"store {self.where}: has schema version {version}, this bench knows versions up to {SCHEMA_VERSION}: "
                "a newer bench made it; use that one, or another store"
            )

    def _make_schema(self) -> None:
        with self._writing() as connection:
            if not sa.inspect(connection).has_table(_schema.name):  # Another bench may have been faster.
                _metadata.create_all(connection)
                connection.execute(sa.insert(_schema).values(version=SCHEMA_VERSION))


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


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _run_row(record: RunRecord) -> dict[str, object]:
    if record.started.tzinfo is None:
        raise ValueError("RunRecord.started has no time zone")
    return {
        "started": record.started.isoformat(),
        "machine": record.machine,
        "model": record.model,
        "signature": f"{record.signature:#010x}",
        "image": record.image,
        "image_sha256": record.image_sha256,
        "virtual": record.virtual,
        "verdict": record.verdict.value,
        "seconds": record.seconds,
        "capture": record.capture,
    }


def _record(row: sa.RowMapping, scenarios: tuple[ScenarioResult, ...]) -> RunRecord:
    return RunRecord(
        started=datetime.fromisoformat(row["started"]),
        machine=row["machine"],
        model=row["model"],
        signature=int(row["signature"], 16),
        image=row["image"],
        image_sha256=row["image_sha256"],
        virtual=row["virtual"],
        verdict=Verdict(row["verdict"]),
        seconds=row["seconds"],
        capture=row["capture"],
        scenarios=scenarios,
    )


def _scenarios_of(connection: sa.Connection, run: int) -> tuple[ScenarioResult, ...]:
    findings: dict[int, list[Finding]] = {}
    query = sa.select(_findings).where(_findings.c.run == run).order_by(_findings.c.scenario, _findings.c.position)
    for row in connection.execute(query).mappings():
        findings.setdefault(row["scenario"], []).append(_finding(row))
    scenarios = sa.select(_scenarios).where(_scenarios.c.run == run).order_by(_scenarios.c.position)
    return tuple(
        ScenarioResult(
            scenario=row["scenario"],
            verdict=Verdict(row["verdict"]),
            windows=row["windows"],
            predicted=row["predicted"],
            replayed=row["replayed"],
            resets=row["resets"],
            digests=row["digests"],
            findings=tuple(findings.get(row["position"], ())),
            reason=row["reason"],
        )
        for row in connection.execute(scenarios).mappings()
    )


def _finding_row(finding: Finding) -> dict[str, object]:
    return {
        "component": finding.component,
        "summary": finding.summary,
        "window": finding.window,
        "event": finding.event,
        "step": finding.step,
        "field": finding.field_name,
        "expected": _to_text(finding.expected),
        "observed": _to_text(finding.observed),
        "why": finding.why,
        "witness": json.dumps(dict(finding.witness), sort_keys=True),
    }


def _finding(row: sa.RowMapping) -> Finding:
    return Finding(
        component=row["component"],
        summary=row["summary"],
        window=row["window"],
        event=row["event"],
        step=row["step"],
        field_name=row["field"],
        expected=_from_text(row["expected"]),
        observed=_from_text(row["observed"]),
        why=row["why"],
        witness=json.loads(row["witness"]),
    )


def _to_text(value: int | str | None) -> str | None:
    """A number as hexadecimal text, a text as a JSON string, so that the two stay apart."""
    if value is None:
        return None
    return f"{value:#x}" if isinstance(value, int) else json.dumps(value)


def _from_text(text: str | None) -> int | str | None:
    if text is None:
        return None
    return str(json.loads(text)) if text.startswith('"') else int(text, 16)
