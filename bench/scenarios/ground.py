"""What may be touched: one machine's memory, seen through one variant's direct map, around one loaded image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from bench.records import Machine
from bench.x86.direct_map import DirectMap
from bench.x86.paging import MASK_64
from bench.x86.pc_memory import GIB, MIB, low_end, ram_end, usable_ram

# Linux's __START_KERNEL_map: the image itself is mapped from here on (arch/x86/include/asm/page_64_types.h).
_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
# Loader, supervisor and the image's usual place lie in the first 64 MiB.
_LOADED_BELOW = 64 * MIB
# Boot loaders put the initrd as high as the kernel's header allows: below 2 GiB, or below the end of low memory.
_INITRD_LIMIT = 2 * GIB
_INITRD_BYTES = 16 * MIB
_IMAGE_BYTES = 4 * MIB


class Unfit(Exception):
    """The scenario cannot be made on this machine; the text says why."""


@dataclass(frozen=True)
class Ground:
    """The memory of `machine` as the handler variant with the direct map `layout` sees it, loaded at `place`."""

    machine: Machine
    layout: DirectMap
    place: int
    under_final_tables: bool = False
    """A kernel's own final tables are in use: they map RAM, in pages of up to 1 GiB, and nothing above it."""

    @cached_property
    def names(self) -> dict[str, int]:
        """Values of the names of `terms.NAMES`."""
        return {
            "maxmem": self.layout.maxmem,
            "maxphyaddr": self.first_impossible,
            "ram_end": ram_end(self.machine.memory_bytes),
            "page_offset": self.layout.page_offset,
            "noncanonical": self.layout.noncanonical,
        }

    @property
    def first_impossible(self) -> int:
        """2^MAXPHYADDR."""
        return 1 << self.machine.maxphyaddr

    @cached_property
    def ram(self) -> tuple[range, ...]:
        """Usable RAM that the direct map covers."""
        return tuple(r for r in usable_ram(self.machine.memory_bytes) if r.stop <= self.layout.maxmem)

    @cached_property
    def _kept(self) -> tuple[range, ...]:
        low = low_end(self.machine.memory_bytes)
        below_2_gib = min(low, _INITRD_LIMIT)
        return (
            range(_LOADED_BELOW),
            range(below_2_gib - _INITRD_BYTES, below_2_gib),
            range(low - _INITRD_BYTES, low),
            range(self.place, self.place + _IMAGE_BYTES),
        )

    def is_ram(self, physical: int, size: int) -> bool:
        """True if all `size` bytes are usable RAM."""
        return any(r.start <= physical and physical + size <= r.stop for r in self.ram)

    def is_free(self, physical: int, size: int) -> bool:
        """True if all `size` bytes are RAM that nobody uses, so that they may be written."""
        return self.is_ram(physical, size) and not any(
            physical < r.stop and r.start < physical + size for r in self._kept
        )

    def reaches_memory(self, virtual: int) -> bool:
        """True if the handler would map the byte at `virtual` and the processor could address what it mapped."""
        return self.layout.physical(virtual) < min(self.layout.maxmem, self.first_impossible)

    def check(self, virtual: int, size: int, *, writes: bool) -> None:
        """Raises Unfit if the access would reach memory that it must not reach."""
        last = (virtual + size - 1) & MASK_64
        if last >= _KERNEL_MAP or virtual >= _KERNEL_MAP:
            raise Unfit(f"{virtual:#018x} lies in the kernel's own map")
        if not self.reaches_memory(virtual) and not self.reaches_memory(last):
            return
        physical = self.layout.physical(virtual)
        if self.under_final_tables:
            if physical < -(-ram_end(self.machine.memory_bytes) // GIB) * GIB:
                raise Unfit(f"physical address {physical:#x} may be mapped by the final tables")
            return
        # A straddling access may begin below the direct map or end above what can exist.
        start = physical if self.reaches_memory(virtual) else 0
        end = self.layout.physical(last) + 1 if self.reaches_memory(last) else self.first_impossible
        if writes and not self.is_free(start, end - start):
            raise Unfit(f"physical address {start:#x} of {self.machine.name} is not free RAM")
        if not self.machine.allow_beyond_ram and not self.is_ram(start, end - start):
            raise Unfit(f"physical address {start:#x} is not RAM on {self.machine.name}")
