"""Many cells, side by side: one boot for all cells that give the machine the very same inputs.

A boot's inputs are the kernel, its command line, the initrd, QEMU's processor, and what that answers to RDMSR and to
WRMSR. What it would do at a write is no input of a boot without one: cells that differ in nothing else share a boot, if
none of them is predicted to write, and the boot had none.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.microcode.run import Cell, Prepared, Result, Subject, prepare, run_case, share_boot

# So many boots are got ready for each that runs.
_AHEAD = 4
# Of more cells than that, those of so many kernels on machines are counted.
_COUNTED_CELLS, _COUNTED = 2000, 12


@dataclass(frozen=True)
class Group:
    """Cells of equal inputs: the first is booted, for its `number`th time."""

    cells: tuple[Cell, ...]
    number: int = 0


def inputs_of(ready: Prepared, subject: Subject) -> str:
    """Hash of all that a boot is given."""
    rules, machine = ready.trial.rules, ready.machine
    assert machine.virtual is not None
    if not (ready.story.writes or (ready.story.second and ready.story.second.writes)):
        rules = replace(rules, acts=(), refuses=frozenset(), takes_older=True)
    box = replace(machine.virtual, microcode=rules)
    parts = (
        subject.sha256, ready.command_line, hashlib.sha256(ready.initrd).hexdigest(),
        hashlib.sha256(ready.second).hexdigest(), ready.trial.then, machine.signature, machine.maxphyaddr, machine.nx,
        machine.la57, machine.memory_bytes, box,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def groups_of(root: Path, cells: Iterable[Cell], *, words: str = "nokaslr") -> Iterator[Group]:
    """Cells by their inputs. Cells of one kernel and signature have to stand together."""
    for _, some in itertools.groupby(cells, key=_block):
        alike: dict[tuple[str, int], list[Cell]] = {}
        for cell in some:
            ready = prepare(root, cell.case, cell.machine, cell.ground, cell.subject, words=words)
            alike.setdefault((inputs_of(ready, cell.subject), cell.times), []).append(cell)
        for (_, times), group in alike.items():
            yield from (Group(tuple(group), number) for number in range(times))


def boots_of(root: Path, cells: Sequence[Cell], *, words: str = "nokaslr") -> tuple[int, bool]:
    """How many boots these cells come to, and whether that was counted: of many machines some are, for all."""
    blocks = [list(some) for _, some in itertools.groupby(cells, key=_block)]
    step = -(-len(blocks) // _COUNTED) if len(cells) > _COUNTED_CELLS else 1
    counted = blocks[::step]
    boots = sum(1 for block in counted for _ in groups_of(root, block, words=words))
    share = sum(cell.times for block in counted for cell in block)
    return (boots if step == 1 else round(boots * sum(cell.times for cell in cells) / share)), step == 1


def run_matrix(
    root: Path,
    cells: Sequence[Cell],
    results: Path,
    *,
    jobs: int,
    words: str = "nokaslr",
    told: Callable[[Result], None] = lambda _: None,
) -> Iterator[Result]:
    """What comes of every cell, as the boots end. `told` is called from this thread. Ctrl-C ends the boots that run."""
    started = datetime.now(UTC)
    base = results / "captures" / f"{started:%Y-%m-%d}" / f"{started:%H%M%S}-microcode"
    cancel = threading.Event()
    ready = enumerate(groups_of(root, cells, words=words), start=1)
    with ThreadPoolExecutor(jobs, thread_name_prefix="microcode case") as pool:
        running: set[Future[list[Result]]] = set()
        try:
            while True:
                for at, group in itertools.islice(ready, jobs * _AHEAD - len(running)):
                    running.add(pool.submit(_run_group, root, group, base, at, words, cancel))
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for outcome in itertools.chain.from_iterable(future.result() for future in ended):
                    told(outcome)
                    yield outcome
        except BaseException:
            cancel.set()
            pool.shutdown(cancel_futures=True)
            raise


def _run_group(root: Path, group: Group, base: Path, at: int, words: str, cancel: threading.Event) -> list[Result]:
    outcomes: list[Result] = []
    for place, cell in enumerate(group.cells):
        if outcomes and _may_share(outcomes[0]):
            outcomes.append(share_boot(cell, root, outcomes[0], words=words))
            continue
        kernel = cell.subject.name.replace("/", "_")
        name = f"{at:05d}-{cell.case.name}-{group.number + 1}" if place == 0 else f"{at:05d}-{place}-{cell.case.name}"
        outcomes.append(
            run_case(
                root, cell.case, cell.machine, cell.ground, cell.subject, base / f"{kernel}-{cell.name}" / name,
                words=words, cancel=cancel, name=cell.name,
            )
        )  # fmt: skip
    return outcomes


def _block(cell: Cell) -> tuple[str, str]:
    return cell.subject.sha256, cell.machine.name


def _may_share(first: Result) -> bool:
    """A boot that was to have no write and had one tells nothing of cells that differ in what a write does."""
    return bool(first.predicted.writes) or first.observed is None or not first.observed.writes
