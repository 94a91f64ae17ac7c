"""Network cards and serial ports, as a machine's kernel lists them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PORT_IO = "0"
"""UPIO_PORT of include/linux/serial_core.h: reached by IN and OUT."""


@dataclass(frozen=True)
class Card:
    """A network card (no bridge, no tunnel)."""

    name: str
    mac: str
    state: str
    """``up``, ``down``, …"""
    driver: str
    addresses: tuple[str, ...]
    """Its own, or those of the bond or bridge that it belongs to."""


@dataclass(frozen=True)
class SerialPort:
    """A UART that the kernel has found."""

    name: str
    io_port: int | None
    """None: it is not reached through I/O ports, and the payload cannot use it."""


def read_cards(cards: str, addresses: str) -> tuple[Card, ...]:
    """Lines ``name mac state driver master``, and those of ``ip -o addr``."""
    at: dict[str, list[str]] = {}
    for line in addresses.splitlines():
        words = line.split()
        if len(words) > 3 and words[2] in ("inet", "inet6"):
            at.setdefault(words[1].partition("@")[0], []).append(words[3].partition("/")[0])
    found = []
    for line in cards.splitlines():
        words = line.split()
        if len(words) < 3 or not _MAC.fullmatch(words[1]):
            continue
        name, mac, state, driver, master = (*words, "", "")[:5]
        found.append(Card(name, mac, state, driver, tuple(at.get(name, ()) or at.get(master, ()))))
    return tuple(found)


def read_ports(text: str) -> tuple[SerialPort, ...]:
    """Lines ``ttyS0 io_type port iomem_base``, in the order of their numbers."""
    found = []
    for line in text.splitlines():
        name, kind, port = (*line.split(), "", "", "")[:3]
        if re.fullmatch(r"ttyS\d+", name):
            found.append(SerialPort(name, int(port, 16) if kind == _PORT_IO and port else None))
    return tuple(sorted(found, key=lambda each: int(each.name[4:])))
