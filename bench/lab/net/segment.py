"""A virtual boot network, without root: a namespace of its own, a switch, and a socket for each machine's card."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import LabError
from bench.lab.net import child, segment_child
from bench.lab.net.place import SCRATCH, Place
from bench.lab.scratch import scratch
from bench.lab.text import escape

INTERFACE = "boot0"
READY_S = 20.0
COMPONENT = "virtual boot network"
# What a system says where unprivileged user namespaces are switched off (sysctl, AppArmor, a container's seccomp).
_BLOCKED = (b"unshare failed", b"Operation not permitted", b"uid_map")


@dataclass(frozen=True)
class Segment:
    """A boot network. Its servers' end is `place`; machines plug into `socket_pair`."""

    place: Place
    folder: Path
    ports: int

    def socket_pair(self, port: int) -> tuple[Path, Path]:
        """The two ends of a cable: the machine's and the switch's, as paths of unix datagram sockets."""
        return self.folder / f"m{port}", self.folder / f"s{port}"

    def netdev(self, port: int, name: str) -> str:
        """The value of QEMU's option ``-netdev`` for a card that is plugged into `port`."""
        machine, switch = self.socket_pair(port)
        return f"dgram,id={name},local.type=unix,local.path={machine},remote.type=unix,remote.path={switch}"


@contextmanager
def segment(addresses: Sequence[str], *, ports: int = 1) -> Iterator[Segment]:
    """A boot network with our own addresses (each with its prefix) and cables for `ports` machines; gone afterwards.

    Raises LabError where the system forbids namespaces, with what to do about it.
    """
    with scratch(SCRATCH) as folder:
        cables = [(str(folder / f"s{n}"), str(folder / f"m{n}")) for n in range(ports)]
        with attached(addresses, cables) as place:
            yield Segment(place, folder, ports)


@contextmanager
def attached(addresses: Sequence[str], cables: Sequence[tuple[str, str]]) -> Iterator[Place]:
    """One computer in a namespace of its own, with a switch of its own for `cables` (our socket, the other's)."""
    own_user = os.geteuid() != 0
    wish = {"interface": INTERFACE, "addresses": list(addresses), "ports": list(cables)}
    unshare = ["unshare", *(["--user", "--map-root-user"] if own_user else []), "--net", "--"]
    command = [*unshare, sys.executable, "-I", "-S", segment_child.__file__, json.dumps(wish)]
    for program in ("unshare", "nsenter"):
        if shutil.which(program) is None:
            raise LabError(f"{program} is not installed (package util-linux)", component=COMPONENT, witness=program)
    process = child.start(command, talks=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        if not select.select([process.stdout], [], [], READY_S)[0] or process.stdout.readline() != b"ready\n":
            child.end(process)
            raise _refused(process.stderr.read())
        yield Place(INTERFACE, process.pid, own_user)
    finally:
        child.end(process)
        child.close_pipes(process)


def _refused(said: bytes) -> LabError:
    words = escape(said.strip()[-300:]) or "it said nothing"
    hint = ""
    if os.geteuid() != 0 and any(sign in said for sign in _BLOCKED):
        hint = (
            "; unprivileged user namespaces are switched off here: look at the sysctls user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns, or run this as root"
        )
    return LabError(f"no network namespace can be made: {words}{hint}", component=COMPONENT, witness=words)
