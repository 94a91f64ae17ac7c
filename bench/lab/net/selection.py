"""Who has the machine boot from the network next, and whether that is so."""

from __future__ import annotations

from collections.abc import Mapping

from bench.errors import UsageError
from bench.hardware import Netboot
from bench.records import Machine


def select(machine: Machine) -> Mapping[str, str]:
    """Have `machine` boot from the network at its next power-on; the witness of it."""
    if machine.wiring.netboot is Netboot.ORDER:
        return {"selected by": "the firmware's boot order"}
    raise UsageError(f"{machine.name}: netboot: {machine.wiring.netboot.value} is not supported yet")


def deselect(machine: Machine) -> Mapping[str, str]:
    """Undo what `select` did, if the boot has not used it up."""
    return {}
