"""A program that is one end of a virtual boot network: ``segment_child.py WISH``, in a network namespace of its own.

WISH is a JSON object: ``interface`` and ``addresses`` of this end, ``ports`` as pairs of paths of unix datagram sockets
(ours, the other side's): a QEMU with ``-netdev dgram``, or another such program. It makes the interface, says ``ready``
and from then on is a learning switch. Ends when its standard input does.
"""

import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

WIRE = "wire0"
BUFFER_BYTES = 1 << 20
FRAME_BYTES = 65536
ETH_P_ALL = 3
SIOCETHTOOL = 0x8946
# ETHTOOL_STXCSUM, STSO, SGSO, SGRO: frames leave whole and with their checksum, for no hardware will see to it.
OFFLOADS = (0x17, 0x1F, 0x2C, 0x24)
PACKET_OUTGOING = 4
PACKET_MEMBERSHIP = struct.Struct("iHH8s")
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 263, 1, 1
UPLINK = -1
STANDARD_INPUT = 0
LINK_ADDRESS = "fe80::1/64"


def ip(*words: str) -> None:
    """iproute2. Ends the program with its words if it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
    if done.returncode:
        sys.exit(f"ip {' '.join(words)}: {done.stderr.decode('ascii', 'replace').strip()}")


def no_offload(interface: str) -> None:
    """Switch checksum and segmentation offload off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = bytearray(struct.pack("16sP", interface.encode(), ctypes.addressof(value)).ljust(40, b"\0"))
            with suppress(OSError):  # not every kernel has each of them
                fcntl.ioctl(any_socket, SIOCETHTOOL, request)


def make_interface(interface: str, addresses: list[str]) -> socket.socket:
    """The interface, and the packet socket that is the other end of its cable."""
    ip("link", "set", "lo", "up")
    ip("link", "add", interface, "type", "veth", "peer", "name", WIRE)
    # No address of the link's own: it would speak of itself before anybody asked.
    for name in (interface, WIRE):
        ip("link", "set", name, "addrgenmode", "none")
        no_offload(name)
    # Router advertisements come from an address of the link (RFC 4861, section 4.2); this one is there at once.
    link = [LINK_ADDRESS] if any(":" in address for address in addresses) else []
    for address in (*link, *addresses):
        ip("addr", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
    ip("link", "set", interface, "up")
    ip("link", "set", WIRE, "up")
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    wire.bind((WIRE, 0))
    number = socket.if_nametoindex(WIRE)
    wire.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MEMBERSHIP.pack(number, PACKET_MR_PROMISC, 0, b""))
    return wire


def open_port(path: str) -> socket.socket:
    """One of the switch's sockets."""
    Path(path).unlink(missing_ok=True)
    port = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    port.bind(path)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return port


class Switch:
    """Learns where an address is from the frames that come from it; a frame that nobody can take is lost."""

    def __init__(self, wire: socket.socket, ports: list[tuple[socket.socket, str]]) -> None:
        self.wire, self.ports = wire, ports
        self.number = {port.fileno(): n for n, (port, _) in enumerate(ports)} | {wire.fileno(): UPLINK}
        self.places: dict[bytes, int] = {}
        for one in (wire, *(port for port, _ in ports)):
            one.setblocking(False)

    def run(self) -> None:
        """Until standard input ends."""
        poll = select.poll()
        for handle in (*self.number, STANDARD_INPUT):
            poll.register(handle, select.POLLIN | select.POLLHUP)
        while True:
            for handle, _ in poll.poll():
                if handle == STANDARD_INPUT:
                    return
                with suppress(OSError):  # a peer that is gone
                    self.forward(self.number[handle])

    def forward(self, source: int) -> None:
        """Take one frame from `source` and pass it on."""
        if source == UPLINK:
            frame, origin = self.wire.recvfrom(FRAME_BYTES)
            if origin[2] == PACKET_OUTGOING:
                return
        else:
            frame = self.ports[source][0].recv(FRAME_BYTES)
        to, sender = frame[:6], frame[6:12]
        self.places[sender] = source
        known = None if to[0] & 1 else self.places.get(to)
        if known is None:
            for other in (UPLINK, *range(len(self.ports))):
                if other != source:
                    self.send(other, frame)
        elif known != source:
            self.send(known, frame)

    def send(self, to: int, frame: bytes) -> None:
        """Pass a frame to one port, or lose it."""
        with suppress(OSError):
            if to == UPLINK:
                self.wire.send(frame)
            else:
                self.ports[to][0].sendto(frame, self.ports[to][1])


def main() -> None:
    """Make the interface and switch frames."""
    wish = json.loads(sys.argv[1])
    wire = make_interface(wish["interface"], wish["addresses"])
    switch = Switch(wire, [(open_port(ours), theirs) for ours, theirs in wish["ports"]])
    os.write(1, b"ready\n")
    switch.run()


if __name__ == "__main__":
    main()
