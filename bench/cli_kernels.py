"""The part of `bench run` that is about kernels: which of them on which machines, built before anything boots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.batch import Task
    from bench.images import KernelImage
    from bench.records import Machine
    from bench.scenarios import BootPlan

# Machines of the inventory that boot kernels when all machines are asked for; with --full, the kernel of every lab run
# boots on those of the second tag as well; those of the third are there for the boot plans with updates alone; on those
# of the fourth, with a disk, it boots plainly with --full, in each way that they are loaded.
TAG, FULL_TAG, UPDATES_TAG, PLAIN_TAG = "linux", "linux-full", "linux-updates", "linux-plain"
PLAIN = "plain"


def kernel_names(root: Path, *, full: bool) -> list[str]:
    """The kernels that a lab run boots without being told which."""
    from bench.images.kernel_description import load_descriptions

    sets = ("hil", "full") if full else ("hil",)
    return [name for name, each in load_descriptions(root).items() if each.set in sets]


def kernel_tasks(
    root: Path,
    names: Sequence[str],
    machines: Sequence[str],
    *,
    every: bool,
    plans: Sequence[str],
    full: bool,
    witness: bool,
    quiet: bool,
    unbuilt: list[str] | None = None,
) -> list[Task]:
    """One task a kernel and machine. Builds the kernels (NAME or NAME+SERIES+…), or with a list `unbuilt` puts those
    there that are not built yet, and leaves their tasks out. Raises UsageError."""
    if not names:
        if plans:
            raise UsageError("--boot is for kernels: say which with --image NAME")
        return []
    from bench.batch import Task
    from bench.cli_images import build_with_progress
    from bench.images import build_init
    from bench.images.bzimage import require_bootable
    from bench.images.kernel import find_kernel
    from bench.run import KernelOrder
    from bench.scenarios import load_boot_plans
    from bench.update_safety import require_allowed

    known = load_boot_plans(root)
    chosen = tuple(_chosen_plans(known, plans, full=full))
    init = build_init(root)
    usual = kernel_names(root, full=False)
    tasks = []
    for name in names:
        tags = (TAG, UPDATES_TAG, FULL_TAG, PLAIN_TAG) if full and name in usual else (TAG, UPDATES_TAG)
        boxes = _machines(root, machines, every=every, tags=tags)
        if any(known[plan].updates != "none" for plan in plans):
            for box in boxes:
                require_allowed(box)
        base, *series = name.split("+")
        kernel = find_kernel(root, base, extra_series=series) if unbuilt is not None else None
        if kernel is None and unbuilt is not None:
            unbuilt.append(name)
            continue
        kernel = kernel or build_with_progress(root, base, series, quiet=quiet)
        require_bootable(kernel.kernel)
        for box in boxes:
            these = chosen if plans or machines else _plans_for(box, chosen)
            if these:
                tasks.append(Task(KernelOrder(box, kernel, these, init, witness=witness)))
        if every and not plans and kernel.traced:
            tasks += _matrix(root, [box for box in boxes if UPDATES_TAG in box.tags], kernel, full=full)
    return tasks


def _chosen_plans(known: dict[str, BootPlan], names: Sequence[str], *, full: bool) -> Iterable[BootPlan]:
    for name in names:
        if name not in known:
            raise UsageError(f"no boot plan {name!r}; there are: {', '.join(known)}")
    if names:
        return [known[name] for name in names]
    return [plan for plan in known.values() if full or plan.set == "hil"]


def _matrix(root: Path, boxes: Sequence[Machine], kernel: KernelImage, *, full: bool) -> Iterator[Task]:
    """Cases of the microcode matrix: with Intel's updates on each machine; made-up ones, which are always there, on the
    first, or with --full on each."""
    from bench.batch import Task
    from bench.microcode.cases import CASES, HIL
    from bench.run import MatrixOrder

    cases = tuple(each.name for each in CASES) if full else HIL
    for number, box in enumerate(boxes):
        yield Task(MatrixOrder(box, kernel, cases, made_up=False, root=root))
        if full or number == 0:
            yield Task(MatrixOrder(box, kernel, cases, made_up=True, root=root))


def _plans_for(box: Machine, plans: Sequence[BootPlan]) -> tuple[BootPlan, ...]:
    if PLAIN_TAG in box.tags:
        return tuple(plan for plan in plans if plan.name == PLAIN)
    if UPDATES_TAG not in box.tags:
        return tuple(plans)
    return tuple(plan for plan in plans if plan.updates != "none")


def _machines(root: Path, names: Sequence[str], *, every: bool, tags: Sequence[str]) -> list[Machine]:
    from bench.inventory import load_inventory

    machines = load_inventory(root)
    for name in names:
        if name not in machines:
            raise UsageError(f"no machine {name!r}; there are: {', '.join(machines)}")
    if not every and not names:
        raise UsageError("say which machine: --machine NAME, or --all; `bench inventory list` shows them")
    if names:
        return [machines[name] for name in names]
    return [box for box in machines.values() if any(tag in box.tags for tag in tags)]
