"""Four- and five-level paging: how an address is split, what an entry's bits mean, which are reserved.

Levels are numbered from the page upward: 1 page table, 2 PMD (page directory), 3 PUD (page-directory-pointer
table), 4 P4D (PML4; the top with four levels, where Linux calls it PGD), 5 PGD (PML5).

Source: SDM Vol. 3A, "Paging", sections "4-Level Paging and 5-Level Paging" (index bits, tables of the
entries' formats) and "Use of CR3 with 4-Level Paging and 5-Level Paging"; canonical form in Vol. 1,
"Canonical Addressing".
"""

from __future__ import annotations

from enum import IntFlag
from functools import cache

PAGE_SHIFT = 12
ENTRIES = 512
TABLE_BYTES = 4096
LEVEL_BITS = 9
MASK_64 = (1 << 64) - 1

PTE, PMD, PUD, P4D, PGD5 = 1, 2, 3, 4, 5
LEVEL_NAMES = {PTE: "PTE", PMD: "PMD", PUD: "PUD", P4D: "P4D", PGD5: "PGD"}

# Address bits below each level's index.
SHIFT = {level: PAGE_SHIFT + LEVEL_BITS * (level - 1) for level in range(PTE, PGD5 + 1)}
PMD_SIZE = 1 << SHIFT[PMD]
PUD_SIZE = 1 << SHIFT[PUD]

# Bits 51:12 of an entry or of CR3: a physical address, as far as MAXPHYADDR allows.
PHYSICAL_BITS = 52
ADDRESS_MASK = (1 << PHYSICAL_BITS) - (1 << PAGE_SHIFT)


class Entry(IntFlag):
    """Bits of a paging-structure entry."""

    P = 1 << 0
    RW = 1 << 1
    US = 1 << 2
    PWT = 1 << 3
    PCD = 1 << 4
    A = 1 << 5
    D = 1 << 6
    PS = 1 << 7
    """A 2 MiB page at level 2, a 1 GiB page at level 3; the PAT bit at level 1; reserved above."""
    G = 1 << 8
    """Global: kept over a load of CR3, if CR4.PGE was set when the translation was cached."""
    PAT_LARGE = 1 << 12
    NX = 1 << 63
    """Execute-disable; reserved while EFER.NXE is clear."""


# Linux's composites (arch/x86/include/asm/pgtable_types.h, 3.7 to 7.3).
KERNPG_TABLE = int(Entry.P | Entry.RW | Entry.A | Entry.D)
PAGE_TABLE = int(KERNPG_TABLE | Entry.US)
PAGE_KERNEL_LARGE_EXEC = int(KERNPG_TABLE | Entry.PS | Entry.G)
PAGE_KERNEL_LARGE = int(PAGE_KERNEL_LARGE_EXEC | Entry.NX)
# What the early tables use: no global pages, since a reset flushes by loading CR3.
EARLY_LARGE_EXEC = PAGE_KERNEL_LARGE_EXEC & ~int(Entry.G)

EFER_NXE = 1 << 11
CR4_PGE = 1 << 7
CR4_LA57 = 1 << 12


def index(va: int, level: int) -> int:
    """The index, 0 to 511, of linear address `va` in a table of `level` (1 to 5)."""
    return va >> SHIFT[level] & ENTRIES - 1


def split(va: int, levels: int) -> tuple[int, ...]:
    """The indices of `va`, top table first, page table last; `levels` is 4 or 5."""
    return tuple(index(va, level) for level in range(levels, 0, -1))


def virtual_bits(levels: int) -> int:
    """48 or 57: the bits of a linear address that are translated."""
    return SHIFT[levels] + LEVEL_BITS


def canonical(va: int, levels: int) -> int:
    """`va` with its upper bits made copies of the highest translated one."""
    sign = 1 << virtual_bits(levels) - 1
    return ((va & (sign << 1) - 1) ^ sign) - sign & MASK_64


def is_canonical(va: int, levels: int) -> bool:
    """Whether `va` (64 bits) may be used at all: if not, the access raises #GP(0), or #SS(0) on the stack."""
    return canonical(va, levels) == va


def may_be_leaf(level: int) -> bool:
    """Whether an entry of this level can map a page: always at 1, with PS set at 2 and 3, never above."""
    return level <= PUD


@cache
def reserved_bits(level: int, *, leaf: bool, maxphyaddr: int, nxe: bool, gbpages: bool = True) -> int:
    """Mask of the bits that must be zero in a present entry.

    `leaf` says whether the entry maps a page (PS set at levels 2 and 3), `maxphyaddr` is CPUID leaf 0x80000008
    EAX[7:0], `nxe` EFER.NXE, `gbpages` CPUID's 1 GiB pages. With PS set in a PUD entry of a processor without
    1 GiB pages, PS itself is the reserved bit.
    """
    mask = (1 << PHYSICAL_BITS) - (1 << maxphyaddr)
    if not nxe:
        mask |= Entry.NX
    no_such_page = leaf and level == PUD and not gbpages
    if no_such_page or not may_be_leaf(level):
        mask |= Entry.PS
    elif leaf and level in (PMD, PUD):
        mask |= (1 << SHIFT[level]) - (1 << PAGE_SHIFT + 1)
    return int(mask)
