"""The bugs that can be built into the handler: each changes what is seen, none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.script import Flag
from tests.lab.payload_machine import (
    DIGEST,
    DONE,
    FINAL,
    GIB,
    HALT,
    LA57,
    LIVELOCK,
    MIB,
    PANIC,
    SEED,
    V3_9,
    VARIANTS,
    Boot,
    Record,
    boot,
    number,
    read,
    reads,
    window,
)

pytestmark = [pytest.mark.lab, pytest.mark.slow]


# What each bug needs to be seen: variants, options of the window, and physical addresses to read.
_TINY = {"pool": 4}
_ROUND = (0, GIB, 2 * GIB, 3 * GIB, 0, GIB)
BUGS: list[tuple[int, tuple[int, ...], dict[str, int], tuple[int, ...]]] = [
    (3, (V3_9, LA57), {"place": 8 * MIB}, (0,)),
    (13, VARIANTS, _TINY, _ROUND),
    (15, VARIANTS, _TINY, _ROUND),
    (16, (V3_9, LA57), {}, tuple(n * GIB for n in range(66))),
    (16, (SEED,), {}, (*(n * GIB for n in range(62)), 512 * GIB)),
    (18, VARIANTS, _TINY, _ROUND),
    (19, VARIANTS, {}, (MIB,)),
    (22, VARIANTS, {}, (0, GIB, 2 * GIB)),
    (24, (V3_9, LA57), {}, (0, 2 * MIB)),
]


def behaviour(result: Boot, window_number: int) -> list[Record]:
    """Without what differs between any two windows: number, sequence, and CR2 before the first fault."""
    return [
        {name: value for name, value in record.items() if name not in {"seq", "WIN", "CRB"}}
        for record in result.windows[window_number]
        if record["kind"] != "done"
    ]


@pytest.mark.parametrize(("bug", "variants", "options", "physical"), BUGS)
def test_bug_changes_what_is_seen_and_is_not_named(
    tmp_path: Path, bug: int, variants: tuple[int, ...], options: dict[str, int], physical: tuple[int, ...]
) -> None:
    windows = []
    for n, variant in enumerate(variants):
        steps = (*reads(variant, *physical), DIGEST)
        windows.append(window(2 * n, variant, *steps, flags=Flag.BEYOND_RAM, **options))
        windows.append(window(2 * n + 1, variant, *steps, flags=Flag.BEYOND_RAM, bug=bug, **options))
    result = boot(tmp_path, *windows)
    for n in range(len(variants)):
        good, bad = behaviour(result, 2 * n), behaviour(result, 2 * n + 1)
        assert good[:2] == bad[:2], "begin and boot tell nothing"
        assert good != bad


def test_bug_1_is_a_livelock_on_a_processor_without_nx(tmp_path: Path) -> None:
    """QEMU reports the reserved bit without the present bit: 8, where silicon says 9."""
    windows = [window(bug, V3_9, *reads(V3_9, 0), bug=bug) for bug in (0, 1)]
    result = boot(tmp_path, *windows, cpu="Haswell,phys-bits=46,-nx")
    assert [number(result.end(n), "OUT") for n in (0, 1)] == [DONE, LIVELOCK]
    assert {number(r, "C") for r in result.of(1, "pf")[1:]} <= {8, 9}


def test_bug_12_goes_on_in_dead_tables(tmp_path: Path) -> None:
    steps = (*reads(V3_9, 0), FINAL, *reads(V3_9, GIB))
    result = boot(tmp_path, *(window(bug, V3_9, *steps, bug=bug) for bug in (0, 12)))
    assert [number(result.end(n), "OUT") for n in (0, 12)] == [PANIC, LIVELOCK]


@pytest.mark.parametrize("variant", VARIANTS)
def test_bug_14_resets_the_machine_at_the_first_reset(tmp_path: Path, variant: int) -> None:
    result = boot(tmp_path, window(0, variant, *reads(variant, 0), bug=14))
    assert [record["kind"] for record in result.records] == ["begin"]


def test_bug_20_has_no_panic_where_one_belongs(tmp_path: Path) -> None:
    result = boot(tmp_path, *(window(bug, V3_9, read(0x1000), bug=bug) for bug in (0, 20)))
    assert [number(result.end(n), "OUT") for n in (0, 20)] == [PANIC, LIVELOCK]


def test_bug_22_halts_in_silence_at_the_third_fault(tmp_path: Path) -> None:
    result = boot(tmp_path, window(0, V3_9, *reads(V3_9, 0, GIB, 2 * GIB), bug=22, flags=Flag.BEYOND_RAM))
    assert result.kinds(0) == "begin boot touch pf x touch pf x touch pf end"
    assert [number(r, "J") for r in result.of(0, "x")] == [1, 2]
    assert number(result.end(0), "OUT") == HALT
