"""The runs of entries in which the trace dumps a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.x86.paging import MASK_64


def runs(entries: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Index, count, first entry and stride of each run of `entries`, in order; empty entries belong to none.

    A run goes on while entries are not empty and differ, modulo 2^64, by what the first two differ by. A lone
    entry has stride 0.
    """
    start = 0
    while start < len(entries):
        first = entries[start]
        if not first:
            start += 1
            continue
        end, stride = start + 1, 0
        if end < len(entries) and entries[end]:
            stride = entries[end] - first & MASK_64
            while end < len(entries) and entries[end] and entries[end] - entries[end - 1] & MASK_64 == stride:
                end += 1
        yield start, end - start, first, stride
        start = end
