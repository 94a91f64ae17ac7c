"""Where the RAM of a PC lies in the physical address space.

Source: QEMU's `pc` machines (7.2, hw/i386/pc_piix.c; checked with `info mtree -f` and with the firmware's own
map, INT 15h E820, for 2 GiB to 20 TiB). RAM fills the space below 4 GiB; with 3.5 GiB or more the low part is cut
at 3 GiB and the rest goes on at 4 GiB. Chipsets of real machines cut elsewhere; they have a map of their own.
"""

from __future__ import annotations

GIB = 1 << 30
MIB = 1 << 20

# From here on memory is split.
_SPLIT_FROM = 0xE000_0000
_LOW_WHEN_SPLIT = 3 * GIB
_HIGH_FROM = 4 * GIB

# Firmware's data area, video memory and ROMs; the data area starts at 0x9fc00 or a little below.
LEGACY_HOLE = range(0x8_0000, 0x10_0000)
# Firmware keeps its tables at the top of low memory (measured: 128 to 200 KiB).
_FIRMWARE_BYTES = MIB


def low_end(memory_bytes: int) -> int:
    """First address above the RAM that lies below 4 GiB, firmware's tables included."""
    return _LOW_WHEN_SPLIT if memory_bytes >= _SPLIT_FROM else memory_bytes


def ram_end(memory_bytes: int) -> int:
    """First address above all RAM."""
    low = low_end(memory_bytes)
    return _HIGH_FROM + memory_bytes - low if memory_bytes > low else low


def usable_ram(memory_bytes: int) -> tuple[range, ...]:
    """Ranges of physical addresses that a program may take for RAM, in rising order."""
    low = low_end(memory_bytes)
    ranges = [range(LEGACY_HOLE.start), range(LEGACY_HOLE.stop, low - _FIRMWARE_BYTES)]
    if memory_bytes > low:
        ranges.append(range(_HIGH_FROM, ram_end(memory_bytes)))
    return tuple(ranges)
