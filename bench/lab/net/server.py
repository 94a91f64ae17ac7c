"""The boot network's servers together: to whom what is offered, and what each machine has made of it."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace

from bench.errors import BenchError, LabError, UsageError
from bench.hardware import BootNetwork, NetworkMode
from bench.lab.load import Load
from bench.lab.net.dnsmasq import Dnsmasq
from bench.lab.net.dnsmasq_config import HTTP_BOOT_PATH, Host, tftp_folder
from bench.lab.net.dnsmasq_log import NetEvent, NetEventKind
from bench.lab.net.http_server import Fetch, FetchKind, HttpServer
from bench.lab.net.offer import Note, Offer, lay_out
from bench.lab.net.place import SCRATCH, Place
from bench.lab.net.probe import other_servers
from bench.lab.net.shelf import Item, Shelf
from bench.lab.scratch import scratch
from bench.records import Machine

# dnsmasq says what it gives before it gives it; so long it may take until that is read here, on a busy computer.
LEASE_READ_S, LEASE_LOOK_S = 5.0, 0.02
_DHCP_STEPS = {
    NetEventKind.DISCOVER: "discover",
    NetEventKind.OFFER: "offer",
    NetEventKind.LEASE: "lease",
}


class BootServer:
    """DHCP (or proxy-DHCP), TFTP and HTTP on one boot network. Close it: a context manager.

    Raises LabError if one of them does not start, or if in full mode another DHCP server answers.
    """

    def __init__(self, network: BootNetwork, place: Place | None = None) -> None:
        self.network = network
        self.place = place or Place(network.interface)
        if not self.place.privileged:
            raise UsageError(
                f"boot network {network.interface}: DHCP and TFTP need root on this computer's own interfaces; "
                "a virtual lab's network does not"
            )
        self.address = network.address.partition("/")[0]
        self.shelf = Shelf()
        self._lock = threading.RLock()
        self._hosts: dict[str, Host] = {}
        self._offers: dict[str, Offer] = {}
        self._aborted: set[str] = set()
        # Addresses that a card had at its last offer.
        self._last: dict[str, set[str]] = {}
        self._refuse_beside_another()
        with ExitStack() as stack:
            self._folder = stack.enter_context(scratch(SCRATCH))
            listening = self.place.listen(self.address, network.http_port)
            self._http = HttpServer(
                listening, self.shelf, allowed=self._allowed, told=self._fetched, own_path=self._own_path
            )
            stack.callback(self._http.close)
            self._dnsmasq = Dnsmasq(network, self.place, self._folder, [], told=self._told, died=self._died)
            stack.callback(self._dnsmasq.close)
            self._end = stack.pop_all()

    def __enter__(self) -> BootServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dnsmasq_pid(self) -> int:
        """dnsmasq's process id."""
        return self._dnsmasq.pid

    def close(self) -> None:
        """End all servers: nobody is answered any more, and every machine starts its disk."""
        self._end.close()

    def offer(self, machine: Machine, load: Load, note: Note) -> Offer:
        """Offer `load` to `machine`, once. Steps and troubles go to `note`. Raises UsageError, LabError."""
        wiring = machine.wiring
        if not wiring.mac:
            raise UsageError(f"{machine.name}: mac: missing: network boot needs it")
        if wiring.secure_boot:
            raise UsageError(f"{machine.name}: secure_boot: its firmware starts signed programs only, and ours are not")
        if self.network.mode is NetworkMode.FULL and not wiring.ip and self.network.pool is None:
            raise UsageError(f"{machine.name}: ip: missing: the boot network has no pool of addresses")
        host = Host(wiring.mac, wiring.ip, offered=True)
        offer = Offer(machine.name, host, wiring.pxe_loader, note)
        folder = tftp_folder(self._folder, wiring.mac)
        with self._lock:
            if self._offers.get(wiring.mac):
                raise LabError(f"{machine.name}: a boot is offered to it already", component="boot network")
            self._http.forget(self._last.pop(wiring.mac, ()))
            try:
                lay_out(
                    offer, load, folder, self.shelf,
                    server=self.address, port=self.network.http_port, firmware=wiring.firmware,
                )  # fmt: skip
                self._offers[wiring.mac], self._hosts[wiring.mac] = offer, host
                self._dnsmasq.offer(self._hosts.values())
            except BaseException:
                with suppress(BenchError):
                    self.withdraw(wiring.mac)
                raise
        return offer

    def withdraw(self, mac: str, *, why: str = "withdrawn") -> dict[str, str]:
        """Take back what a machine is offered; harmless when there is nothing. Raises LabError if dnsmasq is dead.

        The files go first: even a server that does not listen any more has nothing to give then.
        """
        with self._lock:
            shutil.rmtree(tftp_folder(self._folder, mac), ignore_errors=True)
            items = self.shelf.remove(mac)
            offer = self._offers.pop(mac, None)
            if offer is not None:
                offer.open = False
                self._last[mac] = offer.addresses
            if mac in self._hosts:
                self._hosts[mac] = replace(self._hosts[mac], offered=False)
                if self._dnsmasq.alive:
                    self._dnsmasq.offer(self._hosts.values())
        return {"offer": why if offer else "none", "URLs withdrawn": str(items)}

    def _refuse_beside_another(self) -> None:
        if self.network.mode is not NetworkMode.FULL:
            return
        with self.place.wire() as wire:
            others = other_servers(wire)
        if others:
            who = ", ".join(f"{one.address} ({one.mac})" for one in others)
            raise LabError(
                f"boot network {self.network.interface}: another DHCP server answers there: {who}; "
                'mode = "proxy" goes beside it',
                component=f"boot network {self.network.interface}",
                witness=f"DHCPOFFER from {who}",
            )

    def _spent(self, offer: Offer) -> None:
        """Everything was fetched: the machine's next boot is its disk's, whatever becomes of this one."""

        def withdraw() -> None:
            # The offer may have been withdrawn meanwhile, and another one made.
            with self._lock:
                if self._offers.get(offer.host.mac) is offer:
                    with suppress(BenchError):
                        self.withdraw(offer.host.mac, why="spent")

        offer.tell({"step": "spent"})
        # Not here: this may be the thread that has to hear dnsmasq's answer.
        threading.Thread(target=withdraw, name="offer spent", daemon=True).start()

    def _died(self, words: str) -> None:
        with self._lock:
            for offer in self._offers.values():
                offer.tell({"step": "trouble", "component": "dnsmasq", "what": words})

    def _told(self, event: NetEvent) -> None:
        """An event of dnsmasq's, from its own thread."""
        offer = self._offers.get(event.mac) or self._of_address(event.address)
        if offer is None:
            return
        witness = {name: text for name, text in (("address", event.address), ("mac", event.mac)) if text}
        if event.kind is NetEventKind.LEASE and event.address:
            offer.addresses.add(event.address)
        if event.kind in _DHCP_STEPS:
            offer.came(_DHCP_STEPS[event.kind], witness)
        elif event.kind is NetEventKind.REFUSED:
            offer.tell({"step": "trouble", "component": "DHCP", "what": event.detail or "refused", **witness})
        elif event.kind is NetEventKind.TFTP_SENT and event.address in self._aborted:
            # dnsmasq calls a file sent of which a client has only asked the size (tftp.c: an error ends it in order).
            self._aborted.discard(event.address)
        elif event.kind is NetEventKind.TFTP_SENT:
            self._sent(offer, event)
        elif event.kind in (NetEventKind.TFTP_FAILED, NetEventKind.TFTP_ABSENT):
            name = self._name(offer, event.file)
            if not event.file:
                self._aborted.add(event.address)
            offer.tell({"step": "TFTP", "what": event.detail or event.kind.value, "file": name, **witness})

    def _sent(self, offer: Offer, event: NetEvent) -> None:
        name = self._name(offer, event.file)
        step, size = offer.files.get(name, ("", 0))
        witness = {"file": name, "bytes": str(size), "by": "TFTP", "address": event.address}
        if not step:
            offer.tell({"step": "TFTP", **witness})
        elif offer.came(step, witness):
            self._spent(offer)

    def _name(self, offer: Offer, file: str) -> str:
        return file.removeprefix(f"{tftp_folder(self._folder, offer.host.mac)}/")

    def _of_address(self, address: str) -> Offer | None:
        """The offer to whoever has an address now."""
        if not address:
            return None
        for offer in list(self._offers.values()):
            if address in offer.addresses or address == offer.host.address:
                return offer
        return self._offers.get(self.place.mac_of(address))

    def _own_path(self, path: str, address: str) -> str:
        """What firmware that boots by HTTP means by the path that all are told."""
        if path != HTTP_BOOT_PATH:
            return path
        offer = self._offers.get(self.place.mac_of(address))
        return offer.http_boot if offer is not None and offer.http_boot else path

    def _allowed(self, item: Item, address: str) -> str:
        """The machine's own card, at the address that it has been given."""
        offer = self._offers.get(item.mac)
        if offer is None:
            return "no longer offered"
        mac = self.place.mac_of(address)
        if mac != item.mac:
            return f"{address} is {mac or 'nobody known'}, not {offer.machine}"
        if self.network.mode is NetworkMode.FULL and not self._leased(offer, address):
            return f"{address} was not given to {offer.machine}"
        return ""

    def _leased(self, offer: Offer, address: str) -> bool:
        """Whether it has been given the address. Firmware may fetch before we have read what dnsmasq said of it."""
        deadline = time.monotonic() + LEASE_READ_S
        while address not in offer.addresses and time.monotonic() < deadline:
            time.sleep(LEASE_LOOK_S)
        return address in offer.addresses

    def _fetched(self, fetch: Fetch) -> None:
        """A request to the HTTP server, from a thread of its own."""
        item = fetch.item
        offer = self._offers.get(item.mac) if item else self._of_address(fetch.address)
        if offer is None:
            return
        witness = {"address": fetch.address, "bytes": str(fetch.size), "seconds": f"{fetch.seconds:.2f}", "by": "HTTP"}
        if fetch.kind is FetchKind.FETCHED and item:
            if offer.came(item.step, witness):
                self._spent(offer)
        elif fetch.kind in (FetchKind.BROKEN, FetchKind.REFUSED):
            what = f"{item.name}: {fetch.detail}" if item else fetch.detail
            offer.tell({"step": "HTTP", "what": f"{fetch.kind.value}: {what}", **witness})
        elif item:
            offer.tell({"step": "HTTP", "what": f"{item.name}: {fetch.kind.value}", **witness})
