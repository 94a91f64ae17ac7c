"""From what `bench run` was asked for to its orders: which machines, with which images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UsageError
from bench.records import PAYLOAD_VARIANTS

if TYPE_CHECKING:
    from bench.batch import Task
    from bench.records import Machine

SCENARIOS = Path("firmware-images/scenarios")
PAYLOAD = "payload"
# Machines with this tag are among all machines, and those of a model, only with --full.
FULL_ONLY = "full-only"


@dataclass(frozen=True)
class Asked:
    """The choices of `bench run`: what it runs, not how. Plain values, so that a journal can keep them."""

    machine: Sequence[str] = ()
    model: Sequence[str] = ()
    all_machines: bool = False
    variant: Sequence[str] = ()
    scenario: Sequence[str] = ()
    scenario_set: str = "hil"
    image: Sequence[str] = ()
    plan: Sequence[str] = ()
    full: bool = False
    demonstrate: bool = False
    draw: int = 0
    witness: bool = False
    lab: str = ""
    method: str = ""


def tasks_of(asked: Asked, root: Path, *, quiet: bool, unbuilt: list[str] | None = None) -> list[Task]:
    """The orders, in order. Builds the kernels that are needed; with a list `unbuilt` those that are not built are put
    there instead, and have no orders. Raises UsageError for what does not exist."""
    from bench.cli_kernels import kernel_names, kernel_tasks
    from bench.inventory import load_inventory

    machines = load_inventory(root)
    names = _machines(asked, machines)
    images = list(asked.image) or [PAYLOAD]
    tasks: list[Task] = []
    if PAYLOAD in images:
        tasks = _payload_tasks(root, [machines[name] for name in names], asked)
    if asked.demonstrate:
        tasks += _demonstrations(
            root, list({t.order.machine.name: t.order.machine for t in tasks}.values()), asked.draw
        )
    kernels = [name for name in images if name != PAYLOAD]
    if not asked.image and asked.all_machines:
        kernels = kernel_names(root, full=asked.full)
    tasks += kernel_tasks(
        root,
        kernels,
        [] if asked.all_machines else names,
        every=asked.all_machines,
        plans=asked.plan,
        full=asked.full,
        witness=asked.witness,
        quiet=quiet,
        unbuilt=unbuilt,
    )
    if asked.method:
        return [_loaded_by(task, asked.method) for task in tasks]
    return [each for task in tasks for each in _by_each_method(task)] if asked.full else tasks


def by_method(machine: Machine, method: str) -> Machine:
    """`machine`, loaded in one of the ways that its entry has and in no other. Raises UsageError if it is none."""
    host = machine.virtual.host if machine.virtual is not None else None
    if method not in machine.boot_methods:
        known = ", ".join(machine.boot_methods)
        has = f"its boot_methods are: {known}" if known else "it has no boot_methods"
        raise UsageError(f"{machine.name}: not loaded by {method!r}; {has}")
    if machine.virtual is not None and host is not None:
        return replace(machine, virtual=replace(machine.virtual, host=replace(host, boot_methods=(method,))))
    return replace(machine, wiring=replace(machine.wiring, boot_methods=(method,)))


def _loaded_by(task: Task, method: str) -> Task:
    from bench.run import MatrixOrder

    machine = by_method(task.order.machine, method)
    if isinstance(task.order, MatrixOrder):
        return replace(task, order=replace(task.order, machine=machine))
    return replace(task, order=replace(task.order, machine=machine, method=method))


def _by_each_method(task: Task) -> list[Task]:
    """The task once for each way to load its machine, if that is a virtual one with a disk. One of metal has the
    others to fall back on, and a demonstration is about the payload: they go by the first that works."""
    machine = task.order.machine
    if task.bug is not None or machine.virtual is None or machine.virtual.host is None:
        return [task]
    return [_loaded_by(task, method) for method in machine.boot_methods]


def known_as(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UsageError for the first of `names` that is none of `known`, which it lists."""
    there = list(known)
    for name in names:
        if name not in there:
            raise UsageError(f"no {what} {name!r}; there are: {', '.join(there)}")


def _machines(asked: Asked, machines: Mapping[str, Machine]) -> list[str]:
    usual = {name: m for name, m in machines.items() if asked.full or FULL_ONLY not in m.tags}
    if asked.all_machines:
        return list(usual)
    if not asked.machine and not asked.model:
        raise UsageError(
            "say which machine: --machine NAME, --model 06-9e-0a, or --all; `bench inventory list` shows them"
        )
    known_as("machine", asked.machine, machines)
    known_as("model", asked.model, sorted({machine.model for machine in machines.values()}))
    of_model = [name for name, machine in usual.items() if machine.model in asked.model]
    return list(dict.fromkeys([*asked.machine, *of_model]))


def _payload_tasks(root: Path, machines: Sequence[Machine], asked: Asked) -> list[Task]:
    from bench.batch import Task
    from bench.run import Order
    from bench.scenarios import load_scenarios

    known_as("variant", asked.variant, PAYLOAD_VARIANTS)
    known = load_scenarios(root / SCENARIOS)
    known_as("scenario", asked.scenario, known)
    wanted = [known[n] for n in asked.scenario] or [s for s in known.values() if s.set == asked.scenario_set]
    if not wanted:
        sets = sorted({s.set for s in known.values()})
        raise UsageError(f"no scenario is in set {asked.scenario_set!r}; there are {sets}")
    tasks = []
    for machine in machines:
        for variant in asked.variant or PAYLOAD_VARIANTS:
            applies = tuple(s for s in wanted if variant in s.variants)
            if (variant != "la57" or machine.la57 or asked.variant) and applies:
                tasks.append(Task(Order(machine, variant, applies, witness=asked.witness)))
    if not tasks:
        raise UsageError("no scenario of this choice is for such a machine and variant")
    return tasks


def _demonstrations(root: Path, machines: Sequence[Machine], draw: int) -> list[Task]:
    from bench.batch import Task
    from bench.bugs import load_bugs
    from bench.run import Order
    from bench.scenarios import load_scenarios

    table, scenarios = load_bugs(root), load_scenarios(root / SCENARIOS)
    tasks = []
    for number, machine in enumerate(machines):
        # Neighbours in the table are kin: step through it by a number that is prime to its size.
        picked = table.pick(machine, draw + 7 * number)
        if picked:
            bug, variant = picked
            chosen = tuple(scenarios[name] for name in table.scenarios if variant in scenarios[name].variants)
            tasks.append(Task(Order(machine, variant, chosen, bug=bug.number), bug))
    return tasks
