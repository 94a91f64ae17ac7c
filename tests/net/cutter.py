"""A cable that loses what it is told to lose: between a machine's card and its port of the switch."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.lab.net.segment import Segment

Lose = Callable[[bytes], bool]
_UDP, _TCP = 17, 6


@dataclass
class Cut:
    """Where QEMU plugs in, and how many frames to it were lost."""

    netdev: str
    lost: list[bytes] = field(default_factory=list)


def ip_payload(frame: bytes, protocol: int) -> bytes:
    """What lies behind the IPv4 header, if the frame is of that protocol."""
    if frame[12:14] != b"\x08\x00" or frame[23] != protocol:
        return b""
    start, total = 14 + 4 * (frame[14] & 15), struct.unpack_from("!H", frame, 16)[0]
    return frame[start : 14 + total]


def tftp_from_block(number: int) -> Lose:
    """Every DATA block from `number` on (RFC 1350: opcode 3)."""

    def lose(frame: bytes) -> bool:
        body = ip_payload(frame, _UDP)[8:]
        return (
            len(body) >= 4 and struct.unpack_from("!H", body)[0] == 3 and struct.unpack_from("!H", body, 2)[0] >= number
        )

    return lose


def http_after(port: int, count: int) -> Lose:
    """Every TCP segment with content from `port`, after `count` long ones."""
    seen = 0

    def lose(frame: bytes) -> bool:
        nonlocal seen
        segment = ip_payload(frame, _TCP)
        if len(segment) < 20 or struct.unpack_from("!H", segment)[0] != port:
            return False
        seen += len(segment) - 4 * (segment[12] >> 4) > 1000
        return seen > count

    return lose


@contextmanager
def cutter(segment: Segment, port: int, folder: Path, lose: Lose) -> Iterator[Cut]:
    """Plug in between port `port` of the segment and the machine; frames to the machine go through `lose`."""
    machine_side, switch_side = segment.socket_pair(port)
    ours, theirs = folder / "cut", folder / "card"
    near, far = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    near.bind(str(ours))
    far.bind(str(machine_side))
    cut = Cut(f"dgram,id=n0,local.type=unix,local.path={theirs},remote.type=unix,remote.path={ours}")

    def pump(source: socket.socket, to: Path, through: socket.socket, lose: Lose) -> None:
        while frame := source.recv(65536):
            if lose(frame):
                cut.lost.append(frame)
                continue
            with suppress(OSError):
                through.sendto(frame, str(to))

    threads = [
        threading.Thread(target=pump, args=(far, theirs, near, lose), daemon=True),
        threading.Thread(target=pump, args=(near, switch_side, far, lambda _: False), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield cut
    finally:
        near.sendto(b"", str(machine_side))
        far.sendto(b"", str(ours))
        for thread in threads:
            thread.join()
        near.close()
        far.close()
