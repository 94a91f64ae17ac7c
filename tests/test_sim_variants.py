"""The table of handler variants."""

import pytest

from bench.errors import UsageError
from bench.sim.variants import MENDS, ROWS, Capacity, Check, NxRule, row, row_of_window
from bench.wire import VARIANTS


@pytest.mark.parametrize(
    ("name", "page_offset", "maxmem", "levels", "leaf_span"),
    [
        ("seed-2012", 0xFFFF_8800_0000_0000, 1 << 46, 4, 1 << 30),
        ("v3.9", 0xFFFF_8800_0000_0000, 1 << 46, 4, 1 << 21),
        ("la57", 0xFF11_0000_0000_0000, 1 << 52, 5, 1 << 21),
        ("v4.x", 0xFFFF_8800_0000_0000, 1 << 46, 4, 1 << 21),
        ("v4.x-la57", 0xFF10_0000_0000_0000, 1 << 52, 5, 1 << 21),
        ("v6.1", 0xFFFF_8880_0000_0000, 1 << 46, 4, 1 << 21),
        ("v6.1-la57", 0xFF11_0000_0000_0000, 1 << 52, 5, 1 << 21),
        ("v7.3", 0xFFFF_8880_0000_0000, 1 << 46, 4, 1 << 21),
        ("v7.3-la57", 0xFF11_0000_0000_0000, 1 << 52, 5, 1 << 21),
    ],
)
def test_rows(name: str, page_offset: int, maxmem: int, levels: int, leaf_span: int) -> None:
    found = row(name)
    assert (found.page_offset, found.maxmem, found.levels, found.leaf_span) == (page_offset, maxmem, levels, leaf_span)


def test_every_variant_of_the_trace_has_a_row() -> None:
    assert {found.wire_name for found in ROWS.values()} == set(VARIANTS)


def test_only_the_seed_counts_resets_and_takes_both_tables_at_once() -> None:
    assert [name for name, found in ROWS.items() if found.counts_resets] == ["seed-2012"]
    assert [name for name, found in ROWS.items() if found.capacity is Capacity.BOTH_AT_ONCE] == ["seed-2012"]


def test_the_old_stub_looks_at_flag_and_code_segment_before_the_fault_and_the_new_one_after() -> None:
    old, new = row("v3.9").stub, row("v6.1").stub
    fault = Check.PAGE_FAULT
    assert all(old.order.index(c) < old.order.index(fault) for c in (Check.HALT_IF_FLAG, Check.CODE_SEGMENT))
    assert all(new.order.index(c) > new.order.index(fault) for c in (Check.HALT_IF_FLAG, Check.CODE_SEGMENT))
    assert old.order[-1] is new.order[-1] is Check.EXCEPTION_TABLE


def test_a_window_finds_its_row_by_variant_and_levels() -> None:
    assert row_of_window("v6.1", 4).name == "v6.1"
    assert row_of_window("v6.1", 5).name == "v6.1-la57"
    assert row_of_window("la57", 5).name == "la57"


@pytest.mark.parametrize(("name", "levels"), [("la57", 4), ("seed-2012", 5), ("v3.9", 5), ("unknown-9", 4)])
def test_a_handler_that_does_not_exist_is_refused(name: str, levels: int) -> None:
    with pytest.raises(UsageError, match=name):
        row_of_window(name, levels)


def test_an_unknown_name_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match=r"seed-2012, v3\.9"):
        row("v2.6")


@pytest.mark.parametrize(
    ("mend", "get", "before", "after"),
    [
        (3, lambda r: r.uses_phys_base, False, True),
        (4, lambda r: r.nx, NxRule.ALWAYS, NxRule.IF_CPU),
        (5, lambda r: r.tests_cr3, False, True),
        (9, lambda r: r.trampoline.upper_wraps, False, True),
    ],
)
def test_each_mend_of_the_seed_changes_one_property(mend: int, get, before: object, after: object) -> None:
    plain, mended = row_of_window("seed-2012", 4), row_of_window("seed-2012", 4, 1 << mend)
    assert (get(plain), get(mended)) == (before, after)
    changed = [name for name in vars(plain) if getattr(plain, name) != getattr(mended, name)]
    assert len(changed) == 1


def test_mends_of_mistakes_that_a_row_does_not_have_change_nothing() -> None:
    assert row_of_window("v3.9", 4, 0xFFFF_FFFF) == row("v3.9")
    assert row_of_window("seed-2012", 4, 1 << 1 | 1 << 2) == row("seed-2012")
    assert row("seed-2012").mistakes == MENDS.keys()
