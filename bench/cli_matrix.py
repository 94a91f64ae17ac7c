"""`bench microcode matrix`: kernels × processors × updates × everything that can be the matter with them."""

from __future__ import annotations

import json as jsons
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import UsageError
from bench.terminal import note, say

if TYPE_CHECKING:
    from bench.images.microcode_package import Package
    from bench.microcode.observe import Difference
    from bench.microcode.run import Cell, Result, Subject
    from bench.microcode.story import Story
    from bench.microcode.trial import Case
    from bench.sim.ucode_load import EarlyLoad

# So many lines at the end, a kernel on a machine each; above that one for each kernel.
SHOWN = 16
_COVERED = {1: "each value of each factor", 2: "each pair of values"}
NOT_HERE = "Intel's microcode is not here: get it with `bench microcode fetch`"


def matrix(
    machine: Annotated[
        list[str] | None, typer.Option(help="Virtual machine whose signature and platform are played (repeatable).")
    ] = None,
    kernel: Annotated[list[str] | None, typer.Option(help="Kernel image (may be repeated).")] = None,
    case: Annotated[list[str] | None, typer.Option(help="Case (may be repeated; default: all but the slow).")] = None,
    slow: Annotated[bool, typer.Option("--slow", help="Also the cases that end by waiting for a silence.")] = False,
    cross: Annotated[
        bool, typer.Option("--cross", help="Every signature with a file × platform id × four BIOS revisions.")
    ] = False,
    distinct: Annotated[
        bool, typer.Option("--distinct", help="Of --cross: one of the platform ids that have the same newest update.")
    ] = False,
    early: Annotated[bool, typer.Option("--early", help="Leave out the cases that go on behind the start.")] = False,
    usual: Annotated[
        bool, typer.Option("--usual-start", help="Of --cross: start with ACPI, PCI and all, which takes twice as long.")
    ] = False,
    draw: Annotated[
        int | None, typer.Option("--sample", min=1, help="Draw so many cells; cells in all are said.")
    ] = None,
    covering: Annotated[
        int | None,
        typer.Option("--cover", min=1, max=2, help="Few cells with each value of each factor (1), or each pair (2)."),
    ] = None,
    piece: Annotated[
        str | None, typer.Option("--part", metavar="K/N", help="The Kth of N parts: several computers share the cells.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draw (default: another one each time, said).")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out cells that the store has of this kernel.")
    ] = False,
    dry: Annotated[bool, typer.Option("--plan", help="Only say how many boots, and how long they take.")] = False,
    times: Annotated[int, typer.Option(min=1, help="Boots of each cell.")] = 1,
    processors: Annotated[int, typer.Option(min=1, max=8, help="Processors, where the case leaves it open.")] = 2,
    bios: Annotated[str | None, typer.Option(help="BIOS revision in hex (default: one below the newest).")] = None,
    made_up: Annotated[bool, typer.Option("--made-up", help="Made-up updates in place of Intel's.")] = False,
    kaslr: Annotated[bool, typer.Option("--kaslr", help="Leave KASLR on.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Boots at a time.")] = 2,
    results: Annotated[Path | None, typer.Option(help="Where captures and store go (default: results/).")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Only list the cases.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")] = False,
) -> int:
    """Boot kernels with every kind of update and initrd, on virtual processors, and compare with the prediction.

    Virtual: this proves the loader, not the processor. Each boot starts cold. Exit codes: 0 all agree, 1 a kernel
    differs, 2 wrong use, 3 the lab failed.
    """
    from bench.inventory import find_root
    from bench.microcode.cases import CASES
    from bench.microcode.cover import cover
    from bench.microcode.cross import CELL_S, QUICK_CELL_S, left, part, sample
    from bench.microcode.many import boots_of, run_matrix
    from bench.microcode.saved import done_cells, seconds_a_boot

    if listing:
        for each in CASES:
            say(jsons.dumps({"case": each.name, "about": each.about}) if json else f"{each.name:18} {each.about}")
        return 0
    share = _part(piece) if piece is not None else None
    root = find_root()
    where = results or root / "results"
    chosen = _cases(case or [], slow=slow, early=early)
    quick = cross and not usual
    subjects = _subjects(root, kernel or ["linux-6.1"], quick=quick)
    package = _package(made_up=made_up)
    if cross:
        if machine or bios is not None:
            raise UsageError("--cross chooses machines and BIOS revisions itself: not with --machine or --bios")
        cells = _crossed(package, subjects, chosen, processors=processors, times=times, distinct=distinct)
    else:
        if distinct or usual:
            raise UsageError(f"--{'distinct' if distinct else 'usual-start'} is of --cross: give that too")
        cells = _cells(root, machine or ["skylake-server"], package, subjects, chosen, processors, times, bios)
    total = len(cells)
    if covering is not None:
        cells = cover(cells, covering)
    drawable = len(cells)
    if draw is not None:
        seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        cells = sample(cells, draw, seed)
    elif seed is not None:
        raise UsageError("--seed is of a draw: give --sample too")
    if share:
        cells = part(cells, *share)
    kept = len(cells)
    if resume:
        cells = left(cells, done_cells(where))
    words = "" if kaslr else "nokaslr"
    boots, counted = boots_of(root, cells, words=words)
    seconds = boots * seconds_a_boot(where, guess=QUICK_CELL_S if quick else CELL_S) / jobs
    drawn = f", drawn from {drawable} with seed {seed}" if draw is not None else ""
    drawn = f", chosen from {total} to cover {_COVERED[covering]}{drawn}" if covering else drawn
    drawn += f", part {piece}" if piece else ""
    done = f"; {kept - len(cells)} are done" if resume else ""
    about = next(
        f"{seconds / unit_s:.0f} {unit}"
        for unit, unit_s in (("h", 3600), ("min", 60), ("s", 1))
        if seconds >= 2 * unit_s or unit == "s"
    )
    note(f"plan: {kept} cells{drawn}{done}; {'' if counted else 'some '}{boots} boots, about {about}, {jobs} at a time")
    if dry:
        return 0
    saver = _Saver(where, cells)
    # A run that is ended from outside ends as by Ctrl-C: what is through is stored.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for outcome in run_matrix(root, cells, where, jobs=jobs, words=words):
            _say_result(outcome, json)
            saver.take(outcome)
    finally:
        saver.rest()
        signal.signal(signal.SIGTERM, before)
    return _conclude(saver.all, json)


class _Saver:
    """Stores a kernel on a machine as soon as all of its boots are through, so that `--resume` finds them."""

    def __init__(self, results: Path, cells: Sequence[Cell]) -> None:
        self._results = results
        self._due = Counter[tuple[str, str]]()
        for cell in cells:
            self._due[cell.subject.name, cell.name] += cell.times
        self._waiting: dict[tuple[str, str], list[Result]] = {}
        self.all: list[Result] = []

    def take(self, outcome: Result) -> None:
        """One boot has ended."""
        from bench.microcode.saved import save

        key = outcome.subject, outcome.machine
        group = self._waiting.setdefault(key, [])
        group.append(outcome)
        self.all.append(outcome)
        if len(group) == self._due[key]:
            save(self._results, self._waiting.pop(key))

    def rest(self) -> None:
        """What is left when the run was broken off."""
        from bench.microcode.saved import save

        save(self._results, [outcome for group in self._waiting.values() for outcome in group])
        self._waiting.clear()


def _cases(names: Sequence[str], *, slow: bool, early: bool) -> list[Case]:
    from bench.microcode.cases import CASES, SLOW
    from bench.microcode.late_cases import LATE_CASES

    if unknown := sorted(set(names) - {c.name for c in CASES}):
        raise UsageError(f"no case {unknown[0]!r}; there are: {', '.join(c.name for c in CASES)}")
    late = {c.name for c in LATE_CASES}
    if early and (named := sorted(late.intersection(names))):
        raise UsageError(f"--case {named[0]} goes on behind the start: not with --early")
    if names:
        return [c for c in CASES if c.name in names]
    return [c for c in CASES if (slow or c.name not in SLOW) and not (early and c.name in late)]


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--part {text!r}: give it as K/N, such as 2/3 for the second of three parts")
    return int(match[1]), int(match[2])


def _package(*, made_up: bool) -> Package | None:
    from bench.images.microcode_package import find_package

    package = None if made_up else find_package()
    if package is None and not made_up:
        raise UsageError(f"{NOT_HERE}, or take made-up updates with --made-up")
    return package


def _subjects(root: Path, names: Sequence[str], *, quick: bool) -> list[Subject]:
    """Kernels by NAME or NAME+SERIES+…"""
    from bench.images.kernel import build_kernel
    from bench.microcode.run import subject_of

    split = [name.split("+") for name in names]
    return [
        subject_of(root, build_kernel(root, base, extra_series=tuple(series)), quick=quick) for base, *series in split
    ]


def _crossed(
    package: Package | None, subjects: Sequence[Subject], cases: Sequence[Case], *, processors: int, times: int,
    distinct: bool,
) -> list[Cell]:  # fmt: skip
    from bench.microcode.cross import cross

    if package is None:
        raise UsageError("--cross is over the signatures that Intel has files for: not with --made-up")
    return cross(package, subjects, cases, processors=processors, times=times, distinct=distinct)


def _cells(
    root: Path, machines: Sequence[str], package: Package | None, subjects: Sequence[Subject], cases: Sequence[Case],
    processors: int, times: int, bios: str | None,
) -> list[Cell]:  # fmt: skip
    from bench.cli_microcode import hexadecimal
    from bench.inventory import load_inventory
    from bench.microcode.run import Cell, ground_of

    start = None if bios is None else hexadecimal(bios, "--bios")
    known = load_inventory(root)
    if unknown := [name for name in machines if name not in known]:
        raise UsageError(f"no machine {unknown[0]!r} in the inventory")
    return [
        Cell(each, known[name], ground_of(known[name], package, processors=processors, bios=start), subject, times)
        for subject in subjects
        for name in machines
        for each in cases
    ]


def replay_cases(path: Path, *, json: bool) -> int | None:
    """Judge boots of cases again, those at or under `path`; None: there are none, and it is something else."""
    if not path.is_dir():
        return None
    from bench.microcode.again import judge_again
    from bench.records import worst
    from bench.report.rows import EXIT_CODES

    boots = list(judge_again(path))
    if not boots:
        return None
    verdict = worst([boot.verdict for boot in boots])
    if json:
        rows = [
            {"case": b.case, "kernel": b.image, "machine": b.machine, "virtual": True, "verdict": b.verdict,
             "folder": str(b.folder), "why": b.why, **_compared(b.predicted, b.differences)}
            for b in boots
        ]  # fmt: skip
        say(jsons.dumps({"verdict": verdict, "runs": rows}, indent=2))
        return EXIT_CODES[verdict]
    for boot in boots:
        say(f"{boot.verdict:5} {boot.image} {boot.machine} {boot.folder.name}  {boot.why}".rstrip())
        _say_differences(boot.differences)
    agreed = sum(boot.verdict == "PASS" for boot in boots)
    say(f"{agreed} of {len(boots)} boots as predicted (cases of microcode; virtual: the loader, not the processor)")
    return EXIT_CODES[verdict]


def _say_result(outcome: Result, json: bool) -> None:
    where = f"{outcome.subject} {outcome.machine} {outcome.case}"
    said = outcome.why or (f"shared with {outcome.shared_with}" if outcome.shared_with else "")
    if json:
        row = {"case": outcome.case, "kernel": outcome.subject, "machine": outcome.machine, "virtual": True}
        row |= {"verdict": outcome.verdict, "seconds": outcome.seconds, "folder": outcome.folder, "why": outcome.why}
        row["shared_with"] = outcome.shared_with
        say(jsons.dumps(row | _compared(outcome.predicted, outcome.differences)))
        return
    say(f"{outcome.verdict:5} {where:50} {outcome.seconds:6.2f} s  {said}".rstrip())
    _say_differences(outcome.differences)


def _compared(predicted: EarlyLoad | Story, differences: Sequence[Difference]) -> dict[str, object]:
    return {
        "predicted": {"end": predicted.end, "lines": list(predicted.lines)},
        "differences": [vars(d) for d in differences],
    }


def _say_differences(differences: Sequence[Difference]) -> None:
    for d in differences:
        say(f"{'':6}{d.field}: predicted {d.predicted}")
        say(f"{'':6}{'':{len(d.field)}}  observed  {d.observed}")


def _conclude(outcomes: Sequence[Result], json: bool) -> int:
    from bench.records import Verdict, worst
    from bench.report.rows import EXIT_CODES

    if not json:
        for line in _table_of(outcomes):
            say(line)
    return EXIT_CODES[worst([outcome.verdict for outcome in outcomes] or [Verdict.SKIP])]


def _table_of(outcomes: Sequence[Result]) -> Iterator[str]:
    many = len({(o.subject, o.machine) for o in outcomes}) > SHOWN
    models = {o.subject: len({each.model for each in outcomes if each.subject == o.subject}) for o in outcomes}

    def group(o: Result) -> tuple[str, str]:
        return o.subject, f"{models[o.subject]} models" if many else o.machine

    runs = Counter(group(o) for o in outcomes)
    agreed = Counter(group(o) for o in outcomes if o.verdict == "PASS")
    for subject, machine in runs:
        seconds = [o.seconds for o in outcomes if group(o) == (subject, machine) and not o.shared_with]
        cells = runs[subject, machine]
        of = f"{cells} boots" if len(seconds) == cells else f"{cells} cells in {len(seconds)} boots"
        yield (
            f"{subject} on {machine}: {agreed[subject, machine]} of {of} as predicted, "
            f"{sum(seconds) / max(1, len(seconds)):.2f} s a boot (virtual: the loader, not the processor)"
        )
    if len(runs) > 1:
        yield f"{sum(agreed.values())} of {len(outcomes)} in all as predicted"
