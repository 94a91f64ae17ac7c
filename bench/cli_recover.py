"""`bench recover`: a machine that does not come back, brought back."""

from __future__ import annotations

import json as jsons
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bench.cli_health import at_hand
from bench.terminal import say


def recover(
    machine: Annotated[str, typer.Argument(help="Machine of the inventory.")],
    accept_drift: Annotated[
        bool, typer.Option("--accept-drift", help="The firmware was changed on purpose: its fingerprint counts now.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Wait so long for whoever uses the machine, in seconds.")] = 0,
    results: Annotated[Path | None, typer.Option(help="Where store and captures are (default: results/).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")] = False,
) -> int:
    """Bring a machine back to its known-good system: off, on, what a run has left on it withdrawn, then examined.

    If its own switch is not enough, its mains are taken away. What even that does not mend, a person has to look at.
    """
    from bench.recovery import recover as bring_back

    with at_hand(machine, results, purpose="bench recover", wait=wait, json=json) as here:
        found = bring_back(
            here.machine,
            here.health,
            here.folder,
            power=here.power,
            accept_drift=accept_drift,
            told=here.told,
        )
    if json:
        say(jsons.dumps({"ok": found.ok, "capture": str(here.folder), **asdict(found)}, indent=2))
    elif found.ok:
        say(f"{machine}: back, and online; captured in {here.folder}")
    else:
        say(f"{machine}: not back. Its serial line: bench console {machine}, or {here.folder}")
        say("See inventory/RACK.md, Surprises; a machine without a working system: --rescue over the network")
    return 0 if found.ok else 3
