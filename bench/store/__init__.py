"""The store: what every run came to, in SQLite (WAL) or any database that SQLAlchemy has a URL for.

A run with its scenarios and findings is written in one transaction, so that nobody ever reads half of it; several
benches may write at once. Raw captures stay files; the store has their paths and the hash of their manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from bench import manifest
from bench.errors import UsageError
from bench.store import schema
from bench.store.engine import first_line, prepare
from bench.store.place import is_there, place_of, shown, url_of
from bench.store.rows import MicrocodeRow, RunRecord, StoredRun, Transition, rows_of, run_row, stored_run
from bench.store.schema import SCHEMA_VERSION

__all__ = [
    "SCHEMA_VERSION",
    "MicrocodeRow",
    "RunRecord",
    "Store",
    "StoredRun",
    "Transition",
    "capture_folder",
    "is_there",
    "place_of",
]


class Store:
    """An open store; close it, or use it in a `with`.

    `where` is a path of an SQLite file, made with its folder if it is not there, or a SQLAlchemy URL. A store that an
    older bench made is brought to the present schema. Raises UsageError if it cannot be opened, or if a newer bench
    has made it.
    """

    def __init__(self, where: Path | str) -> None:
        url = url_of(where)
        self.where = shown(url)
        if isinstance(where, Path) or "://" not in where:
            Path(where).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._engine = sa.create_engine(url)
            prepare(self._engine)
            self._open_schema()
        except ImportError as error:
            words = "its driver is not installed: pip install 'bench[postgres]', or ./setup --with-rack"
            raise UsageError(f"store {self.where}: {words} ({error})") from error
        except sa.exc.SQLAlchemyError as error:
            raise UsageError(f"store {self.where}: {first_line(error)}") from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def save_run(self, record: RunRecord) -> int:
        """Seal the run's captures and write the run, all of it or nothing; returns its id."""
        return self.save_runs([record])[0]

    def save_runs(self, records: Sequence[RunRecord]) -> list[int]:
        """Several runs in one transaction; their ids in order.

        A folder that cannot be sealed keeps no run from being stored: `check` names it.
        """
        rows = [run_row(record, _sealed(record.capture)) for record in records]
        ids: list[int] = []
        with self._writing() as connection:
            for record, row in zip(records, rows, strict=True):
                key = connection.execute(sa.insert(schema.runs).values(row)).inserted_primary_key
                assert key is not None
                ids.append(int(key[0]))
                tables = (schema.scenarios, schema.findings, schema.microcode)
                for table, of_table in zip(tables, rows_of(ids[-1], record), strict=True):
                    if of_table:
                        connection.execute(sa.insert(table), of_table)
        return ids

    def runs(
        self,
        *,
        machine: str | None = None,
        model: str | None = None,
        image: str | None = None,
        limit: int | None = None,
    ) -> list[StoredRun]:
        """Runs with their scenarios, the latest first."""
        query = sa.select(schema.runs).order_by(schema.runs.c.id.desc())
        for column, wanted in (("machine", machine), ("model", model), ("image", image)):
            if wanted is not None:
                query = query.where(schema.runs.c[column] == wanted)
        return self._load(query.limit(limit) if limit is not None else query)

    def run(self, run_id: int) -> StoredRun:
        """One run. Raises UsageError if there is none of that id."""
        found = self._load(sa.select(schema.runs).where(schema.runs.c.id == run_id))
        if not found:
            raise UsageError(f"store {self.where}: has no run {run_id}")
        return found[0]

    def mark_sealed(self, run_id: int, sha256: str) -> None:
        """Note the manifest of a run that had none."""
        table = schema.runs
        with self._writing() as connection:
            connection.execute(
                sa.update(table).where(table.c.id == run_id, table.c.manifest == "").values(manifest=sha256)
            )

    def mark_pruned(self, run_ids: Sequence[int]) -> None:
        """Note that the captures of these runs are about to be removed; what was found stays."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._writing() as connection:
            for run_id in run_ids:
                connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run_id).values(pruned=now))

    def _load(self, query: sa.Select[Any]) -> list[StoredRun]:
        ids = sa.select(query.subquery().c.id)
        with self._engine.begin() as connection:
            runs = connection.execute(query).mappings().all()
            scenarios = _grouped(connection, schema.scenarios, ids)
            findings = _grouped(connection, schema.findings, ids)
            microcode = _grouped(connection, schema.microcode, ids)
        found = []
        for row in runs:
            by_scenario: dict[int, list[sa.RowMapping]] = {}
            for finding in findings.get(row["id"], ()):
                by_scenario.setdefault(finding["scenario"], []).append(finding)
            of_run = scenarios.get(row["id"], ())
            found.append(stored_run(row, of_run, by_scenario, microcode.get(row["id"], ())))
        return found

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
            version = schema.version_of(connection)
        if version is not None and version > SCHEMA_VERSION:
            self._engine.dispose()
            raise UsageError(
                f"store {self.where}: has schema version {version}, this bench knows versions up to {SCHEMA_VERSION}: "
                "a newer bench made it; use that one, or another store"
            )
        if version != SCHEMA_VERSION:
            with self._writing() as connection:
                (schema.make if version is None else schema.migrate)(connection)


def capture_folder(results: Path, stored: str) -> Path:
    """Where a run's captures lie now: below `results` if that folder was moved or copied, else where they were."""
    parts = Path(stored).parts
    if "captures" in parts:
        tail = parts[len(parts) - 1 - parts[::-1].index("captures") :]
        here = results.joinpath(*tail)
        if here.exists():
            return here
    return Path(stored)


def _sealed(capture: str) -> str:
    with suppress(OSError):
        if capture and Path(capture).is_dir():
            return manifest.seal(Path(capture))
    return ""


def _grouped(connection: sa.Connection, table: sa.Table, ids: sa.Select[Any]) -> dict[int, list[sa.RowMapping]]:
    groups: dict[int, list[sa.RowMapping]] = {}
    query = sa.select(table).where(table.c.run.in_(ids)).order_by(*table.primary_key.columns)
    for row in connection.execute(query).mappings():
        groups.setdefault(row["run"], []).append(row)
    return groups
