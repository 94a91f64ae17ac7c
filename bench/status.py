"""What a running `bench run` is at, in a file that `bench watch` reads from another terminal.

One JSON file a process, in ``$XDG_RUNTIME_DIR/bench`` (or ``bench-UID`` in the folder for temporary files), replaced as
a whole so that no reader sees half of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Running:
    """One boot that is going on."""

    name: str
    state: str
    elapsed_s: float
    size_bytes: int
    faults: int
    last_line: str
    """Escaped; safe to print."""


@dataclass(frozen=True)
class Finished:
    """One run that has come to its end."""

    name: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Status:
    """All of a `bench run`."""

    pid: int
    total: int
    jobs: int
    elapsed_s: float
    running: tuple[Running, ...] = ()
    finished: tuple[Finished, ...] = field(default=())
    ended: bool = False


def status_folder() -> Path:
    """Where the files are; readable by their user alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "bench"
    return Path(tempfile.gettempdir()) / f"bench-{os.getuid()}"


def write_status(status: Status, folder: Path | None = None) -> None:
    """Replace the file of this process. Trouble with it is no trouble of the run: it is passed over."""
    where = folder or status_folder()
    with contextlib.suppress(OSError):
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        if where.stat().st_uid != os.getuid():
            return
        path = where / f"{status.pid}.json"
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(_row(status)))
        beside.replace(path)


def remove_status(pid: int, folder: Path | None = None) -> None:
    """The run has ended and nobody needs to attach any more."""
    with contextlib.suppress(OSError):
        ((folder or status_folder()) / f"{pid}.json").unlink(missing_ok=True)


def read_status(pid: int, folder: Path | None = None) -> Status | None:
    """The status of a process, or None if there is none."""
    try:
        row = json.loads(((folder or status_folder()) / f"{pid}.json").read_bytes())
        if row["schema"] != SCHEMA:
            return None
        running = tuple(Running(**r) for r in row["running"])
        finished = tuple(Finished(**f) for f in row["finished"])
        return Status(row["pid"], row["total"], row["jobs"], row["elapsed_s"], running, finished, row["ended"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def going_on(folder: Path | None = None) -> list[int]:
    """Processes that have a status and are alive, the latest last; files of dead ones are removed."""
    found = []
    for path in (folder or status_folder()).glob("*.json"):
        if not path.stem.isdigit():
            continue
        if alive(int(path.stem)):
            found.append((path.stat().st_mtime, int(path.stem)))
        elif time.time() - path.stat().st_mtime > 60:
            path.unlink(missing_ok=True)
    return [pid for _, pid in sorted(found)]


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _row(status: Status) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "pid": status.pid,
        "total": status.total,
        "jobs": status.jobs,
        "elapsed_s": round(status.elapsed_s, 1),
        "running": [vars(r) for r in status.running],
        "finished": [vars(f) for f in status.finished],
        "ended": status.ended,
    }
