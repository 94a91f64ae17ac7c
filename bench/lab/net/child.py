"""Servers and networks as child processes, which end with the bench, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from bench.lab.power import die_with_parent, loop

START_S = 20.0
# From SIGTERM to SIGKILL.
TERM_S = 5.0


def start(command: Sequence[str], *, talks: bool = False) -> subprocess.Popen[bytes]:
    """Run `command` until it ends or the bench does; its standard error, and with `talks` its output, is a pipe.

    Raises OSError.
    """
    words = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *command]

    async def run() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    # A process dies with the *thread* that started it: this one lives as long as the bench.
    return loop.call(run(), timeout_s=START_S)


def end(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM, then SIGKILL, to this pid only; its exit status."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        return process.wait(TERM_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(TERM_S)


def close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Close our ends of its pipes, once nobody reads them any more."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()
