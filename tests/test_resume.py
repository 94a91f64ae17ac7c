"""`bench run` that is interrupted: what has told all that it can is done, what was cut short is not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench.batch import Outcome, Task
from bench.cli_run import run
from bench.journal import latest
from bench.judge import Judgement
from bench.records import Finding, ScenarioResult, Verdict, worst
from bench.run import RunResult
from bench.store import Store, place_of


def outcome(task: Task, *verdicts: Verdict, folder: Path = Path()) -> Outcome:
    rows = tuple(
        ScenarioResult(f"s{n}", v, findings=(Finding("bench", "the run was interrupted"),) if v is Verdict.MISS else ())
        for n, v in enumerate(verdicts)
    )
    verdict = worst(list(verdicts))
    judgement = Judgement(task.order.machine.name, "", "", True, verdict, rows, (), ())
    return Outcome(task, RunResult(task.order, judgement, rows, verdict, 1.0, folder, "aa", datetime.now(UTC)))


@pytest.mark.parametrize(
    ("verdicts", "done"),
    [
        ((Verdict.FAIL, Verdict.MISS), False),
        ((Verdict.PASS, Verdict.MISS), False),
        ((Verdict.FAIL, Verdict.PASS), True),
        ((Verdict.PASS, Verdict.SKIP), True),
    ],
)
def test_what_ctrl_c_cut_short_is_taken_from_its_beginning(
    verdicts: Sequence[Verdict], done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carry_out(tasks: Sequence[Task], **tell: Any) -> list[Outcome]:
        tell["interrupted"]()
        came = outcome(tasks[0], *verdicts)
        tell["finished"](came)
        return [came]

    monkeypatch.setattr("bench.batch.carry_out", carry_out)
    monkeypatch.setattr("bench.cli_run._store", lambda *_: None)
    assert run(machine=["haswell"], variant=["v3.9"], scenario=["repeated"], results=tmp_path, json=True) == 130
    assert bool(latest(tmp_path).ended) is done


@pytest.mark.slow
def test_ways_to_load_one_machine_are_gone_on_with_each_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[list[str]] = []

    def carry_out(tasks: Sequence[Task], **tell: Any) -> list[Outcome]:
        offered.append([task.name for task in tasks])
        tell["interrupted"]()
        came = outcome(tasks[0], Verdict.PASS, folder=tmp_path / "captures")
        tell["finished"](came)
        return [came]

    monkeypatch.setattr("bench.batch.carry_out", carry_out)
    asked: dict[str, Any] = {"machine": ["host-uefi-grub"], "variant": ["v3.9"], "scenario": ["repeated"]}
    assert run(**asked, full=True, results=tmp_path, json=True) == 130
    assert run(resume=True, results=tmp_path, json=True) == 130
    ways = [f"host-uefi-grub v3.9@{method}" for method in ("grub", "bootnext", "kexec")]
    assert offered == [ways, ways[1:]]
    with Store(place_of(tmp_path)) as store:
        images = {run.record.image for run in store.runs(limit=9)}
    assert images == {"early-pf/v3.9@grub", "early-pf/v3.9@bootnext"}
