"""Early updates in the bench's main path: kernels with the trace, on processors that take them, and three voices."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.early_load import CPUINFO, LINES, TRACE
from bench.images import build_init
from bench.images.kernel import build_kernel
from bench.inventory import find_root, load_inventory
from bench.lab.boot import Limits
from bench.records import Verdict
from bench.report.site.microcode import transitions
from bench.run import KernelOrder, RunResult
from bench.run_kernel import run_kernel
from bench.scenarios import load_boot_plans
from bench.store import Store, Transition

pytestmark = [pytest.mark.kernels, pytest.mark.lab, pytest.mark.timeout(1200)]


def run(
    tmp_path: Path, machine: str, plans: tuple[str, ...], *, kernel: str = "linux-6.1-trace", mutant: str = ""
) -> RunResult:
    root = find_root()
    known = load_boot_plans(root)
    image = build_kernel(root, kernel, extra_series=(f"mutants/{mutant}",) if mutant else ())
    order = KernelOrder(load_inventory(root)[machine], image, tuple(known[name] for name in plans), build_init(root))
    return run_kernel(order, results=tmp_path, limits=Limits())


@pytest.fixture
def without_intels_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.run_kernel.find_package", lambda: None)


def agreeing(result: RunResult) -> list[set[str]]:
    """For each boot the voices that agree with the prediction."""
    return [
        {voice.name for voice in window.early.voices if not voice.differs and not voice.doubt}
        if window.early
        else set()
        for window in result.judgement.windows
    ]


@pytest.mark.usefixtures("without_intels_files")
@pytest.mark.parametrize("kernel", ["linux-6.1-trace", "linux-7.3-trace"])
@pytest.mark.parametrize("machine", ["coffeelake", "cooperlake"])
def test_every_processor_takes_the_update_and_three_voices_say_so(machine: str, kernel: str, tmp_path: Path) -> None:
    result = run(tmp_path, machine, ("update", "update-hotplug", "update-off"), kernel=kernel)
    assert result.verdict is Verdict.PASS, result.scenarios
    assert agreeing(result) == [{TRACE, LINES, CPUINFO}] * 4
    rules = result.order.machine.virtual.microcode  # type: ignore[union-attr]
    assert rules is not None
    # The others come up in any order from 6.5 on: which of two threads loads is open, not how many do.
    taken = sorted(t.processor for t in result.judgement.transitions if t.boot == 1)
    assert len(taken) == 4 // rules.siblings and taken[0] == 0
    with Store(tmp_path / "bench.sqlite") as store:
        store.save_run(result.record())
        (row,) = transitions(store.runs())
    assert row.outcomes == {Transition.UPDATED: len(result.judgement.transitions)}
    assert (row.before, row.offered, row.image) == (rules.bios_revision, rules.bios_revision + 1, kernel)


@pytest.mark.usefixtures("without_intels_files")
def test_qemus_own_processor_takes_nothing_and_that_is_predicted(tmp_path: Path) -> None:
    result = run(tmp_path, "skylake-server", ("update", "update-hotplug"))
    assert result.verdict is Verdict.PASS, result.scenarios
    assert agreeing(result) == [{TRACE, LINES, CPUINFO}] * 3
    assert {t.outcome for t in result.judgement.transitions} == {"forbidden"}


@pytest.mark.usefixtures("without_intels_files")
@pytest.mark.parametrize(("mutant", "field"), [("33-flags-not-shifted", "signature"), ("40-whole-update", "after")])
def test_a_mistake_of_the_loader_is_named_by_the_field_of_its_first_record(
    mutant: str, field: str, tmp_path: Path
) -> None:
    result = run(tmp_path, "coffeelake", ("update",), mutant=mutant)
    (finding,) = [f for s in result.scenarios for f in s.findings]
    assert result.verdict is Verdict.FAIL and finding.component == "microcode loader"
    assert finding.field_name == field and TRACE in finding.summary and "processor 0" in finding.summary
    assert finding.witness[CPUINFO] != "agrees"
