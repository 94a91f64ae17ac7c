"""The early page tables: trampoline, reset and handler, bit for bit.

To be read beside arch/x86/kernel/head64.c and head_64.S, whose names it uses. All entries are in one flat array
of 64-bit integers, early_top_pgt (early_level4_pgt until 4.13) first, then the 64 tables of early_dynamic_pgts:
table n of the pool begins at entry (n + 1) * 512.

The seed's handler is in H. Peter Anvin's mail of 12 December 2012; the other is that of 3.9 to 7.3.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from dataclasses import dataclass
from enum import Enum

import numpy as np

from bench.errors import UsageError
from bench.sim.variants import EARLY_DYNAMIC_PAGE_TABLES, Capacity, NxRule, Variant
from bench.wire import START_KERNEL_MAP
from bench.x86.paging import (
    EARLY_LARGE_EXEC,
    ENTRIES,
    KERNPG_TABLE,
    MASK_64,
    PAGE_TABLE,
    PMD_SIZE,
    PUD_SIZE,
    SHIFT,
    TABLE_BYTES,
    Entry,
    index,
)

_LAST = ENTRIES - 1
_NO_ENTRIES = array("Q", bytes(TABLE_BYTES))
_GIB_OF_LEAVES = np.arange(0, PUD_SIZE, PMD_SIZE, dtype=np.uint64)


class Result(Enum):
    """What a call of the handler came to."""

    MAPPED = "mapped"
    REJECTED = "rejected"
    SPINS = "spins"
    """It never returns: it resets the pool and starts again without end."""


@dataclass(frozen=True)
class Layout:
    """Physical addresses of the image and its tables; `phys_base` is _text's distance from its link-time place."""

    phys_text: int
    phys_end: int
    phys_top: int
    phys_dynamic: int
    phys_kernel: int
    phys_base: int = 0

    def check(self, variant: Variant) -> None:
        """Raises UsageError for an image that startup_64 would refuse, or that cannot be."""
        if self.phys_text % PMD_SIZE or not 0 <= self.phys_text < variant.maxmem:
            raise UsageError(
                f"_text at physical {self.phys_text:#x}: not a multiple of 2 MiB below {variant.maxmem:#x}"
            )
        if not self.phys_text < self.phys_end <= self.phys_text + PUD_SIZE:
            raise UsageError(f"the image's end {self.phys_end:#x} is not within 1 GiB after {self.phys_text:#x}")
        for name in ("phys_top", "phys_dynamic", "phys_kernel"):
            where = getattr(self, name)
            if where % TABLE_BYTES or not self.phys_text <= where < self.phys_end:
                raise UsageError(f"{name} {where:#x} is not a page of the image")


class EarlyPageTables:
    """The tables, next_early_pgt and early_pgt_resets of one boot.

    `pool` (1 to 64) stands in for EARLY_DYNAMIC_PAGE_TABLES in every test of capacity; the 64 tables exist all
    the same. `nx` is what CPUID says. Raises UsageError for a pool that cannot be.
    """

    def __init__(self, variant: Variant, pool: int, layout: Layout, *, page_offset: int, nx: bool) -> None:
        if not 1 <= pool <= EARLY_DYNAMIC_PAGE_TABLES:
            raise UsageError(f"the pool has 1 to {EARLY_DYNAMIC_PAGE_TABLES} tables, not {pool}")
        layout.check(variant)
        self.variant = variant
        self.pool = pool
        self.layout = layout
        self.page_offset = page_offset
        self.entries = array("Q", bytes(TABLE_BYTES * (1 + EARLY_DYNAMIC_PAGE_TABLES)))
        self.entries[_LAST] = (layout.phys_kernel + PAGE_TABLE) & MASK_64
        self.next_early_pgt = 0
        self.early_pgt_resets = 0
        self.taken: list[int] = []
        """Tables taken from the pool by the last call of the handler, in order."""
        self.early_pmd_flags = EARLY_LARGE_EXEC
        if variant.nx is NxRule.ALWAYS or nx:
            self.early_pmd_flags |= int(Entry.NX)
        # What the handler believes to be the physical address of table 0: address - START_KERNEL_map, which is the
        # link-time one, and + phys_base where the variant adds it.
        believed = layout.phys_dynamic if variant.uses_phys_base else layout.phys_dynamic - layout.phys_base
        self._pointer = (believed & MASK_64) + KERNPG_TABLE
        self._pfn_mask = (1 << variant.pfn_bits) - TABLE_BYTES
        self._maxmem = variant.maxmem
        self._top_shift = SHIFT[variant.levels]
        self._lower_shifts = tuple(SHIFT[level] for level in range(variant.levels - 1, 1, -1))
        self._handle = {Capacity.BOTH_AT_ONCE: self._map_gib, Capacity.EACH: self._map_leaf}[variant.capacity]
        flat = np.frombuffer(self.entries, dtype=np.uint64)
        self._rows = [flat[at : at + ENTRIES] for at in range(ENTRIES, len(flat), ENTRIES)]

    def raw(self) -> bytes:
        """The 512 top entries, then the 64 x 512 of the pool, as they lie in an x86's memory."""
        if sys.byteorder == "little":
            return self.entries.tobytes()
        swapped = array("Q", self.entries)
        swapped.byteswap()
        return swapped.tobytes()

    def digest(self) -> int:
        """CRC-32 of `raw()`, as field crc of a `digest` record."""
        return zlib.crc32(self.raw())

    def startup_64(self) -> None:
        """The trampoline: _text's first GiB, or the image, mapped one to one for the jump to high addresses.

        Made by position-independent code before phys_base matters, so its pointers are right in every variant.
        """
        rules, at, levels = self.variant.trampoline, self.layout, self.variant.levels
        text, entries = at.phys_text, self.entries
        pud, pmd, p4d = ENTRIES, 2 * ENTRIES, 3 * ENTRIES
        pointer = [at.phys_dynamic + n * TABLE_BYTES + KERNPG_TABLE for n in range(3)]
        # The top index is never wrapped: the image lies in the lower half of the address space.
        slot = text >> self._top_shift
        entries[slot] = entries[slot + 1] = pointer[2] if levels == 5 else pointer[0]
        wrap = _LAST if rules.upper_wraps else 2 * ENTRIES - 1
        if levels == 5:
            entries[p4d + index(text, 4)] = pointer[0]
            entries[p4d + (index(text, 4) + 1 & wrap)] = pointer[0]
        entries[pud + index(text, 3)] = pointer[1]
        entries[pud + (index(text, 3) + 1 & wrap)] = pointer[1]
        image_leaves = -(-(at.phys_end - text) // PMD_SIZE)
        wrap = _LAST if rules.leaves_wrap else 2 * ENTRIES - 1
        for n in range(ENTRIES if rules.whole_gib else image_leaves):
            entries[pmd + (index(text, 2) + n & wrap)] = text + n * PMD_SIZE + EARLY_LARGE_EXEC

    def reset_early_page_tables(self) -> None:
        """Forget all mappings but the kernel's own; the pool's contents stay. Loads CR3, so nothing stays cached."""
        entries = self.entries
        entries[:_LAST] = _NO_ENTRIES[:_LAST]
        self.next_early_pgt = 0
        self.early_pgt_resets += 1

    def early_make_pgtable(self, address: int, *, early_tables_in_use: bool = True) -> Result:
        """The handler, called with CR2; `early_tables_in_use` says whether CR3 is early_top_pgt."""
        self.taken = []
        physaddr = address - self.page_offset & MASK_64
        if physaddr >= self._maxmem or (self.variant.tests_cr3 and not early_tables_in_use):
            return Result.REJECTED
        return self._handle(address, physaddr)

    def _take(self) -> int:
        """The next table of the pool."""
        table = self.next_early_pgt
        self.next_early_pgt = table + 1
        self.taken.append(table)
        return table

    def _follow(self, entry: int) -> int:
        """The pool's table that an entry points to, by the handler's own arithmetic."""
        table = (entry & self._pfn_mask) - (self._pointer - KERNPG_TABLE) >> SHIFT[1]
        if not 0 <= table < EARLY_DYNAMIC_PAGE_TABLES:
            raise UsageError(
                f"entry {entry:#x} leads the handler to a table that is not of the pool: is the direct map at "
                f"PAGE_OFFSET {self.page_offset:#x} meant to reach the kernel's own map at {START_KERNEL_MAP:#x}?"
            )
        return table

    def _map_gib(self, address: int, physaddr: int) -> Result:
        """The seed: a new PMD at every fault, for the whole GiB around the address."""
        entries = self.entries
        pgd = address >> self._top_shift & _LAST
        if entries[pgd] and self.next_early_pgt < self.pool:
            pud = self._follow(entries[pgd])
        else:
            if self.next_early_pgt >= self.pool - 1:
                self.reset_early_page_tables()
            pud = self._take()
            base = (pud + 1) * ENTRIES
            entries[base : base + ENTRIES] = _NO_ENTRIES
            entries[pgd] = self._pointer + pud * TABLE_BYTES
        pmd = self._take()
        first = (physaddr & -PUD_SIZE) + self.early_pmd_flags
        np.add(_GIB_OF_LEAVES, np.uint64(first), out=self._rows[pmd])
        entries[(pud + 1) * ENTRIES + (address >> SHIFT[3] & _LAST)] = self._pointer + pmd * TABLE_BYTES
        return Result.MAPPED

    def _map_leaf(self, address: int, physaddr: int) -> Result:
        """3.9 to 7.3: one leaf, under tables that are made only where there are none.

        After a reset the top is empty and every table that the retry reads it has zeroed itself, so a second reset
        in the same call finds the very state of the first: the loop is endless.
        """
        entries, shifts = self.entries, self._lower_shifts
        top = at = address >> self._top_shift & _LAST
        depth, again = 0, False
        while depth < len(shifts):
            entry = entries[at]
            if entry:
                table = self._follow(entry)
            elif self.next_early_pgt < self.pool:
                table = self._take()
                base = (table + 1) * ENTRIES
                entries[base : base + ENTRIES] = _NO_ENTRIES
                entries[at] = self._pointer + table * TABLE_BYTES
            else:
                self.reset_early_page_tables()
                if again:
                    return Result.SPINS
                depth, again, at = 0, True, top
                continue
            at = (table + 1) * ENTRIES + (address >> shifts[depth] & _LAST)
            depth += 1
        entries[at] = (physaddr & -PMD_SIZE) + self.early_pmd_flags
        return Result.MAPPED
