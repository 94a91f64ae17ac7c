"""With nobody there who offers anything, a machine that asks the network goes on to its disk: how that is seen."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.hardware import Netboot, OwnSystem
from bench.lab.flash.reach import come_back
from bench.lab.net.bootnext import NextBoot
from bench.lab.net.place import Place
from bench.lab.net.probe import FRAME_BYTES, discovers
from bench.lab.net.selection import deselect
from bench.lab.net.selection import select as select_network
from bench.lab.power import Power
from bench.records import Machine

TICK_S = 0.2
# What firmware may take to give up on a network where nobody answers: PXE and HTTP, over IPv4 and IPv6, one by one.
LONGEST_S = 300.0


class Asking:
    """Listens on a boot network from now on for a card that asks for an address; answers nobody. Close it.

    Raises LabError if there is no such interface, or no right to listen on it.
    """

    def __init__(self, place: Place, mac: str) -> None:
        self._mac = mac
        self._wire = place.wire()
        self._begun = time.monotonic()
        self._over = threading.Event()
        self.after_s: float | None = None
        """From the beginning to the first DHCPDISCOVER; None: none came yet."""
        self._thread = threading.Thread(target=self._listen, name=f"DHCP of {mac}", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._over.is_set() and self.after_s is None:
            if select.select([self._wire], [], [], TICK_S)[0] and discovers(self._wire.recv(FRAME_BYTES)) == self._mac:
                self.after_s = round(time.monotonic() - self._begun, 1)

    def close(self) -> None:
        """Listen no more."""
        self._over.set()
        self._thread.join()
        self._wire.close()


def goes_by_network(machine: Machine) -> bool:
    """Whether a machine with a system on its disk is booted over the network at times."""
    wiring = machine.wiring
    return "pxe" in wiring.boot_methods and wiring.known_good is OwnSystem.DISK and wiring.boot_network is not None


@contextmanager
def asking(machine: Machine, place: Place | None = None) -> Iterator[Asking]:
    """Who listens to the card of `machine` while it is started, with the network selected for that where a BMC does it.

    Raises LabError if nobody can listen, or the BMC does not do it.
    """
    listener = Asking(place or _place(machine), machine.wiring.mac)
    try:
        by_bmc = machine.wiring.netboot in (Netboot.IPMI, Netboot.REDFISH)
        if by_bmc:
            select_network(machine)
        try:
            yield listener
        finally:
            if by_bmc:
                deselect(machine)
    finally:
        listener.close()


@dataclass(frozen=True)
class FallThrough:
    """A machine that has asked the network and started its disk. Seconds from power-on or restart."""

    asked_s: float | None
    """None: its card has asked nobody."""
    disk_s: float
    one_shot: str = ""
    """What became of BootNext, if that selected the network."""


def by_bootnext(machine: Machine, power: Power, *, wait_s: float, place: Place | None = None) -> FallThrough:
    """Have the running system of `machine` select the network by BootNext, and wait until it has come up again from its
    disk; off afterwards. Raises LabError, MethodRefused."""
    upcoming = NextBoot(machine, power, lambda _: None, wait_s=wait_s)
    listener = Asking(place or _place(machine), machine.wiring.mac)
    try:
        begun = time.monotonic()
        upcoming.restart()
        come_back(machine, power, upcoming.witness["boot id before"], wait_s=wait_s).close()
        took = round(time.monotonic() - begun, 1)
    finally:
        listener.close()
        left = upcoming.fall_back()
    return FallThrough(listener.after_s, took, left["one-shot"])


def _place(machine: Machine) -> Place:
    assert machine.wiring.boot_network is not None
    return Place(machine.wiring.boot_network.interface)
