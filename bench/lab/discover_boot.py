"""Which ways of starting something once a machine seems to have, and what is in the way of the others.

The judgement is flashing's own, so that an entry never names what flashing would refuse. It is made without starting
anything: whether a boot loader really consumes its one-shot only the proof before the first flash tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.lab.flash.bootnext import BootNext
from bench.lab.flash.grub import Grub
from bench.lab.flash.oneshot import OneShot
from bench.lab.flash.refusals import refusals
from bench.lab.flash.system import System
from bench.lab.flash.systemd_boot import SystemdBoot

# Where GRUB cannot write its environment block (GRUB manual, "The GRUB environment block").
_UNWRITABLE = ("btrfs", "zfs")
_UNWRITABLE_LAYERS = ("LVM", "RAID")


@dataclass(frozen=True)
class Methods:
    """By the names that `boot_methods` of an entry takes."""

    usable: tuple[str, ...]
    """The preferred one first."""
    refused: Mapping[str, tuple[str, ...]]
    """The others, each with what is in its way."""
    in_the_way: tuple[str, ...]
    """What is in the way of flashing by any method."""
    loader: str
    """What has started the running system, in words."""


def methods_of(system: System) -> Methods:
    """The methods, in order of preference: the loader that is in use, the firmware's own, the running kernel's."""
    one_shots: Sequence[OneShot] = (SystemdBoot(), Grub(), BootNext())
    objections: dict[str, list[str]] = {each.name: each.objections(system) for each in one_shots}
    if not objections["grub"]:
        objections["grub"] = grub_cannot_write(system)
    objections["kexec"] = kexec_objections(system)
    return Methods(
        usable=tuple(name for name, against in objections.items() if not against),
        refused={name: tuple(against) for name, against in objections.items() if against},
        in_the_way=tuple(refusals(system)),
        loader=loader_in_words(system),
    )


def grub_cannot_write(system: System) -> list[str]:
    """Why GRUB would start an entry again and again: nothing that it starts is able to clear its one-shot."""
    found = []
    if system.boot.kind in _UNWRITABLE:
        found.append(f"grubenv lies on {system.boot.kind}, where GRUB cannot write: a one-shot would stay")
    layers = [layer for layer in system.boot_layers if layer.startswith(_UNWRITABLE_LAYERS)]
    if layers:
        found.append(f"grubenv lies on {', '.join(layers)}, where GRUB cannot write: a one-shot would stay")
    return found


def kexec_objections(system: System) -> list[str]:
    """What is in the way of kexec."""
    found = [] if "kexec" in system.tools else ["no kexec on the machine: install kexec-tools"]
    if system.kexec_off:
        found.append("kernel.kexec_load_disabled is set")
    return found


def loader_in_words(system: System) -> str:
    """What has started the running system, and where it keeps what it starts once."""
    where = f"its files are in {system.boot.mount}: {system.boot.kind or 'unknown'} on {system.boot.source}"
    if system.boot_layers:
        where += f" ({', '.join(system.boot_layers)})"
    if system.loader_info:
        return f"{system.loader_info}; {where}"
    if system.grub and "BOOT_IMAGE=" in system.command_line:
        return f"GRUB, {system.grub}/grub.cfg; {where}"
    return f"not known; {where}"
