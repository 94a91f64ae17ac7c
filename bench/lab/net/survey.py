"""Whether a site's boot network is ready, looked at without answering anybody."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from bench.errors import BenchError
from bench.hardware import BootNetwork, NetworkMode, PxeLoader
from bench.lab.net import loaders
from bench.lab.net.place import Place
from bench.lab.net.probe import other_servers
from bench.lab.net.scripts import grub_first

IP_S = 10.0


@dataclass(frozen=True)
class Point:
    """One thing that was looked at."""

    what: str
    ok: bool
    said: str


def survey(network: BootNetwork, wanted: set[tuple[PxeLoader, str]], place: Place | None = None) -> Iterator[Point]:
    """Programs, loaders (`wanted`: loader and firmware), interface, address, port, and who else gives addresses."""
    place = place or Place(network.interface)
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program, package in (("dnsmasq", "dnsmasq-base"), ("setpriv", "util-linux"), ("ip", "iproute2")):
        found = shutil.which(program, path=path)
        yield Point(program, found is not None, found or f"not installed (package {package})")
    for loader, firmware in sorted(wanted):
        yield _loader(network, loader, firmware)
    address = _address(network, place)
    yield address
    root = place.privileged
    yield Point("root", root, "yes" if root else "DHCP and TFTP need it on an interface of this computer")
    if not (address.ok and root):
        return
    try:
        place.listen(str(ipaddress.IPv4Interface(network.address).ip), network.http_port).close()
        yield Point(f"port {network.http_port}", True, "free")
    except BenchError as error:
        yield Point(f"port {network.http_port}", False, str(error))
    with place.wire() as wire:
        others = ", ".join(f"{one.address} ({one.mac})" for one in other_servers(wire))
    full = network.mode is NetworkMode.FULL
    yield Point("other DHCP servers", not (full and others), others or "none answers a card that nobody knows")


def _loader(network: BootNetwork, loader: PxeLoader, firmware: str) -> Point:
    what = f"{loader.value} for {firmware}"
    try:
        name = loaders.FIRST.get((loader, firmware), "ldlinux.c32" if loader is PxeLoader.PXELINUX else None)
        if name is None:
            return Point(what, True, "made for each boot")
        first = grub_first(str(ipaddress.IPv4Interface(network.address).ip))
        return Point(what, True, str(loaders.find(name) if name else loaders.grub_image(firmware, first)))
    except BenchError as error:
        return Point(what, False, str(error))


def _address(network: BootNetwork, place: Place) -> Point:
    """Whether the interface is up and has the address that ``lab.toml`` says."""
    command = [*place.prefix, "ip", "-json", "address", "show", "dev", place.interface]
    what = f"interface {place.interface}"
    try:
        done = subprocess.run(command, capture_output=True, timeout=IP_S)
        (link,) = [row for row in json.loads(done.stdout) if row] if done.returncode == 0 else [None]
    except (OSError, ValueError, subprocess.TimeoutExpired):
        link = None
    if link is None:
        return Point(what, False, "there is none of this name")
    has = [f"{row['local']}/{row['prefixlen']}" for row in link["addr_info"] if row["family"] == "inet"]
    if network.address not in has:
        return Point(what, False, f"has {', '.join(has) or 'no address'}, and not {network.address}")
    up = "UP" in link["flags"] and "NO-CARRIER" not in link["flags"]
    return Point(what, up, f"{network.address}, {'up' if up else 'no carrier'}")
