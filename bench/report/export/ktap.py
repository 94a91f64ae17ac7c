"""KTAP version 1: a subtest a run, a result a scenario (Documentation/dev-tools/ktap.rst).

KTAP has no word for a lab that broke, and its readers take every ``not ok`` for the kernel's: MISS and ERROR are
skipped tests, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.describe import printable
from bench.records import ScenarioResult, Verdict
from bench.report.export import story
from bench.report.history import LAB_TROUBLE
from bench.store import StoredRun


def ktap(runs: Sequence[StoredRun]) -> Iterator[str]:
    """The lines."""
    yield "KTAP version 1"
    yield f"1..{len(runs)}"
    for number, run in enumerate(runs, start=1):
        record = run.record
        name = _name(f"{record.machine} {record.image}")
        yield "    KTAP version 1"
        yield f"    # Subtest: {name}"
        yield f"    1..{len(record.scenarios)}"
        for place, scenario in enumerate(record.scenarios, start=1):
            if scenario.verdict is not Verdict.PASS:
                yield from (f"    # {line}" for line in story(scenario))
            yield f"    {_result(place, scenario)}"
        judged = [s.verdict for s in record.scenarios if s.verdict not in (*LAB_TROUBLE, Verdict.SKIP)]
        if Verdict.FAIL in judged:
            yield f"not ok {number} {name}"
        else:
            yield f"ok {number} {name}" + ("" if judged else f" # SKIP {record.verdict}")


def _result(number: int, scenario: ScenarioResult) -> str:
    name = _name(scenario.scenario)
    if scenario.verdict is Verdict.FAIL:
        return f"not ok {number} {name}"
    if scenario.verdict in LAB_TROUBLE:
        why = story(scenario)
        return f"ok {number} {name} # SKIP {scenario.verdict}: {_name(why[0] if why else 'the lab')}"
    if scenario.verdict is Verdict.SKIP:
        return f"ok {number} {name} # SKIP {_name(scenario.reason)}"
    return f"ok {number} {name}"


def _name(text: str) -> str:
    """A ``#`` would begin a directive."""
    return printable(text).replace("#", "_")
