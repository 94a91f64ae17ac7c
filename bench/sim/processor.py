"""The processor under the handler: how it walks the tables, what it reports, what it may remember.

Source: SDM Vol. 3A, "Paging", sections "4-Level Paging and 5-Level Paging", "Access Rights", "Page-Fault
Exceptions" and "Caching Translation Information".

**What a TLB may keep.** Not-present entries and entries with reserved bits are never cached, so a new entry
works at once. Loading CR3 drops every translation that is not global and all cached upper entries; the early
tables make no global ones. In between, the faithful handlers change no present entry into one that translates
differently: the seed replaces a PUD entry by one with equal leaves, mainline overwrites a leaf with itself. So
whatever the TLB has kept, it gives what a walk of memory gives, and a walk of memory is all that is modelled.
The processor is free to fill its TLB ahead of use (harmless here), and free in the order in which it examines
the two pages of an access that straddles a border: the caller chooses.
Accessed and dirty bits are set in every entry the handler makes, so the processor writes none.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from bench.errors import UsageError
from bench.sim.early_pgtable import EarlyPageTables
from bench.wire import START_KERNEL_MAP, Access
from bench.x86.fault import GENERAL_PROTECTION, PAGE_FAULT, PageFault
from bench.x86.paging import (
    ADDRESS_MASK,
    EARLY_LARGE_EXEC,
    ENTRIES,
    KERNPG_TABLE,
    MASK_64,
    PGD5,
    PMD,
    PMD_SIZE,
    PTE,
    PUD,
    PUD_SIZE,
    SHIFT,
    TABLE_BYTES,
    Entry,
    index,
    is_canonical,
    may_be_leaf,
    reserved_bits,
)

_P, _RW, _PS, _NX = (int(bit) for bit in (Entry.P, Entry.RW, Entry.PS, Entry.NX))
_ERROR_P = int(PageFault.P)
_ERROR_RSVD = int(PageFault.RSVD)
_LAST = ENTRIES - 1


@dataclass(frozen=True)
class Quirk:
    """A known departure of a processor (or of what plays one) from the manual."""

    about: str
    source: str
    rsvd_error_clears: int = 0
    """Bits that a reserved-bit fault's error code lacks."""


QUIRKS: dict[str, Quirk] = {
    "qemu-tcg-rsvd-without-p": Quirk(
        about="a reserved-bit fault reports error code 8, 0xa or 0x18 instead of 9, 0xb or 0x19",
        source="measured on QEMU 7.2 with TCG; SDM Vol. 3A, Page-Fault Exceptions: RSVD comes with P",
        rsvd_error_clears=_ERROR_P,
    ),
}


@dataclass(frozen=True)
class Raised:
    """An exception that an access raises: vector, error code, and the level of the entry that was at fault."""

    vector: int
    error: int
    level: int | None = None


@dataclass(frozen=True)
class Walk:
    """Entries found by walking from CR3; a level that was not reached is 0, one that the model does not hold is None.

    `left` is the level of the first table that lies outside the image and was therefore not read, 0 if there is none.
    """

    pgd: int | None = 0
    p4d: int | None = 0
    pud: int | None = 0
    pmd: int | None = 0
    left: int | None = 0


class Processor:
    """One processor with CR3 and CR2, walking the handler's tables or the final ones.

    `nxe` is EFER.NXE, `quirks` are names of QUIRKS (others are not the processor's and change nothing).
    """

    def __init__(
        self, tables: EarlyPageTables, *, maxphyaddr: int, nxe: bool, cr2: int = 0, quirks: frozenset[str] = frozenset()
    ) -> None:
        self.tables = tables
        self.cr3 = tables.layout.phys_top
        self.cr2 = cr2
        self.nxe = nxe
        self.levels = tables.variant.levels
        self._final = array("Q")
        self._phys_final = 0
        self._unknown_tables = False
        self._reserved = {
            (level, leaf): reserved_bits(level, leaf=leaf, maxphyaddr=maxphyaddr, nxe=nxe)
            for level in range(PTE, PGD5 + 1)
            for leaf in (False, True)
        }
        cleared = 0
        for name in quirks & QUIRKS.keys():
            cleared |= QUIRKS[name].rsvd_error_clears
        self._rsvd = (_ERROR_P | _ERROR_RSVD) & ~cleared
        at = tables.layout
        link = START_KERNEL_MAP + at.phys_text - at.phys_base
        self._image = range(link, link + -(-(at.phys_end - at.phys_text) // PMD_SIZE) * PMD_SIZE)

    @property
    def early_tables_in_use(self) -> bool:
        """Whether CR3 is early_top_pgt."""
        return self.cr3 == self.tables.layout.phys_top

    def raises(self, va: int, access: Access) -> Raised | None:
        """What an access to the page of `va` raises, None if it goes through. MOVE is not an access: it is two.

        The checks in their order: canonical form; then, level by level from the top, P and then the reserved
        bits; at the leaf the access rights.
        """
        if not is_canonical(va, self.levels):
            return Raised(GENERAL_PROTECTION, 0)
        error = 0
        if access is Access.WRITE:
            error = int(PageFault.W)
        elif access is Access.FETCH and self.nxe:
            error = int(PageFault.ID)
        if index(va, self.levels) == _LAST:
            # The kernel's own map: the model holds nothing of it but that it covers the image.
            return None if va in self._image else Raised(PAGE_FAULT, error)
        if self._unknown_tables:
            return Raised(PAGE_FAULT, error)
        table, writable, no_execute = self.cr3, _RW, 0
        for level in range(self.levels, 0, -1):
            entry = self._read(table + index(va, level) * 8)
            if not entry & _P:
                return Raised(PAGE_FAULT, error, level)
            leaf = level == PTE or (may_be_leaf(level) and bool(entry & _PS))
            if entry & self._reserved[level, leaf]:
                return Raised(PAGE_FAULT, error | self._rsvd, level)
            writable &= entry
            no_execute |= entry & _NX
            if leaf:
                break
            table = entry & ADDRESS_MASK
        forbidden = (access is Access.WRITE and not writable) or (access is Access.FETCH and self.nxe and no_execute)
        return Raised(PAGE_FAULT, error | _ERROR_P, level) if forbidden else None

    def walk(self, va: int) -> Walk:
        """The entries for `va`, read as the trace does: from CR3, through tables inside the image only.

        Stops at an entry that is not present (its value counts all the same) and at a leaf.
        """
        if self._unknown_tables:
            return Walk(None, None, None, None, None)
        found: dict[int, int | None] = {}
        left: int | None = 0
        table = self.cr3
        at = self.tables.layout
        for level in range(self.levels, 0, -1):
            if not at.phys_text <= table < at.phys_end:
                left = level
                break
            if level < self.levels and index(va, self.levels) == _LAST:
                left = None
                found.update(dict.fromkeys(range(level, 0, -1)))
                break
            entry = found[level] = self._read(table + index(va, level) * 8)
            if not entry & _P or (may_be_leaf(level) and entry & _PS):
                break
            table = entry & ADDRESS_MASK
        p4d = found.get(self.levels - 1, 0) if self.levels == PGD5 else 0
        return Walk(found.get(self.levels, 0), p4d, found.get(PUD, 0), found.get(PMD, 0), left)

    def load_final(self, phys_top: int, span_bytes: int, *, nx: bool) -> None:
        """CR3 <- the final tables: top, [P4D,] PUD and PMDs, one after the other from `phys_top`.

        They map [PAGE_OFFSET, PAGE_OFFSET + span_bytes) in 2 MiB leaves and, by the early tables' own last entry,
        the kernel.
        """
        tables = self.tables
        base = tables.page_offset
        if span_bytes % PMD_SIZE or not 0 < span_bytes <= PUD_SIZE or base % PUD_SIZE:
            raise UsageError(f"final tables for {span_bytes:#x} bytes from {base:#x} are not within one PMD table")
        final = array("Q", bytes(TABLE_BYTES * (self.levels - 1)))
        for depth, level in enumerate(range(self.levels, PMD, -1)):
            final[depth * ENTRIES + index(base, level)] = phys_top + (depth + 1) * TABLE_BYTES + KERNPG_TABLE
        flags = EARLY_LARGE_EXEC | (_NX if nx else 0)
        pmd = (self.levels - PMD) * ENTRIES
        for n in range(span_bytes // PMD_SIZE):
            final[pmd + n] = n * PMD_SIZE + flags
        final[_LAST] = tables.entries[_LAST]
        self._final, self._phys_final = final, phys_top
        self.cr3 = phys_top

    def leave_early_tables(self, phys_top: int) -> None:
        """CR3 <- tables of which the model knows nothing but where they are, and that what a script touches behind
        this point is not in them."""
        self.cr3 = phys_top
        self._unknown_tables = True

    def _read(self, phys: int) -> int:
        """The 8 bytes of memory at `phys`: of the early or final tables; else zeros.

        The bench sees to it that RAM outside the image, where link-time pointers of a relocated image lead, is zero.
        """
        tables = self.tables
        at = tables.layout
        for start, first, count in (
            (at.phys_dynamic, ENTRIES, len(tables.entries) - ENTRIES),
            (at.phys_top, 0, ENTRIES),
        ):
            offset = phys - start
            if 0 <= offset < count * 8:
                return tables.entries[first + (offset >> 3)]
        offset = phys - self._phys_final
        if 0 <= offset < len(self._final) * 8:
            return self._final[offset >> 3]
        if at.phys_text <= phys < at.phys_end:
            raise UsageError(
                f"the walk reads physical {phys:#x}, inside the image at {at.phys_text:#x} but in none of its tables: "
                "an image without phys_base must not overlap its link-time place"
            )
        return 0


def pieces(va: int, size: int) -> tuple[int, ...]:
    """The addresses that a fault of an access can report: `va`, and the first byte on the second page, if any."""
    second = (va | (1 << SHIFT[PTE]) - 1) + 1
    return (va,) if va + size <= second else (va, second & MASK_64)
