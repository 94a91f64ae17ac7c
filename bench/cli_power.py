"""`bench power`: a machine's power by hand, with what was read back."""

from __future__ import annotations

import json as jsons
import select
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.terminal import note, say

if TYPE_CHECKING:
    from bench.lab.power.switched import SwitchedPower

# How long a person may take to walk to the machine.
ASK_S = 300.0


class Order(StrEnum):
    """What can be asked for."""

    ON = "on"
    OFF = "off"
    CYCLE = "cycle"
    RESET = "reset"
    STATUS = "status"


def power(
    machine: Annotated[str, typer.Argument(help="Machine of the inventory.")],
    order: Annotated[Order, typer.Argument(help="cycle: off, the shortest off time, on. reset: the power stays on.")],
    ac: Annotated[bool, typer.Option("--ac", help="cycle: take the mains away, standby power included.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Wait so long for whoever uses the machine, in seconds.")] = 0,
    results: Annotated[Path | None, typer.Option(help="Where store and lock files are (default: results/).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")] = False,
) -> int:
    """Switch a machine on or off, reset it, or say its state; shows what was read back from the switch."""
    from bench.errors import UsageError
    from bench.inventory import find_root, load_inventory
    from bench.lab.power.choose import power_of
    from bench.leases import lease

    if ac and order is not Order.CYCLE:
        raise UsageError("--ac goes with cycle")
    root = find_root()
    machines = load_inventory(root)
    if machine not in machines:
        raise UsageError(f"no machine {machine!r}; there are: {', '.join(machines)}")
    switch = power_of(machines[machine], ask=ask if sys.stdin.isatty() else None)
    if order is Order.STATUS:
        witness: Mapping[str, str] = {"switch": switch.device.component, "state": switch.state()}
    else:
        where = results or root / "results"
        with lease(machines[machine], where, purpose=f"bench power {order}", wait_s=wait, waiting=note):
            witness = _switched(switch, order, ac=ac)
    if json:
        say(jsons.dumps({"machine": machine, "order": order, "witness": dict(witness)}, indent=2))
    else:
        for name, value in witness.items():
            say(f"{name + ':':18} {value}")
    return 0


def _switched(switch: SwitchedPower, order: Order, *, ac: bool) -> Mapping[str, str]:
    match order:
        case Order.ON:
            return switch.on()
        case Order.OFF:
            return switch.off()
        case Order.RESET:
            return switch.reset()
        case _:
            return switch.cold_cycle() if ac else switch.cycle()


def ask(request: str) -> bool | None:
    """Ask the person at the terminal; None if nobody answers in `ASK_S`."""
    note(f"{request}, then press Enter (n: cannot be done)")
    if not select.select([sys.stdin], [], [], ASK_S)[0]:
        return None
    return sys.stdin.readline().strip().lower() not in ("n", "no")
