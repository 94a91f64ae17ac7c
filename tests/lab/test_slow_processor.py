"""A processor on which a livelock takes longer than the watchdog's patience gives the same records as any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.images import build_payload
from bench.inventory import find_root, load_inventory
from bench.lab import virtual
from bench.lab.boot import Limits
from bench.records import Machine, Verdict
from bench.run import Order, run
from bench.scenarios import load_scenarios

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

ROOT = find_root(Path(__file__).parent)
# 2^10 ns an instruction: the faults of a livelock that are not shown take far more than ten ticks of the timer.
SLOW = ("-icount", "shift=10,sleep=off")


def test_a_livelock_is_none_of_the_watchdogs_endless_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = virtual.machine_options

    def slow(machine: Machine) -> list[str]:
        return [*options(machine), *SLOW]

    monkeypatch.setattr(virtual, "machine_options", slow)
    scenarios = load_scenarios(ROOT / "firmware-images" / "scenarios")
    order = Order(load_inventory(ROOT)["cooperlake"], "v3.9", (scenarios["straddle-1gib"],))
    result = run(order, payload=build_payload(ROOT), results=tmp_path, limits=Limits())
    assert result.verdict is Verdict.PASS, [w.finding for w in result.judgement.windows if w.finding]
