"""What came of a boot of a kernel without a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.outcome import BootOutcome
from bench.records import Comparison, Event, Finding, Prediction, ScenarioResult, Verdict, Window

COMPONENT = "exception log"


@dataclass(frozen=True)
class UnpatchedVerdict:
    """What came of one boot of a kernel without a trace."""

    verdict: Verdict
    """PASS, FAIL, MISS (the log or the boot ends too early), ERROR (the log is of something else than was said), or
    DONE (no log)."""
    finding: Finding | None = None
    window: Window | None = None
    prediction: Prediction | None = None
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()
    """What was replayed, and why; exceptions that are not page faults."""
    outcome: BootOutcome | None = None
    """How the boot ended."""


def scenario_result(name: str, verdict: UnpatchedVerdict) -> ScenarioResult:
    """The row of `bench run` for it."""
    comparison = verdict.comparison
    return ScenarioResult(
        scenario=name,
        verdict=verdict.verdict,
        windows=1,
        predicted=comparison.faults_predicted if comparison else 0,
        replayed=comparison.faults_replayed if comparison else 0,
        findings=(verdict.finding,) if verdict.finding else (),
        reason=verdict.finding.summary if verdict.finding else "",
    )


def fault_rows(verdict: UnpatchedVerdict) -> Sequence[tuple[Event | None, Event | None]]:
    """Predicted and observed fault side by side, for a table."""
    predicted = verdict.prediction.events if verdict.prediction else ()
    observed = verdict.window.observation.events if verdict.window else ()
    length = max(len(predicted), len(observed))
    return [
        (predicted[n] if n < len(predicted) else None, observed[n] if n < len(observed) else None)
        for n in range(length)
    ]
