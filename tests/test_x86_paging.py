"""Four- and five-level paging (SDM Vol. 3A, 4-Level Paging and 5-Level Paging)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.x86 import paging as p
from bench.x86.paging import Entry

WORDS = st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize(
    ("va", "levels", "indices"),
    [
        (0xFFFF_8800_0000_0000, 4, (272, 0, 0, 0)),
        (0xFFFF_8880_0000_0000, 4, (273, 0, 0, 0)),
        (0xFFFF_C7FF_FFFF_FFFF, 4, (399, 511, 511, 511)),
        (0xFFFF_FFFF_8100_0000, 4, (511, 510, 8, 0)),
        (0xFF11_0000_0000_0000, 5, (273, 0, 0, 0, 0)),
        (0xFFFF_FFFF_8100_0000, 5, (511, 511, 510, 8, 0)),
    ],
)
def test_split(va: int, levels: int, indices: tuple[int, ...]) -> None:
    assert p.split(va, levels) == indices


@settings(deadline=None)
@given(WORDS, st.sampled_from([4, 5]))
def test_indices_and_offset_make_up_the_canonical_address(va: int, levels: int) -> None:
    joined = 0
    for index in p.split(va, levels):
        joined = joined << 9 | index
    assert p.canonical(joined << 12 | va & 0xFFF, levels) == p.canonical(va, levels)


@pytest.mark.parametrize(
    ("va", "four", "five"),
    [
        (0, True, True),
        (0x0000_7FFF_FFFF_FFFF, True, True),
        (0x0000_8000_0000_0000, False, True),
        (0x00FF_FFFF_FFFF_FFFF, False, True),
        (0x0100_0000_0000_0000, False, False),
        (0xFEFF_FFFF_FFFF_FFFF, False, False),
        (0xFF00_0000_0000_0000, False, True),
        (0xFFFF_7FFF_FFFF_FFFF, False, True),
        (0xFFFF_8000_0000_0000, True, True),
        (0xFFFF_FFFF_FFFF_FFFF, True, True),
    ],
)
def test_canonical_form(va: int, four: bool, five: bool) -> None:
    assert (p.is_canonical(va, 4), p.is_canonical(va, 5)) == (four, five)


def test_linuxs_composites() -> None:
    assert (p.KERNPG_TABLE, p.PAGE_TABLE, p.EARLY_LARGE_EXEC) == (0x63, 0x67, 0xE3)
    assert p.PAGE_KERNEL_LARGE == 0x8000_0000_0000_01E3


def bits(mask: int) -> set[int]:
    return {n for n in range(64) if mask >> n & 1}


@pytest.mark.parametrize(
    ("level", "leaf", "nxe", "gbpages", "expected"),
    [
        (5, False, True, True, {7, *range(46, 52)}),
        (4, False, True, True, {7, *range(46, 52)}),
        (3, False, True, True, set(range(46, 52))),
        (3, True, True, True, {*range(13, 30), *range(46, 52)}),
        (3, True, True, False, {7, *range(46, 52)}),
        (2, False, True, True, set(range(46, 52))),
        (2, True, True, True, {*range(13, 21), *range(46, 52)}),
        (2, True, False, True, {*range(13, 21), *range(46, 52), 63}),
        (1, True, True, True, set(range(46, 52))),
        (1, True, False, True, {*range(46, 52), 63}),
    ],
)
def test_reserved_bits_of_a_46_bit_processor(
    level: int, leaf: bool, nxe: bool, gbpages: bool, expected: set[int]
) -> None:
    assert bits(p.reserved_bits(level, leaf=leaf, maxphyaddr=46, nxe=nxe, gbpages=gbpages)) == expected


@pytest.mark.parametrize("maxphyaddr", [36, 39, 40, 46, 52])
def test_address_bits_from_maxphyaddr_on_are_reserved(maxphyaddr: int) -> None:
    mask = p.reserved_bits(2, leaf=False, maxphyaddr=maxphyaddr, nxe=True)
    assert bits(mask) == set(range(maxphyaddr, 52))
    assert bits(p.ADDRESS_MASK) == set(range(12, 52))


def test_no_entry_that_the_handlers_make_has_a_reserved_bit_below_maxphyaddr() -> None:
    leaf = p.reserved_bits(2, leaf=True, maxphyaddr=46, nxe=True)
    assert not (p.EARLY_LARGE_EXEC | Entry.NX | (1 << 46) - (1 << 21)) & leaf
