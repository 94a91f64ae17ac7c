"""The whole matrix: signature × platform id × BIOS revision × case × kernel, as far as Intel has files for it.

A machine is made up for each signature: QEMU's Skylake with another family, model and stepping. What Linux's loader
asks of a processor is its signature, its platform id and its revision, all of which the bench plays.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

from bench.images.microcode_package import Package
from bench.images.newest_update import intels_newest
from bench.microcode.run import MEMORY_BYTES, Cell, Subject
from bench.microcode.trial import Case, Ground
from bench.records import Machine, VirtualSpec
from bench.x86.microcode_set import stored_updates
from bench.x86.signature import parse_model, platform_ids, processor

_CPU = "Skylake-Client"
_MAXPHYADDR = 39
SUFFIX = ".initramfs"
# What a boot is reckoned with where no run of the store tells, with the usual start and with the quick one.
CELL_S, QUICK_CELL_S = 3.5, 1.5


def machine_of_signature(signature: int, platform_id: int) -> Machine:
    """A virtual machine of a signature that the inventory need not have."""
    which = processor(signature)
    properties = (f"family={which.family}", f"model={which.model}")
    name = f"{which}-p{platform_id}"
    return Machine(
        name, signature, MEMORY_BYTES, _MAXPHYADDR, nx=True, la57=False, platform_id=platform_id,
        virtual=VirtualSpec(_CPU, properties),
    )  # fmt: skip


def machines(package: Package) -> Iterator[Machine]:
    """One for each signature that has a file, and each platform id that an update in that file is for.

    Processors without a platform id (before family 6 model 5) have no flags to play.
    """
    for path in sorted(package.updates.iterdir()):
        signature = parse_model(path.name.removesuffix(SUFFIX))
        flags = 0
        for stored in stored_updates(path):
            for own, mask in stored.update.identities:
                flags |= mask if own == signature else 0
        for platform_id in platform_ids(flags) or (0,):
            yield machine_of_signature(signature, platform_id)


def bios_revisions(newest: int) -> tuple[int, ...]:
    """Nothing loaded, one in the middle, the newest, and one above it."""
    return tuple(dict.fromkeys((0, max(1, newest - 1), newest, min(newest + 1, 0xFFFFFFFF))))


def cross(
    package: Package,
    subjects: Sequence[Subject],
    cases: Sequence[Case],
    *,
    processors: int,
    times: int,
    distinct: bool = False,
) -> list[Cell]:
    """Every cell. A case that sets the BIOS's revision itself is there once, not once a revision.

    First come the machines that each have an update of their own, then, unless only the `distinct` are wanted, other
    platform ids of a signature for which the newest update is the same one.
    """
    own: dict[tuple[int, bytes], Machine] = {}
    others: list[Machine] = []
    for machine in machines(package):
        if own.setdefault((machine.signature, intels_newest(machine, package).data), machine) is not machine:
            others.append(machine)
    cells: list[Cell] = []
    for machine in [*own.values(), *([] if distinct else others)]:
        newest = intels_newest(machine, package)
        seen: set[tuple[str, object]] = set()
        here: list[Cell] = []
        for bios in bios_revisions(newest.revision):
            ground = Ground(machine.signature, machine.platform_id, newest.data, processors, bios)
            fresh = []
            for case in cases:
                trial = case.make(ground)
                key = case.name, (trial.early, trial.rules)
                if key not in seen:
                    seen.add(key)
                    fresh.append(case)
            here += [Cell(case, machine, ground, subject, times) for subject in subjects for case in fresh]
        # A kernel's together: cells of equal inputs share a boot.
        cells += [cell for subject in subjects for cell in here if cell.subject is subject]
    return cells


def sample(cells: Sequence[Cell], count: int, seed: int) -> list[Cell]:
    """So many of the cells, drawn by `seed`, in the order in which they stand."""
    places = sorted(random.Random(seed).sample(range(len(cells)), min(count, len(cells))))
    return [cells[place] for place in places]


def part(cells: Sequence[Cell], number: int, parts: int) -> list[Cell]:
    """The `number`th (from 1) of so many parts of about equal size. A kernel on a machine is in one of them."""
    found: list[Cell] = []
    start = 0
    for _, block in itertools.groupby(cells, key=lambda cell: (cell.subject.sha256, cell.name)):
        together = list(block)
        if start * parts // len(cells) == number - 1:
            found += together
        start += len(together)
    return found


def left(cells: Iterable[Cell], done: Iterable[tuple[str, str, str]]) -> list[Cell]:
    """Those whose (kernel's hash, machine, case), as `Cell.key` gives it, is not among `done`."""
    known = set(done)
    return [cell for cell in cells if cell.key not in known]
