"""The session of `nox` that is more than a list of commands: after a run it reports of the store that the run wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import noxfile
from bench import cli_report

LAB = "elsewhere/inventory/lab.toml"


def commands(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[Sequence[str]]:
    """What `nox -s hil -- WORDS` runs, each without the interpreter."""
    ran: list[Sequence[str]] = []

    def to_its_end(command: list[str]) -> int:
        ran.append(command[2:])
        return 0

    monkeypatch.setattr(noxfile, "need", lambda *_: None)
    monkeypatch.setattr(noxfile, "run_to_its_end", to_its_end)
    monkeypatch.setattr(noxfile, "python", lambda _, *arguments: ran.append(arguments))
    session = cast(Any, SimpleNamespace(posargs=list(words), log=lambda _: None))
    cast(Any, noxfile.hil).func(session)
    return ran


@pytest.mark.parametrize(
    ("words", "of_the_report"),
    [
        (["--full"], []),
        (["--lab", LAB, "--machine", "nuc-7"], ["--lab", LAB]),
        ([f"--lab={LAB}", "--results", "there"], [f"--lab={LAB}", "--results", "there"]),
        (["--results=there", "--jobs", "1"], ["--results=there"]),
    ],
)
def test_the_report_is_of_the_lab_that_has_run(
    words: list[str], of_the_report: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, report = commands(monkeypatch, *words)
    assert run[:2] == ["bench", "run"] and list(run[-len(words) :]) == words
    assert list(report) == ["bench", "report", *of_the_report]


def test_a_labs_report_is_of_its_results_and_its_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("inventory", "firmware-images"):
        (tmp_path / folder).mkdir()
    asked: dict[str, object] = {}

    def built(folder: Path, out: Path | None, *, root: Path | None, **_: object) -> Any:
        asked.update(folder=folder, out=out, root=root)
        return SimpleNamespace(index=tmp_path, written=[], unchanged=0, removed=[], runs_drawn=0)

    monkeypatch.setattr(cli_report, "results_folder", lambda results: results)
    monkeypatch.setattr(cli_report, "build_report", built)
    lab = tmp_path / "inventory" / "lab.toml"
    cli_report.report(lab=lab, json=True)
    assert asked == {"folder": tmp_path / "results", "out": None, "root": tmp_path}
    cli_report.report(lab=lab, results=tmp_path / "there", json=True)
    assert asked["folder"] == tmp_path / "there"
