"""Progress of many runs: a live table on a terminal, plain lines elsewhere, and a file for `bench watch`."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from bench.describe import printable
from bench.records import Verdict
from bench.status import Finished, Running, Status, remove_status, write_status
from bench.terminal import note

if TYPE_CHECKING:
    from bench.lab.boot import Progress

# How often the table is drawn and the file replaced, at most.
PACE_S = 0.25
_STYLES = {"PASS": "green", "FAIL": "bold red", "MISS": "yellow", "ERROR": "yellow", "SKIP": "dim", "DONE": "dim"}
# Finished runs that the live table still shows.
RECENT = 5


class Board:
    """Shows what runs and what has come of it. `update` and `finish` may be called from any thread."""

    def __init__(self, total: int, jobs: int, *, quiet: bool) -> None:
        self._total = total
        self._jobs = jobs
        self._quiet = quiet
        self._lock = threading.Lock()
        self._running: dict[str, Progress] = {}
        self._finished: list[Finished] = []
        self._started = time.monotonic()
        self._told = -math.inf
        self._live = live_table() if sys.stderr.isatty() and not quiet else None
        self.was_interrupted = False
        if not quiet:
            note(f"{total} run{'s' * (total != 1)}, {jobs} at a time; bench watch {os.getpid()} shows them elsewhere")
        if self._live:
            self._live.start()

    def close(self) -> None:
        """Leave the terminal to others, and say that all is over."""
        with self._lock:
            self._tell(ended=True)
        if self._live:
            self._live.stop()
        remove_status(os.getpid())

    def interrupted(self) -> None:
        """Ctrl-C was pressed."""
        self.was_interrupted = True
        note("interrupted: switching the machines off")

    def update(self, key: str, progress: Progress) -> None:
        """A run has news."""
        with self._lock:
            self._running[key] = progress
            if time.monotonic() - self._told >= PACE_S:
                self._tell()

    def finish(self, key: str, verdict: Verdict, text: str) -> None:
        """A run has ended."""
        with self._lock:
            self._running.pop(key, None)
            self._finished.append(Finished(printable(key), str(verdict), printable(text)))
            if not self._quiet:
                elapsed = time.monotonic() - self._started
                count = len(self._finished)
                self._say(f"[{count:3}/{self._total} {elapsed:5.0f} s] {verdict:5} {key}: {text}")
            self._tell()

    def _tell(self, *, ended: bool = False) -> None:
        self._told = time.monotonic()
        status = self._status(ended)
        write_status(status)
        if self._live:
            self._live.update(table(status), refresh=True)

    def _say(self, text: str) -> None:
        """A line that stays, above the table if there is one."""
        if self._live:
            self._live.console.print(printable(text), markup=False, highlight=False)
        else:
            note(printable(text))

    def _status(self, ended: bool) -> Status:
        running = tuple(
            Running(printable(key), str(p.state), round(p.elapsed_s, 1), p.size_bytes, p.faults, printable(p.last_line))
            for key, p in sorted(self._running.items())
        )
        elapsed = time.monotonic() - self._started
        return Status(os.getpid(), self._total, self._jobs, elapsed, running, tuple(self._finished), ended)


def live_table() -> Any:
    """A `rich.live.Live` on standard error that is drawn only when it is told to."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    return Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)


def table(status: Status, *, recent: int = 0) -> Any:
    """A rich table: each boot that is going on with its state, time, faults and last line; `recent` finished runs."""
    from rich.table import Table
    from rich.text import Text

    done = len(status.finished)
    title = f"{done} of {status.total} runs, {status.elapsed_s:.0f} s"
    found = Table(title=title, title_justify="left", expand=True, box=None, pad_edge=False)
    for name, options in (
        ("run", {"no_wrap": True}),
        ("state", {"no_wrap": True}),
        ("time", {"justify": "right"}),
        ("bytes", {"justify": "right"}),
        ("faults", {"justify": "right"}),
        ("last line", {"no_wrap": True, "overflow": "ellipsis", "ratio": 1}),
    ):
        found.add_column(name, **options)
    for f in status.finished[len(status.finished) - recent :] if recent else ():
        found.add_row(Text(f.name), Text(f.verdict, style=_STYLES.get(f.verdict, "")), "", "", "", Text(f.text))
    for r in status.running:
        numbers = (f"{r.elapsed_s:.0f} s", str(r.size_bytes), str(r.faults))
        found.add_row(Text(r.name), Text(r.state), *numbers, Text(r.last_line))
    return found
