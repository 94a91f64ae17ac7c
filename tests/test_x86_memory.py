"""Where RAM and the direct map lie."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.wire import VARIANTS
from bench.x86.direct_map import DIRECT_MAPS
from bench.x86.pc_memory import low_end, ram_end, usable_ram

MIB, GIB = 1 << 20, 1 << 30


def test_every_variant_has_a_direct_map() -> None:
    assert set(DIRECT_MAPS) == set(VARIANTS)


@given(st.sampled_from(VARIANTS), st.integers(0, (1 << 46) - 1))
def test_physical_addresses_come_back_and_lie_in_the_canonical_upper_half(variant: str, physical: int) -> None:
    layout = DIRECT_MAPS[variant]
    virtual = layout.virtual(physical)
    assert layout.physical(virtual) == physical
    assert virtual >= 2**64 - layout.noncanonical


def test_memory_of_eight_gib_has_a_hole_below_four() -> None:
    assert low_end(8 * GIB) == 3 * GIB
    assert ram_end(8 * GIB) == 9 * GIB
    assert usable_ram(8 * GIB) == (range(0x80000), range(MIB, 3 * GIB - MIB), range(4 * GIB, 9 * GIB))


@given(st.integers(4 * MIB, 1 << 45))
def test_usable_ram_is_nearly_all_of_it(memory: int) -> None:
    usable = sum(r.stop - r.start for r in usable_ram(memory))
    assert memory - usable == 0x80000 + MIB


@pytest.mark.lab
@pytest.mark.parametrize("mib", [2048, 3072, 3500, 3584, 4096, 8192])
def test_qemu_agrees(mib: int) -> None:
    qemu = ["qemu-system-x86_64", "-M", "pc", "-m", str(mib), "-S", "-display", "none", "-monitor", "stdio"]
    made = subprocess.run(qemu, input="info mtree -f\nquit\n", capture_output=True, text=True, timeout=60, check=True)
    ram = re.findall(r"^\s*([0-9a-f]{16})-([0-9a-f]{16}) \(prio 0, ram\): pc\.ram", made.stdout, re.MULTILINE)
    ends = {int(end, 16) + 1 for _, end in ram}
    assert low_end(mib * MIB) in ends
    assert max(ends) == ram_end(mib * MIB)
