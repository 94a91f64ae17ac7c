"""The store in PostgreSQL, by its URL: the same commands, and machines that have one owner at a time."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from bench.errors import UsageError
from bench.health import Health
from bench.leases import Leases
from bench.records import Verdict
from bench.store import RunRecord, Store, place_of
from bench.store.place import VARIABLE
from bench.store.schema import metadata
from tests.rack.postgres import PASSWORD, database

pytestmark = [pytest.mark.rack, pytest.mark.slow, pytest.mark.timeout(300)]
REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database, and the environment that leads there."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv(VARIABLE, server)
    engine = sa.create_engine(server.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return server


def bench(*words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=REPO, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_runs_go_there_and_come_back_and_nothing_is_in_a_file(url: str, tmp_path: Path) -> None:
    del url
    run = ("run", "--machine", "haswell", "--variant", "v3.9", "--scenario", "ping-pong", "--results", str(tmp_path))
    bench(*run)
    listed = bench("results", "list")
    assert "haswell" in listed and "PASS" in listed
    bench("report", "--results", str(tmp_path))
    assert (tmp_path / "reports" / "index.html").is_file()
    assert not list(tmp_path.rglob("*.sqlite*"))


def test_a_new_store_has_all_tables_and_an_older_one_is_migrated(url: str) -> None:
    with Store(url) as store:
        Health(store)
        with store.writing() as connection:
            names = set(sa.inspect(connection).get_table_names())
            assert set(metadata.tables) <= names
            # As version 1 left it: without what came since.
            for column in ("manifest", "pruned", "details"):
                connection.exec_driver_sql(f"ALTER TABLE runs DROP COLUMN {column}")
            connection.exec_driver_sql("DROP TABLE microcode, alembic_version")
            connection.exec_driver_sql("UPDATE schema SET version = 1")
    with Store(url) as store:
        record = RunRecord(
            datetime.now(UTC), "box", "06-3c-03", 0x306C3, "payload", "aa", True, Verdict.PASS, 1.0, "",
        )  # fmt: skip
        assert store.run(store.save_run(record)).record.machine == "box"


def _owner(url: str, folder: str, log: str, count: int) -> None:
    with Store(url) as store:
        leases = Leases(store, Path(folder), owner="two", poll_s=0.01)
        for _ in range(count):
            with leases.lease("box", purpose="test", wait_s=120), Path(log).open("a") as out:
                out.write("in\n")
                out.flush()
                time.sleep(0.005)
                out.write("out\n")


def test_two_controllers_on_one_machine_are_never_on_it_together(url: str, tmp_path: Path) -> None:
    """Each with lock files of its own, as two computers have: the database alone keeps them apart."""
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_owner, args=(url, str(tmp_path / f"locks-{n}"), str(log), 15)) for n in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(200)
        assert one.exitcode == 0
    assert log.read_text().split() == ["in", "out"] * 30


def test_what_cannot_be_opened_is_said_without_the_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, f"postgresql://bench:{PASSWORD}@/none?host={tmp_path}")
    assert "bench:***@" in bench("results", "list", code=2)
    monkeypatch.setenv(VARIABLE, "results.sqlite")
    with pytest.raises(UsageError, match=r"BENCH_STORE: 'results.sqlite' is no URL"):
        place_of(tmp_path)
    with pytest.raises(UsageError, match=r"mysql is not one of sqlite, postgresql|its driver is not installed"):
        Store("mysql://bench@host/db")
