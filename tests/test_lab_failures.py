"""A lab that fails in a run: what was told counts, the rest is MISS with what broke; who may have a machine at all."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench import batch
from bench.batch import Outcome, Task, carry_out
from bench.cli import explain
from bench.cli_summary import one_line, outcome_rows
from bench.errors import LabError
from bench.health import Health
from bench.images import KernelImage, PayloadImage
from bench.inventory import load_inventory
from bench.judge import Judgement, WindowVerdict, judge
from bench.lab.boot import Limits
from bench.leases import Leases
from bench.records import Machine, ScenarioResult, Verdict
from bench.run import KernelOrder, Order, RunResult, blamed, cut_short, run
from bench.run_kernel import run_kernel
from bench.scenarios import load_boot_plans, load_scenarios
from bench.store import Store, place_of

ROOT = Path(__file__).parents[1]
METAL = Machine("box", 0x906EA, 16 << 30, 39, True, False)
PDU = LabError("PDU rack-3: outlet 4 answers nothing", component="PDU rack-3", witness="no answer within 10 s")


def payload() -> PayloadImage:
    return PayloadImage(Path("kernel"), 1, "aa")


def order(*scenarios: str, machine: Machine | None = None) -> Order:
    known = load_scenarios(ROOT / "firmware-images" / "scenarios")
    return Order(machine or load_inventory(ROOT)["haswell"], "v3.9", tuple(known[name] for name in scenarios))


def told(name: str, *verdicts: Verdict, pending: tuple[int, ...] = ()) -> Judgement:
    windows = tuple(WindowVerdict(n, name, verdict, 1) for n, verdict in enumerate(verdicts))
    rows = (ScenarioResult(name, Verdict.PASS, windows=len(windows)),)
    return replace(judge([]), scenarios=rows, windows=windows, pending=pending)


def test_a_switch_that_is_dead_makes_every_scenario_a_miss_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def boot(*_: Any, **__: Any) -> None:
        raise PDU

    monkeypatch.setattr("bench.run.boot", boot)
    result = run(order("ping-pong", "repeated"), payload=payload(), results=tmp_path / "results", limits=Limits())
    assert [(s.scenario, s.verdict) for s in result.scenarios] == [("ping-pong", "MISS"), ("repeated", "MISS")]
    (finding,) = result.scenarios[0].findings
    assert (finding.component, finding.witness) == ("PDU rack-3", {"seen": "no answer within 10 s"})
    assert result.verdict is Verdict.MISS and "PDU rack-3" in one_line(Outcome(Task(result.order), result))
    (tmp_path / "inventory").mkdir()
    (tmp_path / "firmware-images").mkdir()
    with Store(place_of(tmp_path / "results")) as store:
        store.save_run(result.record())
        assert store.run(1).record.scenarios[1].findings[0].component == "PDU rack-3"
    monkeypatch.setenv("BENCH_ROOT", str(tmp_path))
    assert explain("1") == 0
    story = capsys.readouterr().out.splitlines()
    assert story[0] == "haswell 06-3c-03 early-pf/v3.9: nothing was captured"
    assert story[2].strip() == "PDU rack-3: outlet 4 answers nothing; seen: no answer within 10 s"


@pytest.mark.parametrize(
    ("verdicts", "pending", "expected"),
    [
        ((Verdict.PASS, Verdict.PASS), (), Verdict.PASS),
        ((Verdict.PASS,), (), Verdict.MISS),
        ((Verdict.PASS, Verdict.MISS), (1,), Verdict.MISS),
        ((), (), Verdict.MISS),
    ],
)
def test_a_scenario_of_which_a_window_is_missing_has_not_passed(
    verdicts: tuple[Verdict, ...], pending: tuple[int, ...], expected: Verdict
) -> None:
    judgement = told("two", *verdicts, pending=pending)
    other = ScenarioResult("left-out", Verdict.SKIP, reason="too little memory")
    row, unchanged = cut_short((*judgement.scenarios, other), judgement, {"two": 2}, blamed(PDU))
    assert row.verdict is expected and unchanged == other
    assert (row.reason == blamed(PDU).summary) is (expected is Verdict.MISS)


def test_a_failure_is_kept_beside_a_difference() -> None:
    judgement = told("two", Verdict.FAIL)
    rows = (replace(judgement.scenarios[0], verdict=Verdict.FAIL),)
    (row,) = cut_short(rows, judgement, {"two": 2}, blamed(PDU))
    assert row.verdict is Verdict.FAIL and row.findings[-1].component == "PDU rack-3"


@pytest.mark.parametrize("broken", [True, False], ids=["the lab fails", "Ctrl-C between two boots"])
def test_a_kernel_whose_plans_were_not_all_booted_has_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    cancel = threading.Event()
    boots: list[Path] = []

    def boot(_: Machine, __: Any, folder: Path, **___: Any) -> None:
        boots.append(folder)
        if broken and len(boots) == 2:
            raise PDU
        if not broken:
            cancel.set()

    def judged(folders: Any) -> Judgement:
        assert len(folders) == 1
        return told("plain", Verdict.PASS)

    monkeypatch.setattr("bench.run_kernel.boot", boot)
    init = tmp_path / "init"
    init.write_bytes(b"#!")
    kernel = KernelImage("linux-6.1-trace", tmp_path, "6.1.192", 1, "aa", True)
    monkeypatch.setattr(KernelImage, "traced", property(lambda _: True))
    monkeypatch.setattr(KernelImage, "details", property(lambda _: {}))
    plans = tuple(load_boot_plans(ROOT)[name] for name in ("plain", "no-initrd"))
    order = KernelOrder(load_inventory(ROOT)["haswell"], kernel, plans, init)
    result = run_kernel(order, results=tmp_path, limits=Limits(), judged=judged, cancel=cancel)
    assert [(s.scenario, s.verdict) for s in result.scenarios] == [("plain", "PASS"), ("no-initrd", "MISS")]
    assert result.scenarios[1].findings[0].component == ("PDU rack-3" if broken else "bench")


class TestWhoHasTheMachine:
    """`bench run` has a machine of metal to itself, and takes none that is offline."""

    def carried_out(self, results: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Outcome, list[tuple[str, str]]]:
        holders: list[tuple[str, str]] = []

        def run_order(order: Order, **_: Any) -> RunResult:
            with Store(place_of(results)) as store:
                situations = Leases(store, results / "locks").situations()
            holders.extend((each.machine, each.holder.purpose) for each in situations if each.holder)
            rows = (ScenarioResult("ping-pong", Verdict.PASS),)
            judgement = Judgement("box", "", "", False, Verdict.PASS, rows, (), ())
            return RunResult(order, judgement, rows, Verdict.PASS, 1.0, Path(), "aa", datetime.now(UTC))

        monkeypatch.setattr(batch, "run_order", run_order)
        (outcome,) = carry_out(
            [Task(order("ping-pong", machine=METAL))],
            root=ROOT, payload=payload(), results=results, jobs=1, limits=Limits(),
            progress=lambda *_: None, finished=lambda _: None, interrupted=lambda: None,
        )  # fmt: skip
        return outcome, holders

    def test_it_is_leased_for_the_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        outcome, holders = self.carried_out(tmp_path, monkeypatch)
        assert outcome.verdict is Verdict.PASS and holders == [("box", "bench run")]

    def test_one_that_is_offline_is_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with Store(place_of(tmp_path)) as store:
            health = Health(store)
            for _ in range(2):
                health.note("box", ["no first byte within 60 s"], None)
        outcome, holders = self.carried_out(tmp_path, monkeypatch)
        assert outcome.verdict is Verdict.MISS and not holders
        (row,) = outcome_rows([outcome])
        assert row["verdict"] == "MISS" and "no first byte" in row["reason"]
        assert row["findings"][0]["component"] == "machine"
