"""`bench health` with the bench's servers off: a machine that asks the network first goes on to its disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bench.hardware import BootNetwork, Netboot, PxeLoader
from bench.health import FALL_THROUGH, Check, Examination, Health, examine
from bench.hosts import with_files
from bench.lab.net.place import Place
from bench.lab.net.segment import INTERFACE, segment
from bench.lab.virtual_host import MAC, Plugged, plugged
from bench.lab.virtual_rack import ADDRESS, IPV6_ADDRESS
from bench.store import Store
from tests.hosts.flashing import MACHINES, ROOT

LOADERS = {"bios": PxeLoader.IPXE, "uefi": PxeLoader.UKI}
pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(1200)]


@contextmanager
def on_a_network(
    firmware: str, netboot: Netboot, folder: Path, *, first: bool = True
) -> Iterator[tuple[Plugged, Place]]:
    """A machine with a card on a boot network where nobody serves (`first`: it asks there before its disk), and one on
    its system's own."""
    machine = MACHINES["host-pxe-bootnext" if firmware == "uefi" else "host-bios-grub"]
    spec = machine.virtual
    assert spec is not None and spec.host is not None
    # With BootNext the disk is first in the firmware's order.
    order = netboot if first else Netboot.BOOTNEXT
    host = replace(spec.host, boot_methods=("pxe",), pxe_loader=LOADERS[firmware], netboot=order)
    with segment((ADDRESS, IPV6_ADDRESS)) as wires:
        wiring = replace(machine.wiring, mac=MAC, ip="10.77.0.101", boot_network=BootNetwork(INTERFACE, ADDRESS))
        ours = replace(machine, virtual=replace(spec, host=host), wiring=wiring)
        more = ("-netdev", wires.netdev(0, "net"))
        with plugged(with_files(ours, ROOT), folder, network=more) as there:
            # As one of metal: it is examined by what its entry says.
            wiring = replace(there.machine.wiring, netboot=netboot)
            yield replace(there, machine=replace(there.machine, virtual=None, wiring=wiring)), wires.place


def examined(there: Plugged, place: Place, folder: Path) -> tuple[Examination, Check]:
    with Store(folder / "bench.sqlite") as store:
        found = examine(there.machine, Health(store), folder / "capture", power=there.power, place=place)
    (check,) = [one for one in found.checks if one.name == FALL_THROUGH]
    return found, check


@pytest.mark.parametrize(
    ("firmware", "netboot"), [("bios", Netboot.ORDER), ("uefi", Netboot.ORDER), ("uefi", Netboot.BOOTNEXT)]
)
def test_the_disk_s_system_comes_up_and_the_time_is_told(firmware: str, netboot: Netboot, tmp_path: Path) -> None:
    with on_a_network(firmware, netboot, tmp_path / "rack") as (there, place):
        found, check = examined(there, place, tmp_path)
    assert found.ok, found.checks
    assert check.ok and check.found.startswith("asked the network after ")
    assert found.time_to_disk_s is not None and found.time_to_disk_s > 1
    assert (netboot is Netboot.BOOTNEXT) == check.found.endswith("BootNext consumed")


def test_a_machine_that_never_asks_the_network_is_found(tmp_path: Path) -> None:
    with on_a_network("bios", Netboot.ORDER, tmp_path / "rack", first=False) as (there, place):
        found, check = examined(there, place, tmp_path)
    assert not found.ok and check.ok is False and found.time_to_disk_s is None
    assert check.found.endswith("its card asked nobody: netboot = 'order' is not so")
