"""`bench netboot`: the lab's boot network."""

from __future__ import annotations

import json as jsons
from typing import Annotated

import typer

from bench.terminal import say

app = typer.Typer(no_args_is_help=True, help="The network on which machines boot (inventory/lab.toml).")


@app.callback()
def netboot() -> None:
    """Looks at the boot network; machines are booted over it by `bench run`."""


@app.command()
def check(
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")] = False,
) -> int:
    """Say whether machines could boot over the network now; nobody is answered meanwhile.

    Looks at programs and boot loaders, interface and address, and asks who else gives addresses there.
    Ends with 3 if something is missing.
    """
    from bench.errors import UsageError
    from bench.inventory import find_root, load_inventory
    from bench.lab.net.survey import survey

    machines = [m for m in load_inventory(find_root()).values() if m.wiring.boot_network is not None]
    if not machines:
        raise UsageError("no machine boots from the network: [boot_network] in lab.toml, boot_methods of machines")
    network = machines[0].wiring.boot_network
    assert network is not None
    wanted = {
        (m.wiring.pxe_loader, firmware)
        for m in machines
        for firmware in ([m.wiring.firmware] if m.wiring.firmware else ["bios", "uefi"])
    }
    points = list(survey(network, wanted))
    if json:
        rows = [{"what": point.what, "ok": point.ok, "said": point.said} for point in points]
        say(jsons.dumps({"machines": [m.name for m in machines], "mode": network.mode.value, "points": rows}, indent=2))
    else:
        for point in points:
            say(f"{'ok' if point.ok else 'MISSING':8} {point.what}: {point.said}")
    return 0 if all(point.ok for point in points) else 3
