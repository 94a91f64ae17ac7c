"""The store: what is saved comes back, all of it or nothing, with several writers at once."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import manifest
from bench.errors import UsageError
from bench.records import Finding, ScenarioResult, Verdict
from bench.store import SCHEMA_VERSION, MicrocodeRow, RunRecord, Store, StoredRun, Transition, capture_folder, schema

FINDING = Finding(
    component="handler",
    summary="the leaf maps the wrong 2 MiB",
    window=3,
    event=17,
    step=5,
    field_name="pmd",
    expected=0x80000000402000E3,
    observed=0xFFFFFFFFFFFFFFFF,
    why="the leaf holds the address rounded down to 2 MiB",
    witness={"RIP": "0xffffffff81000123"},
)
RECORD = RunRecord(
    started=datetime(2026, 11, 22, 12, 0, tzinfo=UTC),
    machine="skylake-client",
    model="06-5e-03",
    signature=0x506E3,
    image="early-pf/v3.9",
    image_sha256="ab" * 32,
    virtual=True,
    verdict=Verdict.FAIL,
    seconds=3.25,
    capture="captures/2026-11-22/skylake-client",
    scenarios=(
        ScenarioResult("sweep-1gib", Verdict.SKIP, reason="needs RAM up to 66 GiB, the machine's ends at 9 GiB"),
        ScenarioResult("ping-pong", Verdict.FAIL, windows=5, predicted=77, resets=9, digests=6, findings=(FINDING,)),
    ),
    details={"release": "6.1.192", "config": "early-boot.config"},
    microcode=(
        MicrocodeRow(1, 0, 0x2, before=0xC2, offered=0xF0, after=0xF0, outcome=Transition.UPDATED),
        MicrocodeRow(1, 1, 0x2, before=0xC2, offered=None, after=None, outcome=Transition.NOT_OBSERVABLE),
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "bench.sqlite"


def test_a_run_comes_back_as_it_was_saved(path: Path) -> None:
    with Store(path) as store:
        saved = store.save_run(RECORD)
    with Store(path) as store:
        assert store.run(saved) == StoredRun(saved, RECORD)


def test_runs_are_listed_latest_first_and_by_machine_or_model(path: Path) -> None:
    other = replace(RECORD, machine="penryn", model="06-17-06", scenarios=())
    with Store(path) as store:
        first, second, third = (store.save_run(r) for r in (RECORD, other, RECORD))
        assert [run.id for run in store.runs()] == [third, second, first]
        assert [run.id for run in store.runs(machine="penryn")] == [second]
        assert [run.id for run in store.runs(model="06-5e-03", limit=1)] == [third]


def test_many_runs_are_saved_at_once_or_not_at_all(path: Path) -> None:
    with Store(path) as store:
        assert store.save_runs([RECORD, replace(RECORD, image="linux/6.1")]) == [1, 2]
        with pytest.raises(ValueError, match="time zone"):
            store.save_runs([RECORD, replace(RECORD, started=datetime(2026, 11, 22))])
        assert [run.id for run in store.runs()] == [2, 1]
        assert [run.record.image for run in store.runs(image="linux/6.1")] == ["linux/6.1"]


def test_the_captures_of_a_run_are_sealed_when_it_is_stored(tmp_path: Path) -> None:
    folder = tmp_path / "captures" / "2026-11-22" / "run"
    (folder / "boot-1").mkdir(parents=True)
    (folder / "boot-1" / "serial.bin").write_bytes(b"@0 begin")
    with Store(tmp_path / "bench.sqlite") as store:
        saved = store.run(store.save_run(replace(RECORD, capture=str(folder))))
    assert saved.manifest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert manifest.differences(folder, saved.manifest) == []


def test_captures_are_found_where_the_results_were_moved_to(tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "captures" / "2026-11-22" / "run"
    moved.mkdir(parents=True)
    assert capture_folder(tmp_path / "elsewhere", "/old/captures/results/captures/2026-11-22/run") == moved
    assert capture_folder(tmp_path / "elsewhere", "/old/captures/gone") == Path("/old/captures/gone")


# --- stores of older benches ------------------------------------------------------------------------------------------


@pytest.fixture
def version_1(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / "stores" / "version-1.sql").read_text())
    connection.close()
    return path


def test_a_store_of_version_1_is_migrated_and_loses_nothing(version_1: Path) -> None:
    with Store(version_1) as store:
        failed, passed = store.runs()
        assert (passed.id, passed.record.verdict, len(passed.record.scenarios)) == (1, Verdict.PASS, 35)
        assert (failed.id, failed.record.verdict, failed.manifest, failed.pruned) == (40, Verdict.FAIL, "", None)
        finding = failed.record.scenarios[4].findings[0]
        assert (finding.field_name, finding.expected, finding.observed) == ("pgd", 0x856063, 0x1056063)
        saved = store.save_run(RECORD)
    with Store(version_1) as store:
        assert store.run(saved).record == RECORD


def layout(path: Path) -> dict[str, object]:
    """Columns, keys and indices of every table, as SQLite itself tells them."""
    connection = sqlite3.connect(path)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    questions = ("table_info", "foreign_key_list", "index_list")
    told = {(n, q): sorted(row[1:] for row in connection.execute(f"PRAGMA {q}({n})")) for n in names for q in questions}
    told["revision", ""] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    connection.close()
    return {" ".join(key): value for key, value in told.items()}


def test_a_migrated_store_is_like_a_new_one(version_1: Path) -> None:
    new = version_1.with_name("new.sqlite")
    for path in (version_1, new):
        Store(path).close()
    assert layout(version_1) == layout(new)
    assert layout(new)["revision "] == [(schema.revision(SCHEMA_VERSION),)]


@pytest.mark.slow
def test_a_migration_that_breaks_off_leaves_the_old_store(version_1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sa.update

    def refuse(table: sa.Table) -> object:
        raise RuntimeError("the power went") if table is schema.schema else real(table)

    with monkeypatch.context() as patched:
        patched.setattr(schema.sa, "update", lambda table: refuse(table))
        with pytest.raises(RuntimeError):
            Store(version_1)
    with sqlite3.connect(version_1) as connection:
        assert connection.execute("SELECT version FROM schema").fetchone() == (1,)
        assert len(connection.execute("SELECT * FROM runs LIMIT 1").fetchone()) == 11
    connection.close()
    with Store(version_1) as store:
        assert len(store.runs()) == 2


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(value=st.one_of(st.integers(0, 2**64 - 1), st.text(st.characters(exclude_categories=["Cs"]))))
def test_numbers_up_to_64_bits_and_any_text_survive(value: int | str) -> None:
    finding = replace(FINDING, expected=value, observed=None)
    with Store("sqlite://") as store:
        saved = store.save_run(replace(RECORD, scenarios=(replace(RECORD.scenarios[1], findings=(finding,)),)))
        assert store.run(saved).record.scenarios[0].findings == (finding,)


def test_a_text_that_looks_like_a_number_stays_a_text(path: Path) -> None:
    finding = replace(FINDING, expected="0x10", observed=0x10)
    with Store(path) as store:
        saved = store.save_run(replace(RECORD, scenarios=(replace(RECORD.scenarios[1], findings=(finding,)),)))
        assert store.run(saved).record.scenarios[0].findings[0].expected == "0x10"


def test_an_unknown_run_is_named(path: Path) -> None:
    with Store(path) as store, pytest.raises(UsageError, match="has no run 7"):
        store.run(7)


def test_a_run_that_fails_half_way_leaves_nothing(path: Path) -> None:
    broken = replace(RECORD.scenarios[1], findings=(FINDING, replace(FINDING, summary=None)))  # type: ignore[arg-type]
    with Store(path) as store:
        with pytest.raises(Exception, match="NOT NULL"):
            store.save_run(replace(RECORD, scenarios=(RECORD.scenarios[0], broken)))
        assert store.runs() == []


def test_a_run_that_is_being_written_is_not_seen(path: Path) -> None:
    with Store(path) as store:
        saved = store.save_run(RECORD)
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO runs SELECT id + 1, started, machine, model, signature, image, image_sha256, "
                       "virtual, verdict, seconds, capture, manifest, pruned, details FROM runs")  # fmt: skip
        assert [run.id for run in store.runs()] == [saved]
        writer.execute("ROLLBACK")
        writer.close()


def test_the_store_is_in_wal_mode_with_foreign_keys_that_hold(path: Path) -> None:
    with Store(path) as store, store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        with pytest.raises(Exception, match="FOREIGN KEY"):
            connection.exec_driver_sql("INSERT INTO scenarios VALUES (99, 0, 'x', 'PASS', 0, 0, 0, 0, 0, '')")


def test_a_newer_schema_is_refused_in_clear_words(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema SET version = ?", (SCHEMA_VERSION + 1,))
    connection.close()
    with pytest.raises(UsageError, match=rf"schema version {SCHEMA_VERSION + 1}.*newer bench"):
        Store(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.sqlite"
    path.write_text("not a database, although its name says so\n" * 40)
    with pytest.raises(UsageError, match=r"bench\.sqlite: file is not a database"):
        Store(path)


def test_a_start_time_without_zone_is_refused(path: Path) -> None:
    with Store(path) as store, pytest.raises(ValueError, match="time zone"):
        store.save_run(replace(RECORD, started=datetime(2026, 11, 22)))


WRITER = """
import sys
from tests.test_store import RECORD
from bench.store import Store
from dataclasses import replace
from pathlib import Path
for number in range(20):
    with Store(Path(sys.argv[1])) as store:
        store.save_run(replace(RECORD, machine=sys.argv[2], seconds=float(number)))
"""


KILLED = """
import os, sys
import sqlalchemy as sa
from tests.test_store import RECORD
from bench.store import Store
from pathlib import Path

store = Store(Path(sys.argv[1]))

@sa.event.listens_for(store._engine, "before_cursor_execute")
def _die(connection, cursor, statement, *rest):
    if statement.startswith("INSERT INTO findings"):
        os.kill(os.getpid(), 9)

store.save_run(RECORD)
"""


@pytest.mark.slow
def test_a_bench_that_is_killed_while_it_saves_leaves_nothing(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=Path(__file__).parents[1], timeout=60)
    assert killed.returncode == -9
    with Store(path) as store:
        assert store.runs() == []
        saved = store.save_run(RECORD)
        assert [run.id for run in store.runs()] == [saved]


@pytest.mark.slow
def test_two_processes_write_at_once_and_both_succeed(path: Path) -> None:
    root = Path(__file__).parents[1]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], cwd=root, stderr=subprocess.PIPE)
        for name in ("left", "right")
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors.decode()
    with Store(path) as store:
        assert len(store.runs()) == 40
        for name in ("left", "right"):
            runs = store.runs(machine=name)
            assert [run.record.seconds for run in runs] == [float(n) for n in reversed(range(20))]
            assert all(run.record.scenarios == RECORD.scenarios for run in runs)
