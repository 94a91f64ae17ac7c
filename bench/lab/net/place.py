"""Where the boot network is: on this computer, or in a network namespace that a child process holds."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.errors import LabError
from bench.lab.net import socket_child
from bench.lab.text import escape

ANSWER_S = 20.0
# Folders of servers and networks begin so.
SCRATCH = "bench-net-"
_ARP_MAC, _ARP_ADDRESS, _ARP_DEVICE = 3, 0, 5


@dataclass(frozen=True)
class Place:
    """An interface of this computer (`pid` 0), or of the network namespace of process `pid`."""

    interface: str
    pid: int = 0
    own_user: bool = False
    """The namespace belongs to a user namespace of ours, which makes us root in it."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words in front of a command that is to run there."""
        if not self.pid:
            return ()
        user = ("--user", "--preserve-credentials") if self.own_user else ()
        return ("nsenter", "--target", str(self.pid), *user, "--net", "--")

    @property
    def privileged(self) -> bool:
        """Whether servers can be started there at all."""
        return os.geteuid() == 0 or self.own_user

    def listen(self, address: str, port: int) -> socket.socket:
        """A TCP socket that listens there; port 0: any. Raises LabError with the system's words."""
        return self._socket({"kind": "listen", "address": address, "port": port})

    def connect(self, address: str, port: int, *, timeout_s: float) -> socket.socket:
        """A TCP socket that is connected from there, blocking. Raises LabError with the system's words."""
        wish = {"kind": "connect", "address": address, "port": port, "timeout_s": timeout_s}
        one = self._socket(wish, answer_s=timeout_s + ANSWER_S)
        one.settimeout(None)
        return one

    def wire(self) -> socket.socket:
        """A packet socket that sends and sees all frames of the interface. Raises LabError."""
        return self._socket({"kind": "wire", "interface": self.interface})

    def _socket(self, wanted: dict[str, object], *, answer_s: float = ANSWER_S) -> socket.socket:
        if not self.pid:
            try:
                return socket_child.make(wanted)
            except OSError as error:
                raise self._refused(wanted, str(error)) from error
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [*self.prefix, sys.executable, "-I", "-S", socket_child.__file__]
            command += [str(theirs.fileno()), json.dumps(wanted)]
            try:
                done = subprocess.run(command, pass_fds=(theirs.fileno(),), capture_output=True, timeout=answer_s)
            except subprocess.TimeoutExpired:
                raise self._refused(wanted, f"no answer within {answer_s:g} s") from None
            if done.returncode:
                raise self._refused(wanted, escape(done.stderr[-300:].rstrip(b"\n")))
            _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))
        handles = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                handles.frombytes(data[: handles.itemsize])
        return socket.socket(fileno=handles[0])

    def _refused(self, wanted: dict[str, object], why: str) -> LabError:
        where = f"port {wanted.get('port')} of {wanted.get('address')}"
        what = {"listen": where, "connect": f"a connection to {where}"}.get(str(wanted["kind"]), "a packet socket")
        return LabError(
            f"boot network {self.interface}: {what} cannot be had: {why}",
            component=f"boot network {self.interface}",
            witness=why,
        )

    def mac_of(self, address: str) -> str:
        """The MAC that answered for an IPv4 address on the interface, as the kernel has it; empty: unknown."""
        return next((mac for known, mac in self._neighbours() if known == address), "")

    def addresses_of(self, mac: str) -> tuple[str, ...]:
        """The IPv4 addresses for which a card has answered on the interface, as the kernel has them."""
        return tuple(address for address, known in self._neighbours() if known == mac)

    def _neighbours(self) -> list[tuple[str, str]]:
        """Address and MAC of whoever has answered lately."""
        table = Path(f"/proc/{self.pid or 'self'}/net/arp")
        try:
            rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
        except OSError:
            return []
        return [(row[_ARP_ADDRESS], row[_ARP_MAC].lower()) for row in rows if row[_ARP_DEVICE] == self.interface]
