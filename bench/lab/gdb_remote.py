"""A client of the gdb remote protocol, as far as it takes to play a part of QEMU's processors.

Source: GDB manual, appendix "GDB Remote Serial Protocol"; QEMU 7.2, gdbstub.c. Registers go by QEMU's order for
x86-64: 16 general ones, then RIP.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from bench.errors import LabError

COMPONENT = "QEMU's gdb stub"
REGISTERS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip",
)  # fmt: skip
_CHUNK_BYTES = 0x700
"""QEMU's packets have 4096 bytes, two for each byte of memory."""
_CONNECT_S = 10.0
_ANSWER_S = 10.0
_STOP = re.compile(rb"T(?P<signal>[0-9a-f]{2})(?P<pairs>.*)", re.DOTALL)


class Gone(LabError):
    """The stub has closed the connection: QEMU is gone."""


@dataclass(frozen=True)
class Stop:
    """Why the machine stopped: signal 5 for breakpoints and watchpoints; `thread` is the processor, from 1."""

    signal: int
    thread: int
    watched: int | None = None
    """Address whose access a watchpoint has seen."""


class GdbRemote:
    """A connection to QEMU's stub at a unix socket. Not thread-safe: one thread talks, another may `close`."""

    def __init__(self, path: Path) -> None:
        self._socket = _connect(path)
        self._rest = b""
        self._closed = False
        self.ask("QStartNoAckMode")
        # Without a look at the description of registers QEMU refuses to write a single one.
        self.ask("qSupported:xmlRegisters=i386")
        self.ask("qXfer:features:read:target.xml:0,fff")
        self.ask("?")

    def close(self) -> None:
        """End the connection, from whichever thread: a wait for a stop ends with Gone."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def ask(self, text: str) -> bytes:
        """Send a packet, while the machine stands still, and wait for its answer. Raises Gone, or LabError if none
        comes.

        Two processors that stop at once are both told of. The second one has not moved and stops anew when the machine
        goes on: what is said of it now is dropped.
        """
        self._send(text)
        while True:
            answer = self._receive(_ANSWER_S)
            if text == "?" or not _STOP.fullmatch(answer):
                return answer

    def command(self, text: str) -> None:
        """Send a packet that is answered OK. Raises LabError if it is not."""
        answer = self.ask(text)
        if answer != b"OK":
            raise LabError(f"{text.split(',')[0]} is answered {answer!r}", component=COMPONENT, witness=text[:80])

    def wait_stop(self) -> Stop:
        """Wait until the machine stops, however long that takes. Raises Gone."""
        while True:
            match = _STOP.fullmatch(self._receive(None))
            if match:
                pairs = dict(p.split(b":", 1) for p in match["pairs"].split(b";") if b":" in p)
                thread = int(pairs.get(b"thread", b"1").rsplit(b".", 1)[-1].lstrip(b"p"), 16)
                seen = next((pairs[k] for k in (b"watch", b"rwatch", b"awatch") if k in pairs), None)
                return Stop(int(match["signal"], 16), thread, int(seen, 16) if seen else None)

    def resume(self, but: frozenset[int] = frozenset(), *, threads: int = 1) -> None:
        """Let all processors run `but` those; with none left, none does."""
        if not but:
            self._send("vCont;c")
        elif running := [t for t in range(1, threads + 1) if t not in but]:
            self._send("vCont;" + ";".join(f"c:p1.{t:x}" for t in running))

    def step(self, thread: int) -> None:
        """One instruction of one processor; the others stand still."""
        self._send(f"vCont;s:p1.{thread:x}")
        self.wait_stop()

    def select(self, thread: int) -> None:
        """The processor that registers and memory are looked at through."""
        self.command(f"Hgp1.{thread:x}")

    def registers(self) -> dict[str, int]:
        """Registers of the selected processor."""
        values = struct.unpack_from(f"<{len(REGISTERS)}Q", bytes.fromhex(self.ask("g").decode()))
        return dict(zip(REGISTERS, values, strict=True))

    def set_register(self, name: str, value: int) -> None:
        """Write one register of the selected processor."""
        self.command(f"P{REGISTERS.index(name):x}={struct.pack('<Q', value).hex()}")

    def read(self, address: int, size: int) -> bytes | None:
        """Memory at a virtual address of the selected processor; None where nothing is mapped."""
        data = b""
        while len(data) < size:
            step = min(_CHUNK_BYTES, size - len(data))
            answer = self.ask(f"m{address + len(data):x},{step:x}")
            if answer.startswith(b"E") or not answer:
                return None
            data += bytes.fromhex(answer.decode())
        return data

    def write(self, address: int, data: bytes) -> None:
        """Write memory, read-only pages included."""
        self.command(f"M{address:x},{len(data):x}:{data.hex()}")

    def set_breakpoint(self, address: int) -> None:
        """A hardware breakpoint: nothing in memory changes."""
        self.command(f"Z1,{address:x},1")

    def clear_breakpoint(self, address: int) -> None:
        """Undo `set_breakpoint`."""
        self.command(f"z1,{address:x},1")

    def set_read_watchpoint(self, address: int, size: int) -> None:
        """Stop at the first read of `size` bytes at a virtual address."""
        self.command(f"Z3,{address:x},{size:x}")

    def clear_read_watchpoint(self, address: int, size: int) -> None:
        """Undo `set_read_watchpoint`."""
        self.command(f"z3,{address:x},{size:x}")

    def _send(self, text: str) -> None:
        packet = text.encode()
        try:
            self._socket.sendall(b"$" + packet + b"#%02x" % (sum(packet) & 0xFF))
        except OSError as error:
            raise Gone(f"the connection is gone: {error}", component=COMPONENT) from error

    def _receive(self, timeout_s: float | None) -> bytes:
        while True:
            begin = self._rest.find(b"$")
            end = self._rest.find(b"#", begin + 1) if begin >= 0 else -1
            if end >= 0 and len(self._rest) >= end + 3:
                packet, self._rest = self._rest[begin + 1 : end], self._rest[end + 3 :]
                return packet
            try:
                self._socket.settimeout(timeout_s)
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise LabError(f"no answer within {timeout_s:g} s", component=COMPONENT) from None
            except OSError as error:
                raise Gone(f"the connection is gone: {error}", component=COMPONENT) from error
            if not data:
                raise Gone("the connection was closed", component=COMPONENT)
            self._rest += data


def _connect(path: Path) -> socket.socket:
    deadline = time.monotonic() + _CONNECT_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            return connection
        except OSError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise LabError(f"{path}: {error}", component=COMPONENT, witness=str(error)) from error
            time.sleep(0.01)
