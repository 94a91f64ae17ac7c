"""The part of `bench run` that is about how a machine is loaded: in one of its entry's ways, or in each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.batch import Task
    from bench.images import KernelImage
    from bench.records import Machine

KEXEC = "kexec"
PLAN = "plain"


def by_method(machine: Machine, method: str) -> Machine:
    """`machine`, loaded in one of the ways that its entry has and in no other. Raises UsageError if it is none."""
    known = machine.boot_methods
    if method not in known:
        has = f"its boot_methods are: {', '.join(known)}" if known else "it has no boot_methods"
        raise UsageError(f"{machine.name}: not loaded by {method!r}; {has}")
    if machine.virtual is not None and machine.virtual.host is not None:
        host = replace(machine.virtual.host, boot_methods=(method,))
        return replace(machine, virtual=replace(machine.virtual, host=host))
    return replace(machine, wiring=replace(machine.wiring, boot_methods=(method,)))


def loaded_by(task: Task, method: str) -> Task:
    """`task` on its machine as `by_method` has it."""
    return replace(task, order=replace(task.order, machine=by_method(task.order.machine, method)), method=method)


def payload_by_each(tasks: Sequence[Task]) -> Iterator[Task]:
    """Payload `tasks`, on virtual machines with a disk by the preferred way, and the last of each such machine's by its
    other ways too: the handler does not know how it was loaded.

    kexec resets nothing: it has no part in scenarios that offer the processor an update.
    """
    last = {task.order.machine.name: task for task in tasks}
    for task in tasks:
        preferred, *others = _disk_methods(task.order.machine) or ("",)
        yield loaded_by(task, preferred) if preferred else task
        if task is last[task.order.machine.name]:
            for method in others:
                yield from _without_updates(loaded_by(task, method)) if method == KEXEC else [loaded_by(task, method)]


def _without_updates(task: Task) -> Iterator[Task]:
    from bench.run import Order
    from bench.scenarios import offers_update

    assert isinstance(task.order, Order)
    if harmless := tuple(s for s in task.order.scenarios if not offers_update(s)):
        yield replace(task, order=replace(task.order, scenarios=harmless))


def kernel_by_each(root: Path, machines: Sequence[Machine], kernel: KernelImage) -> Iterator[Task]:
    """One task for each of `machines` with a disk and each way of loading it: `kernel`, started once."""
    from bench.batch import Task
    from bench.images import build_init
    from bench.run import KernelOrder
    from bench.scenarios import load_boot_plans

    plans = (load_boot_plans(root)[PLAN],)
    init = build_init(root)
    for machine in machines:
        for method in _disk_methods(machine):
            yield loaded_by(Task(KernelOrder(machine, kernel, plans, init)), method)


def _disk_methods(machine: Machine) -> tuple[str, ...]:
    return machine.boot_methods if machine.virtual is not None else ()
