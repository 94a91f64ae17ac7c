"""A machine is held by one at a time: processes of one computer share the lab through locked files.

The kernel lets go of a lock when its process ends, however it ends: a session that was cancelled leaves no orphan.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from bench.errors import LabError
from bench.records import Machine

_TICK_S = 0.05


@contextmanager
def hold_one(machines: Sequence[Machine], folder: Path, *, wait_s: float) -> Iterator[Machine]:
    """Hold the first of `machines` that is free, and let go of it at the end.

    `folder` has a file for each machine, with the holder's words in it. Raises LabError that names the holders if none
    is free within `wait_s` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    while True:
        for machine in machines:
            file = _try(folder / f"{machine.name}.lock")
            if file is not None:
                try:
                    yield machine
                finally:
                    file.truncate(0)
                    file.close()
                return
        if time.monotonic() > deadline:
            held = "; ".join(f"{m.name}: {_holder(folder / f'{m.name}.lock')}" for m in machines)
            raise LabError(f"no machine was free within {wait_s:g} s: {held}", component="lab", witness=held)
        time.sleep(_TICK_S)


def _try(path: Path) -> IO[str] | None:
    """The open and locked file, or None if somebody else has it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    file.write(f"process {os.getpid()} since {datetime.now(UTC).isoformat(timespec='seconds')}\n")
    file.flush()
    return file


def _holder(path: Path) -> str:
    return path.read_text().strip() or "somebody"
