"""What `bench run` says at the end: rows of JSON, a table per CPU model, and where to look next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.batch import Outcome
from bench.describe import printable
from bench.errors import BenchError, LabError
from bench.loading import own_system_to_end_s
from bench.parse.capture_file import read_captures
from bench.records import ScenarioResult, Verdict, worst
from bench.report.rows import scenario_row
from bench.run import MATRIX, MatrixOrder, RunResult, blamed


def one_line(outcome: Outcome) -> str:
    if outcome.result is None:
        return printable(str(outcome.error))
    faults = sum(s.predicted + s.replayed for s in outcome.result.scenarios if not _is_case(s))
    first = next((f for s in outcome.result.scenarios for f in s.findings), None)
    if outcome.verdict is Verdict.SKIP:
        return printable(next((s.reason for s in outcome.result.scenarios), "nothing to do"))
    text = f"{faults} faults equal, {outcome.result.seconds:.1f} s"
    if cases := [s for s in outcome.result.scenarios if _is_case(s)]:
        text = f"{_agreed(cases)} boots with microcode as predicted, {outcome.result.seconds:.1f} s"
    if (loading_s := _loading_s(outcome.result)) is not None:
        text += f" ({loading_s:.1f} s from its own system's answer to the last record)"
    if outcome.task.order.witness:
        text += f", {outcome.result.witnessed} exceptions witnessed"
    if outcome.task.bug:
        return f"{'caught' if outcome.verdict is Verdict.PASS else 'NOT CAUGHT'}: bug {outcome.task.bug.number}"
    if first:
        return f"{text}; {first.component}: {printable(first.summary)}"
    wrong = next((s for s in cases if s.verdict is not Verdict.PASS), None)
    return text + (f"; {wrong.scenario}: {printable(wrong.reason)}" if wrong else "")


def _loading_s(result: RunResult) -> float | None:
    """Of the first boot, where the run is about one way to load the machine."""
    if isinstance(result.order, MatrixOrder) or not result.order.method:
        return None
    try:
        return own_system_to_end_s(read_captures(result.folder)[0].events)
    except BenchError:
        return None


def _is_case(row: ScenarioResult) -> bool:
    """A case of the microcode matrix: what it counts are boots."""
    return row.scenario.startswith(MATRIX)


def _agreed(cases: Sequence[ScenarioResult]) -> str:
    return f"{sum(s.predicted for s in cases)} of {sum(s.windows for s in cases)}"


def outcome_rows(outcomes: Iterable[Outcome]) -> Iterator[dict[str, Any]]:
    for outcome in outcomes:
        order = outcome.task.order
        machine = order.machine
        if outcome.result is None:
            findings = (blamed(outcome.error),) if isinstance(outcome.error, LabError) else ()
            failed = ScenarioResult("-", outcome.verdict, findings=findings, reason=str(outcome.error))
            yield scenario_row(machine.name, machine.model, order.image, failed, 0.0)
            continue
        seconds = outcome.result.seconds
        if outcome.task.bug is None:
            for s in outcome.result.scenarios:
                yield scenario_row(machine.name, machine.model, order.image, s, seconds)
            continue
        found = [s for s in outcome.result.scenarios if s.verdict is Verdict.FAIL]
        row = ScenarioResult(
            "demonstration",
            outcome.verdict,
            windows=sum(s.windows for s in outcome.result.scenarios),
            findings=found[0].findings[:1] if found else (),
            reason=f"hidden bug {outcome.task.bug.number} ({outcome.task.bug.about}): "
            + ("caught" if found else "not caught"),
        )
        yield scenario_row(machine.name, machine.model, order.image, row, seconds)


@dataclass
class _ModelRow:
    machines: set[str] = field(default_factory=set)
    boots: int = 0
    predicted: int = 0
    replayed: int = 0
    resets: int = 0
    digests: int = 0
    verdicts: list[Verdict] = field(default_factory=list)
    caught: list[str] = field(default_factory=list)
    cases: list[ScenarioResult] = field(default_factory=list)
    virtual: bool = False


def summary(outcomes: Sequence[Outcome], seconds: float) -> Iterator[str]:
    models: dict[str, _ModelRow] = {}
    for outcome in outcomes:
        machine = outcome.task.order.machine
        row = models.setdefault(machine.model, _ModelRow())
        row.machines.add(machine.name)
        row.virtual |= machine.virtual is not None
        row.verdicts.append(outcome.verdict)
        row.boots += 1
        if outcome.task.bug:
            row.caught.append(f"{outcome.task.bug.number}{'' if outcome.verdict is Verdict.PASS else ' NOT CAUGHT'}")
        elif outcome.result:
            for s in outcome.result.scenarios:
                if _is_case(s):
                    row.cases.append(s)
                    continue
                row.predicted += s.predicted
                row.replayed += s.replayed
                row.resets += s.resets
                row.digests += s.digests
    form = "{:9} {:24} {:>4} {:>8} {:>9} {:>8} {:>6} {:>7}  {:10}  {:12} {:7} {}"
    yield ""
    heads = (
        "model",
        "machines",
        "runs",
        "faults",
        "predicted",
        "replayed",
        "resets",
        "digests",
        "microcode",
        "bug caught",
        "verdict",
    )
    yield form.format(*heads, "kind")
    for model, row in sorted(models.items()):
        names = ", ".join(sorted(row.machines))
        kind = "virtual: not silicon" if row.virtual else "silicon"
        counts = (row.predicted + row.replayed, row.predicted, row.replayed, row.resets, row.digests)
        caught = ", ".join(row.caught) or "-"
        yield form.format(
            model,
            names[:24],
            row.boots,
            *counts,
            _agreed(row.cases) if row.cases else "-",
            caught,
            worst(row.verdicts),
            kind,
        )
    yield ""
    yield from _not_passed(outcomes)
    total = worst([o.verdict for o in outcomes])
    yield f"{total}: {len(outcomes)} run{'s' * (len(outcomes) != 1)} in {seconds:.0f} s"
    yield "Next: bench results list; bench explain RUN; bench replay CAPTURE; bench run --machine NAME --witness"


def _not_passed(outcomes: Iterable[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.verdict is Verdict.PASS:
            continue
        order = outcome.task.order
        yield f"{outcome.verdict}  {order.machine.name} {order.label}: {one_line(outcome)}"
        if outcome.result and outcome.verdict is not Verdict.SKIP:
            yield f"      bench explain {outcome.result.folder}"
