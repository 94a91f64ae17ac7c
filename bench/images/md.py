"""A partition as half of a mirror of Linux's md driver, the other half missing; without mdadm or a block device.

Layout of the superblock: Linux, include/uapi/linux/raid/md_p.h (struct mdp_superblock_1); its sum: drivers/md/md.c
(calc_sb_1_csum).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

SECTOR = 512
# Sectors: of the superblock (metadata 1.2), and of the first data.
_SUPER, FIRST = 8, 2048
_MAGIC, _MIRROR, _HALVES = 0xA92B4EFC, 1, 2
_IN_SYNC = (1 << 64) - 1
_FAULTY = 0xFFFE
_SUM_AT = 216


@dataclass(frozen=True)
class Half:
    """What goes in front of the mirror's content on its partition."""

    head: bytes
    """FIRST sectors."""
    sectors: int


def half_a_mirror(sectors: int) -> Half:
    """A partition of so many sectors as the half that is there."""
    inside = sectors - FIRST
    block = bytearray(256 + 2 * _HALVES)
    struct.pack_into("<4I16s32s", block, 0, _MAGIC, 1, 0, 0, b"bench mirror set", b"bench")
    struct.pack_into("<QiiQIII", block, 64, 0, _MIRROR, 0, inside, 0, _HALVES, 0)
    struct.pack_into("<4QII16s", block, 128, FIRST, inside, _SUPER, 0, 0, 0, b"bench mirror one")
    struct.pack_into("<QQQII", block, 192, 0, 1, _IN_SYNC, 0, _HALVES)
    struct.pack_into("<2H", block, 256, 0, _FAULTY)
    struct.pack_into("<I", block, _SUM_AT, superblock_sum(block))
    head = bytearray(FIRST * SECTOR)
    head[_SUPER * SECTOR : _SUPER * SECTOR + len(block)] = block
    return Half(bytes(head), inside)


def superblock_sum(block: bytes | bytearray) -> int:
    """The sum of its 32-bit words, its own place left out, folded to 32 bits."""
    words: tuple[int, ...] = struct.unpack(f"<{len(block) // 4}I", block)
    total = sum(words) - words[_SUM_AT // 4]
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF
