"""The store's runs as series: what each test said, run after run.

A test is one scenario of one image on one machine. MISS and ERROR are the lab's or the test's own trouble: they tell
nothing about a kernel, so they never enter a series; they are counted beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from bench.records import Verdict
from bench.report.fingerprint import fingerprint_of, telling
from bench.store import RunRecord, StoredRun

LAB_TROUBLE = frozenset({Verdict.MISS, Verdict.ERROR})
# How many of the latest results of a test are looked at.
RECENT = 10
# How `run` names the image of a demonstration: it has a bug on purpose, and its FAIL is no news.
_DEMONSTRATION = "+hidden-bug"


class Check(NamedTuple):
    """What is held against a baseline."""

    machine: str
    image: str
    scenario: str


@dataclass(frozen=True)
class Result:
    """What one run said of one test."""

    run: int
    started: datetime
    image_sha256: str
    verdict: Verdict
    fingerprint: str
    summary: str


@dataclass
class Series:
    """The results of a test, oldest first, and the runs in which lab trouble kept it from saying anything."""

    results: list[Result] = field(default_factory=list)
    trouble: list[Result] = field(default_factory=list)


class Sample(NamedTuple):
    """The recent results of a test, summed up."""

    passed: int
    judged: int
    """Passes and fails; the others measure only, or did not apply."""
    unstable: bool
    latest: Result


def is_demonstration(record: RunRecord) -> bool:
    """Whether the run's image has a bug that was built in to be found."""
    return record.image.endswith(_DEMONSTRATION)


def series(runs: Iterable[StoredRun]) -> dict[Check, Series]:
    """Series of every test that any of `runs` tried, in order of machine, image and scenario."""
    found: dict[Check, Series] = {}
    for run in sorted(runs, key=lambda r: (r.record.started, r.id)):
        record = run.record
        for s in record.scenarios:
            one = found.setdefault(Check(record.machine, record.image, s.scenario), Series())
            first = telling(s)
            summary = first.summary if first else s.reason
            result = Result(run.id, record.started, record.image_sha256, s.verdict, fingerprint_of(s), summary)
            (one.trouble if s.verdict in LAB_TROUBLE else one.results).append(result)
    return dict(sorted(found.items()))


def sample(results: Sequence[Result], recent: int = RECENT) -> Sample | None:
    """The last `recent` results summed up; None if there are none.

    Unstable: one image (one hash) both passed and failed, or the verdict changed three times or more. A change that
    stays, and one that is taken back, are no instability: they are a regression and its fix.
    """
    if not results:
        return None
    recent_results = results[-recent:]
    judged = [r for r in recent_results if r.verdict in (Verdict.PASS, Verdict.FAIL)]
    by_image: dict[str, set[Verdict]] = {}
    for r in judged:
        by_image.setdefault(r.image_sha256, set()).add(r.verdict)
    changes = sum(a.verdict is not b.verdict for a, b in pairwise(judged))
    unstable = any(len(v) > 1 for v in by_image.values()) or changes >= 3
    passed = sum(r.verdict is Verdict.PASS for r in judged)
    return Sample(passed, len(judged), unstable, recent_results[-1])


def last_change(results: Sequence[Result]) -> tuple[Result | None, Result | None]:
    """The last result before the present verdict began, and the first with it: last good and first bad, or the like."""
    judged = [r for r in results if r.verdict in (Verdict.PASS, Verdict.FAIL)]
    first = None
    for r in reversed(judged):
        if r.verdict is not judged[-1].verdict:
            return r, first
        first = r
    return None, first
