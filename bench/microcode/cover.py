"""A covering design: few cells in which every value of each factor meets every value of each other one.

Factors of a cell are the signature, the platform id, where the BIOS's revision lies to the newest, the case and the
kernel. With a strength of 2 each pair of values that some cell has is in at least one chosen cell; with 1, each value.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

from bench.microcode.run import Cell

_Value = tuple[int, object]


def values_of(cell: Cell) -> tuple[_Value, ...]:
    """A cell's value of each factor, with the factor's number."""
    ground = cell.ground
    bios = "own" if ground.bios is None else "none" if ground.bios == 0 else ground.bios - ground.revision
    return tuple(enumerate((ground.signature, ground.platform_id, bios, cell.case.name, cell.subject.sha256)))


def cover(cells: Sequence[Cell], strength: int) -> list[Cell]:
    """The chosen cells, in the order in which they stand; the same ones each time.

    Greedy: rare combinations are covered first, by the cell that covers most of what is open; of equals
    by one whose values were chosen least, of those by the first."""
    having: dict[tuple[_Value, ...], list[int]] = defaultdict(list)
    for place, cell in enumerate(cells):
        for group in _groups(cell, strength):
            having[group].append(place)
    open_ = set(having)
    chosen: set[int] = set()
    used = Counter[_Value]()

    def worth(place: int) -> tuple[int, int]:
        """Of equals, one whose values were used least."""
        new = sum(each in open_ for each in _groups(cells[place], strength))
        return new, -sum(used[value] for value in values_of(cells[place]))

    for group in sorted(having, key=lambda each: len(having[each])):  # stable: equals in the order of the cells
        if group not in open_:
            continue
        best = max(having[group], key=worth)
        chosen.add(best)
        used.update(values_of(cells[best]))
        open_.difference_update(_groups(cells[best], strength))
    return [cells[place] for place in sorted(chosen)]


def _groups(cell: Cell, strength: int) -> Iterator[tuple[_Value, ...]]:
    return combinations(values_of(cell), strength)
