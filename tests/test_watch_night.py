"""A run is followed from another terminal; a night is read from a file, and ends with what is new."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import progress
from bench.cli import app
from bench.cli_night import night, read_calls, verdict_of_the_night
from bench.errors import FormatError, UsageError
from bench.lab.boot import Progress, State
from bench.progress import Board, table
from bench.records import Verdict
from bench.report.baselines import Known
from bench.report.history import Check
from bench.report.regressions import Change, Word
from bench.status import Finished, Running, Status, going_on, read_status, status_folder, write_status
from bench.store import Store, place_of

ROOT = Path(__file__).resolve().parent.parent
STATUS = Status(
    pid=os.getpid(),
    total=4,
    jobs=2,
    elapsed_s=12.5,
    running=(Running("haswell v3.9", "speaking", 3.2, 8812, 40, "@3f pf I1 A2"),),
    finished=(Finished("conroe v3.9", "FAIL", "handler: PMD entry is 0x0"),),
)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "bench"


def test_a_status_comes_back_as_it_was_written_and_is_for_its_user_alone(runtime: Path) -> None:
    write_status(STATUS)
    assert read_status(os.getpid()) == STATUS
    assert going_on() == [os.getpid()]
    assert status_folder() == runtime and runtime.stat().st_mode & 0o777 == 0o700


def test_a_status_that_nobody_can_write_is_no_trouble(runtime: Path) -> None:
    runtime.write_text("a file where the folder should be")
    write_status(STATUS)
    assert read_status(os.getpid()) is None


def test_a_board_tells_of_each_boot_and_leaves_nothing_behind(
    runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Board(2, 1, quiet=False)
    hostile = "\x1b[2J@0 begin"
    board.update("haswell v3.9", Progress("haswell", State.SPEAKING, 1.5, 100, hostile, 7))
    status = read_status(os.getpid())
    assert status and status.running[0].faults == 7 and status.running[0].last_line == r"\x1b[2J@0 begin"
    board.finish("haswell v3.9", Verdict.PASS, "7 faults equal\x1b[31m")
    status = read_status(os.getpid())
    assert status and status.running == () and status.finished[0].verdict == "PASS"
    board.close()
    assert read_status(os.getpid()) is None and list(runtime.glob("*.json")) == []
    said = capsys.readouterr().err
    assert "\x1b" not in said and re.search(r"\[  1/2 .* PASS  haswell v3\.9: 7 faults equal", said)


def test_news_that_come_too_fast_are_not_all_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PACE_S", 3600.0)
    board = Board(1, 1, quiet=True)
    for faults in range(50):
        board.update("a", Progress("a", State.SPEAKING, 0.1, 1, "", faults))
    status = read_status(os.getpid())
    assert status and status.running[0].faults == 0
    monkeypatch.setattr(progress, "PACE_S", 0.0)
    board.update("a", Progress("a", State.SPEAKING, 0.1, 1, "", 99))
    status = read_status(os.getpid())
    assert status and status.running[0].faults == 99
    board.close()


@pytest.mark.slow
def test_the_table_shows_hostile_text_as_text() -> None:
    from rich.console import Console

    status = replace(STATUS, running=(replace(STATUS.running[0], last_line="[bold red]x[/] [link=http://a]b"),))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(status, recent=3))
    text = console.export_text()
    assert "[bold red]x[/] [link=http://a]b" in text and "conroe v3.9" in text and "1 of 4 runs" in text


def test_watch_says_how_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    write_status(STATUS)
    assert app(["watch", "--once"], standalone_mode=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "[  1/4] FAIL  conroe v3.9: handler: PMD entry is 0x0",
        "haswell v3.9: speaking, 3 s, 40 faults: @3f pf I1 A2",
    ]
    assert app(["watch", "--json", "--once"], standalone_mode=False) == 0
    assert json.loads(capsys.readouterr().out)["running"][0]["faults"] == 40


def test_watch_names_what_there_is_to_watch() -> None:
    with pytest.raises(UsageError, match="no bench run is going on"):
        app(["watch"], standalone_mode=False)
    write_status(STATUS)
    with pytest.raises(UsageError, match=f"going on: {os.getpid()}"):
        app(["watch", "1"], standalone_mode=False)


@pytest.mark.slow
def test_watch_ends_when_the_run_ends_or_is_gone() -> None:
    command = [sys.executable, "-m", "bench", "watch", str(os.getpid())]
    write_status(STATUS)
    watcher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert watcher.stdout and "conroe" in watcher.stdout.readline()
    write_status(replace(STATUS, ended=True, finished=(*STATUS.finished, Finished("haswell v3.9", "PASS", "equal"))))
    output, _ = watcher.communicate(timeout=30)
    assert watcher.returncode == 0 and "[  2/4] PASS  haswell v3.9: equal" in output

    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    write_status(replace(STATUS, pid=gone.pid))
    done = subprocess.run([*command[:-1], str(gone.pid)], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "conroe" in done.stdout


# --- nights -----------------------------------------------------------------------------------------------------------


def night_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "night.toml"
    path.write_text(text)
    return path


def test_a_night_is_calls_of_bench_run(tmp_path: Path) -> None:
    text = '[[run]]\nabout="all"\nall=true\n[[run]]\nmachine=["a","b"]\njobs=2\nvariant="v3.9"\nscenario_set="x"\n'
    assert read_calls(night_file(tmp_path, text)) == [
        ("all", ["--all"]),
        ("", ["--machine", "a", "--machine", "b", "--jobs", "2", "--variant", "v3.9", "--scenario-set", "x"]),
    ]


@pytest.mark.parametrize("text", ["", "run = 1", "[[run]]\n[other]", "[[run]]\nall=false", "[[run]]\nx={a=1}", "[["])
def test_a_night_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(FormatError, match=r"night\.toml"):
        read_calls(night_file(tmp_path, text))


def test_the_example_names_options_machines_and_scenarios_that_exist() -> None:
    import typer.main

    from bench.inventory import load_inventory
    from bench.scenarios import load_scenarios

    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    options = {name for parameter in run.params for name in parameter.opts}
    known = {*load_inventory(ROOT), *load_scenarios(ROOT / "firmware-images" / "scenarios")}
    for _, arguments in read_calls(ROOT / "inventory" / "nightly" / "nightly.toml"):
        for word in arguments:
            assert word in options if word.startswith("--") else word in known


def change(word: Word | None, known: str = "PASS") -> Change:
    return Change(Check("m", "i", "s"), word, Known(known) if known else None, None, 0)


@pytest.mark.parametrize(
    ("codes", "changes", "expected"),
    [
        ([0, 0], [change(None)], 0),
        ([1, 0], [change(Word.REGRESSION)], 1),
        ([0, 0], [change(Word.NEW_FAILURE, "")], 1),
        ([1, 0], [change(Word.STILL_FAILING, "FAIL")], 0),
        ([1, 3], [change(Word.UNSTABLE)], 3),
        ([0, 3], [change(Word.REGRESSION)], 1),
        ([0, 2], [change(None)], 2),
        ([1], [], 1),
    ],
)
def test_a_night_ends_with_what_is_new(codes: list[int], changes: list[Change], expected: int) -> None:
    assert verdict_of_the_night(codes, changes) == expected


@pytest.mark.lab
def test_two_nights_on_a_virtual_machine(tmp_path: Path) -> None:
    text = '[[run]]\nmachine=["haswell"]\nvariant="v3.9"\nscenario=["ping-pong", "repeated"]\n'
    results = tmp_path / "results"
    command = [sys.executable, "-m", "bench", "night", str(night_file(tmp_path, text)), "--results", str(results)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert first.returncode == 0, first.stderr
    assert (results / "reports" / "index.html").exists() and "nothing new" in first.stdout
    bless = [sys.executable, "-m", "bench", "results", "bless", "--all", "--results", str(results)]
    subprocess.run(bless, cwd=ROOT, check=True, timeout=60)
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0 and "nothing new; 2 without news" in second.stdout
    checked = subprocess.run(
        [sys.executable, "-m", "bench", "results", "check", "--results", str(results)], cwd=ROOT, capture_output=True
    )
    assert checked.returncode == 0 and checked.stdout.startswith(b"2 runs whole")


def elsewhere(folder: Path) -> Path:
    (folder / "inventory").mkdir(parents=True)
    (folder / "firmware-images").mkdir()
    return folder


def test_a_night_of_another_lab_looks_into_that_labs_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = elsewhere(tmp_path / "lab")
    with Store(place_of(lab / "results")):
        pass
    asked: list[Path] = []
    monkeypatch.setattr("bench.cli_night._run", lambda *_: 0)
    monkeypatch.setattr("bench.cli_results.stored_runs", lambda folder: asked.append(folder) or [])
    path = night_file(tmp_path, f'[[run]]\nall = true\nlab = "{lab / "inventory"}"\n')
    assert night(path, json=True) == 0 and asked[0] == lab / "results"
    assert (lab / "results" / "reports" / "index.html").exists()


def test_a_night_is_of_one_lab(tmp_path: Path) -> None:
    one, two = elsewhere(tmp_path / "one"), elsewhere(tmp_path / "two")
    path = night_file(tmp_path, "".join(f'[[run]]\nall = true\nlab = "{lab}"\n' for lab in (one, two)))
    with pytest.raises(FormatError, match=r"night\.toml: runs of several labs: one file for each"):
        night(path)
