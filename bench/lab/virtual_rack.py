"""The rack of a virtual machine with a disk: where it is plugged in, and who loads it if the network is the way.

Its boot network is a namespace of its own, made without root, with the bench's own servers in it: the same DHCP, TFTP
and HTTP as on a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.hardware import BootNetwork, Netboot
from bench.lab.flash.reach import SYSTEM_S
from bench.lab.load import Loader
from bench.lab.net.loader import NetLoader
from bench.lab.net.segment import INTERFACE, segment
from bench.lab.net.server import BootServer
from bench.lab.virtual_host import MAC, POST_S, Plugged, plugged
from bench.records import Machine

ADDRESS, IPV6_ADDRESS = "10.77.0.1/24", "fd77::1/64"
MACHINE_IP = "10.77.0.101"


@contextmanager
def racked(machine: Machine, folder: Path) -> Iterator[tuple[Plugged, Loader | None]]:
    """`machine` in its rack, off, and its loader if that is the network's; else None: its entry's methods say it.

    Raises UsageError, LabError.
    """
    host = machine.virtual.host if machine.virtual is not None else None
    if host is None or host.boot_methods[:1] != ("pxe",):
        with plugged(machine, folder) as there:
            yield there, None
        return
    network = BootNetwork(INTERFACE, ADDRESS)
    wiring = replace(
        machine.wiring,
        mac=machine.wiring.mac or MAC,
        ip=MACHINE_IP,
        pxe_loader=host.pxe_loader,
        netboot=host.netboot,
        boot_network=network,
    )
    with (
        segment((ADDRESS, IPV6_ADDRESS)) as wires,
        BootServer(network, wires.place) as server,
        plugged(replace(machine, wiring=wiring), folder, network=("-netdev", wires.netdev(0, "net"))) as there,
    ):
        by_system = host.netboot is Netboot.BOOTNEXT
        yield (
            there,
            NetLoader(server, own_system_s=POST_S[there.machine.wiring.firmware] + SYSTEM_S if by_system else 0.0),
        )
