"""What may go and what is whole: pruning captures by rule, checking that store and files agree.

Only captures are removed, never what was found. Nothing is removed while its run is the evidence for something: the
run that a baseline names, the first run of the present failure, and the latest of each machine and image.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from bench import manifest
from bench.errors import UsageError
from bench.records import Verdict
from bench.report.history import last_change, sample, series
from bench.store import Store, StoredRun, capture_folder

_KEEP = re.compile(r"(?P<days>[0-9]+)d|(?P<runs>[0-9]+)")


@dataclass(frozen=True)
class Keep:
    """How much is kept: captures younger than `days`, and the latest `runs` of each machine and image."""

    days: int | None = None
    runs: int = 1

    @classmethod
    def parse(cls, words: Sequence[str]) -> Keep:
        """``90d`` (days) and ``20`` (runs), in any order. Raises UsageError for anything else."""
        days, runs = None, 1
        for word in words:
            found = _KEEP.fullmatch(word)
            if not found:
                raise UsageError(
                    f"--keep {word!r}: give days such as 90d, or runs of each machine and image such as 20"
                )
            if found["days"]:
                days = int(found["days"])
            else:
                runs = max(1, int(found["runs"]))
        return cls(days, runs)


@dataclass(frozen=True)
class Pruning:
    """One run whose captures go."""

    run: StoredRun
    folder: Path
    size_bytes: int


def prunable(
    runs: Sequence[StoredRun], keep: Keep, *, results: Path, evidence: frozenset[int], now: datetime
) -> list[Pruning]:
    """The runs whose captures are there and need not be kept, the oldest first."""
    kept = set(evidence) | _first_failures(runs)
    by_cell: dict[tuple[str, str], list[StoredRun]] = {}
    for run in sorted(runs, key=lambda r: r.id):
        by_cell.setdefault((run.record.machine, run.record.image), []).append(run)
    for cell in by_cell.values():
        kept |= {run.id for run in cell[-keep.runs :]}
    found = []
    for run in sorted(runs, key=lambda r: r.id):
        young = keep.days is not None and now - run.record.started < timedelta(days=keep.days)
        folder = capture_folder(results, run.record.capture)
        if run.id in kept or young or not _inside(folder, results) or not folder.is_dir():
            continue
        found.append(Pruning(run, folder, sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())))
    return found


def prune(store: Store, prunings: Sequence[Pruning]) -> None:
    """Remove the captures. The store is told first: a run that says pruned but has captures loses nothing.

    Raises UsageError if a folder cannot be removed.
    """
    store.mark_pruned([p.run.id for p in prunings])
    for pruning in prunings:
        try:
            shutil.rmtree(pruning.folder)
        except OSError as error:
            raise UsageError(f"{pruning.folder}: cannot be removed: {error.strerror}") from error


@dataclass(frozen=True)
class Checked:
    """What `check` found."""

    whole: int
    pruned: int
    complaints: tuple[str, ...]
    """Files that are not as they were, and captures that are gone without having been pruned."""
    unsealed: tuple[StoredRun, ...]
    """Runs of older benches, whose captures have no manifest yet."""
    orphans: tuple[Path, ...]
    """Folders that no run of the store names: an interrupted run, or another store's."""


def check(runs: Iterable[StoredRun], results: Path) -> Checked:
    """Hold every file of every run against the run's manifest, and the manifest against the store."""
    whole = pruned = 0
    complaints: list[str] = []
    unsealed: list[StoredRun] = []
    known: set[Path] = set()
    for run in runs:
        folder = capture_folder(results, run.record.capture)
        known.add(folder.resolve())
        if not folder.is_dir():
            pruned += run.pruned is not None
            if run.pruned is None:
                complaints.append(f"run {run.id}: its captures are gone: {folder}")
        elif not run.manifest:
            unsealed.append(run)
        else:
            wrong = manifest.differences(folder, run.manifest)
            complaints += [f"run {run.id}: {text}" for text in wrong]
            whole += not wrong
    here = (p for p in (results / "captures").glob("*/*") if p.is_dir())
    orphans = tuple(sorted(p for p in here if p.resolve() not in known))
    return Checked(whole, pruned, tuple(complaints), tuple(unsealed), orphans)


def seal(store: Store, unsealed: Iterable[StoredRun], results: Path) -> int:
    """Give captures of older benches a manifest: from now on a change shows. The number of them."""
    count = 0
    for run in unsealed:
        folder = capture_folder(results, run.record.capture)
        try:
            store.mark_sealed(run.id, manifest.seal(folder))
        except OSError as error:
            raise UsageError(f"{folder}: cannot be sealed: {error.strerror}") from error
        count += 1
    return count


def _first_failures(runs: Sequence[StoredRun]) -> set[int]:
    """Runs in which a failure that still stands was first seen, and the last good one before it."""
    found = set()
    for one in series(runs).values():
        summed = sample(one.results)
        if summed and summed.latest.verdict is Verdict.FAIL:
            found |= {r.run for r in last_change(one.results) if r}
    return found


def _inside(folder: Path, results: Path) -> bool:
    """Captures elsewhere are not ours to remove."""
    return (results / "captures").resolve() in folder.resolve().parents
