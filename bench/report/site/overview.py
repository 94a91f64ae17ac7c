"""The store summed up for the pages: a cell for each CPU model and image, and what is new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bench.images.microcode_package import Package, find_package
from bench.records import Machine, Verdict
from bench.report.history import LAB_TROUBLE, Result, is_demonstration, sample
from bench.report.regressions import Change, Word
from bench.store import StoredRun

TREND = 10
# Words that a cell is marked with.
MARKED = (Word.REGRESSION, Word.NEW_FAILURE, Word.UNSTABLE, Word.FIXED, Word.DISAPPEARED)


@dataclass(frozen=True)
class Cell:
    """All runs of one image on one CPU model."""

    model: str
    image: str
    runs: tuple[StoredRun, ...]
    """The oldest first; all of them, lab trouble as well."""
    changes: tuple[Change, ...] = ()

    @cached_property
    def judged(self) -> list[StoredRun]:
        """The runs that tell of the kernel."""
        return [r for r in self.runs if r.record.verdict not in LAB_TROUBLE]

    @cached_property
    def shown(self) -> StoredRun:
        """The run that the cell stands for: of each machine's latest the one that failed, or else the latest.

        Lab trouble is shown only where there is nothing else.
        """
        latest = {r.record.machine: r for r in self.judged or self.runs}
        failed = [r for r in latest.values() if r.record.verdict is Verdict.FAIL]
        return max(failed or latest.values(), key=lambda r: (r.record.started, r.id))

    @property
    def verdict(self) -> Verdict:
        """Of the run that is shown."""
        return self.shown.record.verdict

    @cached_property
    def trend(self) -> list[StoredRun]:
        """The latest runs, the oldest of them first."""
        return list(self.runs[-TREND:])

    @cached_property
    def flaky(self) -> str:
        """``passed 7 of 10`` if the latest judged runs are unstable; empty if they are not."""
        told = sample([_result(r) for r in self.judged], TREND)
        return f"passed {told.passed} of {told.judged}" if told and told.unstable else ""

    @cached_property
    def trouble(self) -> int:
        """Runs since the latest judged one in which the lab failed."""
        last = self.judged[-1].id if self.judged else 0
        return sum(r.id > last for r in self.runs)

    @cached_property
    def marks(self) -> list[tuple[Word, int]]:
        """How many tests of the cell are news, by word."""
        counts = Counter(c.word for c in self.changes)
        return [(word, counts[word]) for word in MARKED if counts[word]]


@dataclass(frozen=True)
class Overview:
    """All that the pages are made of. Runs are in order of time, the oldest first."""

    runs: tuple[StoredRun, ...]
    demonstrations: tuple[StoredRun, ...]
    cells: Mapping[tuple[str, str], Cell]
    changes: tuple[Change, ...]
    machines: Mapping[str, Machine]
    """Of the inventory, if there is one."""
    package: Package | None = None
    """Intel's microcode, if this computer has it."""

    @cached_property
    def models(self) -> list[str]:
        """In order of family, model and stepping."""
        return sorted({model for model, _ in self.cells})

    @cached_property
    def images(self) -> list[str]:
        """By name."""
        return sorted({image for _, image in self.cells})

    def of_model(self, model: str) -> list[Cell]:
        """The model's cells, by image."""
        return [self.cells[key] for key in sorted(self.cells) if key[0] == model]

    def of_image(self, image: str) -> list[Cell]:
        """The image's cells, by model."""
        return [self.cells[key] for key in sorted(self.cells) if key[1] == image]

    @cached_property
    def by_id(self) -> dict[int, StoredRun]:
        """All runs, demonstrations as well."""
        return {r.id: r for r in (*self.runs, *self.demonstrations)}

    @cached_property
    def lab_trouble(self) -> list[tuple[str, int, StoredRun]]:
        """Component → number of runs in which it was the first to fail, and the latest of them; the worst first."""
        count: Counter[str] = Counter()
        latest: dict[str, StoredRun] = {}
        for run in self.runs:
            if run.record.verdict in LAB_TROUBLE:
                component = trouble_of(run)
                count[component] += 1
                latest[component] = run
        return [(component, n, latest[component]) for component, n in count.most_common()]

    @cached_property
    def news(self) -> list[Change]:
        """Changed tests, the most urgent first."""
        order = list(Word)
        return sorted((c for c in self.changes if c.word), key=lambda c: order.index(c.word or Word.APPEARED))


def overview(runs: Iterable[StoredRun], changes: Sequence[Change], machines: Mapping[str, Machine]) -> Overview:
    """Sum up."""
    ordered = sorted(runs, key=lambda r: (r.record.started, r.id))
    demonstrations = tuple(r for r in ordered if is_demonstration(r.record))
    faithful = tuple(r for r in ordered if not is_demonstration(r.record))
    groups: dict[tuple[str, str], list[StoredRun]] = {}
    model_of: dict[str, str] = {}
    for run in faithful:
        groups.setdefault((run.record.model, run.record.image), []).append(run)
        model_of[run.record.machine] = run.record.model
    of_cell: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        of_cell.setdefault((model_of.get(change.test.machine, ""), change.test.image), []).append(change)
    cells = {key: Cell(*key, tuple(group), tuple(of_cell.get(key, ()))) for key, group in groups.items()}
    return Overview(faithful, demonstrations, cells, tuple(changes), machines, find_package())


def _result(run: StoredRun) -> Result:
    r = run.record
    return Result(run.id, r.started, r.image_sha256, r.verdict, "", "")


def trouble_of(run: StoredRun) -> str:
    """The component that failed in a run of lab trouble."""
    findings = (f for s in run.record.scenarios if s.verdict in LAB_TROUBLE for f in s.findings)
    return next((f.component for f in findings), "not recorded")
