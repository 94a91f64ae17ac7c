"""The forms that the early #PF handler took, one row each.

Sources: "seed-2012" is the patch in H. Peter Anvin's mail of 12 December 2012 on Linux 3.7; the others are
Linux's arch/x86/kernel/head64.c, arch/x86/kernel/head_64.S and arch/x86/mm/extable.c of the release named in
the row (7.3: also arch/x86/boot/startup/map_kernel.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from bench.errors import UsageError
from bench.x86.paging import PMD_SIZE, PUD_SIZE

# EARLY_DYNAMIC_PAGE_TABLES, the same from the seed to 7.3.
EARLY_DYNAMIC_PAGE_TABLES = 64


class Capacity(Enum):
    """How the handler finds out that the pool is used up."""

    BOTH_AT_ONCE = "both at once"
    """A present top entry is followed while next_early_pgt < pool; otherwise there must be room for PUD and PMD
    together: a reset if next_early_pgt >= pool - 1. The PMD is taken without a further test, and always."""
    EACH = "each"
    """Before each table: a reset if next_early_pgt >= pool, and all over again. Tables that exist are used."""


class NxRule(Enum):
    """When a leaf carries NX."""

    ALWAYS = "always"
    IF_CPU = "if CPUID has NX"


class Check(Enum):
    """The steps of the exception stub, in the order of the row."""

    HALT_IF_FLAG = "halt if the recursion flag is at its limit"
    COUNT = "increment the recursion flag"
    CODE_SEGMENT = "panic unless CS is the kernel's"
    PAGE_FAULT = "vector 14: make page tables for CR2"
    EXCEPTION_TABLE = "look the instruction up in the exception table"


@dataclass(frozen=True)
class Stub:
    """What the exception entry does around the handler."""

    order: tuple[Check, ...]
    flag_limit: int
    """HALT_IF_FLAG halts in silence when early_recursion_flag is at least this."""
    vector_survives: bool = True
    """False: the vector is in a caller-saved register across the call of the page-fault handler, so that the
    PANIC line of a rejected fault may show something else."""


@dataclass(frozen=True)
class Trampoline:
    """The identity map that startup_64 makes for the jump to high addresses, in tables 0 (PUD), 1 (PMD), 2 (P4D)."""

    whole_gib: bool
    """All 512 leaves from _text on; otherwise only those of the image."""
    upper_wraps: bool
    """The second PUD (and P4D) entry, for an image that crosses a border, is at (index + 1) mod 512; otherwise at
    index + 1, which may be the first entry of the table that follows."""
    leaves_wrap: bool
    """The same for the leaves."""


@dataclass(frozen=True)
class Variant:
    """One form of the handler. Sizes in bytes, `max_physmem_bits` and `pfn_bits` in bits."""

    name: str
    wire_name: str
    """Its name in `wire.VARIANTS`; with `levels` it finds the row."""
    about: str
    levels: int
    page_offset: int
    max_physmem_bits: int
    """MAXMEM is 1 << this; an address that far above PAGE_OFFSET is rejected."""
    pfn_bits: int
    """PTE_PFN_MASK keeps the bits 12 up to, not including, this one of an entry."""
    leaf_span: int
    """What one fault maps, naturally aligned: 2 MiB, or 1 GiB in 512 leaves."""
    capacity: Capacity
    nx: NxRule
    uses_phys_base: bool
    """Pointers are physical addresses; otherwise link-time ones, wrong wherever the image was relocated."""
    tests_cr3: bool
    """Faults are rejected once CR3 is no longer early_top_pgt."""
    counts_resets: bool
    """early_pgt_resets exists."""
    trampoline: Trampoline
    stub: Stub
    sets_page_offset: bool = False
    """PAGE_OFFSET gets the row's value right after the first reset, and is another one in `begin`."""
    mistakes: frozenset[int] = frozenset()
    """Numbers in MENDS of the mistakes that this row has."""

    @property
    def maxmem(self) -> int:
        return 1 << self.max_physmem_bits


_OLD_STUB = Stub(
    order=(Check.HALT_IF_FLAG, Check.COUNT, Check.CODE_SEGMENT, Check.PAGE_FAULT, Check.EXCEPTION_TABLE),
    flag_limit=2,
)
_NEW_STUB = Stub(
    order=(Check.COUNT, Check.PAGE_FAULT, Check.HALT_IF_FLAG, Check.CODE_SEGMENT, Check.EXCEPTION_TABLE),
    flag_limit=3,
)

_SEED = Variant(
    name="seed-2012",
    wire_name="seed-2012",
    about="the mail of 12 December 2012, on 3.7",
    levels=4,
    page_offset=0xFFFF_8800_0000_0000,
    max_physmem_bits=46,
    pfn_bits=46,
    leaf_span=PUD_SIZE,
    capacity=Capacity.BOTH_AT_ONCE,
    nx=NxRule.ALWAYS,
    uses_phys_base=False,
    tests_cr3=False,
    counts_resets=True,
    trampoline=Trampoline(whole_gib=True, upper_wraps=False, leaves_wrap=True),
    stub=_OLD_STUB,
    mistakes=frozenset({3, 4, 5, 9}),
)
_V3_9 = replace(
    _SEED,
    name="v3.9",
    wire_name="v3.9",
    about="3.9 to 3.12 with the fixes of their stable releases",
    leaf_span=PMD_SIZE,
    capacity=Capacity.EACH,
    nx=NxRule.IF_CPU,
    uses_phys_base=True,
    tests_cr3=True,
    counts_resets=False,
    trampoline=Trampoline(whole_gib=False, upper_wraps=True, leaves_wrap=True),
    mistakes=frozenset(),
)
# __startup_64() in C lost the wrapping from 4.13 to 5.1.
_V4_X = replace(
    _V3_9,
    name="v4.x",
    wire_name="v4.x",
    about="4.14 to 4.19.4",
    trampoline=Trampoline(whole_gib=False, upper_wraps=False, leaves_wrap=False),
    stub=replace(_NEW_STUB, vector_survives=False),
)


def _five_levels(row: Variant, name: str, about: str, page_offset: int) -> Variant:
    return replace(row, name=name, about=about, levels=5, page_offset=page_offset, max_physmem_bits=52, pfn_bits=52)


_V6_1 = replace(
    _V3_9,
    name="v6.1",
    wire_name="v6.1",
    about="6.1 (this form since 5.10)",
    page_offset=0xFFFF_8880_0000_0000,
    pfn_bits=52,
    stub=_NEW_STUB,
)
_V6_1_LA57 = _five_levels(_V6_1, "v6.1-la57", "6.1 with five levels", 0xFF11_0000_0000_0000)

ROWS: dict[str, Variant] = {
    row.name: row
    for row in (
        _SEED,
        _V3_9,
        replace(_V6_1_LA57, name="la57", wire_name="la57", about="the payload's five-level handler, as in 6.1"),
        _V4_X,
        _five_levels(_V4_X, "v4.x-la57", "4.14 to 4.19.4 with five levels", 0xFF10_0000_0000_0000),
        _V6_1,
        _V6_1_LA57,
        replace(_V6_1, name="v7.3", wire_name="v7.3", about="7.3"),
        replace(_V6_1_LA57, name="v7.3-la57", wire_name="v7.3", about="7.3 with five levels", sets_page_offset=True),
    )
}

_BY_WIRE = {(row.wire_name, row.levels): row for row in ROWS.values()}


def _mend_wrap(row: Variant) -> Variant:
    return replace(row, trampoline=replace(row.trampoline, upper_wraps=True))


# The seed's mistakes that a window may mend, as Linux later did: number -> the row without it.
# 3: no phys_base (mended in 3.9). 4: NX whether the processor has it or not (3.9.y, 3.10). 5: no test that the early
# tables are still in use (3.9). 9: the trampoline's second PUD entry does not wrap (3.9.y, 3.10).
MENDS: dict[int, Callable[[Variant], Variant]] = {
    3: lambda row: replace(row, uses_phys_base=True),
    4: lambda row: replace(row, nx=NxRule.IF_CPU),
    5: lambda row: replace(row, tests_cr3=True),
    9: _mend_wrap,
}


def row(name: str) -> Variant:
    """The row of this name. Raises UsageError with the names there are."""
    if name not in ROWS:
        raise UsageError(f"no handler variant {name!r}; there are {', '.join(ROWS)}")
    return ROWS[name]


def row_of_window(wire_name: str, levels: int, mend: int = 0) -> Variant:
    """The row of a window: its variant as the trace names it, its paging levels, bit n of `mend` for mistake n.

    Raises UsageError if there is no such handler. Bits of mistakes that the row does not have change nothing.
    """
    found = _BY_WIRE.get((wire_name, levels))
    if found is None:
        raise UsageError(f"handler variant {wire_name!r} does not exist with {levels} paging levels")
    for number in sorted(found.mistakes):
        if mend >> number & 1:
            found = MENDS[number](found)
    return found
