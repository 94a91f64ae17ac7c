"""Progress of many runs: a live table on a terminal, a line for each finished run elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from bench.describe import printable
from bench.records import Verdict
from bench.terminal import note

if TYPE_CHECKING:
    from bench.lab.boot import Progress


class Board:
    """Shows what runs and what has come of it. `update` and `finish` may be called from any thread."""

    def __init__(self, total: int, jobs: int, *, quiet: bool) -> None:
        self._total = total
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._lock = threading.Lock()
        self._running: dict[str, Progress] = {}
        self._finished = 0
        self._started = time.monotonic()
        self._width = 0
        self.was_interrupted = False
        if not quiet:
            note(f"{total} run{'s' * (total != 1)}, {jobs} at a time")

    def close(self) -> None:
        """Leave the terminal's last line empty."""
        if self._live:
            self._status("")

    def interrupted(self) -> None:
        """Ctrl-C was pressed."""
        self.was_interrupted = True
        note("interrupted: switching the machines off")

    def update(self, key: str, progress: Progress) -> None:
        """A run has news."""
        with self._lock:
            self._running[key] = progress
            if self._live:
                parts = [f"{k}: {p.state}, {p.faults} faults, {p.elapsed_s:.0f} s" for k, p in self._running.items()]
                self._status(f"[{self._finished}/{self._total}] " + " | ".join(parts))

    def finish(self, key: str, verdict: Verdict, text: str) -> None:
        """A run has ended."""
        with self._lock:
            self._running.pop(key, None)
            self._finished += 1
            if self._live:
                self._status("")
            if not self._quiet:
                elapsed = time.monotonic() - self._started
                note(f"[{self._finished:3}/{self._total} {elapsed:5.0f} s] {verdict:5} {key}: {text}")

    def _status(self, text: str) -> None:
        """Rewrite the last line of the terminal."""
        import shutil

        columns = shutil.get_terminal_size().columns - 1
        text = printable(text)[:columns]
        sys.stderr.write("\r" + text.ljust(min(self._width, columns)) + ("\r" if not text else ""))
        sys.stderr.flush()
        self._width = len(text)
