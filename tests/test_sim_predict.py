"""What the reference says of whole windows."""

import inspect
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.records import (
    EVENT_FIELDS,
    BootFacts,
    DigestPoint,
    DumpPoint,
    Event,
    EventKind,
    LoadFinal,
    Prediction,
    Step,
    Stimulus,
    Touch,
)
from bench.sim.dump import runs
from bench.sim.predict import predict
from bench.sim.variants import ROWS
from bench.wire import FAULT_CAP, FAULTS_SHOWN, START_KERNEL_MAP, Access, Outcome
from tests.sim_boot import FINAL, LINK, facts

READ, WRITE, FETCH, MOVE = Access
ENTER, EXIT, DIGEST, CAP, SPIN, FATAL, DUMP, END = EventKind
GIB = 1 << 30
SLOT = 1 << 39
QEMU = frozenset({"qemu-tcg-rsvd-without-p"})


def window(f: BootFacts, *steps: Step, **how: object) -> Prediction:
    return predict(Stimulus(f, steps), **how)  # type: ignore[arg-type]


def touch(f: BootFacts, pa: int, access: Access = READ, *, size: int = 8, to: int = 0, step: int = 0, **other) -> Touch:
    """An access to the direct map at physical `pa`, moving to physical `to`."""
    base = f.page_offset
    return Touch(step, access, base + pa, size, va_to=base + to if access is MOVE else 0, **other)


def kinds(p: Prediction) -> list[EventKind]:
    return [e.kind for e in p.events]


def numbers(event: Event) -> dict[str, int]:
    """The constrained fields of an event that are not zero."""
    return {name: value for name in EVENT_FIELDS if (value := getattr(event, name))}


def errors(p: Prediction) -> list[int | None]:
    return [e.error for e in p.events if e.kind is ENTER]


# One fault


def test_a_read_of_the_seed() -> None:
    f = facts("seed-2012")
    p = window(f, touch(f, 5 * GIB + 0x123, ip=0x1000123, step=3))
    assert kinds(p) == [ENTER, EXIT, END]
    enter, leave, end = map(numbers, p.events)
    assert enter == {"vector": 14, "cr2": 0xFFFF_8801_4000_0123, "ip": 0x1000123}
    assert leave == {
        "next": 2,
        "resets": 1,
        "pgd": f.phys_dynamic + 0x63,
        "pud": f.phys_dynamic + 0x1063,
        "pmd": 0x8000_0001_4000_00E3,
    }
    assert end == {"faults": 1, "exits": 1, "next": 2, "resets": 1}
    assert [e.step for e in p.events] == [3, 3, None]
    assert (p.outcome, p.resets) == ("done", 0)


def test_a_write_with_five_levels() -> None:
    f = facts("la57", place=48 << 20)
    p = window(f, touch(f, 7 * SLOT + 3 * GIB, WRITE))
    enter, leave, _ = p.events
    assert enter.error == 2
    assert [leave.pgd, leave.p4d, leave.pud] == [f.phys_dynamic + n * 4096 + 0x63 for n in range(3)]
    assert leave.pmd == 0x8000_0000_0000_00E3 + 7 * SLOT + 3 * GIB
    assert (leave.next, leave.resets, leave.flag, leave.left) == (3, None, 0, 0)


@pytest.mark.parametrize("variant", ROWS)
def test_what_is_mapped_does_not_fault_again(variant: str) -> None:
    f = facts(variant)
    again = touch(f, 2 << 20, WRITE, step=1)
    p = window(f, touch(f, (4 << 20) - 1, size=1), again, touch(f, (2 << 20) + 8, step=2))
    assert kinds(p) == [ENTER, EXIT, END]


def test_each_event_says_why_and_names_its_source() -> None:
    f = facts("v3.9", 2)
    p = window(f, touch(f, 0), touch(f, SLOT + 0x1000, WRITE, step=1), touch(f, 1 << 46, step=2))
    assert [e.why for e in p.events if e.step == 1] == [
        "#PF: write, not present, 0xffff888000001000 at its top-level entry (SDM Vol. 3A, Page-Fault Exceptions)",
        "pool of 2 used up: reset, took 0, 1 of the pool, mapped 2 MiB at 0x8000000000 (early_make_pgtable, v3.9)",
    ]
    assert "not below MAXMEM 0x400000000000" in p.events[-1].why


def test_the_instruction_pointer_is_predicted_where_it_was_announced() -> None:
    f = facts("v3.9")
    p = window(f, touch(f, 0), touch(f, GIB, ip=0x1000044, step=1), touch(f, 2 * GIB, FETCH, ip=0x1000055, step=2))
    target = f.page_offset + 2 * GIB - START_KERNEL_MAP & (1 << 64) - 1
    assert [e.ip for e in p.events if e.kind is ENTER][:3] == [None, 0x1000044, target]


def test_a_replayed_touch_marks_its_events() -> None:
    f = facts("v3.9")
    p = window(f, touch(f, 0, replayed=True), touch(f, GIB, step=1))
    assert [e.replayed for e in p.events] == [True, True, False, False, False]


# Rejection


@pytest.mark.parametrize("variant", ["seed-2012", "v3.9", "la57", "v6.1", "v7.3"])
def test_a_rejected_address_is_a_panic(variant: str) -> None:
    f = facts(variant)
    va = 0xFFFF_FE00_0000_0000
    p = window(f, Touch(0, WRITE, va, 8, ip=0x1000044), touch(f, 0, step=1))
    assert kinds(p) == [ENTER, FATAL, END]
    assert numbers(p.events[1]) == {"vector": 14, "cr2": va, "error": 2, "flag": 1, "ip": 0x1000044}
    assert (p.events[-1].outcome, p.events[-1].faults, p.events[-1].exits) == (Outcome.PANIC, 1, 0)
    assert p.outcome == "panic"


def test_4_x_may_lose_the_vector_of_a_rejected_fault() -> None:
    p = window(facts("v4.x"), Touch(0, READ, 0, 8))
    assert p.events[1].kind is FATAL
    assert p.events[1].vector is None


@pytest.mark.parametrize("variant", ["seed-2012", "v3.9", "la57"])
def test_an_exception_table_entry_goes_on_behind_the_instruction(variant: str) -> None:
    f = facts(variant)
    p = window(f, Touch(0, READ, 0x1000, 8, fixup=True), touch(f, 0, step=1))
    assert kinds(p) == [ENTER, EXIT, ENTER, EXIT, END]
    assert not numbers(replace(p.events[1], resets=0)), "nothing taken, nothing in the tables"
    assert p.outcome == "done"


def test_an_accepted_address_never_comes_to_the_exception_table() -> None:
    f = facts("v3.9")
    p = window(f, touch(f, 0, fixup=True))
    assert kinds(p) == [ENTER, EXIT, END]
    assert p.events[1].pmd


# General protection


@pytest.mark.parametrize(
    ("variant", "va"), [("seed-2012", 1 << 47), ("v3.9", 0xFFFF_7FFF_FFFF_FFF8), ("la57", 1 << 56)]
)
def test_a_non_canonical_address_raises_gp_and_leaves_cr2(variant: str, va: int) -> None:
    f = facts(variant)
    first = touch(f, 5 * GIB)
    p = window(f, first, Touch(1, READ, va, 8, fixup=True), Touch(2, READ, va, 8))
    assert kinds(p) == [ENTER, EXIT, ENTER, EXIT, ENTER, FATAL, END]
    assert [p.events[n].vector for n in (0, 2, 4, 5)] == [14, 13, 13, 13]
    assert {e.cr2 for e in p.events if e.cr2 is not None} == {first.va}
    assert p.events[3].pmd == p.events[1].pmd, "the exit shows the walk of what CR2 still holds"


def test_before_the_first_fault_cr2_is_what_begin_found() -> None:
    p = window(facts("v3.9", cr2=0x1234), Touch(0, WRITE, 1 << 47, 8))
    assert numbers(p.events[0]) == {"vector": 13, "cr2": 0x1234}


def test_where_the_fetch_of_a_non_canonical_address_faults_is_open() -> None:
    p = window(facts("v3.9"), Touch(0, FETCH, 1 << 47, 1, ip=0x1000044))
    assert p.events[0].vector == 13
    assert p.events[0].ip is None


# Livelock


def endless(p: Prediction) -> None:
    """FAULTS_SHOWN faults in full, then the cap at FAULT_CAP and the end."""
    assert kinds(p) == [ENTER, EXIT] * FAULTS_SHOWN + [CAP, END]
    cap, end = p.events[-2:]
    assert cap.faults == end.faults == FAULT_CAP
    assert end.exits == FAULT_CAP - 1
    assert (cap.next, cap.resets) == (end.next, end.resets)
    assert (end.outcome, p.outcome) == (Outcome.LIVELOCK, "livelock")


@pytest.mark.parametrize(("variant", "resets"), [("seed-2012", 4), ("v3.9", 0), ("la57", 0)])
def test_a_fetch_from_a_no_execute_leaf_never_ends(variant: str, resets: int) -> None:
    f = facts(variant)
    p = window(f, touch(f, 0, FETCH, size=1))
    endless(p)
    assert errors(p) == [0x10] + [0x11] * (FAULTS_SHOWN - 1)
    # The seed takes 2 tables at first, 1 a fault after that, and resets at the fault that finds 64 taken.
    assert p.resets == resets == (FAULT_CAP - 1 - 1) // 63 * (variant == "seed-2012")


@pytest.mark.parametrize(("nx", "codes"), [(True, [0x10]), (False, [0])])
def test_without_nx_a_fetch_goes_through_and_is_reported_as_a_read(nx: bool, codes: list[int]) -> None:
    f = facts("v3.9", nx=nx)
    p = window(f, touch(f, 0, FETCH, size=1))
    assert errors(p)[:1] == codes
    assert (p.outcome == "done") == (not nx)


@pytest.mark.parametrize(("quirks", "bits"), [(frozenset(), 9), (QEMU, 8)])
@pytest.mark.parametrize(("access", "extra"), [(READ, 0), (WRITE, 2), (FETCH, 0x10)])
@pytest.mark.parametrize("variant", ["seed-2012", "v3.9"])
def test_memory_beyond_maxphyaddr_never_ends(
    variant: str, access: Access, extra: int, quirks: frozenset[str], bits: int
) -> None:
    f = facts(variant, maxphyaddr=40)
    p = window(f, touch(f, 1 << 40, access, size=1), quirks=quirks)
    endless(p)
    assert errors(p) == [extra] + [extra | bits] * (FAULTS_SHOWN - 1)
    below = window(f, touch(f, (1 << 40) - 8))
    assert below.outcome == "done"


def test_the_seeds_nx_is_a_reserved_bit_on_a_processor_without_it() -> None:
    f = facts("seed-2012", nx=False)
    p = window(f, touch(f, 0))
    endless(p)
    assert errors(p) == [0] + [9] * (FAULTS_SHOWN - 1)
    assert window(replace(f, mend=1 << 4), touch(f, 0)).outcome == "done"


def test_the_seed_without_phys_base_writes_tables_that_the_processor_does_not_find() -> None:
    f = facts("seed-2012", place=64 << 20)
    p = window(f, touch(f, 5 * GIB))
    endless(p)
    assert set(errors(p)) == {0}
    leave = p.events[1]
    link_pool = f.phys_dynamic - f.phys_text + LINK
    assert (leave.pgd, leave.pud, leave.pmd, leave.left) == (link_pool + 0x63, 0, 0, 3)
    mended = window(replace(f, mend=1 << 3), touch(f, 5 * GIB))
    assert (mended.outcome, mended.events[1].pgd, mended.events[1].left) == ("done", f.phys_dynamic + 0x63, 0)


def needs(f: BootFacts, what: str) -> Touch:
    """One instruction that needs so many pages at once."""
    end = GIB - 4
    return {
        "1 page": touch(f, 0),
        "2 GiB of one slot": touch(f, end),
        "2 slots": touch(f, SLOT - 4),
        "4 GiB of one slot": touch(f, end, MOVE, to=5 * GIB - 4),
        "4 slots": touch(f, SLOT - 4, MOVE, to=5 * SLOT - 4),
    }[what]


@pytest.mark.parametrize("variant", ["seed-2012", "v3.9", "v4.x", "v6.1", "v7.3"])
@pytest.mark.parametrize(
    ("what", "enough"),
    [("1 page", 2), ("2 GiB of one slot", 3), ("2 slots", 4), ("4 GiB of one slot", 5), ("4 slots", 8)],
)
def test_the_smallest_pool_that_makes_progress(variant: str, what: str, enough: int) -> None:
    for pool in range(2, 11):
        f = facts(variant, pool)
        p = window(f, needs(f, what))
        assert p.outcome == ("done" if pool >= enough else "livelock"), pool
        if pool < enough:
            endless(p)


@pytest.mark.parametrize(
    ("what", "enough"),
    [("1 page", 3), ("2 GiB of one slot", 4), ("2 slots", 5), ("4 GiB of one slot", 6), ("4 slots", 9)],
)
def test_with_five_levels_each_pool_needs_one_table_more(what: str, enough: int) -> None:
    for pool in range(3, 11):
        f = facts("la57", pool)
        assert window(f, needs(f, what)).outcome == ("done" if pool >= enough else "livelock"), pool


@pytest.mark.parametrize(("variant", "pool"), [("v3.9", 1), ("v6.1", 1), ("la57", 1), ("la57", 2), ("v7.3-la57", 2)])
def test_a_pool_that_cannot_hold_one_address_spins_inside_the_handler(variant: str, pool: int) -> None:
    f = facts(variant, pool)
    p = window(f, touch(f, GIB, step=2), touch(f, 0, step=3))
    assert kinds(p) == [ENTER, SPIN, END]
    assert p.events[1].step == 2
    assert not any(getattr(p.events[1], name) is not None for name in EVENT_FIELDS)
    end = p.events[-1]
    assert (end.outcome, end.faults, end.exits, end.next, end.resets) == (Outcome.SPIN, 1, 0, None, None)
    assert p.outcome == "spin"


# The final tables


def last_window(variant: str, mend: int = 0) -> Prediction:
    f = facts(variant, mend=mend)
    final = LoadFinal(1, f.phys_text + FINAL, GIB)
    return window(f, touch(f, 5 * GIB), final, touch(f, GIB - 8, WRITE, step=2), touch(f, 5 * GIB, step=3))


def test_after_the_final_tables_a_fault_is_a_panic() -> None:
    for p in (last_window("v3.9"), last_window("la57"), last_window("seed-2012", 1 << 5)):
        assert kinds(p) == [ENTER, EXIT, ENTER, FATAL, END]
        assert p.events[-1].next == p.events[1].next, "the handler has done nothing more"
        assert "CR3" in p.events[3].why


def test_after_the_final_tables_the_seed_maps_into_dead_tables_for_ever() -> None:
    p = last_window("seed-2012")
    assert kinds(p)[:2] == [ENTER, EXIT]
    endless(replace(p, events=(*p.events[2:-1], replace(p.events[-1], faults=FAULT_CAP, exits=FAULT_CAP - 1))))
    assert (p.events[-1].faults, p.events[-1].exits) == (FAULT_CAP + 1, FAULT_CAP)
    assert p.events[3].next == 3, "one table more in the old tables"
    assert (p.events[3].pud, p.events[3].pmd) == (0, 0), "and nothing in those in use"


# Straddling accesses


@pytest.mark.parametrize("border", [2 << 20, GIB, SLOT])
@pytest.mark.parametrize("variant", ["v3.9", "la57"])
def test_a_straddling_access_faults_at_both_pages_low_first(variant: str, border: int) -> None:
    f = facts(variant)
    p = window(f, touch(f, 7 * border - 3))
    cr2 = [e.cr2 for e in p.events if e.kind is ENTER]
    assert cr2 == [f.page_offset + 7 * border - 3, f.page_offset + 7 * border]
    assert p.choices == ((0, 2),)


def test_the_other_order_can_be_chosen() -> None:
    f = facts("v3.9")
    steps = (touch(f, GIB - 4), touch(f, SLOT - 4, WRITE, step=1))
    low = f.page_offset
    both = {
        (): [low + GIB - 4, low + GIB, low + SLOT - 4, low + SLOT],
        (1,): [low + GIB, low + GIB - 4, low + SLOT - 4, low + SLOT],
        (0, 1): [low + GIB - 4, low + GIB, low + SLOT, low + SLOT - 4],
    }
    for choices, expected in both.items():
        p = window(f, *steps, choices=choices)
        assert [e.cr2 for e in p.events if e.kind is ENTER] == expected
        assert p.choices == ((0, 2), (4, 2))


def test_a_page_that_is_present_leaves_no_choice() -> None:
    f = facts("v3.9")
    p = window(f, touch(f, 0), touch(f, (2 << 20) - 4, step=1))
    assert [e.cr2 for e in p.events if e.kind is ENTER][1:] == [f.page_offset + (2 << 20)]
    assert p.choices == ()


def test_two_small_pages_of_one_leaf_are_mapped_by_one_fault() -> None:
    f = facts("v3.9")
    p = window(f, touch(f, 0x1FFC))
    assert kinds(p) == [ENTER, EXIT, END]
    assert p.choices == ((0, 2),)


def test_a_move_reads_its_source_before_it_writes() -> None:
    f = facts("v3.9")
    p = window(f, touch(f, 3 * GIB - 4, MOVE, to=2 * GIB - 4))
    base = f.page_offset
    faults = [(e.cr2, e.error) for e in p.events if e.kind is ENTER]
    assert faults == [(base + 3 * GIB - 4, 0), (base + 3 * GIB, 0), (base + 2 * GIB - 4, 2), (base + 2 * GIB, 2)]
    assert p.choices == ((0, 2), (4, 2)), "free within the source and within the destination, not between them"


# Resets, digests, dumps


@pytest.mark.parametrize(("variant", "first"), [("seed-2012", 63), ("v3.9", 63), ("v6.1", 63), ("la57", 62)])
def test_a_sweep_by_gib_resets_once(variant: str, first: int) -> None:
    f = facts(variant)
    steps = [touch(f, n * GIB, step=n) for n in range(first + 1)]
    p = window(f, *steps, touch(f, 0, step=first + 1))
    assert p.resets == 1
    exits = [e for e in p.events if e.kind is EXIT]
    levels = f.levels - 1
    assert [e.next for e in exits] == [*range(levels - 1, 65), levels - 1, levels]
    assert len(exits) == first + 2, "what the reset forgot faults again"


def test_the_trampolines_tables_are_in_the_first_digest() -> None:
    f = facts("v3.9")
    p = window(f, DigestPoint(0))
    raw = bytearray(65 * 4096)
    dyn0, dyn1 = 4096, 2 * 4096
    raw[511 * 8 : 512 * 8] = (f.phys_kernel + 0x67).to_bytes(8, "little")
    raw[dyn0 : dyn0 + 16] = (f.phys_dynamic + 0x1063).to_bytes(8, "little") * 2
    raw[dyn1 + 8 * 8 : dyn1 + 9 * 8] = (f.phys_text + 0xE3).to_bytes(8, "little")
    assert (p.events[0].crc, p.events[0].next) == (zlib.crc32(raw), 0)


@pytest.mark.parametrize("variant", ROWS)
def test_the_dump_holds_all_that_the_digest_covers(variant: str) -> None:
    f = facts(variant, 5)
    p = window(f, *(touch(f, n * 300 * GIB, step=n) for n in range(7)), DumpPoint(8), DigestPoint(9))
    entries = [0] * (65 * 512)
    for e in p.events:
        if e.kind is DUMP:
            for n in range(e.count or 0):
                entries[(e.table or 0) * 512 + (e.index or 0) + n] = ((e.entry or 0) + n * (e.stride or 0)) % 2**64
    raw = b"".join(e.to_bytes(8, "little") for e in entries)
    assert p.events[-2].crc == zlib.crc32(raw)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], []),
        ([0, 0], []),
        ([0, 5, 0], [(1, 1, 5, 0)]),
        ([5, 5, 5], [(0, 3, 5, 0)]),
        ([1, 3, 5, 6], [(0, 3, 1, 2), (3, 1, 6, 0)]),
        ([9, 7, 0, 5], [(0, 2, 9, 2**64 - 2), (3, 1, 5, 0)]),
    ],
)
def test_runs(entries: list[int], expected: list[tuple[int, int, int, int]]) -> None:
    assert list(runs(entries)) == expected


# What cannot be, what is not given


def test_a_trampoline_that_overwrites_its_own_p4d_is_a_triple_fault() -> None:
    # Five levels in 4.14: the leaves of an image that crosses a GiB run on into table 2, the P4D of the identity map.
    at = {"place": GIB - (2 << 20), "image_bytes": 4 << 20}
    f = facts("v4.x-la57", **at)
    p = window(f, touch(f, 0))
    assert (p.events, p.outcome) == ((), "triple fault")
    for variant in ("v4.x", "v6.1-la57"):
        f = facts(variant, **at)
        assert window(f, touch(f, 0)).outcome == "done"


@pytest.mark.parametrize(
    ("wrong", "because"),
    [
        ({"variant": "unknown-9"}, "unknown-9"),
        ({"levels": 3}, "3 paging levels"),
        ({"pool": 0}, "pool"),
        ({"maxphyaddr": 64}, "physical address bits"),
        ({"phys_text": 0x1000}, "2 MiB"),
        ({"phys_top": 0}, "phys_top"),
        ({"phys_end": 0}, "end"),
    ],
)
def test_facts_that_cannot_be_are_refused(wrong: dict, because: str) -> None:
    with pytest.raises(UsageError, match=because):
        window(replace(facts("v3.9"), **wrong))


def test_the_prediction_is_made_from_the_stimulus_alone() -> None:
    parameters = inspect.signature(predict).parameters
    assert {name: p.annotation for name, p in parameters.items()} == {
        "stimulus": "Stimulus",
        "quirks": "frozenset[str]",
        "choices": "tuple[int, ...]",
    }


# Laws

TOUCHES = st.lists(
    st.tuples(
        st.sampled_from([READ, WRITE, MOVE]),
        st.integers(0, 5).map(lambda n: n * SLOT),
        st.integers(0, 8 * GIB),
        st.integers(0, 8 * GIB),
        st.sampled_from([1, 2, 4, 8]),
    ),
    max_size=40,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(ROWS)), st.integers(9, 64), TOUCHES)
def test_with_memory_and_nine_tables_every_window_is_done(variant: str, pool: int, touches: list) -> None:
    f = facts(variant, pool)
    steps = [
        touch(f, slot + a, access, size=size, to=slot + b, step=n)
        for n, (access, slot, a, b, size) in enumerate(touches)
    ]
    p = window(f, *steps, DigestPoint(len(steps)))
    assert p == window(f, *steps, DigestPoint(len(steps)))
    assert p.outcome == "done"
    end = p.events[-1]
    assert end.faults == end.exits == kinds(p).count(ENTER) == kinds(p).count(EXIT)
    for enter, leave in zip(p.events, p.events[1:], strict=False):
        if enter.kind is ENTER:
            assert leave.kind is EXIT
            assert leave.step == enter.step
            assert leave.next is not None
            assert leave.next <= pool
            assert leave.pmd
    assert all(0 <= value < 1 << 64 for e in p.events for value in numbers(e).values())


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(2, 64), st.lists(st.integers(0, (1 << 40) - 1), max_size=150))
def test_which_reads_fault_as_a_set_of_pages_would_say(pool: int, physical: list[int]) -> None:
    """v3.9 in ten lines: known GiB, 512 GiB and leaves, all forgotten when a table is wanted and none is left."""
    f = facts("v3.9", pool)
    leaves: set[int] = set()
    upper: set[tuple[int, int]] = set()
    used, expected = 0, []
    for pa in physical:
        if pa >> 21 in leaves:
            continue
        expected.append(f.page_offset + pa)
        while missing := [w for w in ((39, pa >> 39), (30, pa >> 30)) if w not in upper]:
            if used == pool:
                used, upper, leaves = 0, set(), set()
            else:
                used += 1
                upper.add(missing[0])
        leaves.add(pa >> 21)
    p = window(f, *(touch(f, pa, size=1, step=n) for n, pa in enumerate(physical)))
    assert [e.cr2 for e in p.events if e.kind is ENTER] == expected
