"""Who has the machine boot from the network next, and whether that is so."""

from __future__ import annotations

from collections.abc import Mapping

from bench.errors import UsageError
from bench.hardware import IpmiSwitch, Netboot, RedfishSwitch
from bench.lab.power.bmc import BootingDevice, IpmiDevice, RedfishDevice
from bench.records import Machine


def select(machine: Machine) -> Mapping[str, str]:
    """Have `machine` boot from the network at its next power-on, and read that back; the witness of it.

    Raises LabError if its BMC does not do it, UsageError if the inventory's entry does not say enough.
    """
    how = machine.wiring.netboot
    if how is Netboot.ORDER:
        return {"selected by": "the firmware's boot order, which only a boot can show"}
    return {"selected by": how.value, **_bmc(machine).boot_next(network=True, uefi=_uefi(machine))}


def deselect(machine: Machine) -> Mapping[str, str]:
    """Undo what `select` did, in case that no boot has used it up."""
    if machine.wiring.netboot not in (Netboot.IPMI, Netboot.REDFISH):
        return {}
    return _bmc(machine).boot_next(network=False, uefi=_uefi(machine))


def _uefi(machine: Machine) -> bool:
    return machine.wiring.firmware == "uefi"


def _bmc(machine: Machine) -> BootingDevice:
    power = machine.wiring.power
    match power.switch if power else None:
        case IpmiSwitch() as switch if power:
            return IpmiDevice(switch, answer_s=power.answer_s)
        case RedfishSwitch() as switch if power:
            return RedfishDevice(switch, answer_s=power.answer_s)
        case _:
            how = machine.wiring.netboot.value
            raise UsageError(f"{machine.name}: netboot: {how!r} is the BMC of [power], whose backend is another")
