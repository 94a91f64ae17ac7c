"""A controller that dies by SIGKILL at a step of a boot over the network, and takes its servers with it.

`python -m tests.net.killed STEP PID ENTRY FOLDER`: PID holds the boot network, ENTRY is the pickled machine in hex
digits, FOLDER takes the capture.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.lab.net import loader as loader_module
from bench.lab.net.offer import Offer
from bench.lab.net.place import Place
from bench.lab.net.segment import Segment
from bench.lab.net.server import BootServer
from bench.lab.power.switched import SwitchedPower
from bench.lab.watch import LineWatch
from bench.records import Machine as Entry
from tests.net.machines import NETWORK, REPO

SELECTING, SELECTED, POWERED, SPEAKS = "before selection", "after selection", "power on", "first record"
# What the servers see, in order; `expected` of bench.lab.net.offer.STEPS for iPXE.
FETCHES = ("discover", "offer", "lease", "loader", "script", "kernel", "initrd", "spent")
PATIENCE_S = 300


def killed_at(step: str, entry: Entry, wire: Segment, folder: Path) -> None:
    """Have another process boot `entry`, and see it killed at `step`; the machine goes on as it may."""
    words = [sys.executable, "-m", "tests.net.killed", step, str(wire.place.pid), pickle.dumps(entry).hex(), folder]
    done = subprocess.run(words, cwd=REPO, timeout=PATIENCE_S)
    assert done.returncode == -signal.SIGKILL, f"it was to be killed at {step!r}, and ended with {done.returncode}"


def orphans() -> list[str]:
    """dnsmasqs whose parent is gone: nobody else's are."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = path.read_text().split("(", 1)[1].rsplit(")", 1)
            command = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if name == "dnsmasq" and rest.split()[0] != "Z" and rest.split()[1] == "1" and b"bench-net-" in command:
            found.append(path.parent.name)
    return found


def _die(*_: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _then_die(work: Callable[..., Any]) -> Callable[..., Any]:
    def both(*arguments: Any, **named: Any) -> Any:
        work(*arguments, **named)
        return _die()

    return both


def _arm(step: str) -> None:
    tell, feed = Offer.tell, LineWatch.feed

    def told(self: Offer, witness: Mapping[str, str]) -> None:
        tell(self, witness)
        if witness.get("step") == step:
            _die()

    def fed(self: LineWatch, data: bytes) -> None:
        feed(self, data)
        if self.begun:
            _die()

    hooks: dict[str, tuple[object, str, Callable[..., Any]]] = {
        SELECTING: (loader_module, "select", _die),
        SELECTED: (loader_module, "select", _then_die(loader_module.select)),
        POWERED: (SwitchedPower, "on", _then_die(SwitchedPower.on)),
        SPEAKS: (LineWatch, "feed", fed),
        **dict.fromkeys(FETCHES, (Offer, "tell", told)),
    }
    where, name, hook = hooks[step]
    setattr(where, name, hook)


def main() -> None:
    """Boot it, and die on the way."""
    from tests.net.boots import boot_payload

    step, pid, entry, folder = sys.argv[1:]
    _arm(step)
    server = BootServer(NETWORK, Place(NETWORK.interface, int(pid)))
    boot_payload(pickle.loads(bytes.fromhex(entry)), server, Path(folder))


if __name__ == "__main__":
    main()
