"""Where each handler variant's direct map of physical memory lies.

Sources: PAGE_OFFSET from arch/x86/include/asm/page_64_types.h (Linux 3.7 and 3.9; 4.20 and later for the bases
that leave a slot to the LDT); MAXMEM is 1 << MAX_PHYSMEM_BITS, from arch/x86/include/asm/sparsemem.h (46 bits
with four levels, 52 with five).
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.x86.paging import MASK_64


@dataclass(frozen=True)
class DirectMap:
    """Base address, size in bytes and paging levels of a direct map."""

    page_offset: int
    maxmem: int
    levels: int

    def virtual(self, physical: int) -> int:
        """Linear address of a physical one, modulo 2^64."""
        return (self.page_offset + physical) & MASK_64

    def physical(self, virtual: int) -> int:
        """Physical address of a linear one, modulo 2^64; the early handler takes it if it is below `maxmem`."""
        return (virtual - self.page_offset) & MASK_64

    @property
    def noncanonical(self) -> int:
        """The lowest linear address that is not canonical: 2^47 with four levels, 2^56 with five."""
        return 1 << (9 * self.levels + 11)


_UNTIL_4_19 = DirectMap(0xFFFF_8800_0000_0000, 1 << 46, 4)
_SINCE_4_20 = DirectMap(0xFFFF_8880_0000_0000, 1 << 46, 4)
_FIVE_LEVELS = DirectMap(0xFF11_0000_0000_0000, 1 << 52, 5)

# By the names of wire.VARIANTS.
DIRECT_MAPS: dict[str, DirectMap] = {
    "seed-2012": _UNTIL_4_19,
    "v3.9": _UNTIL_4_19,
    "la57": _FIVE_LEVELS,
    "v4.x": _UNTIL_4_19,
    "v6.1": _SINCE_4_20,
    "v7.3": _SINCE_4_20,
}


def direct_map(variant: str, levels: int) -> DirectMap:
    """The direct map of a kernel whose handler is `variant`, with 4 or 5 paging levels (4.20 and later)."""
    return _FIVE_LEVELS if levels == 5 else DIRECT_MAPS[variant]
