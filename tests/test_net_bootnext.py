"""Which of firmware's boot options is the network card's, by its device path."""

from __future__ import annotations

import struct

import pytest

from bench.lab.flash.load_option import LoadOption
from bench.lab.net.bootnext import is_network

MAC, OTHER = "52:54:00:77:00:01", "52:54:00:77:00:02"
END = b"\x7f\xff\x04\x00"


def node(kind: int, subtype: int, data: bytes) -> bytes:
    return struct.pack("<BBH", kind, subtype, 4 + len(data)) + data


# UEFI 2.10, 10.3: the PCI root, the card, its MAC, and the protocols on it; with the lengths that the standard gives.
PCI = node(2, 1, bytes(8)) + node(1, 1, bytes(2))
IPV4, IPV6, URI = node(3, 12, bytes(23)), node(3, 13, bytes(56)), node(3, 24, b"")


def card(mac: str) -> bytes:
    return PCI + node(3, 11, bytes.fromhex(mac.replace(":", "")).ljust(32, b"\0") + b"\1")


PXE, HTTP = card(MAC) + IPV4 + END, card(MAC) + IPV4 + URI + END


def test_the_card_s_entry_is_found_for_pxe_and_for_http() -> None:
    assert is_network(LoadOption("UEFI PXEv4", PXE), MAC, http=False)
    assert is_network(LoadOption("UEFI HTTPv4", HTTP), MAC, http=True)
    assert is_network(LoadOption("PXE", card(MAC.upper()) + IPV4 + END), MAC, http=False)
    answered = card(MAC) + IPV4 + node(3, 24, b"http://10.77.0.1/x") + END
    assert is_network(LoadOption("an address of its own", answered), MAC, http=True)


@pytest.mark.parametrize("http", [False, True])
@pytest.mark.parametrize(
    "paths",
    [
        card(OTHER) + IPV4 + END,
        card(OTHER) + IPV4 + URI + END,
        card(MAC) + IPV6 + END,
        card(MAC) + IPV6 + URI + END,
        card(MAC) + END,
        PCI + IPV4 + END,
        PCI + node(3, 11, b"\x52\x54") + IPV4 + END,
        node(4, 1, bytes(38)) + node(4, 4, "\\EFI\\x".encode("utf-16-le")) + END,
        PXE[:-5],
        HTTP[:-1],
        b"",
    ],
    ids=["other", "other-http", "ipv6", "ipv6-http", "card", "no-mac", "short-mac", "disk", "cut", "cut-http", "empty"],
)
def test_what_is_not_the_card_over_ipv4_is_not_taken(paths: bytes, http: bool) -> None:
    assert not is_network(LoadOption("x", paths), MAC, http=http)


def test_pxe_and_http_are_told_apart() -> None:
    assert not is_network(LoadOption("UEFI PXEv4", PXE), MAC, http=True)
    assert not is_network(LoadOption("UEFI HTTPv4", HTTP), MAC, http=False)
