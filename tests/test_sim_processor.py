"""The modelled processor, held against a page walk from first principles over the same raw memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.sim.early_pgtable import EarlyPageTables, Result
from bench.sim.processor import QUIRKS, Processor, Raised, Walk, pieces
from bench.sim.variants import ROWS
from bench.wire import Access
from tests import sim_brute_walk as brute
from tests.sim_boot import FINAL, LINK, tables

GIB = 1 << 30
SLOT = 1 << 39
KINDS = {Access.READ: "r", Access.WRITE: "w", Access.FETCH: "x"}


def processor(t: EarlyPageTables, *, maxphyaddr: int = 46, nxe: bool = True, quirks: frozenset[str] = frozenset()):
    return Processor(t, maxphyaddr=maxphyaddr, nxe=nxe, quirks=quirks)


def memory(t: EarlyPageTables) -> brute.Memory:
    return brute.Memory.of(t.raw(), t.layout.phys_top, t.layout.phys_dynamic)


# Agreement with the brute-force walk


def agree(t: EarlyPageTables, cpu: Processor, mem: brute.Memory, va: int, maxphyaddr: int) -> brute.Outcome | None:
    """The model and the brute-force walk say the same of every kind of access to `va`."""
    outcome = None
    for access, kind in KINDS.items():
        expected = brute.walk(
            mem, t.layout.phys_top, va, kind, levels=t.variant.levels, maxphyaddr=maxphyaddr, nxe=cpu.nxe
        )
        raised = cpu.raises(va, access)
        if isinstance(expected, str):
            assert raised == Raised(13, 0)
            continue
        outcome = expected
        if expected.error is None:
            assert raised is None
        else:
            assert raised is not None
            assert (raised.vector, raised.error) == (14, expected.error)
    return outcome


def entries_agree(t: EarlyPageTables, cpu: Processor, va: int, outcome: brute.Outcome) -> None:
    """The trace's walk shows the same entries, as far as it may follow."""
    found = cpu.walk(va)
    shown = [found.pgd, *([found.p4d] if t.variant.levels == 5 else []), found.pud, found.pmd]
    reached = [*outcome.entries, 0, 0, 0, 0][: len(shown)]
    if found.left:
        reached = [e if depth < t.variant.levels - found.left else 0 for depth, e in enumerate(reached)]
    assert shown == reached


PHYSICAL = st.one_of(
    st.integers(0, (1 << 46) - 1),
    st.builds(
        lambda slot, gib, mib: slot * SLOT + gib * GIB + mib * (2 << 20) + mib,
        st.integers(0, 5),
        st.integers(0, 5),
        st.integers(0, 3),
    ),
)
ANYWHERE = st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0xFF00_0000_0000_0000, 0xFFFF_FFFF_0000_0000))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    variant=st.sampled_from(sorted(ROWS)),
    pool=st.integers(1, 64),
    place=st.sampled_from([LINK, LINK * 3, 2 << 20]),
    nx=st.booleans(),
    maxphyaddr=st.sampled_from([36, 39, 40, 46, 52]),
    schedule=st.lists(PHYSICAL, min_size=1, max_size=40),
    elsewhere=st.lists(ANYWHERE, max_size=20),
)
def test_every_address_is_translated_as_the_brute_force_walk_does(
    variant: str, pool: int, place: int, nx: bool, maxphyaddr: int, schedule: list[int], elsewhere: list[int]
) -> None:
    t = tables(variant, pool, place=place, nx=nx)
    t.startup_64()
    t.reset_early_page_tables()
    cpu = processor(t, maxphyaddr=maxphyaddr, nxe=nx)
    for pa in schedule:
        t.early_make_pgtable(t.page_offset + pa)
    mem = memory(t)
    seen = {t.page_offset + pa for pa in schedule} | set(elsewhere) | {t.page_offset, t.page_offset - 1}
    for va, leaf, bits in brute.mapped(mem, t.layout.phys_top, levels=t.variant.levels):
        assert leaf & ((1 << 52) - (1 << 12)) == va - t.page_offset, "the direct map is one to one"
        seen |= {va - 1, va, va + (1 << bits) - 1, va + (1 << bits)}
    for va in sorted(seen):
        if va >> (39 if t.variant.levels == 4 else 48) & 511 == 511:
            continue
        outcome = agree(t, cpu, mem, va % 2**64, maxphyaddr)
        if outcome is not None:
            entries_agree(t, cpu, va, outcome)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(ROWS)), st.integers(3, 64), st.lists(PHYSICAL, min_size=1, max_size=40))
def test_between_two_resets_no_translation_changes_so_that_a_tlb_cannot_go_stale(
    variant: str, pool: int, schedule: list[int]
) -> None:
    t = tables(variant, pool)
    before: dict[int, int] = {}
    resets = 0
    for pa in schedule:
        t.early_make_pgtable(t.page_offset + pa)
        after = {va: leaf for va, leaf, _ in brute.mapped(memory(t), t.layout.phys_top, levels=t.variant.levels)}
        if t.early_pgt_resets == resets:
            assert before.items() <= after.items()
        before, resets = after, t.early_pgt_resets
        assert not any(leaf & 1 << 8 for leaf in after.values()), "nothing global, so a load of CR3 drops all"


@pytest.mark.slow
@settings(deadline=None)
@given(st.sampled_from(sorted(ROWS)), st.integers(3, 64), PHYSICAL)
def test_what_the_handler_says_it_has_mapped_is_mapped(variant: str, pool: int, pa: int) -> None:
    t = tables(variant, pool)
    va = t.page_offset + pa
    assert t.early_make_pgtable(va) is Result.MAPPED
    assert processor(t, maxphyaddr=52).raises(va, Access.WRITE) is None


# Checks in their order


def one_gib() -> tuple[EarlyPageTables, int]:
    t = tables("v3.9")
    t.early_make_pgtable(t.page_offset + 5 * GIB)
    return t, t.page_offset + 5 * GIB


@pytest.mark.parametrize(
    ("access", "nxe", "error"),
    [
        (Access.READ, True, 0),
        (Access.WRITE, True, 2),
        (Access.FETCH, True, 0x10),
        (Access.READ, False, 0),
        (Access.WRITE, False, 2),
        (Access.FETCH, False, 0),
    ],
)
def test_first_touch(access: Access, nxe: bool, error: int) -> None:
    t = tables("v3.9", nx=nxe)
    assert processor(t, nxe=nxe).raises(t.page_offset, access) == Raised(14, error, 4)


def test_a_fetch_from_a_no_execute_leaf_is_a_protection_fault() -> None:
    t, va = one_gib()
    assert processor(t).raises(va, Access.FETCH) == Raised(14, 0x11, 2)
    assert processor(t).raises(va, Access.WRITE) is None


@pytest.mark.parametrize(
    ("quirks", "errors"),
    [
        (frozenset(), [9, 0xB, 0x19]),
        (frozenset({"qemu-tcg-rsvd-without-p"}), [8, 0xA, 0x18]),
        (frozenset({"serial-loses-a-byte"}), [9, 0xB, 0x19]),
    ],
)
def test_reserved_bits_of_a_small_processor(quirks: frozenset[str], errors: list[int]) -> None:
    t = tables("v3.9")
    va = t.page_offset + (1 << 36)
    t.early_make_pgtable(va)
    cpu = processor(t, maxphyaddr=36, quirks=quirks)
    assert [cpu.raises(va, access) for access in KINDS] == [Raised(14, e, 2) for e in errors]
    assert processor(t, maxphyaddr=37).raises(va, Access.READ) is None


def test_an_absent_upper_entry_hides_reserved_bits_below() -> None:
    t = tables("v3.9")
    va = t.page_offset + (1 << 40)
    t.early_make_pgtable(va)
    slot = va >> 39 & 511
    t.entries[slot] &= ~1
    assert processor(t, maxphyaddr=36).raises(va, Access.READ) == Raised(14, 0, 4)


def test_nx_is_a_reserved_bit_while_nxe_is_clear() -> None:
    t = tables("seed-2012", nx=False)
    t.early_make_pgtable(t.page_offset)
    assert processor(t, nxe=False).raises(t.page_offset, Access.READ) == Raised(14, 9, 2)


def test_every_quirk_names_its_source() -> None:
    assert all(quirk.about and quirk.source for quirk in QUIRKS.values())


# The kernel's own map, walks that leave the image, the final tables


def test_the_kernels_map_covers_the_image_and_nothing_else() -> None:
    cpu = processor(tables("v3.9", place=LINK * 2))
    link = 0xFFFF_FFFF_8100_0000
    assert cpu.raises(link, Access.READ) is None
    assert cpu.raises(link + (2 << 20), Access.READ) == Raised(14, 0)
    assert cpu.raises(0xFFFF_FFFF_FF5F_D000, Access.WRITE) == Raised(14, 2)
    assert cpu.walk(link) == Walk(cpu.tables.entries[511], 0, None, None, None)


@pytest.mark.parametrize(("variant", "left"), [("seed-2012", 3), ("v3.9", 0)])
def test_without_phys_base_the_walk_leaves_a_relocated_image(variant: str, left: int) -> None:
    t = tables(variant, place=LINK * 4)
    t.early_make_pgtable(t.page_offset)
    found = processor(t).walk(t.page_offset)
    assert found.left == left
    assert bool(found.pud) == (left == 0)
    assert (processor(t).raises(t.page_offset, Access.READ) is None) == (left == 0)


def test_a_relocated_image_without_phys_base_must_not_overlap_its_link_time_place() -> None:
    t = tables("seed-2012", place=LINK - (2 << 20), image_bytes=4 << 20)
    t.early_make_pgtable(t.page_offset)
    with pytest.raises(UsageError, match="overlap"):
        processor(t).raises(t.page_offset, Access.READ)


@pytest.mark.parametrize("variant", ROWS)
def test_the_final_tables_map_their_span_and_the_kernel(variant: str) -> None:
    t = tables(variant)
    t.early_make_pgtable(t.page_offset + 5 * GIB)
    cpu = processor(t)
    top = t.layout.phys_text + FINAL
    assert cpu.early_tables_in_use
    cpu.load_final(top, GIB, nx=True)
    assert not cpu.early_tables_in_use
    for va, mapped in ((0, True), (GIB - 1, True), (GIB, False), (5 * GIB, False)):
        assert (cpu.raises(t.page_offset + va, Access.WRITE) is None) == mapped
    found = cpu.walk(t.page_offset + (6 << 20))
    assert found.pgd == top + 0x1063
    assert found.pmd == 0x8000_0000_0000_00E3 + (6 << 20)
    assert cpu.walk(0xFFFF_FFFF_8100_0000).pgd == t.entries[511]


def test_final_tables_that_do_not_fit_one_pmd_are_refused() -> None:
    cpu = processor(tables("v3.9"))
    with pytest.raises(UsageError, match="one PMD"):
        cpu.load_final(LINK, 2 * GIB, nx=True)


# Accesses that straddle


@pytest.mark.parametrize(
    ("va", "size", "expected"),
    [
        (0x1000, 8, (0x1000,)),
        (0x1FF8, 8, (0x1FF8,)),
        (0x1FF9, 8, (0x1FF9, 0x2000)),
        (0x1FFF, 2, (0x1FFF, 0x2000)),
        (0x1FFF, 1, (0x1FFF,)),
        (0xFFFF_FFFF_FFFF_FFFF, 2, (0xFFFF_FFFF_FFFF_FFFF, 0)),
    ],
)
def test_the_second_page_faults_at_its_first_byte(va: int, size: int, expected: tuple[int, ...]) -> None:
    assert pieces(va, size) == expected
