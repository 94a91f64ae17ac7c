"""Mistakes of the early handler, built into Linux 6.1 by name and run blind: neither trace nor simulator is told.

Each mutant is a patch series; kernels come from the cache of `bench images build`, or are built (10 s each).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.images import build_init
from bench.images.kernel import build_kernel
from bench.inventory import find_root, load_inventory
from bench.lab.boot import Limits
from bench.records import Finding, Verdict
from bench.run import KernelOrder, RunResult
from bench.run_kernel import run_kernel
from bench.scenarios import load_boot_plans

pytestmark = [pytest.mark.kernels, pytest.mark.lab, pytest.mark.timeout(1200)]
KERNEL = "linux-6.1-trace"
PLANS = ("border", "exercise", "final", "kaslr", "plain", "rejected")
# Mutant → what the finding must be about: the fields of which one is named, or words of its summary.
HANDLER_MUTANTS = {
    "04-no-wrap": {"crc"},
    "12-no-cr3-test": {"kind", "extra", "next", "pgd", "pud", "pmd"},
    "13-no-flush": {"error", "kind", "cr2", "extra", "missing"},
    "14-wipe-kernel-entry": {"triple fault"},
    "15-keep-next": {"next", "fell silent"},
    "16-one-table-more": {"next"},
    "18-stale-pud": {"next", "pud", "pmd"},
    "19-unmasked-leaf": {"pmd"},
    "20-maxmem-inclusive": {"next", "kind", "pmd"},
    "25-old-base": {"kind", "extra", "cr2"},
}


def run(tmp_path: Path, series: tuple[str, ...], machine: str, plans: tuple[str, ...] = PLANS) -> RunResult:
    root = find_root()
    known = load_boot_plans(root)
    kernel = build_kernel(root, KERNEL, extra_series=series)
    order = KernelOrder(
        load_inventory(root)[machine], kernel, tuple(known[name] for name in plans), build_init(root), witness=False
    )
    return run_kernel(order, results=tmp_path, limits=Limits(silence_s=3.0))


def findings(result: RunResult) -> list[Finding]:
    return [f for s in result.scenarios for f in s.findings if s.verdict is Verdict.FAIL]


@pytest.mark.parametrize("mutant", HANDLER_MUTANTS)
def test_a_mutant_is_found_at_what_it_does_wrong(mutant: str, tmp_path: Path) -> None:
    result = run(tmp_path, (f"mutants/{mutant}",), "skylake-server")
    assert result.verdict is Verdict.FAIL
    told = [(f.field_name, f.summary) for f in findings(result)]
    wanted = HANDLER_MUTANTS[mutant]
    assert any(field in wanted or any(word in summary for word in wanted) for field, summary in told), told


def test_the_equivalent_mutant_is_not(tmp_path: Path) -> None:
    assert run(tmp_path, ("mutants/99-equivalent",), "skylake-server").verdict is Verdict.PASS


def test_the_policy_of_2012_differs_where_it_maps_a_gib(tmp_path: Path) -> None:
    """The first fault of its first boot: a whole GiB of leaves under the same tables, so that the first digest differs
    and the first access in another part of that GiB does not fault."""
    result = run(tmp_path, ("policy-2012",), "skylake-server", ("plain",))
    (finding,) = findings(result)
    assert finding.field_name in ("crc", "missing", "kind", "next")


@pytest.mark.parametrize("machine", ["skylake-server", "la57"])
def test_clean_boots_give_no_finding(machine: str, tmp_path: Path) -> None:
    """25 boots on each of two machines, memory and processors varied, most of them with KASLR."""
    plans = ("kaslr-memory", "memory", "processors", "kaslr", "plain", "exercise", "final", "rejected")
    result = run(tmp_path, (), machine, plans)
    assert len(result.judgement.windows) >= 25
    assert result.verdict is Verdict.PASS, result.scenarios
    assert sum(s.replayed for s in result.scenarios) == 0
