"""`bench flash`: how images get onto a machine, whether its boot loader is proved to start them once, and room."""

from __future__ import annotations

import json as jsons
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import LabError, UsageError
from bench.terminal import note, say

if TYPE_CHECKING:
    from bench.lab.capture import CaptureWriter
    from bench.lab.power.switched import SwitchedPower
    from bench.records import Machine

app = typer.Typer(no_args_is_help=True, help="Images onto machines over SSH: what is in the way, the proof, room.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
Results = Annotated[Path | None, typer.Option(help="Where store and captures are (default: results/).")]
MachineArgument = Annotated[str, typer.Argument(help="Machine of the inventory.")]
Wait = Annotated[float, typer.Option(min=0, help="Wait so long for whoever uses the machine, in seconds.")]
Method = Annotated[str | None, typer.Option(help="One of its boot_methods (default: each).")]


@app.command()
def plan(machine: MachineArgument, results: Results = None, wait: Wait = 0, json: Json = False) -> int:
    """Say for each of the machine's one-shot methods whether it can be used, and what is in the way. Leaves it off."""
    from bench.lab.flash.plan import plan_methods

    with _ours(machine, results, wait) as (chosen, power, capture):
        rows = plan_methods(chosen, power, _noting(capture, json=json), wait_s=_patience(chosen))
    if json:
        say(jsons.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            say(f"{row.method:13} {row.state}")
            for reason in row.reasons:
                say(f"{'':13} - {reason}")
    return 0 if any(not row.reasons for row in rows) else 3


@app.command()
def prove(
    machine: MachineArgument, method: Method = None, results: Results = None, wait: Wait = 0, json: Json = False
) -> int:
    """Show, anew, that a boot loader starts the machine's own system once by a one-shot, and the default after it."""
    from bench.lab.flash.plan import prove_methods

    with _ours(machine, results, wait) as (chosen, power, capture):
        rows = prove_methods(chosen, power, _noting(capture, json=json), wait_s=_patience(chosen), only=method)
    if json:
        say(jsons.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            say(f"{row.method:13} {row.state}{': ' if row.reasons else ''}{'; '.join(row.reasons)}")
    return 0 if all(row.state == "proved" for row in rows) else 3


@app.command()
def prune(
    machine: MachineArgument,
    keep: Annotated[int, typer.Option(min=0, help="The newest so many kernels and initrds stay.")] = 0,
    results: Results = None,
    wait: Wait = 0,
    json: Json = False,
) -> int:
    """Remove the bench's images and entries from the machine's disk; what others have put there stays."""
    from bench.lab.flash.plan import prune_images

    with _ours(machine, results, wait) as (chosen, power, capture):
        removed = prune_images(chosen, power, _noting(capture, json=json), wait_s=_patience(chosen), keep=keep)
    if json:
        say(jsons.dumps(removed, indent=2))
    else:
        for name in removed:
            say(f"removed {name}")
        say(f"{len(removed)} removed" if removed else "nothing to remove")
    return 0


def _patience(machine: Machine) -> float:
    from bench.lab.metal import system_s

    return system_s(machine)


def _noting(capture: CaptureWriter, *, json: bool) -> Any:
    from bench.records import LabEventKind

    def noted(step: Mapping[str, str]) -> None:
        capture.event(LabEventKind.LOADING, step)
        if not json:
            words = ", ".join(f"{name} {value}" for name, value in step.items() if name != "step")
            note(f"{step.get('step', '')}{': ' if words else ''}{words}")

    return noted


def _last_words(capture: CaptureWriter) -> str:
    from bench.lab.text import escape

    lines = [line for line in capture.tail().splitlines() if line.strip()]
    return escape(lines[-1].strip()) if lines else "nothing"


@contextmanager
def _ours(name: str, results: Path | None, wait_s: float) -> Iterator[tuple[Machine, SwitchedPower, CaptureWriter]]:
    """The machine, leased, with its power and its serial line captured; off at the end."""
    from bench.cli_power import ask
    from bench.cli_systems import announce_for
    from bench.health import Health
    from bench.hosts import with_files
    from bench.inventory import find_root, load_inventory
    from bench.lab.capture import CaptureWriter
    from bench.lab.metal import RECONNECT_S
    from bench.lab.power.choose import power_of
    from bench.lab.virtual_host import plugged
    from bench.leases import lease
    from bench.store import Store, place_of

    root = find_root()
    machines = load_inventory(root)
    if name not in machines:
        raise UsageError(f"no machine {name!r}; there are: {', '.join(machines)}")
    machine, where, now = machines[name], results or root / "results", datetime.now(UTC)
    folder = where / "flash" / f"{now:%Y-%m-%d}" / f"{now:%H%M%S}-{name}-{secrets.token_hex(2)}"
    info = {"machine": name, "model": machine.model, "image": "known-good", "virtual": machine.virtual is not None}

    @contextmanager
    def captured(machine: Machine, power: SwitchedPower) -> Iterator[tuple[Machine, SwitchedPower, CaptureWriter]]:
        with CaptureWriter(
            folder, url=machine.serial_url, baud=machine.serial_baud, info=info, reconnect_s=RECONNECT_S
        ) as capture:
            note(f"{machine.name}: reaching its own system; a start may take {_patience(machine):g} s")
            try:
                yield machine, power, capture
            except LabError:
                note(f"{machine.name}: its serial line, captured in {folder}, said last: {_last_words(capture)}")
                raise
            finally:
                power.off()

    if machine.virtual is not None:
        if machine.virtual.host is None:
            raise UsageError(f"{name}: a virtual machine without a disk: nothing is loaded onto it")
        announce_for([machine])
        with plugged(with_files(machine, root), folder / "qemu") as there, captured(there.machine, there.power) as one:
            yield one
        return
    power = power_of(machine, ask=ask if sys.stdin.isatty() else None)
    with Store(place_of(where)) as store:
        machine = Health(store).as_learnt(machine)
    with (
        lease(machine, where, purpose="bench flash", wait_s=wait_s, waiting=note),
        captured(machine, power) as one,
    ):
        yield one
