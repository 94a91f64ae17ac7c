"""Loading a machine over the network: a boot is offered to it, once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from bench.errors import UsageError
from bench.hardware import BootNetwork, Netboot, PxeLoader
from bench.lab.flash.restart import RestartPower
from bench.lab.load import Load, Loader, Note
from bench.lab.net.bootnext import DELAY_S, NextBoot
from bench.lab.net.place import Place
from bench.lab.net.selection import deselect, select
from bench.lab.net.server import BootServer
from bench.lab.power import Power
from bench.records import Machine


class NetLoader(Loader):
    """Offers a load over the boot network by `server`, or by one of its own for as long as a boot is prepared.

    Machines that boot side by side share the servers of their network. `own_system_s`, for a machine whose own system
    has firmware boot from the network (``netboot = "bootnext"``): from power-on to its SSH.
    """

    def __init__(self, server: BootServer | None = None, *, own_system_s: float = 0.0) -> None:
        self._own = server is None
        self._server = server
        self._own_system_s = own_system_s
        self._next: NextBoot | None = None
        self.delay_s = DELAY_S if own_system_s else 0.0

    def load(self, machine: Machine, load: Load, power: Power, note: Note) -> Mapping[str, str]:
        """Offer it, and have the machine boot from the network next. Power is touched only where its own system is
        asked to do that."""
        wiring = machine.wiring
        if self._server is None:
            if machine.wiring.boot_network is None:
                raise UsageError(f"{machine.name}: boot_methods: pxe needs a table [boot_network] in lab.toml")
            self._server = SERVERS.take(machine.wiring.boot_network)
        if wiring.netboot is Netboot.BOOTNEXT:
            http = wiring.pxe_loader is PxeLoader.UKI_HTTP
            self._next = NextBoot(machine, power, note, wait_s=self._own_system_s, http=http, updates=load.updates)
        offer = self._server.offer(machine, load, note)
        return {
            "loader": f"network: {offer.loader.value}",
            "steps": " ".join(offer.steps),
            **(self._next.witness if self._next else select(machine)),
        }

    def starting(self, power: Power) -> Power:
        """See Loader."""
        return power if self._next is None else RestartPower(power, self._next.restart)

    @property
    def place(self) -> Place:
        """Where the servers are, while a boot is prepared: from there the machine is reached."""
        assert self._server is not None, "nothing is prepared"
        return self._server.place

    def fall_back(self, machine: Machine) -> Mapping[str, str]:
        """Withdraw it: the machine's next boot is its disk's."""
        server = self._server
        if server is None:
            return {"offer": "none"}
        upcoming, self._next = self._next, None
        try:
            try:
                withdrawn = server.withdraw(machine.wiring.mac)
            finally:
                # With a server that hangs, too: what was selected would have the machine ask it.
                undone = upcoming.fall_back() if upcoming else deselect(machine)
            return {**withdrawn, **undone}
        finally:
            if self._own:
                self._server = None
                SERVERS.give_back(server)


class Servers:
    """The servers of each boot network, shared by all who use it at a time in this bench."""

    def __init__(self, make: Callable[[BootNetwork], BootServer]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._running: dict[BootNetwork, tuple[BootServer, int]] = {}

    def take(self, network: BootNetwork) -> BootServer:
        """The servers of `network`, started by the first who asks. Raises LabError, UsageError."""
        with self._lock:
            found = self._running.get(network)
            server, users = found or (self._make(network), 0)
            self._running[network] = (server, users + 1)
            return server

    def give_back(self, server: BootServer) -> None:
        """Done with them; the last who says so ends them."""
        with self._lock:
            network = server.network
            _, users = self._running[network]
            if users > 1:
                self._running[network] = (server, users - 1)
                return
            del self._running[network]
            server.close()


SERVERS = Servers(BootServer)
