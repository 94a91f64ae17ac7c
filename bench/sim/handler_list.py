"""The handler alone, called with a list of addresses: what `bench sim` prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bench.errors import FormatError, UsageError
from bench.sim.early_pgtable import EarlyPageTables, Layout, Result
from bench.sim.variants import EARLY_DYNAMIC_PAGE_TABLES, row
from bench.x86.paging import MASK_64, TABLE_BYTES

# Where the image lies has no effect on which tables are taken: any place will do, here the usual link-time one.
_TEXT = 16 << 20
_LAYOUT = Layout(
    phys_text=_TEXT,
    phys_end=_TEXT + (2 << 20),
    phys_top=_TEXT + TABLE_BYTES,
    phys_dynamic=_TEXT + 2 * TABLE_BYTES,
    phys_kernel=_TEXT + (2 + EARLY_DYNAMIC_PAGE_TABLES) * TABLE_BYTES,
)


def fault_list(
    variant: str, pool: int, addresses: Iterable[int], page_offset: int | None = None
) -> Iterator[dict[str, object]]:
    """One call of the handler for each address, mapped by then or not, after the boot's own reset.

    Yields ``{"va", "outcome", "tables", "next", "resets"}`` for each: outcome is "mapped", "rejected", or
    "livelock" if the handler never returns, after which no more addresses are taken; `tables` are the indices
    taken from the pool in order, those lost to a reset in between included; `next` is next_early_pgt afterwards;
    `resets` counts from 0 at the start of the list. Last ``{"faults", "resets", "next"}``.
    Raises UsageError for an unknown variant or a pool that is not 1 to 64.
    """
    found = row(variant)
    base = found.page_offset if page_offset is None else page_offset
    if not 0 <= base <= MASK_64:
        raise UsageError(f"PAGE_OFFSET {base:#x} is not a number of 64 bits")
    tables = EarlyPageTables(found, pool, _LAYOUT, page_offset=base, nx=True)
    faults = 0
    for va in addresses:
        faults += 1
        result = tables.early_make_pgtable(va)
        yield {
            "va": f"0x{va:016x}",
            "outcome": "livelock" if result is Result.SPINS else result.value,
            "tables": list(tables.taken),
            "next": tables.next_early_pgt,
            "resets": tables.early_pgt_resets,
        }
        if result is Result.SPINS:
            break
    yield {"faults": faults, "resets": tables.early_pgt_resets, "next": tables.next_early_pgt}


_ADDRESS = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,16})")


def parse_address_list(text_lines: Iterable[str], source: str) -> Iterator[int]:
    """The addresses of a list: one in hexadecimal per line, ``0x`` optional; ``#`` begins a comment.

    Raises FormatError that names `source` and the line's number, counted from 1.
    """
    for number, line in enumerate(text_lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _ADDRESS.fullmatch(text)
        if not match:
            raise FormatError(
                f"line {number}: {text[:40]!a} is not an address of at most 16 hexadecimal digits", source=source
            )
        yield int(match[1], 16)
