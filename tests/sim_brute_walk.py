"""A page walk from first principles, to hold the simulator's against.

It knows nothing of handlers or variants: physical memory is a map from page numbers to 4096 bytes, everything
else is zeros, and the rules are read off the manual (SDM Vol. 3A, 4-Level Paging and 5-Level Paging) bit by bit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

ZEROS = bytes(4096)


@dataclass
class Memory:
    pages: dict[int, bytes]

    @classmethod
    def of(cls, raw: bytes, phys_top: int, phys_pool: int) -> Memory:
        """Memory that holds nothing but a top table and a pool: `raw` is the one followed by the other."""
        pages = {phys_top >> 12: raw[:4096]}
        for n in range(1, len(raw) // 4096):
            pages[(phys_pool >> 12) + n - 1] = raw[n * 4096 : n * 4096 + 4096]
        return cls(pages)

    def table(self, number: int) -> tuple[int, ...]:
        return struct.unpack("<512Q", self.pages.get(number, ZEROS))


def bit(value: int, n: int) -> bool:
    return format(value, "064b")[63 - n] == "1"


def field(value: int, high: int, low: int) -> int:
    return int(format(value, "064b")[63 - high : 64 - low], 2)


def digits(va: int, levels: int) -> list[int]:
    """The table indices, top first."""
    return {
        4: [field(va, 47, 39), field(va, 38, 30), field(va, 29, 21), field(va, 20, 12)],
        5: [field(va, 56, 48), field(va, 47, 39), field(va, 38, 30), field(va, 29, 21), field(va, 20, 12)],
    }[levels]


@dataclass(frozen=True)
class Outcome:
    """Where a walk came to: the entries read, and the physical address or the error code."""

    entries: tuple[int, ...]
    phys: int | None
    error: int | None


def walk(memory: Memory, cr3: int, va: int, kind: str, *, levels: int, maxphyaddr: int, nxe: bool) -> Outcome | str:
    """Translate `va` for a supervisor's "r", "w" or "x" with CR0.WP set; "#GP" if it is not canonical."""
    top_bit = {4: 47, 5: 56}[levels]
    if len({bit(va, n) for n in range(top_bit, 64)}) != 1:
        return "#GP"
    how = (2 if kind == "w" else 0) + (16 if kind == "x" and nxe else 0)
    number, entries, may_write, may_run = cr3 >> 12, [], True, True
    for depth, slot in enumerate(digits(va, levels)):
        from_bottom = levels - depth
        entry = memory.table(number)[slot]
        entries.append(entry)
        if not bit(entry, 0):
            return Outcome(tuple(entries), None, how)
        page_bits = {3: 30, 2: 21, 1: 12}.get(from_bottom)
        is_page = from_bottom == 1 or (from_bottom in (2, 3) and bit(entry, 7))
        bad = any(bit(entry, n) for n in range(maxphyaddr, 52))
        bad |= bit(entry, 63) and not nxe
        bad |= from_bottom > 3 and bit(entry, 7)
        if is_page and page_bits and page_bits > 12:
            bad |= any(bit(entry, n) for n in range(13, page_bits))
        if bad:
            return Outcome(tuple(entries), None, how | 9)
        may_write &= bit(entry, 1)
        may_run &= not bit(entry, 63)
        if is_page:
            assert page_bits
            if (kind == "w" and not may_write) or (kind == "x" and nxe and not may_run):
                return Outcome(tuple(entries), None, how | 1)
            phys = field(entry, 51, page_bits) << page_bits | field(va, page_bits - 1, 0)
            return Outcome(tuple(entries), phys, None)
        number = field(entry, 51, 12)
    raise AssertionError("a walk ends at a page")


def mapped(memory: Memory, cr3: int, *, levels: int) -> Iterator[tuple[int, int, int]]:
    """Every large page that is mapped, the last top entry left out: virtual address, leaf, size in bits."""

    def below(number: int, depth: int, prefix: int) -> Iterator[tuple[int, int, int]]:
        from_bottom = levels - depth
        for slot, entry in enumerate(memory.table(number)):
            if not bit(entry, 0) or (not depth and slot == 511):
                continue
            here = prefix << 9 | slot
            if from_bottom == 2:
                if bit(entry, 7):
                    va = here << 21
                    sign = {4: 47, 5: 56}[levels]
                    yield (va | (1 << 64) - (1 << sign) if bit(va, sign) else va), entry, 21
            else:
                yield from below(field(entry, 51, 12), depth + 1, here)

    yield from below(cr3 >> 12, 0, 0)
