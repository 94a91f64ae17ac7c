"""One thing that `bench doctor` looks at, and the one way in which it asks a program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    why: str
    """What does not work without it."""
    how: str
    """How to get it."""
    group: str = "core"
    """``core``: the bench does not work without it. Others: only the nox session of that name needs it."""
    packages: tuple[str, ...] = ()
    """Debian and Ubuntu packages that bring it."""
    licence: str = ""
    """Not installed but fetched into a cache folder, under this licence."""


def said_by(command: list[str]) -> str | None:
    """What `command` says on standard output; None if it is not there, fails or hangs."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
