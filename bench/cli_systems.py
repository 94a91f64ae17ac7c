"""A word before small systems are made of Debian's packages, which keeps a user waiting once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.terminal import note

if TYPE_CHECKING:
    from bench.images.small_system import SmallSystem
    from bench.records import Machine


def announce(systems: Iterable[SmallSystem]) -> None:
    """Tell which of them are not there yet."""
    from bench.images.small_system import find_system

    for name, system in {system.name: system for system in systems}.items():
        if find_system(system) is None:
            note(f"making the system {name} of Debian's packages, once: that takes minutes")


def announce_for(machines: Iterable[Machine]) -> None:
    """The same, of what virtual machines start from their disks."""
    from bench.hosts import own_system

    announce(system for machine in machines if (system := own_system(machine)))
