"""A machine that the rescue system is to be booted on: of metal, leased, or a virtual one in its rack."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli_health import at_hand
from bench.hardware import PxeLoader

if TYPE_CHECKING:
    from bench.images.small_system import BuiltSystem
    from bench.lab.net.loader import NetLoader
    from bench.lab.power.switched import SwitchedPower
    from bench.records import Machine


@dataclass(frozen=True)
class Stranger:
    """What is known of a machine that is not in the inventory."""

    mac: str
    ip: str
    firmware: str
    pxe_loader: PxeLoader


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
    from bench.cli_systems import announce
    from bench.images.rescue import SYSTEM, build_rescue

    if not quiet:
        announce([SYSTEM])
    return build_rescue(root)


@contextmanager
def rescuable(
    name: str, results: Path | None, *, purpose: str, wait: float, json: bool, stranger: Stranger | None = None
) -> Iterator[Rescuable]:
    """Have the machine `name`, of the inventory or `stranger`, and the system. Raises UsageError, LabError."""
    from bench.errors import UsageError
    from bench.inventory import find_root, load_inventory
    from bench.rescue.session import require_rescuable

    root = find_root()
    if stranger is not None:
        with _stranger(name, stranger, root, results or root / "results", purpose, json=json) as there:
            yield there
        return
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
def _stranger(
    name: str, stranger: Stranger, root: Path, results: Path, purpose: str, *, json: bool
) -> Iterator[Rescuable]:
    from bench.cli_power import ask
    from bench.inventory.unlisted import unlisted
    from bench.lab.power.choose import power_of
    from bench.leases import lease

    machine = unlisted(root, name, mac=stranger.mac, ip=stranger.ip, firmware=stranger.firmware,
                       pxe_loader=stranger.pxe_loader)  # fmt: skip
    power = power_of(machine, ask=ask if sys.stdin.isatty() else None)
    system = rescue_system(root, quiet=json)
    with lease(machine, results, purpose=purpose):
        yield Rescuable(machine, system, power, _folder(results / "health", name), None)


def _folder(where: Path, name: str) -> Path:
    now = datetime.now(UTC)
    return where / f"{now:%Y-%m-%d}" / f"{now:%H%M%S}-{name}-{secrets.token_hex(2)}"


@contextmanager
def _racked(machine: Machine, root: Path, where: Path, system: BuiltSystem) -> Iterator[Rescuable]:
    from bench.cli_systems import announce_for
    from bench.hosts import with_files
    from bench.lab.net.loader import NetLoader
    from bench.lab.virtual_rack import racked

    folder = _folder(where, machine.name)
    announce_for([machine])
    with racked(with_files(machine, root), folder / "qemu") as (there, loader):
        assert isinstance(loader, NetLoader)
        yield Rescuable(there.machine, system, there.power, folder, loader)
