"""What of a matrix is kept in the store: runs, the boots that agreed, and what came of each update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.microcode.run import Result
from bench.records import ScenarioResult, Verdict, worst
from bench.run import MATRIX
from bench.sim.ucode_load import End
from bench.store import MicrocodeRow, RunRecord, Store, is_there, place_of
from bench.store import Transition as Outcome
from bench.updates import Transition

_SHARED = "shared with "
_ENDS = {str(End.RESET): Outcome.REBOOT_LOOP, str(End.HANG): Outcome.SILENT_HANG}


def save(results: Path, outcomes: Sequence[Result]) -> None:
    """Store what came of it: a run for each kernel and machine, a scenario for each case, with the boots that agreed
    (`predicted`) out of those that were made (`windows`)."""
    started = datetime.now(UTC)
    groups: dict[tuple[str, str], list[Result]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.subject, outcome.machine), []).append(outcome)
    if not groups:
        return
    with Store(place_of(results)) as store:
        for (subject, machine), group in groups.items():
            store.save_run(record_of(subject, machine, group, started))


def record_of(subject: str, machine: str, group: Sequence[Result], started: datetime) -> RunRecord:
    """One kernel on one machine as a run of the store."""
    scenarios = scenarios_of(group)
    return RunRecord(
        machine=machine,
        model=group[0].model,
        signature=group[0].signature,
        image=subject,
        image_sha256=group[0].image_sha256,
        virtual=True,
        started=started,
        seconds=round(sum(o.seconds for o in group), 2),
        capture=str(Path(group[0].folder).parent),
        verdict=worst([s.verdict for s in scenarios]),
        scenarios=scenarios,
        microcode=tuple(
            MicrocodeRow(t.boot, t.processor, t.flags, t.before, t.offered, t.after, Outcome(t.outcome))
            for t in transitions_of(group)
        ),
    )


def scenarios_of(group: Sequence[Result]) -> tuple[ScenarioResult, ...]:
    """A row for each case, with the boots that agreed (`predicted`) out of those that were made (`windows`)."""
    scenarios = []
    for name in dict.fromkeys(outcome.case for outcome in group):
        boots = [outcome for outcome in group if outcome.case == name]
        agreed = sum(outcome.verdict is Verdict.PASS for outcome in boots)
        reason = next((_reason(o) for o in boots if o.verdict is not Verdict.PASS), _shared(boots))
        scenarios.append(
            ScenarioResult(
                scenario=f"{MATRIX}{name}", verdict=worst([o.verdict for o in boots]), windows=len(boots),
                predicted=agreed, reason=reason,
            )
        )  # fmt: skip
    return tuple(scenarios)


def _shared(boots: Sequence[Result]) -> str:
    """Whose boots these were, if they were not the case's own."""
    whose = dict.fromkeys(outcome.shared_with for outcome in boots if outcome.shared_with)
    return f"{_SHARED}{', '.join(whose)}: all inputs are equal" if whose else ""


def _reason(outcome: Result) -> str:
    if outcome.why:
        return outcome.why
    first = outcome.differences[0]
    return f"{first.field}: predicted {first.predicted}, observed {first.observed}"


def transitions_of(group: Sequence[Result]) -> tuple[Transition, ...]:
    """What came of each update that a processor was predicted to be given, by what the processors themselves saw.

    What was seen once counts once: a cell that shared another's boot has none."""
    return tuple(
        each
        for boot, outcome in enumerate(group, start=1)
        if not outcome.shared_with
        for each in _transitions(outcome, boot)
    )


def _transitions(outcome: Result, boot: int) -> Iterator[Transition]:
    seen = {write.processor: write for write in outcome.observed.writes} if outcome.observed else {}
    for due in outcome.predicted.writes:
        write = seen.get(due.processor)
        after: int | None = None
        if outcome.observed is None or write is None or outcome.verdict is Verdict.MISS:
            came = Outcome.NOT_OBSERVABLE
        elif due.processor == outcome.predicted.at and outcome.observed.end in _ENDS:
            came = _ENDS[outcome.observed.end]
        else:
            after, came = write.after, Outcome.UPDATED if write.after == write.revision else Outcome.REFUSED
        yield Transition(boot, due.processor, outcome.flags, due.before, due.revision, after, came)


def done_cells(results: Path) -> set[tuple[str, str, str]]:
    """(kernel's hash, machine, case) of every cell whose boots have all told something."""
    if not is_there(results):
        return set()
    with Store(place_of(results)) as store:
        return {
            (run.record.image_sha256, run.record.machine, each.scenario.removeprefix(MATRIX))
            for run in store.runs()
            for each in run.record.scenarios
            if each.scenario.startswith(MATRIX) and each.verdict in (Verdict.PASS, Verdict.FAIL)
        }


def seconds_a_boot(results: Path, *, guess: float) -> float:
    """The mean of the latest matrix's boots; `guess` if there is none. Cells that shared one are none."""
    if not is_there(results):
        return guess
    with Store(place_of(results)) as store:
        for run in store.runs(limit=500):
            boots = sum(
                each.windows
                for each in run.record.scenarios
                if each.scenario.startswith(MATRIX) and not each.reason.startswith(_SHARED)
            )
            if boots:
                return run.record.seconds / boots
    return guess
