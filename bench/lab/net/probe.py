"""Is there another DHCP server? One DHCPDISCOVER of a card that does not exist, and who offers it an address."""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from dataclasses import dataclass

# From the first question to giving up: a busy server, or one that pings an address first, takes its time.
LISTEN_S = 4.0
ASK_EVERY_S = 1.5
FRAME_BYTES = 2048
_BROADCAST = b"\xff" * 6
_IPV4, _UDP, _SERVER_PORT, _CLIENT_PORT = 0x0800, 17, 67, 68
_REQUEST, _ETHERNET, _WANT_BROADCAST = 1, 1, 0x8000
_COOKIE = bytes([99, 130, 83, 99])
_MESSAGE_TYPE, _SERVER_ID, _VENDOR_CLASS, _END = 53, 54, 60, 255
_DISCOVER, _OFFER = 1, 2
# BOOTP's fixed part (RFC 951; RFC 2131, section 2).
_BOOTP = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")


@dataclass(frozen=True)
class DhcpServer:
    """Who has answered."""

    address: str
    mac: str


def other_servers(wire: socket.socket, *, listen_s: float = LISTEN_S) -> tuple[DhcpServer, ...]:
    """The DHCP servers that answer on the network of a packet socket."""
    exchange = secrets.randbits(32)
    mac = bytes([0x52, 0x54, 0x00]) + secrets.token_bytes(3)
    question = discover(mac, exchange)
    found: dict[str, DhcpServer] = {}
    begun = time.monotonic()
    asked = begun - ASK_EVERY_S
    while (now := time.monotonic()) < begun + listen_s:
        if now >= asked + ASK_EVERY_S:
            wire.send(question)
            asked = now
        if select.select([wire], [], [], min(ASK_EVERY_S, begun + listen_s - now))[0]:
            server = offer_in(wire.recv(FRAME_BYTES), exchange)
            if server is not None:
                found[server.address] = server
    return tuple(found.values())


def discover(mac: bytes, exchange: int) -> bytes:
    """The frame of a DHCPDISCOVER from card `mac`."""
    nothing = bytes(4)
    bootp = _BOOTP.pack(
        _REQUEST,
        _ETHERNET,
        len(mac),
        0,
        exchange,
        0,
        _WANT_BROADCAST,
        nothing,
        nothing,
        nothing,
        nothing,
        mac,
        b"",
        b"",
    )
    options = _COOKIE + bytes([_MESSAGE_TYPE, 1, _DISCOVER, _END])
    body = bootp + options.ljust(64, b"\0")
    datagram = struct.pack("!HHHH", _CLIENT_PORT, _SERVER_PORT, 8 + len(body), 0) + body
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, _UDP, 0, nothing, b"\xff" * 4)
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return _BROADCAST + mac + struct.pack("!H", _IPV4) + header + datagram


def checksum(header: bytes) -> int:
    """The Internet's checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(total) ^ 0xFFFF


def offer_in(frame: bytes, exchange: int) -> DhcpServer | None:
    """Who sent a frame, if it is a DHCPOFFER of our exchange."""
    if len(frame) < 34 or frame[12:14] != struct.pack("!H", _IPV4) or frame[23] != _UDP:
        return None
    at = 14 + 4 * (frame[14] & 0xF)
    body = frame[at + 8 :]
    if struct.unpack_from("!HH", frame.ljust(at + 8, b"\0"), at) != (_SERVER_PORT, _CLIENT_PORT):
        return None
    if len(body) < _BOOTP.size + 4 or struct.unpack_from("!I", body, 4)[0] != exchange:
        return None
    options = _options(body[_BOOTP.size + 4 :])
    if options.get(_MESSAGE_TYPE) != bytes([_OFFER]):
        return None
    address = options.get(_SERVER_ID, b"")
    source = address if len(address) == 4 else frame[26:30]
    return DhcpServer(socket.inet_ntoa(source), frame[6:12].hex(":"))


def discovers(frame: bytes) -> str:
    """The card of a frame, if it is a DHCPDISCOVER of firmware that wants to boot; else empty."""
    if len(frame) < 34 or frame[12:14] != struct.pack("!H", _IPV4) or frame[23] != _UDP:
        return ""
    at = 14 + 4 * (frame[14] & 0xF)
    body = frame[at + 8 :]
    ports = struct.unpack_from("!HH", frame.ljust(at + 8, b"\0"), at)
    if ports != (_CLIENT_PORT, _SERVER_PORT) or len(body) < _BOOTP.size + 4:
        return ""
    options = _options(body[_BOOTP.size + 4 :])
    # A system on the disk asks as well, and does not say so.
    boots = options.get(_VENDOR_CLASS, b"").startswith((b"PXEClient", b"HTTPClient"))
    if options.get(_MESSAGE_TYPE) != bytes([_DISCOVER]) or not boots:
        return ""
    card: bytes = _BOOTP.unpack_from(body)[11]
    return card[:6].hex(":")


def _options(data: bytes) -> dict[int, bytes]:
    out: dict[int, bytes] = {}
    at = 0
    while at + 1 < len(data) and data[at] != _END:
        if data[at] == 0:  # padding
            at += 1
            continue
        out[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return out
