"""Early page faults on a machine of the lab: copy it, and add your own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.pytest_plugin import Booter, Reference
from bench.records import Capture, EventKind, Machine, Verdict

pytestmark = pytest.mark.hil


@pytest.mark.parametrize("scenario", ["ping-pong", "straddle-1gib", "rejected"])
def test_every_fault_is_the_references(boot: Booter, scenario: str) -> None:
    result = boot(scenario)
    assert result.verdict is Verdict.PASS


@pytest.mark.hil(needs=["no-nx"])
def test_a_processor_without_nx_gets_no_nx_in_a_leaf(boot: Booter, capture: Callable[[], list[Capture]]) -> None:
    assert boot("ping-pong").verdict is Verdict.PASS
    windows = [w.window for w in Reference().judge(capture()).windows if w.window]
    leaves = [e.pmd for w in windows for e in w.observation.events if e.kind is EventKind.EXIT and e.pmd]
    assert leaves and not any(leaf >> 63 for leaf in leaves)


@pytest.mark.hil(needs=["la57"])
def test_five_levels(boot: Booter) -> None:
    assert boot("ping-pong", variant="la57").verdict is Verdict.PASS


def test_the_machine_is_what_the_inventory_says(
    machine: Machine, boot: Booter, capture: Callable[[], list[Capture]], reference: Reference
) -> None:
    boot("repeated")
    facts = [w.window.stimulus.facts for w in reference.judge(capture()).windows if w.window]
    assert {f.signature for f in facts} == {machine.signature}
    assert {f.maxphyaddr for f in facts} == {machine.maxphyaddr}
    assert {f.nx for f in facts} == {machine.nx}
