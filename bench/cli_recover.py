"""`bench recover`: a machine that does not come back, brought back."""

from __future__ import annotations

import json as jsons
from dataclasses import asdict

from bench.cli_health import AcceptDrift, Json, MachineName, Results, Wait, at_hand
from bench.terminal import say


def recover(
    machine: MachineName,
    accept_drift: AcceptDrift = False,
    wait: Wait = 0,
    results: Results = None,
    json: Json = False,
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
        say("See inventory/RACK.md, Surprises. A system that does not start any more is mended at the machine")
    return 0 if found.ok else 3
