"""`bench results` as it is typed, on a lab's history of more than 2,000 runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.cli import app
from bench.errors import UsageError
from bench.store import Store
from tests.lab_history import BLESSED_AFTER, History, make_history


@pytest.fixture(scope="module")
def history() -> History:
    return make_history(7)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, history: History) -> Path:
    folder = tmp_path_factory.mktemp("lab") / "results"
    with Store(folder / "bench.sqlite") as store:
        store.save_runs(history.runs[: history.blessed])
    assert app(["results", "bless", "--all", "--results", str(folder)], standalone_mode=False) == 0
    with Store(folder / "bench.sqlite") as store:
        store.save_runs(history.runs[history.blessed :])
    return folder


def bench(capsys: pytest.CaptureFixture[str], results: Path, *words: str) -> tuple[int, str]:
    code = app(["results", *words, "--results", str(results)], standalone_mode=False)
    return code, capsys.readouterr().out


def of(capsys: pytest.CaptureFixture[str], results: Path, *words: str) -> tuple[int, Any]:
    code, out = bench(capsys, results, *words, "--json")
    return code, json.loads(out)


@pytest.mark.slow
def test_changes_lists_the_planted_regressions_first_and_ends_with_1(
    results: Path, history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = of(capsys, results, "changes")
    assert code == 1
    regressions = {(r["machine"], r["image"], r["scenario"]) for r in rows if r["word"] == "regression"}
    assert regressions == {tuple(t) for t in history.planted.regressions}
    code, out = bench(capsys, results, "changes")
    lines = out.splitlines()
    assert all(line.startswith("regression") for line in lines[: len(regressions)])
    assert lines[-1].startswith(f"{len(regressions)} regressions, ")
    assert "pud entry is" in lines[0] and "since run" in lines[0] and "baseline PASS" in lines[0]


@pytest.mark.slow
def test_two_dates_are_compared_by_what_was_known_then(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, last = (f"2026-09-{1 + night:02d}" for night in (BLESSED_AFTER - 1, BLESSED_AFTER + 4))
    code, row = of(capsys, results, "compare", first, last)
    assert code == 0
    assert row["kind"] == "date"
    assert row["tests"] > row["equal"] > 0
    assert {"verdict", "finding", "summary", "commit"} <= {d["name"] for d in row["differences"]}


@pytest.mark.slow
def test_two_machines_of_one_model_are_compared_test_by_test(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = bench(capsys, results, "compare", "m062a07", "m062a07b")
    assert code == 0
    assert out.splitlines()[-1].endswith("tests that both machines tell of are equal")


def test_two_things_that_are_not_of_one_kind_are_not_compared(results: Path) -> None:
    with pytest.raises(UsageError, match="compare two of one kind"):
        app(["results", "compare", "m062a07", "2026-09-02", "--results", str(results)], standalone_mode=False)
    with pytest.raises(UsageError, match="'nosuch' is no run"):
        app(["results", "compare", "nosuch", "1", "--results", str(results)], standalone_mode=False)


def test_nothing_is_pruned_without_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.test_results import runs_of

    capture = tmp_path / "captures" / "2026-09-01" / "run"
    (capture / "boot-1").mkdir(parents=True)
    (capture / "boot-1" / "serial.bin").write_bytes(b"bytes")
    with Store(tmp_path / "bench.sqlite") as store:
        for run in runs_of("PP"):
            store.save_run(run.record.__class__(**{**vars(run.record), "capture": str(capture)}))
            capture = tmp_path / "captures" / "2026-09-02" / "run"
    assert "would go" in bench(capsys, tmp_path, "prune", "--keep", "1")[1]
    assert bench(capsys, tmp_path, "check")[0] == 3  # The second run has no captures.
    assert (tmp_path / "captures" / "2026-09-01" / "run").exists()
    assert "removed" in bench(capsys, tmp_path, "prune", "--keep", "1", "--yes")[1]
    assert not (tmp_path / "captures" / "2026-09-01" / "run").exists()
    code, row = of(capsys, tmp_path, "check")
    assert (code, row["pruned"]) == (3, 1)


def test_a_folder_without_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run is stored there"):
        app(["results", "changes", "--results", str(tmp_path)], standalone_mode=False)
