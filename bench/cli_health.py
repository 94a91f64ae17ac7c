"""`bench health`: whether a machine can be relied on."""

from __future__ import annotations

import json as jsons
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.terminal import note, say

if TYPE_CHECKING:
    from bench.health import Check, Examination, Health
    from bench.lab.power.switched import SwitchedPower
    from bench.records import Machine
    from bench.rescue.examined import Booting

MachineName = Annotated[str, typer.Argument(help="Machine of the inventory.")]
AcceptDrift = Annotated[
    bool, typer.Option("--accept-drift", help="The firmware was changed on purpose: its fingerprint counts now.")
]
Wait = Annotated[float, typer.Option(min=0, help="Wait so long for whoever uses the machine, in seconds.")]
Results = Annotated[Path | None, typer.Option(help="Where store and captures are (default: results/).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
MARKS = {True: "ok", False: "FAILED", None: "-"}


@dataclass(frozen=True)
class AtHand:
    """A machine of metal that is ours for a while, and what an examination of it needs."""

    machine: Machine
    power: SwitchedPower
    health: Health
    folder: Path
    """For captures; not there yet."""
    told: Callable[[Check], None]
    rescue: Booting | None
    """What boots its known-good system over the network, if it has none of its own."""


@contextmanager
def at_hand(name: str, results: Path | None, *, purpose: str, wait: float, json: bool) -> Iterator[AtHand]:
    """Have the machine `name`; its checks are shown as they come, unless `json`. Raises UsageError, LabError."""
    from bench.cli_power import ask
    from bench.errors import UsageError
    from bench.health import Health
    from bench.inventory import find_root, load_inventory
    from bench.lab.power.choose import power_of
    from bench.leases import lease
    from bench.store import Store, place_of

    root = find_root()
    machines = load_inventory(root)
    if name not in machines:
        raise UsageError(f"no machine {name!r}; there are: {', '.join(machines)}")
    machine, where, now = machines[name], results or root / "results", datetime.now(UTC)
    power = power_of(machine, ask=ask if sys.stdin.isatty() else None)
    folder = where / "health" / f"{now:%Y-%m-%d}" / f"{now:%H%M%S}-{name}-{secrets.token_hex(2)}"

    def told(check: Check) -> None:
        if not json:
            say(f"{MARKS[check.ok]:7} {check.name:20} {check.found}")

    with Store(place_of(where)) as store:
        condition = Health(store)
        machine = condition.as_learnt(machine)
        rescue = _rescue(machine, root, power) if machine.wiring.known_good == "rescue" else None
        with lease(machine, where, purpose=purpose, wait_s=wait, waiting=note):
            yield AtHand(machine, power, condition, folder, told, rescue)


def _rescue(machine: Machine, root: Path, power: SwitchedPower) -> Booting:
    from functools import partial

    from bench.cli_rescue import rescue_system
    from bench.rescue.session import require_rescuable, rescued

    require_rescuable(machine)
    return partial(rescued, machine, rescue_system(root, quiet=False), power)


def _learnt(machine: Machine, found: Examination) -> Iterator[str]:
    """How long its start takes, and what that is for the inventory."""
    byte_s, ssh_s = found.condition.time_to_first_byte_s, found.condition.time_to_ssh_s
    seen = [f"{what} after {s} s" for what, s in (("first byte", byte_s), ("SSH", ssh_s)) if s is not None]
    if seen:
        bound = ", so POST takes no longer" if ssh_s is not None else ""
        yield f"learnt, from power-on: {', '.join(seen)}{bound}"
    if found.ok and found.time_to_ssh_s is not None and machine.wiring.time_to_post_s is None:
        yield f"for its inventory entry, if you have not timed its boot loader: time_to_post_s = {found.time_to_ssh_s}"


def health(
    machine: MachineName,
    accept_drift: AcceptDrift = False,
    wait: Wait = 0,
    results: Results = None,
    json: Json = False,
) -> int:
    """Examine a machine: power read back, serial line, its own system over SSH, clock, room, firmware. Leaves it off.

    Two failures in a row take it offline with the reason; an examination that passes brings it back.
    """
    from bench.health import examine

    with at_hand(machine, results, purpose="bench health", wait=wait, json=json) as here:
        found = examine(
            here.machine,
            here.health,
            here.folder,
            power=here.power,
            accept_drift=accept_drift,
            told=here.told,
            rescue=here.rescue,
        )
    if json:
        say(jsons.dumps({"ok": found.ok, "capture": str(here.folder), **asdict(found)}, indent=2))
    else:
        state = "offline" if found.condition.offline_since is not None else "online"
        failures = f", {found.condition.failures} failed in a row" if found.condition.failures else ""
        say(f"{machine}: {state}{failures}; captured in {here.folder}")
        for line in _learnt(here.machine, found):
            say(line)
    return 0 if found.ok else 3
