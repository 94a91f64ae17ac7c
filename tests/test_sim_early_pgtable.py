"""Trampoline, reset and handler, held against what the sources say and against an independent model of the pool."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.sim.early_pgtable import EarlyPageTables, Result
from bench.sim.variants import ROWS, Capacity
from tests.sim_boot import DYNAMIC, KERNEL, LINK, tables

GIB = 1 << 30
SLOT = 1 << 39
SEED = ["seed-2012"]
FOUR = ["v3.9", "v4.x", "v6.1", "v7.3"]
FIVE = ["la57", "v4.x-la57", "v6.1-la57", "v7.3-la57"]


def entry(t: EarlyPageTables, table: int, index: int) -> int:
    """Entry of table `table` of the pool, -1 for the top."""
    return t.entries[(table + 1) * 512 + index]


def pointer(t: EarlyPageTables, table: int) -> int:
    return t.layout.phys_dynamic + table * 4096 + 0x63


# Range


@pytest.mark.parametrize(
    ("va", "accepted"),
    [
        (0, False),
        (0x1000, False),
        (0x0000_7FFF_FFFF_FFFF, False),
        (0xFFFF_8000_0000_0000, False),
        (0xFFFF_87FF_FFFF_FFFF, False),
        (0xFFFF_8800_0000_0000, True),
        (0xFFFF_C7FF_FFFF_FFFF, True),
        (0xFFFF_C800_0000_0000, False),
        (0xFFFF_C900_0000_0000, False),
        (0xFFFF_EA00_0000_0000, False),
        (0xFFFF_FFFF_8100_0000, False),
        (0xFFFF_FFFF_FF5F_D000, False),
    ],
)
@pytest.mark.parametrize("variant", ["seed-2012", "v3.9", "v4.x"])
def test_addresses_that_are_accepted(variant: str, va: int, accepted: bool) -> None:
    t = tables(variant)
    before = t.raw()
    assert t.early_make_pgtable(va) is (Result.MAPPED if accepted else Result.REJECTED)
    assert accepted == (t.raw() != before)


@pytest.mark.parametrize("variant", ROWS)
def test_the_range_ends_at_maxmem(variant: str) -> None:
    t = tables(variant)
    base, size = t.page_offset, t.variant.maxmem
    results = [t.early_make_pgtable((base + d) % 2**64) for d in (-1, 0, size - 1, size)]
    assert results == [Result.REJECTED, Result.MAPPED, Result.MAPPED, Result.REJECTED]


@pytest.mark.parametrize("variant", ROWS)
def test_after_the_final_tables_only_the_seed_goes_on(variant: str) -> None:
    t = tables(variant)
    result = t.early_make_pgtable(t.page_offset, early_tables_in_use=False)
    assert result is (Result.MAPPED if variant == "seed-2012" else Result.REJECTED)


# Capacity


def boundary(variant: str, next_: int, *, gib: int, slots_present: int, then: int) -> tuple[list[int], int, int]:
    """Tables taken, next and resets of a fault at `then`, with next_early_pgt at `next_` and GiB `gib` mapped."""
    t = tables(variant)
    if slots_present:
        t.early_make_pgtable(t.page_offset + gib * GIB)
    t.next_early_pgt = next_
    assert t.early_make_pgtable(t.page_offset + then) is Result.MAPPED
    return t.taken, t.next_early_pgt, t.early_pgt_resets


@pytest.mark.parametrize(
    ("next_", "present", "expected"),
    [
        (61, True, ([61], 62, 0)),
        (62, True, ([62], 63, 0)),
        (63, True, ([63], 64, 0)),
        (64, True, ([0, 1], 2, 1)),
        (61, False, ([61, 62], 63, 0)),
        (62, False, ([62, 63], 64, 0)),
        (63, False, ([0, 1], 2, 1)),
        (64, False, ([0, 1], 2, 1)),
    ],
)
def test_capacity_of_the_seed(next_: int, present: bool, expected: tuple[list[int], int, int]) -> None:
    assert boundary("seed-2012", next_, gib=0, slots_present=present, then=5 * GIB) == expected


@pytest.mark.parametrize("variant", FOUR)
@pytest.mark.parametrize(
    ("next_", "then", "expected"),
    [
        (61, SLOT, ([61, 62], 63, 0)),
        (62, SLOT, ([62, 63], 64, 0)),
        (63, SLOT, ([63, 0, 1], 2, 1)),
        (64, SLOT, ([0, 1], 2, 1)),
        (61, 5 * GIB, ([61], 62, 0)),
        (62, 5 * GIB, ([62], 63, 0)),
        (63, 5 * GIB, ([63], 64, 0)),
        (64, 5 * GIB, ([0, 1], 2, 1)),
        (63, 1 << 21, ([], 63, 0)),
        (64, 1 << 21, ([], 64, 0)),
        (64, 0, ([], 64, 0)),
    ],
)
def test_capacity_since_3_9(variant: str, next_: int, then: int, expected: tuple[list[int], int, int]) -> None:
    assert boundary(variant, next_, gib=0, slots_present=True, then=then) == expected


@pytest.mark.parametrize("variant", FIVE)
@pytest.mark.parametrize(
    ("next_", "expected"),
    [
        (61, ([61, 62, 63], 64, 0)),
        (62, ([62, 63, 0, 1, 2], 3, 1)),
        (63, ([63, 0, 1, 2], 3, 1)),
        (64, ([0, 1, 2], 3, 1)),
    ],
)
def test_capacity_with_five_levels(variant: str, next_: int, expected: tuple[list[int], int, int]) -> None:
    assert boundary(variant, next_, gib=0, slots_present=True, then=1 << 48) == expected


@pytest.mark.parametrize(
    ("variants", "step", "first_reset"),
    [
        (SEED, GIB, 63),
        (SEED, SLOT, 32),
        (FOUR, GIB, 63),
        (FOUR, SLOT, 32),
        (FIVE, GIB, 62),
        # One P4D table, then PUD and PMD for each 512 GiB: 1 + 2 * 31 are 63, one short for the 32nd.
        (FIVE, SLOT, 31),
    ],
)
def test_sweeps_reach_the_first_reset(variants: list[str], step: int, first_reset: int) -> None:
    for variant in variants:
        t = tables(variant)
        resets = []
        for n in range(first_reset + 1):
            t.early_make_pgtable(t.page_offset + n * step)
            resets.append(t.early_pgt_resets)
        assert resets == [0] * first_reset + [1], variant


# What one fault writes


def test_the_seed_maps_a_whole_gib_with_nx() -> None:
    t = tables("seed-2012", nx=False)
    t.early_make_pgtable(t.page_offset + 5 * GIB + 0x1234567)
    assert entry(t, -1, 272) == pointer(t, 0)
    assert [i for i in range(512) if entry(t, 0, i)] == [5]
    assert entry(t, 0, 5) == pointer(t, 1)
    assert [entry(t, 1, i) for i in range(512)] == [0x8000_0000_0000_00E3 + 5 * GIB + i * (2 << 20) for i in range(512)]


@pytest.mark.parametrize(("nx", "flags"), [(True, 0x8000_0000_0000_00E3), (False, 0xE3)])
def test_since_3_9_one_leaf_with_nx_if_the_processor_has_it(nx: bool, flags: int) -> None:
    t = tables("v3.9", nx=nx)
    t.early_make_pgtable(t.page_offset + 5 * GIB + 0x1234567)
    assert {i: entry(t, 1, i) for i in range(512) if entry(t, 1, i)} == {9: flags + 5 * GIB + 9 * (2 << 20)}


def test_five_levels_link_three_tables() -> None:
    t = tables("la57")
    t.early_make_pgtable(t.page_offset + 7 * SLOT + 3 * GIB)
    found = entry(t, -1, 273), entry(t, 0, 7), entry(t, 1, 3), entry(t, 2, 0)
    assert found == (pointer(t, 0), pointer(t, 1), pointer(t, 2), 0x8000_0000_0000_00E3 + 7 * SLOT + 3 * GIB)


@pytest.mark.parametrize(("variant", "relocated"), [("seed-2012", False), ("v3.9", True)])
@pytest.mark.parametrize("place", [2 << 20, 16 << 20, 48 << 20])
def test_only_the_seed_forgets_phys_base(variant: str, relocated: bool, place: int) -> None:
    t = tables(variant, place=place)
    t.early_make_pgtable(t.page_offset)
    assert entry(t, -1, 272) == (place if relocated else LINK) + DYNAMIC + 0x63
    t.early_make_pgtable(t.page_offset + GIB)
    assert entry(t, 0, 1), "the handler finds its own table again by the same arithmetic"


# Trampoline


@pytest.mark.parametrize("place", [16 << 20, (5 << 30) + (6 << 20), (600 << 30) + (1022 << 20)])
def test_trampoline_of_the_seed_maps_a_gib_from_text_on(place: int) -> None:
    t = tables("seed-2012", place=place)
    t.startup_64()
    g, u = place >> 39, place >> 30 & 511
    assert {i: e for i, e in enumerate(t.entries[:512]) if e} == {
        g: pointer(t, 0),
        g + 1: pointer(t, 0),
        511: place + KERNEL + 0x67,
    }
    assert {i: entry(t, 0, i) for i in range(512) if entry(t, 0, i)} == {u: pointer(t, 1), u + 1: pointer(t, 1)}
    for address in range(place, place + GIB, 2 << 20):
        assert entry(t, 1, address >> 21 & 511) == address + 0xE3


@pytest.mark.parametrize(("variant", "wraps"), [("seed-2012", False), ("v3.9", True), ("v4.x", False), ("v6.1", True)])
def test_trampoline_at_the_last_gib_of_512(variant: str, wraps: bool) -> None:
    place = SLOT - (2 << 20)
    t = tables(variant, place=place, image_bytes=4 << 20)
    t.startup_64()
    assert entry(t, 0, 511) == pointer(t, 1)
    assert entry(t, 0, 0) == (pointer(t, 1) if wraps else 0)


@pytest.mark.parametrize(("variant", "wraps"), [("v3.9", True), ("v4.x", False), ("v6.1", True)])
def test_trampoline_of_an_image_that_crosses_a_gib(variant: str, wraps: bool) -> None:
    place = 3 * GIB - (2 << 20)
    t = tables(variant, place=place, image_bytes=5 << 20)
    t.startup_64()
    expected = [place + 0xE3, place + (2 << 20) + 0xE3, place + (4 << 20) + 0xE3]
    at = (
        [entry(t, 1, 511), entry(t, 1, 0), entry(t, 1, 1)]
        if wraps
        else [entry(t, n, i) for n, i in ((1, 511), (2, 0), (2, 1))]
    )
    assert at == expected
    assert sum(map(bool, t.entries[1024:])) == 3


def test_trampoline_with_five_levels() -> None:
    place = SLOT * 512 - GIB
    t = tables("la57", place=place)
    t.startup_64()
    assert (entry(t, -1, 0), entry(t, -1, 1)) == (pointer(t, 2), pointer(t, 2))
    assert {i: entry(t, 2, i) for i in range(512) if entry(t, 2, i)} == {511: pointer(t, 0), 0: pointer(t, 0)}
    assert {i: entry(t, 0, i) for i in range(512) if entry(t, 0, i)} == {511: pointer(t, 1), 0: pointer(t, 1)}


# Reset and digest


@pytest.mark.parametrize("variant", ROWS)
def test_a_reset_leaves_the_kernels_entry_and_the_pool(variant: str) -> None:
    t = tables(variant)
    t.startup_64()
    t.early_make_pgtable(t.page_offset + 3 * GIB)
    last, pool = t.entries[511], t.entries[512:]
    t.reset_early_page_tables()
    assert not any(t.entries[:511])
    assert t.entries[511] == last == t.layout.phys_kernel + 0x67
    assert t.entries[512:] == pool
    assert (t.next_early_pgt, t.early_pgt_resets) == (0, 1)


def test_the_digest_is_zlibs_crc_of_little_endian_memory() -> None:
    t = tables("v3.9")
    t.early_make_pgtable(t.page_offset + 3 * GIB)
    raw = b"".join(e.to_bytes(8, "little") for e in t.entries)
    assert len(raw) == 65 * 4096
    assert (t.raw(), t.digest()) == (raw, zlib.crc32(raw))


# What cannot be


@pytest.mark.parametrize("pool", [-1, 0, 65])
def test_pools_that_cannot_be_are_refused(pool: int) -> None:
    with pytest.raises(UsageError, match="1 to 64"):
        tables("v3.9", pool)


def test_a_place_that_startup_64_would_refuse_is_refused() -> None:
    with pytest.raises(UsageError, match="2 MiB"):
        tables("v3.9", place=LINK + 4096)
    with pytest.raises(UsageError, match="below"):
        tables("v3.9", place=1 << 46)


def test_a_direct_map_that_reaches_the_kernels_map_is_an_error_of_the_caller() -> None:
    t = tables("v3.9")
    t.page_offset = 0xFFFF_F000_0000_0000
    with pytest.raises(UsageError, match="PAGE_OFFSET"):
        t.early_make_pgtable(0xFFFF_FFFF_8000_0000)


# Endless loops


@pytest.mark.parametrize(("variants", "enough"), [(SEED, 1), (FOUR, 2), (FIVE, 3)])
def test_a_pool_too_small_for_one_address_spins(variants: list[str], enough: int) -> None:
    for variant in variants:
        for pool in range(1, 5):
            t = tables(variant, pool)
            result = t.early_make_pgtable(t.page_offset)
            assert result is (Result.SPINS if pool < enough else Result.MAPPED), (variant, pool)


# Laws

PHYSICAL = st.one_of(
    st.integers(0, (1 << 46) - 1),
    st.builds(
        lambda slot, gib, mib: slot * SLOT + gib * GIB + mib * (2 << 20),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(0, 3),
    ),
)
SCHEDULES = st.lists(PHYSICAL, max_size=120)


class Pool:
    """Which tables a list of faults takes: only prefixes of addresses and a counter, no tables, no entries."""

    def __init__(self, levels: int, size: int, *, seed: bool) -> None:
        self.levels, self.size, self.seed = levels, size, seed
        self.next, self.resets, self.known = 0, 0, set[tuple[int, int]]()

    def fault(self, pa: int) -> list[int]:
        return self._seed(pa) if self.seed else self._mainline(pa)

    def _take(self, taken: list[int]) -> None:
        taken.append(self.next)
        self.next += 1

    def _reset(self) -> None:
        self.next, self.resets, self.known = 0, self.resets + 1, set()

    def _seed(self, pa: int) -> list[int]:
        taken: list[int] = []
        slot = (39, pa >> 39)
        if slot not in self.known or self.next >= self.size:
            if self.next + 1 >= self.size:
                self._reset()
            self.known.add(slot)
            self._take(taken)
        self._take(taken)
        return taken

    def _mainline(self, pa: int) -> list[int]:
        taken: list[int] = []
        wanted = [(shift, pa >> shift) for shift in ((48, 39, 30) if self.levels == 5 else (39, 30))]
        while missing := [prefix for prefix in wanted if prefix not in self.known]:
            if self.next == self.size:
                self._reset()
                continue
            self.known.add(missing[0])
            self._take(taken)
        return taken


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(ROWS)), st.integers(3, 64), SCHEDULES)
def test_the_pool_is_used_as_an_independent_model_says(variant: str, pool: int, schedule: list[int]) -> None:
    t = tables(variant, pool)
    seed = t.variant.capacity is Capacity.BOTH_AT_ONCE
    model = Pool(t.variant.levels, pool, seed=seed)
    for pa in schedule:
        assert t.early_make_pgtable(t.page_offset + pa) is Result.MAPPED
        assert t.taken == model.fault(pa)
        assert (t.next_early_pgt, t.early_pgt_resets) == (model.next, model.resets)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(ROWS)), st.integers(1, 64), SCHEDULES)
def test_the_pool_index_never_passes_the_pool(variant: str, pool: int, schedule: list[int]) -> None:
    t = tables(variant, pool)
    # The seed takes two tables at once even from a pool of one.
    limit = max(pool, 2) if t.variant.capacity is Capacity.BOTH_AT_ONCE else pool
    for pa in schedule:
        t.early_make_pgtable(t.page_offset + pa)
        assert all(0 <= table < limit for table in t.taken)
        assert t.next_early_pgt <= limit
        assert not any(t.entries[(limit + 1) * 512 :])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(ROWS)), st.integers(1, 64), SCHEDULES)
def test_the_same_faults_give_the_same_digest_and_keep_the_kernels_entry(
    variant: str, pool: int, schedule: list[int]
) -> None:
    first, second = tables(variant, pool), tables(variant, pool)
    for pa in schedule:
        first.early_make_pgtable(first.page_offset + pa)
        second.early_make_pgtable(second.page_offset + pa)
        assert first.entries[511] == first.layout.phys_kernel + 0x67
    assert first.digest() == second.digest()
