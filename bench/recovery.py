"""Bringing a machine of metal back: to its known-good system, with nothing of the bench's left to start.

First as a run would leave it: off by its own switch, on, its system asked. If that fails, a second time: what came up
may have been an image that a one-shot had left, which is gone with that boot. Where something cuts the mains the second
time is a cold start, which ends what survives a reset: a hung BMC, a card that firmware does not find again, microcode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from bench.errors import LabError
from bench.hardware import Cuts
from bench.health import Check, Examination, Health, examine
from bench.lab.flash.oneshot import OneShot
from bench.lab.flash.plan import METHODS
from bench.lab.flash.system import read_system
from bench.lab.power.switched import SwitchedPower
from bench.lab.ssh import Ssh
from bench.records import Machine
from bench.rescue.examined import Booting


def recover(
    machine: Machine,
    health: Health,
    folder: Path,
    *,
    power: SwitchedPower,
    accept_drift: bool = False,
    told: Callable[[Check], None] = lambda _: None,
    rescue: Booting | None = None,
) -> Examination:
    """Bring `machine` back and examine it; captured into folders below `folder`, one a try. It is off afterwards.

    What the ways of its `boot_methods` keep on its disk is withdrawn. The machine must be ours. Raises UsageError for a
    virtual machine; what cannot be mended is a failed check.
    """

    def withdraw(ssh: Ssh) -> Iterator[Check]:
        for method in machine.wiring.boot_methods:
            if method in METHODS:
                yield _withdrawn(METHODS[method], ssh)

    def try_number(number: int) -> Examination:
        place = folder / f"try-{number}"
        return examine(
            machine, health, place, power=power, accept_drift=accept_drift, visit=withdraw, told=told, rescue=rescue
        )

    found = try_number(1)
    if found.ok:
        return found
    if _has_mains(power):
        try:
            told(Check("cold start", True, ", ".join(f"{k}: {v}" for k, v in power.cold_cycle().items())))
        except LabError as error:
            told(Check("cold start", False, str(error)))
            return found
    elif not set(machine.wiring.boot_methods) & set(METHODS):
        return found  # what came up was no image that a one-shot had left
    return try_number(2)


def _withdrawn(method: OneShot, ssh: Ssh) -> Check:
    name = f"nothing left by {method.name}"
    objections: list[str] = []
    try:
        system = read_system(ssh)
        objections = method.objections(system)
        pending, removed = method.pending(ssh, system), method.withdraw(ssh, system)
        still = method.pending(ssh, system)
    except LabError as error:
        if objections:
            return Check(name, None, f"not a way that this machine has: {'; '.join(objections)}")
        return Check(name, False, str(error))
    if still:
        return Check(name, False, f"{still} is still set for the next boot")
    found = ", ".join([*([f"{pending} was set"] if pending else []), *removed])
    return Check(name, True, f"withdrawn: {found}" if found else "nothing was there")


def _has_mains(power: SwitchedPower) -> bool:
    return power.ac is not None or power.device.cuts is Cuts.AC
