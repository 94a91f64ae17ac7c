"""Results in the forms that other tools read. Each takes stored runs and gives text or bytes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from bench.describe import printable
from bench.records import ScenarioResult
from bench.report.fingerprint import fingerprint, telling
from bench.store import StoredRun


def latest_of_each(runs: Iterable[StoredRun]) -> list[StoredRun]:
    """The latest run of each machine and image, in order of machine and image."""
    found: dict[tuple[str, str], StoredRun] = {}
    for run in sorted(runs, key=lambda r: (r.record.started, r.id)):
        found[run.record.machine, run.record.image] = run
    return [found[key] for key in sorted(found)]


def chosen(
    runs: Iterable[StoredRun],
    *,
    ids: frozenset[int] = frozenset(),
    machine: str | None = None,
    image: str | None = None,
    since: datetime | None = None,
) -> list[StoredRun]:
    """The runs that fit all that is given, the oldest first."""
    fit = [
        r
        for r in runs
        if (not ids or r.id in ids)
        and machine in (None, r.record.machine)
        and image in (None, r.record.image)
        and (since is None or r.record.started >= since)
    ]
    return sorted(fit, key=lambda r: (r.record.started, r.id))


def story(scenario: ScenarioResult) -> list[str]:
    """The scenario's findings in lines of printable text, the telling one first; the reason if it has none."""
    lines = []
    first = telling(scenario)
    for f in sorted(scenario.findings, key=lambda finding: finding is not first):
        where = ", ".join(f"{n} {v}" for n, v in (("window", f.window), ("event", f.event)) if v is not None)
        lines.append(printable(f"{f.component}: {f.summary}{f' ({where})' if where else ''} [{fingerprint(f)}]"))
        if f.why:
            lines.append(printable(f"  the model says so because: {f.why}"))
        if f.witness:
            lines.append(printable("  witness: " + ", ".join(f"{k} {v}" for k, v in f.witness.items())))
    if not lines and scenario.reason:
        lines.append(printable(scenario.reason))
    return lines
