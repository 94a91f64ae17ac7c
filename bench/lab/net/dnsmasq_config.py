"""What dnsmasq is told: known machines only, on one interface only, and to each machine its own files.

The configuration does not change while dnsmasq runs. What changes is the file of hosts, which says whom a boot is
offered to, and the folder of each machine, its TFTP root (dnsmasq(8), ``tftp-unique-root=mac``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.hardware import BootNetwork, NetworkMode

HOSTS, CONFIG, TFTP = "hosts", "dnsmasq.conf", "tftp"
LEASE = "1h"
# Processor architectures of option 93 (RFC 4578 section 2.1, IANA's list): firmware of PCs.
BIOS_ARCH, UEFI_ARCHES, UEFI_HTTP_ARCH = 0, (7, 9), 16
# What firmware that boots by HTTP is told to fetch: whose image it is, the asking card says.
HTTP_BOOT_PATH = "/boot.efi"
# Who asks → the file that it is told to fetch. What that is, and whether it is there, is up to the machine's folder.
# (Tags in the file of hosts would do it too, but dnsmasq 2.90 frees what is not its own when it reads such a file anew:
# src/rfc2131.c links a host's tags into the list of the request.)
BOOT_FILES: dict[str, tuple[str, ...]] = {
    "boot.ipxe": ("ipxe",),
    "boot.bios": ("bios", "!ipxe"),
    "boot.efi": ("uefi", "!ipxe"),
}


@dataclass(frozen=True)
class Host:
    """A machine of the boot network."""

    mac: str
    address: str = ""
    """Its own; empty: of the pool, or the site's server gives it."""
    offered: bool = False
    """Whether there is something to boot for it; without, it gets an address at most and goes on to its disk."""


def configuration(network: BootNetwork, folder: Path) -> str:
    """dnsmasq's configuration file for servers that keep their files in `folder`."""
    mine = ipaddress.ip_interface(network.address)
    mask = str(mine.network.netmask)
    lines = [
        "port=0",
        f"interface={network.interface}",
        "except-interface=lo",
        "bind-interfaces",
        "leasefile-ro",
        "no-ping",
        "log-dhcp",
        # Not one word to machines that the inventory does not have.
        "dhcp-ignore=tag:!known",
        f"dhcp-hostsfile={folder / HOSTS}",
        "dhcp-userclass=set:ipxe,iPXE",
        f"dhcp-match=set:bios,option:client-arch,{BIOS_ARCH}",
        *(f"dhcp-match=set:uefi,option:client-arch,{arch}" for arch in UEFI_ARCHES),
        f"dhcp-match=set:http,option:client-arch,{UEFI_HTTP_ARCH}",
        "enable-tftp",
        f"tftp-root={folder / TFTP}",
        "tftp-unique-root=mac",
        *_boot_files(network),
    ]
    if network.mode is NetworkMode.PROXY:
        lines.append(f"dhcp-range={mine.network.network_address},proxy,{mask}")
    else:
        lines += ["dhcp-authoritative", f"dhcp-range={mine.network.network_address},static,{mask},{LEASE}"]
        if network.pool:
            lines.append(f"dhcp-range={network.pool[0]},{network.pool[1]},{mask},{LEASE}")
        # No way out of this network: a default route to us would lead nowhere.
        lines += ["dhcp-option=option:router", "dhcp-option=option:dns-server"]
    if network.router_advertisements:
        lines += ["enable-ra", f"dhcp-range={network.ipv6_prefix},ra-only,64"]
    return "\n".join(lines) + "\n"


def _boot_files(network: BootNetwork) -> Iterable[str]:
    yield f"dhcp-boot=tag:http,http://{network.address.partition('/')[0]}:{network.http_port}{HTTP_BOOT_PATH}"
    # UEFI 2.10, 24.7.3.1: an offer without option 60 = HTTPClient is not for HTTP boot. As a proxy dnsmasq answers only
    # those of the vendors that it is told, each by its own name.
    if network.mode is NetworkMode.FULL:
        yield "dhcp-option-force=tag:http,60,HTTPClient"
    else:
        yield "dhcp-pxe-vendor=PXEClient,HTTPClient"
    for file, tags in BOOT_FILES.items():
        marks = ",".join(f"tag:{tag}" for tag in tags)
        yield f"dhcp-boot={marks},{file},,{network.address.partition('/')[0]}"
        if network.mode is NetworkMode.PROXY and "ipxe" not in tags:
            kinds = ("x86PC",) if "bios" in tags else ("x86-64_EFI", "BC_EFI")
            yield from (f"pxe-service={marks},{kind},bench,{file}" for kind in kinds)


def hosts(network: BootNetwork, machines: Iterable[Host]) -> str:
    """The file of hosts. Beside a site's server only those are known to whom something is offered: the rest is its."""
    lines = []
    for one in machines:
        if network.mode is NetworkMode.PROXY and not one.offered:
            continue
        words = [one.mac]
        if one.address and network.mode is NetworkMode.FULL:
            words.append(one.address)
        lines.append(",".join(words))
    return "".join(f"{line}\n" for line in lines)


def tftp_folder(folder: Path, mac: str) -> Path:
    """The TFTP root of one machine, as dnsmasq 2.90 names it (src/tftp.c, tftp_request)."""
    return folder / TFTP / mac.replace(":", "-")
