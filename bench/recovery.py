"""Bringing a machine of metal back: to its known-good system, with nothing of the bench's left to start.

First as a run would leave it: off by its own switch, on, its system asked. If that fails and something cuts the mains,
a second time after a cold start, which ends what survives a reset: a hung BMC, a card that firmware does not find
again, microcode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.errors import LabError
from bench.hardware import Cuts
from bench.health import Check, Examination, Health, examine
from bench.lab.load import Loader
from bench.lab.power.switched import SwitchedPower
from bench.lab.ssh import Ssh
from bench.records import Machine


def recover(
    machine: Machine,
    health: Health,
    folder: Path,
    *,
    power: SwitchedPower,
    loaders: Sequence[Loader],
    accept_drift: bool = False,
    told: Callable[[Check], None] = lambda _: None,
) -> Examination:
    """Bring `machine` back and examine it; captured into folders below `folder`, one a try. It is off afterwards.

    `loaders`: what may have prepared something on it; each withdraws that. The machine must be ours. Raises UsageError
    for a virtual machine; what cannot be mended is a failed check.
    """

    def withdraw(_: Ssh) -> Iterator[Check]:
        for loader in loaders:
            yield _withdrawn(machine, loader)

    found = examine(
        machine, health, folder / "try-1", power=power, accept_drift=accept_drift, visit=withdraw, told=told
    )
    if found.ok or not _has_mains(power):
        return found
    try:
        told(Check("cold start", True, ", ".join(f"{k}: {v}" for k, v in power.cold_cycle().items())))
    except LabError as error:
        told(Check("cold start", False, str(error)))
        return found
    return examine(machine, health, folder / "try-2", power=power, accept_drift=accept_drift, visit=withdraw, told=told)


def _withdrawn(machine: Machine, loader: Loader) -> Check:
    try:
        witness = loader.fall_back(machine)
    except LabError as error:
        return Check("nothing left to start", False, str(error))
    return Check("nothing left to start", True, ", ".join(f"{k}: {v}" for k, v in witness.items()))


def _has_mains(power: SwitchedPower) -> bool:
    return power.ac is not None or power.device.cuts is Cuts.AC
