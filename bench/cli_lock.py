"""`bench lock`: who has which machine, and until when."""

from __future__ import annotations

import json as jsons
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import LabError, UsageError
from bench.terminal import note, say

if TYPE_CHECKING:
    from bench.leases import Leases
    from bench.owners import Holder

app = typer.Typer(no_args_is_help=True, help="Who has which machine. One owner a machine, across users and programs.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
Results = Annotated[Path | None, typer.Option(help="Where store and lock files are (default: results/).")]
MachineArgument = Annotated[str, typer.Argument(help="Machine of the inventory.")]
_UNITS_S = {"m": 60, "h": 3600, "d": 86400}


@contextmanager
def _leases(results: Path | None) -> Iterator[Leases]:
    from bench.inventory import find_root
    from bench.leases import Leases
    from bench.store import Store, place_of

    where = results or find_root() / "results"
    with Store(place_of(where)) as store:
        yield Leases(store, where / "locks")


def _known(machine: str) -> None:
    from bench.inventory import find_root, load_inventory

    machines = load_inventory(find_root())
    if machine not in machines:
        raise UsageError(f"no machine {machine!r}; there are: {', '.join(machines)}")
    if machines[machine].virtual is not None:
        raise UsageError(f"{machine}: a virtual machine is made anew for each run: nothing to lock")


@app.command("list")
def list_(json: Json = False, results: Results = None) -> int:
    """List the machines that somebody uses, waits for or has reserved."""
    with _leases(results) as leases:
        found = leases.situations()
    if json:
        say(jsons.dumps([asdict(one) for one in found], indent=2))
        return 0
    for one in found:
        if one.holder is not None:
            say(f"{one.machine:20} in use by {one.holder}{_since(one.holder)}")
        if one.reservation is not None:
            say(f"{one.machine:20} reserved by {one.reservation}")
        for place, waiting in enumerate(one.waiting, start=1):
            say(f"{one.machine:20} {place}. in the queue: {waiting}{_since(waiting)}")
    if not found:
        say("No machine is in use or reserved.")
    return 0


def _since(holder: Holder) -> str:
    from bench.owners import alive

    return f", for {timedelta(seconds=round(time.time() - holder.since))}" + ("" if alive(holder) else "; it is gone")


@app.command()
def take(
    machine: MachineArgument,
    until: Annotated[str | None, typer.Option(help="A time: 18:00, or 2026-11-22T18:00.")] = None,
    period: Annotated[str | None, typer.Option("--for", help="A period: 30m, 8h, 2d.")] = None,
    reason: Annotated[str, typer.Option(help="What for; others see it.")] = "",
    wait: Annotated[float, typer.Option(min=0, help="Wait for another's reservation to end, in seconds.")] = 0,
    results: Results = None,
) -> int:
    """Reserve a machine until a time: only runs of the same owner get it. A run that is on it goes on."""
    _known(machine)
    if (until is None) == (period is None):
        raise UsageError("say how long: --until TIME or --for PERIOD")
    end = end_of(until, period, datetime.now().astimezone())
    deadline, told = time.monotonic() + wait, ""
    with _leases(results) as leases:
        while True:
            try:
                reservation = leases.reserve(machine, until=end.timestamp(), reason=reason)
                break
            except UsageError as error:
                if wait and str(error) != told:
                    note(told := str(error))
                if time.monotonic() >= deadline:
                    if not wait:
                        raise
                    raise LabError(
                        f"{error}; not free within {wait:g} s", component="lock", witness=str(error)
                    ) from error
                time.sleep(min(1.0, wait))
    say(f"{machine}: reserved by {reservation}")
    return 0


@app.command()
def release(
    machine: MachineArgument,
    force: Annotated[bool, typer.Option("--force", help="Take it away from whoever has it.")] = False,
    results: Results = None,
) -> int:
    """Give up a reservation and clear what a dead owner left. --force: another's too, whose run then ends with MISS."""
    _known(machine)
    with _leases(results) as leases:
        done = leases.release(machine, force=force)
    for text in done or ["nothing to release"]:
        say(f"{machine}: {text}")
    return 0


def end_of(until: str | None, period: str | None, now: datetime) -> datetime:
    """The time that --until or --for mean. Raises UsageError."""
    if period is not None:
        match = re.fullmatch(r"([0-9]+)([mhd])", period)
        if match is None:
            raise UsageError(f"--for {period!r}: a number and m, h or d, such as 90m")
        return now + timedelta(seconds=int(match[1]) * _UNITS_S[match[2]])
    assert until is not None
    try:
        if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}", until):
            hour, minute = map(int, until.split(":"))
            at = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            return at if at > now else at + timedelta(days=1)
        return datetime.fromisoformat(until).astimezone()
    except ValueError as error:
        raise UsageError(f"--until {until!r}: a time such as 18:00 or 2026-11-22T18:00: {error}") from error
