"""Who holds a machine: an owner, on a controller, in a process; and whether that process still is."""

from __future__ import annotations

import getpass
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# An owner on another controller whose row is that old is taken for dead: many heartbeats, and clocks that differ.
STALE_S = 60.0


@dataclass(frozen=True)
class Holder:
    """Who has a machine, or waits for it. Times are seconds since 1970, by its own controller's clock."""

    machine: str
    owner: str
    host: str
    pid: int
    boot_id: str
    process_start: str
    """Start of the process in clock ticks since boot (proc(5), stat, field 22): process ids come again."""
    since: float
    heartbeat: float
    purpose: str

    def __str__(self) -> str:
        return f"{self.owner} (process {self.pid} on {self.host}, {self.purpose})"


def alive(holder: Holder) -> bool:
    """Whether `holder` still is: here by its process, elsewhere by how long ago its row was renewed."""
    if holder.host != os.uname().nodename:
        return time.time() - holder.heartbeat < STALE_S
    return holder.boot_id == boot_id() and process_start(holder.pid) == holder.process_start


def default_owner() -> str:
    """``BENCH_OWNER``, or USER@HOST."""
    return os.environ.get("BENCH_OWNER") or f"{getpass.getuser()}@{os.uname().nodename}"


def boot_id() -> str:
    """Names this boot of this controller (random(4))."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def process_start(pid: int) -> str:
    """When process `pid` was started, in ticks since boot; empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def ourselves(owner: str, purpose: str) -> dict[str, Any]:
    """This process as a `Holder`'s fields, but for the machine."""
    now, pid = time.time(), os.getpid()
    return {"owner": owner, "host": os.uname().nodename, "pid": pid, "boot_id": boot_id(),
            "process_start": process_start(pid), "since": now, "heartbeat": now, "purpose": purpose}  # fmt: skip
