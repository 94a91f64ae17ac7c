"""Two images, two machines, two dates or two runs, field by field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from enum import StrEnum

from bench.describe import value_words
from bench.errors import UsageError
from bench.records import ScenarioResult, Verdict
from bench.report.fingerprint import fingerprint_of, telling
from bench.report.history import LAB_TROUBLE
from bench.store import StoredRun

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Kind(StrEnum):
    """What the two sides are."""

    RUN = "run"
    DATE = "date"
    IMAGE = "image"
    MACHINE = "machine"


@dataclass(frozen=True)
class Difference:
    """One field of one test that is not the same on both sides."""

    machine: str
    image: str
    scenario: str
    """What both sides have in common; empty where it is what is compared, and where it is about the image alone."""
    name: str
    left: str
    right: str


@dataclass(frozen=True)
class Comparison:
    """What became of comparing `left` with `right`."""

    kind: Kind
    left: str
    right: str
    tests: int
    """Tests that both sides tell something of."""
    equal: int
    differences: tuple[Difference, ...]
    only_left: tuple[tuple[str, str, str], ...]
    only_right: tuple[tuple[str, str, str], ...]


_Key = tuple[str, str, str]
_Side = Mapping[_Key, tuple[StoredRun, ScenarioResult]]


def compare_sides(runs: Sequence[StoredRun], left: str, right: str) -> Comparison:
    """The latest that each side says of each test; lab trouble counts only where there is nothing else.

    Raises UsageError if the two are not two runs, two dates, two images or two machines of the store.
    """
    kind = kind_of(runs, left)
    if kind is not kind_of(runs, right):
        raise UsageError(f"{left!r} is a {kind}, {right!r} a {kind_of(runs, right)}: compare two of one kind")
    a, b = _side(runs, kind, left), _side(runs, kind, right)
    both = sorted(a.keys() & b.keys())
    differences = [d for key in both for d in _differences(key, a[key], b[key])]
    differing = {(d.machine, d.image, d.scenario) for d in differences}
    made_of = dict.fromkeys(d for key in both for d in _made_of(key[1], a[key][0], b[key][0]))
    only_left, only_right = (tuple(sorted(x.keys() - y.keys())) for x, y in ((a, b), (b, a)))
    equal = len(both) - len(differing)
    return Comparison(kind, left, right, len(both), equal, (*made_of, *differences), only_left, only_right)


def kind_of(runs: Sequence[StoredRun], side: str) -> Kind:
    """What `side` names. Raises UsageError if it is nothing that the store knows."""
    if side.isdigit():
        if any(run.id == int(side) for run in runs):
            return Kind.RUN
    elif _DATE.fullmatch(side):
        return Kind.DATE
    elif any(run.record.image == side for run in runs):
        return Kind.IMAGE
    elif any(run.record.machine == side for run in runs):
        return Kind.MACHINE
    raise UsageError(f"{side!r} is no run, date (2026-11-24), image or machine of the store; see `bench results list`")


def _side(runs: Sequence[StoredRun], kind: Kind, side: str) -> _Side:
    found: dict[_Key, tuple[StoredRun, ScenarioResult]] = {}
    for run in sorted(runs, key=lambda r: (r.record.started, r.id)):
        if not _belongs(run, kind, side):
            continue
        record = run.record
        machine = "" if kind in (Kind.MACHINE, Kind.RUN) else record.machine
        image = "" if kind in (Kind.IMAGE, Kind.RUN) else record.image
        for scenario in record.scenarios:
            key = (machine, image, scenario.scenario)
            if scenario.verdict not in LAB_TROUBLE or key not in found:
                found[key] = (run, scenario)
    return found


def _belongs(run: StoredRun, kind: Kind, side: str) -> bool:
    match kind:
        case Kind.RUN:
            return run.id == int(side)
        case Kind.IMAGE:
            return run.record.image == side
        case Kind.MACHINE:
            return run.record.machine == side
        case Kind.DATE:
            # What was known at the end of that day.
            try:
                day = datetime.strptime(side, "%Y-%m-%d").date()
            except ValueError:
                raise UsageError(f"{side!r} is no date") from None
            return run.record.started <= datetime.combine(day, time.max, UTC)


def _differences(
    key: _Key, left: tuple[StoredRun, ScenarioResult], right: tuple[StoredRun, ScenarioResult]
) -> Iterator[Difference]:
    a, b = dict(_fields(left[1])), dict(_fields(right[1]))
    for name in a:
        if a[name] != b.get(name, ""):
            yield Difference(*key, name, a[name], b.get(name, ""))


def _fields(scenario: ScenarioResult) -> Iterator[tuple[str, str]]:
    """All that is compared. How long a run took and when it was are no differences."""
    yield "verdict", scenario.verdict
    if scenario.verdict is Verdict.SKIP:
        return
    yield "windows", str(scenario.windows)
    yield "faults predicted", str(scenario.predicted)
    yield "faults replayed", str(scenario.replayed)
    yield "resets", str(scenario.resets)
    yield "digests", str(scenario.digests)
    first = telling(scenario)
    yield "finding", fingerprint_of(scenario)
    yield "summary", first.summary if first else ""
    yield "field", first.field_name if first else ""
    yield "model", value_words(first.field_name, first.expected) if first else ""
    yield "machine's side", value_words(first.field_name, first.observed) if first else ""


def _made_of(image: str, left: StoredRun, right: StoredRun) -> Iterator[Difference]:
    """What the two images are made of, where that differs."""
    a, b = left.record.details, right.record.details
    for name in sorted(a.keys() | b.keys()):
        if a.get(name, "") != b.get(name, ""):
            yield Difference("", image, "", name, a.get(name, ""), b.get(name, ""))
