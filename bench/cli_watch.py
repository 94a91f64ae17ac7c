"""`bench watch`: attach to a run from another terminal."""

from __future__ import annotations

import json as jsons
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from bench.errors import UsageError
from bench.status import Status, alive, going_on, read_status
from bench.terminal import note, say

# How often the file is looked at, and how often a log gets a line of what runs.
PACE_S = 0.3
LOG_EVERY_S = 10.0


def watch(
    pid: Annotated[int | None, typer.Argument(help="The process of a bench run (default: the latest).")] = None,
    once: Annotated[bool, typer.Option("--once", help="Say how it stands, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines on standard output, nothing else.")] = False,
) -> int:
    """Follow a `bench run` from another terminal: state, time, faults and last line of each machine.

    Ends when the run ends. Nothing that is done here touches the run.
    """
    found = going_on()
    if pid is None:
        if not found:
            raise UsageError("no bench run is going on on this computer (of this user)")
        pid = found[-1]
    status = read_status(pid)
    if status is None:
        raise UsageError(
            f"process {pid} is no bench run of this user; going on: {', '.join(map(str, found)) or 'none'}"
        )
    if json or once or not sys.stdout.isatty():
        _log(pid, once=once, json=json)
    else:
        _show(pid)
    return 0


def _changes(pid: int) -> Iterator[Status]:
    """The status, again and again, until the run has ended or its process is gone."""
    last: Status | None = None
    while True:
        status = read_status(pid)
        if status is not None and status != last:
            last = status
            yield status
        if status is None or status.ended or not alive(pid):
            return
        time.sleep(PACE_S)


def _log(pid: int, *, once: bool, json: bool) -> None:
    told, spoke = 0, 0.0
    for status in _changes(pid):
        if json:
            rows = {"running": [vars(r) for r in status.running], "finished": [vars(f) for f in status.finished]}
            say(jsons.dumps({"pid": pid, "total": status.total, "elapsed_s": status.elapsed_s, **rows}))
        else:
            for number, f in enumerate(status.finished[told:], start=told + 1):
                say(f"[{number:3}/{status.total}] {f.verdict:5} {f.name}: {f.text}")
            told = len(status.finished)
            if once or time.monotonic() - spoke >= LOG_EVERY_S:
                spoke = time.monotonic()
                for r in status.running:
                    say(f"{r.name}: {r.state}, {r.elapsed_s:.0f} s, {r.faults} faults: {r.last_line}")
        sys.stdout.flush()
        if once:
            return


def _show(pid: int) -> None:
    from rich.console import Console
    from rich.live import Live

    from bench.progress import RECENT, table

    last: Status | None = None
    with Live(console=Console(), auto_refresh=False) as live:
        for status in _changes(pid):
            last = status
            live.update(table(status, recent=RECENT), refresh=True)
    if last is not None and not last.ended and not alive(pid):
        note(f"process {pid} is gone without a word")
