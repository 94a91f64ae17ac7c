"""`bench recover`: a machine that does not come back, brought back."""

from __future__ import annotations

import json as jsons
import secrets
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli_health import MARKS
from bench.terminal import note, say

if TYPE_CHECKING:
    from bench.health import Check


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
    from bench.cli_power import ask
    from bench.errors import UsageError
    from bench.health import Health
    from bench.inventory import find_root, load_inventory
    from bench.lab.metal import loaders_of
    from bench.lab.power.choose import power_of
    from bench.leases import lease
    from bench.recovery import recover as bring_back
    from bench.store import Store

    root = find_root()
    machines = load_inventory(root)
    if machine not in machines:
        raise UsageError(f"no machine {machine!r}; there are: {', '.join(machines)}")
    chosen, where, now = machines[machine], results or root / "results", datetime.now(UTC)
    power = power_of(chosen, ask=ask if sys.stdin.isatty() else None)
    folder = where / "health" / f"{now:%Y-%m-%d}" / f"{now:%H%M%S}-{machine}-{secrets.token_hex(2)}"

    def told(check: Check) -> None:
        if not json:
            say(f"{MARKS[check.ok]:7} {check.name:20} {check.found}")

    with (
        lease(chosen, where, purpose="bench recover", wait_s=wait, waiting=note),
        Store(where / "bench.sqlite") as store,
    ):
        found = bring_back(
            chosen, Health(store), folder, power=power, loaders=loaders_of(chosen), accept_drift=accept_drift, told=told
        )
    if json:
        say(jsons.dumps({"ok": found.ok, "capture": str(folder), **asdict(found)}, indent=2))
    elif found.ok:
        say(f"{machine}: back, and online; captured in {folder}")
    else:
        say(f"{machine}: not back. Its serial line: bench console {machine}, or {folder}")
        say("See inventory/RACK.md, Surprises; a machine without a working system: --rescue over the network")
    return 0 if found.ok else 3
