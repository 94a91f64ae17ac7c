"""What a `bench run` is going to do, said before it does it: boots, time, and what of real machines it touches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.hardware import Netboot

if TYPE_CHECKING:
    from bench.batch import Task
    from bench.health import Condition
    from bench.records import Machine
    from bench.store import StoredRun

# What a boot is reckoned with where no run of the store tells: of QEMU, of QEMU by way of a disk or a network, and
# beyond power-on to the boot loader of metal.
VIRTUAL_BOOT_S = 2.0
DISK_BOOT_S = 10.0
METAL_BOOT_S = 60.0
# Boots of the machine's own system for each boot of an image: to take it in, and to see that all is as it was. A
# machine's first flash takes two more, for the proof.
OWN_BOOTS = {"grub": 2, "systemd-boot": 2, "bootnext": 2, "kexec": 1, "pxe by BootNext": 2}
# The latest runs of one machine and image that the estimate goes by.
RECENT = 5


@dataclass(frozen=True)
class Plan:
    """What is going to happen."""

    runs: int
    boots: int
    """Of images, if no machine dies on the way: one that does is booted again for what is left."""
    own_boots: int
    """Of the machines' own systems, around those."""
    seconds: float
    known: int
    """Runs whose time is that of earlier runs; of the others it is guessed."""
    touched: tuple[str, ...]
    """A line for each machine of metal, and one more for each whose microcode is updated."""
    virtual: int
    """Machines that QEMU plays."""
    unbuilt: tuple[str, ...] = ()
    """Kernels that are built first, and whose boots and time are not in the plan."""

    def lines(self) -> Iterator[str]:
        """In words."""
        minutes, how = (
            self.seconds / 60,
            "" if self.known == self.runs else f", {self.runs - self.known} of them guessed",
        )
        about = f"{self.seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min"
        own = f" and {self.own_boots} of the machines' own systems" if self.own_boots else ""
        yield f"plan: {_count(self.runs, 'run')}, {_count(self.boots, 'boot')}{own}, about {about}{how}"
        if self.virtual:
            which = _count(self.virtual, "virtual machine")
            yield f"      {which} of this computer, made anew for each boot of an image"
        yield from (f"      {line}" for line in self.touched)
        if self.unbuilt:
            count = _count(len(self.unbuilt), "kernel")
            yield f"      and {count} not built yet, which are not counted here: {', '.join(self.unbuilt)}"
            yield f"      a run builds them first, some minutes each, as does: bench images build {self.unbuilt[0]}"

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            **vars(self),
            "touched": list(self.touched),
            "unbuilt": list(self.unbuilt),
            "seconds": round(self.seconds, 1),
        }


def make_plan(tasks: Sequence[Task], results: Path, jobs: int, *, unbuilt: Sequence[str] = ()) -> Plan:
    """The plan of `tasks`, `jobs` at a time; times from the store in `results`, if there is one."""
    from bench.update_safety import warning

    took, conditions = _told(results, sorted({t.order.machine.name for t in tasks if t.order.machine.virtual is None}))
    by_machine: dict[str, float] = defaultdict(float)
    boots, own, known, longest = Counter[str](), 0, 0, 0.0
    machines: dict[str, Machine] = {}
    for task in tasks:
        machine = task.order.machine
        machines[machine.name] = machine
        count = _boots(task)
        boots[machine.name] += count
        around = count * OWN_BOOTS.get(_way(machine), 0)
        own += around
        earlier = took.get((machine.name, task.order.image))
        known += earlier is not None
        learnt = conditions[machine.name].time_to_ssh_s if machine.name in conditions else None
        takes_s = earlier if earlier is not None else (count + around) * _guess_s(machine, learnt)
        by_machine[machine.name] += takes_s
        longest = max(longest, takes_s)
    # Orders of one machine of metal wait for each other; those of virtual machines do not.
    chains = [s for name, s in by_machine.items() if machines[name].virtual is None]
    seconds = max(sum(by_machine.values()) / max(1, jobs), longest, *chains)
    metal = [machine for machine in machines.values() if machine.virtual is None]
    updated = {task.order.machine.name for task in tasks if _updates(task)}
    touched = tuple(_touched(machine, boots[machine.name]) for machine in metal)
    touched += tuple(f"{name}: {each.why_offline}" for name, each in conditions.items() if each.why_offline)
    touched += tuple(warning(machine) for machine in metal if machine.name in updated)
    return Plan(len(tasks), boots.total(), own, seconds, known, touched, len(machines) - len(metal), tuple(unbuilt))


def _boots(task: Task) -> int:
    from bench.run import KernelOrder, MatrixOrder
    from bench.run_kernel import offer

    if isinstance(task.order, MatrixOrder):
        return len(task.order.cases)
    return len(offer(task.order)[0]) if isinstance(task.order, KernelOrder) else 1


def _updates(task: Task) -> bool:
    from bench.run import KernelOrder, Order, offers_updates
    from bench.run import offer as offer_windows
    from bench.run_kernel import offer

    if isinstance(task.order, Order):
        return task.order.machine.virtual is None and offers_updates(offer_windows(task.order)[0])
    return isinstance(task.order, KernelOrder) and any(each.with_update for each in offer(task.order)[0])


def _told(results: Path, metal: Sequence[str]) -> tuple[dict[tuple[str, str], float], dict[str, Condition]]:
    """What the store tells: machine and image → seconds, the median of the latest runs that told something; and how it
    stands with each machine of metal."""
    from bench.health import Health
    from bench.store import Store, is_there, place_of

    if not is_there(results):
        return {}, {}
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    with Store(place_of(results)) as store:
        for run in store.runs(limit=2000):
            if _tells(run) and len(times[run.record.machine, run.record.image]) < RECENT:
                times[run.record.machine, run.record.image].append(run.record.seconds)
        health = Health(store) if metal else None
        conditions = {name: health.condition(name) for name in metal} if health else {}
    return {key: median(values) for key, values in times.items() if values}, conditions


def _tells(run: StoredRun) -> bool:
    return run.record.verdict.value not in ("MISS", "ERROR", "SKIP")


def _guess_s(machine: Machine, learnt_s: float | None) -> float:
    """One boot; `learnt_s` is what an examination took from power-on to SSH."""
    if machine.virtual is not None:
        return VIRTUAL_BOOT_S if machine.virtual.host is None else DISK_BOOT_S
    if machine.wiring.time_to_post_s is None and learnt_s is not None:
        return learnt_s
    return METAL_BOOT_S + (machine.wiring.time_to_post_s or METAL_BOOT_S)


def _way(machine: Machine) -> str:
    """The way that is tried first to load it; empty: QEMU does it, or there is none."""
    host = machine.virtual.host if machine.virtual is not None else None
    methods = machine.boot_methods
    netboot = host.netboot if host is not None else machine.wiring.netboot
    if methods[:1] == ("pxe",) and netboot is Netboot.BOOTNEXT:
        return "pxe by BootNext"
    return methods[0] if methods else ""


def _touched(machine: Machine, boots: int) -> str:
    from bench.errors import UsageError
    from bench.lab.power.choose import power_of

    try:
        switch = power_of(machine).device.component
    except UsageError as error:
        switch = str(error)
    way = _way(machine) or "no boot method"
    times = _count(boots * (1 + OWN_BOOTS.get(way, 0)), "time")
    text = f"{machine.name}: off and on {times} by {switch}; loaded by {way}; heard at {machine.serial_url}"
    if machine.allow_beyond_ram:
        text += "; addresses beyond its RAM are touched (the inventory allows it)"
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
