"""A machine that the inventory does not have yet: no more than it takes to start it over the network once."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from bench.errors import UsageError
from bench.hardware import Cuts, ManualSwitch, PowerSpec, PxeLoader, Wiring
from bench.inventory import load_inventory, survey
from bench.inventory.lab_keys import network_problems
from bench.inventory.values import STRICT, Ip, Mac, Name
from bench.records import Machine

# A port on which nobody speaks.
NO_LINE = "loop://"


class _Told(BaseModel):
    model_config = STRICT
    name: Name
    mac: Mac
    ip: Ip | None


def unlisted(root: Path, name: str, *, mac: str, ip: str, firmware: str, pxe_loader: PxeLoader) -> Machine:
    """The machine with the card `mac`: a person switches it, and nobody hears its serial line. What it is (signature,
    memory) is not known and stands at zero.

    Raises UsageError for one that is in the inventory, and for what does not fit the lab's boot network.
    """
    try:
        told = _Told(name=name, mac=mac, ip=ip or None)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{first['loc'][0]}: {first['msg']}") from error
    machines = load_inventory(root)
    if name in machines:
        raise UsageError(f"{name} is in the inventory: --mac and --ip are for machines that are not")
    for machine in machines.values():
        if machine.wiring.mac == told.mac:
            raise UsageError(f"--mac: {told.mac} is {machine.name}: bench inventory discover {machine.name} --rescue")
    network = survey(root / "inventory").boot_network
    for problem in network_problems(network, mac=told.mac or "", ip=told.ip or "", netboots=True):
        raise UsageError(problem)
    return Machine(
        name=name,
        signature=0,
        memory_bytes=0,
        maxphyaddr=0,
        nx=False,
        la57=False,
        serial_url=NO_LINE,
        wiring=Wiring(
            power=PowerSpec(ManualSwitch(Cuts.CHASSIS)),
            mac=told.mac,
            ip=told.ip or "",
            firmware=firmware,
            boot_methods=("pxe",),
            pxe_loader=pxe_loader,
            boot_network=network,
        ),
    )
