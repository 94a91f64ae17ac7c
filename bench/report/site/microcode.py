"""The microcode transition matrix: k of n boots with a confidence interval, from one revision to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from bench.store import StoredRun, Transition

# Two-sided 95 %.
_Z = 1.959964
_Key = tuple[int, int, int, int, str, bool]


@dataclass(frozen=True)
class Row:
    """Boots of one kernel that offered processors of one kind the same update: silicon's, or virtual ones'."""

    signature: int
    flags: int
    before: int
    offered: int | None
    image: str
    virtual: bool
    outcomes: dict[Transition, int]
    latest: StoredRun

    @property
    def boots(self) -> int:
        """All of them."""
        return sum(self.outcomes.values())

    @property
    def updated(self) -> int:
        """Those that came up with the new revision."""
        return self.outcomes.get(Transition.UPDATED, 0)

    @property
    def observed(self) -> int:
        """Those of which anyone could tell: the others say nothing about the update."""
        silent = (Transition.NOT_OBSERVABLE, Transition.FORBIDDEN)
        return self.boots - sum(self.outcomes.get(t, 0) for t in silent)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share that is updated."""
        return wilson(self.updated, self.observed)


def transitions(runs: Iterable[StoredRun]) -> list[Row]:
    """One row for each (signature, flags, from, to, kernel, virtual), in that order."""
    counts: dict[_Key, Counter[Transition]] = {}
    latest: dict[_Key, StoredRun] = {}
    for run in runs:
        for m in run.record.microcode:
            offered = -1 if m.offered is None else m.offered
            key = (run.record.signature, m.flags, m.before, offered, run.record.image, run.record.virtual)
            counts.setdefault(key, Counter())[m.outcome] += 1
            latest[key] = run
    return [
        Row(signature, flags, before, None if offered < 0 else offered, image, virtual, dict(counts[key]), latest[key])
        for key in sorted(counts)
        for signature, flags, before, offered, image, virtual in [key]
    ]


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share k / n at 95 %; (0, 1) if nothing was observed."""
    if not n:
        return 0.0, 1.0
    share, z2 = k / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
