"""Mistakes of the microcode loader, built into Linux 6.1 and run blind: neither trace nor model is told.

Each is a patch series; every case of early loading that waits for no silence is booted, with made-up updates, and
has to fail where the mistake shows and nowhere else. A mistake of a file is a case of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.images.kernel import build_kernel
from bench.inventory import find_root, load_inventory
from bench.microcode.cases import CASES, SLOW
from bench.microcode.late_cases import LATE_CASES
from bench.microcode.many import run_matrix
from bench.microcode.run import Cell, ground_of, subject_of
from bench.records import Verdict

pytestmark = [pytest.mark.kernels, pytest.mark.lab, pytest.mark.timeout(1800)]
KERNEL, MACHINE = "linux-6.1-trace", "coffeelake"
WHERE_ONE_IS_WRITTEN = {
    "newest", "no-bios-update", "older-in-file", "two-revisions", "debug-revision", "by-table", "table-then-own",
    "misaligned", "prefix-trap", "long-name", "siblings", "refused", "first-refuses", "other-refuses", "first-resets",
    "other-resets",
}  # fmt: skip
MUTANTS = {
    "26-hypervisor-bit": {"hypervisor"},
    "27-first-wins": {"two-revisions"},
    "28-bad-update-skipped": {"bad-then-good", "good-then-bad"},
    "29-tail-ignored": {"short-tail", "good-then-bad"},
    # This machine's platform id is 1, and its flag 2: the mistake takes what is for platform 0.
    "33-flags-not-shifted": WHERE_ONE_IS_WRITTEN | {"wrong-flags"},
    "38-exact-name": {"prefix-trap", "long-name"},
    "40-whole-update": WHERE_ONE_IS_WRITTEN,
    "99-equivalent": set(),
}


def failing(series: tuple[str, ...], names: set[str], where: Path) -> dict[str, Verdict]:
    """Cases that did not pass."""
    root = find_root()
    subject = subject_of(root, build_kernel(root, KERNEL, extra_series=series))
    machine = load_inventory(root)[MACHINE]
    ground = ground_of(machine, None)
    cells = [Cell(each, machine, ground, subject) for each in CASES if each.name in names]
    results = run_matrix(root, cells, where, jobs=2)
    return {each.case: each.verdict for each in results if each.verdict is not Verdict.PASS}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_fails_in_just_the_cases_that_it_is_about(mutant: str, tmp_path: Path) -> None:
    late = {each.name for each in LATE_CASES}
    names = {each.name for each in CASES} - SLOW - late
    found = failing((f"mutants/{mutant}",), names, tmp_path)
    assert found == dict.fromkeys(MUTANTS[mutant], Verdict.FAIL)


def test_data_that_is_not_aligned_is_refused_by_every_processor_and_the_kernel_says_nothing(tmp_path: Path) -> None:
    """Number 35: a mistake of whoever packed the initrd, not of a loader."""
    root = find_root()
    machine = load_inventory(root)[MACHINE]
    ground = ground_of(machine, None)
    cell = Cell(
        next(c for c in CASES if c.name == "misaligned"), machine, ground, subject_of(root, build_kernel(root, KERNEL))
    )
    (result,) = run_matrix(root, [cell], tmp_path, jobs=1)
    assert result.verdict is Verdict.PASS and result.observed
    assert [(w.before, w.after) for w in result.observed.writes] == [(ground.revision - 1,) * 2] * 2
    assert "not 16-byte aligned" in result.predicted.writes[0].why_not
    assert not any("updated early" in line for line in result.predicted.lines)
