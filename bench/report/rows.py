"""Judgements as rows of JSON and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.describe import printable
from bench.judge import Judgement
from bench.records import Finding, ScenarioResult, Verdict

EXIT_CODES: dict[Verdict, int] = {
    Verdict.PASS: 0,
    Verdict.DONE: 0,
    Verdict.SKIP: 0,
    Verdict.FAIL: 1,
    Verdict.MISS: 3,
    Verdict.ERROR: 3,
}


def finding_row(finding: Finding) -> dict[str, Any]:
    """A finding as JSON: numbers as hex text, so that no reader rounds them."""

    def text(value: int | str | None) -> str | None:
        return f"0x{value:x}" if isinstance(value, int) else value

    return {
        "component": finding.component,
        "summary": printable(finding.summary),
        "window": finding.window,
        "event": finding.event,
        "step": finding.step,
        "field": finding.field_name,
        "expected": text(finding.expected),
        "observed": text(finding.observed),
        "why": finding.why,
        "witness": dict(finding.witness),
    }


def scenario_row(machine: str, model: str, image: str, scenario: ScenarioResult, seconds: float) -> dict[str, Any]:
    """A scenario's verdict as JSON."""
    return {
        "machine": machine,
        "model": model,
        "image": image,
        "scenario": scenario.scenario,
        "verdict": scenario.verdict,
        "predicted": scenario.predicted,
        "replayed": scenario.replayed,
        "resets": scenario.resets,
        "digests": scenario.digests,
        "windows": scenario.windows,
        "reason": printable(scenario.reason),
        "findings": [finding_row(f) for f in scenario.findings],
        "seconds": seconds,
    }


def judgement_rows(judgement: Judgement, seconds: float) -> list[dict[str, Any]]:
    """The rows of a judgement, as `bench run --json` has them."""
    j = judgement
    return [scenario_row(j.machine, j.model, j.image, s, seconds) for s in j.scenarios]


def judgement_table(judgement: Judgement) -> Iterator[str]:
    """A judgement for people: a line a scenario, the notes, the verdict."""
    kind = {True: "virtual: not silicon", False: "silicon", None: "machine not recorded"}[judgement.virtual]
    title = " ".join(p for p in (judgement.machine, judgement.model, judgement.image) if p) or "raw serial log"
    yield f"{title} ({kind})"
    for s in judgement.scenarios:
        counts = f"{s.windows} windows, {s.predicted} faults predicted, {s.replayed} replayed, {s.resets} resets, "
        yield f"  {s.verdict:5}  {s.scenario:28}  {counts}{s.digests} digests"
        for finding in s.findings[:3]:
            yield f"         {finding.component}: {printable(finding.summary)}"
    if not judgement.scenarios:
        yield "  no trace was found: no `begin` record with a true CRC"
    for text in judgement.notes[:10]:
        yield f"  line: {printable(text)}"
    if len(judgement.notes) > 10:
        yield f"  line: {len(judgement.notes) - 10} more; `bench parse --damage` lists them"
    yield f"{judgement.verdict}"
