"""A machine looked at by the rescue system, from power-on to power-off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.bios_microcode import firmware_of
from bench.images.small_system import BuiltSystem
from bench.lab import metal
from bench.lab.capture import CaptureWriter
from bench.lab.fingerprint import read_system
from bench.lab.net.loader import NetLoader
from bench.lab.power.switched import SwitchedPower
from bench.records import Machine
from bench.rescue import kept
from bench.rescue.findings import Found, look
from bench.rescue.repair import repair
from bench.rescue.session import require_rescuable, rescued


@dataclass(frozen=True)
class Visit:
    """What came of it."""

    found: Found
    kernel: str
    heard: bool
    """Whether the serial line of its entry is this machine's."""
    times: Mapping[str, float]
    """Step → seconds since power-on."""
    repaired: tuple[str, ...] = ()
    """What was withdrawn; `found` is how it is afterwards."""
    way_in: str = ""
    """The command by which a person logs in, if the machine was left up."""


def captured(machine: Machine, folder: Path) -> CaptureWriter:
    """The capture of a boot of the rescue system."""
    info = {"machine": machine.name, "model": machine.model, "image": "rescue", "virtual": machine.virtual is not None}
    return CaptureWriter(
        folder, url=machine.serial_url, baud=machine.serial_baud, info=info, reconnect_s=metal.RECONNECT_S
    )


def visit(
    machine: Machine,
    system: BuiltSystem,
    folder: Path,
    *,
    power: SwitchedPower,
    loader: NetLoader | None = None,
    keep: bool = False,
    mend: bool = False,
    told: Callable[[str], None] = lambda _: None,
) -> Visit:
    """Boot `system` on `machine`, which has to be ours, and look at its disks; captured into `folder`. It is off
    afterwards unless `keep`. `mend`: what a run has left in boot loaders is withdrawn.

    Raises UsageError, LabError; BootError names the first step that is missing.
    """
    require_rescuable(machine)
    with (
        captured(machine, folder) as capture,
        rescued(machine, system, power, capture, loader=loader, keep=keep, told=told) as there,
    ):
        facts = read_system(there.ssh)
        found = look(there.ssh)
        repaired = repair(there.ssh, found) if mend else []
        found = replace(look(there.ssh) if repaired else found, facts=firmware_of(facts))
        way_in = kept.keep(machine.name, there) if keep else ""
        return Visit(found, facts.kernel, there.heard, dict(there.times), tuple(repaired), way_in)
