"""A machine that the rescue system is to be booted on: of metal, leased, or a virtual one in its rack."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli_health import at_hand
from bench.terminal import note

if TYPE_CHECKING:
    from bench.images.small_system import BuiltSystem
    from bench.lab.net.loader import NetLoader
    from bench.lab.power.switched import SwitchedPower
    from bench.records import Machine


@dataclass(frozen=True)
class Rescuable:
    """What `bench.rescue` needs of a machine."""

    machine: Machine
    system: BuiltSystem
    power: SwitchedPower
    folder: Path
    """For the capture; not there yet."""
    loader: NetLoader | None
    """Of a virtual machine, whose boot network is its own; None: the lab's."""


def rescue_system(root: Path, *, quiet: bool) -> BuiltSystem:
    """The rescue system, built if it is not there."""
    from bench.images.rescue import SYSTEM, build_rescue
    from bench.images.small_system import find_system

    if not quiet and find_system(SYSTEM) is None:
        note("making the rescue system of Debian's packages, once: that takes minutes")
    return build_rescue(root)


@contextmanager
def rescuable(name: str, results: Path | None, *, purpose: str, wait: float, json: bool) -> Iterator[Rescuable]:
    """Have the machine `name`, and the system. Raises UsageError, LabError."""
    from bench.errors import UsageError
    from bench.inventory import find_root, load_inventory
    from bench.rescue.session import require_rescuable

    root = find_root()
    machine = load_inventory(root).get(name)
    if machine is None or machine.virtual is None:
        with at_hand(name, results, purpose=purpose, wait=wait, json=json) as here:
            require_rescuable(here.machine)
            yield Rescuable(here.machine, rescue_system(root, quiet=json), here.power, here.folder, None)
        return
    host = machine.virtual.host
    if host is None or host.boot_methods[:1] != ("pxe",):
        raise UsageError(
            f"{name}: virtual.host.boot_methods: the rescue system comes over the network: 'pxe' goes first"
        )
    system = rescue_system(root, quiet=json)
    with _racked(machine, root, (results or root / "results") / "health", system) as there:
        yield there


@contextmanager
def _racked(machine: Machine, root: Path, where: Path, system: BuiltSystem) -> Iterator[Rescuable]:
    from bench.hosts import with_files
    from bench.lab.net.loader import NetLoader
    from bench.lab.virtual_rack import racked

    now = datetime.now(UTC)
    folder = where / f"{now:%Y-%m-%d}" / f"{now:%H%M%S}-{machine.name}-{secrets.token_hex(2)}"
    with racked(with_files(machine, root), folder / "qemu") as (there, loader):
        assert isinstance(loader, NetLoader)
        yield Rescuable(there.machine, system, there.power, folder, loader)
