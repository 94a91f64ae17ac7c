"""From the inventory's record of a machine's power to the thing that switches it: one table."""

from __future__ import annotations

from bench.errors import UsageError
from bench.hardware import (
    CommandSwitch,
    IpmiSwitch,
    ManualSwitch,
    PduSwitch,
    ProcessSwitch,
    RedfishSwitch,
    Switch,
    WakeSwitch,
)
from bench.lab.power.bmc import IpmiDevice, PduDevice, RedfishDevice
from bench.lab.power.command import CommandDevice
from bench.lab.power.device import Device
from bench.lab.power.manual import Ask, ManualDevice
from bench.lab.power.switched import SwitchedPower
from bench.lab.power.wake import WakeDevice
from bench.records import Machine


def power_of(machine: Machine, *, ask: Ask | None = None) -> SwitchedPower:
    """The power switch of a machine of metal. `ask` is for machines that a person switches.

    Raises UsageError for a machine without one, and for a virtual machine, which has power only while a run has it.
    """
    if machine.virtual is not None:
        raise UsageError(f"{machine.name}: a virtual machine exists only while the bench runs it; nothing to switch")
    spec = machine.wiring.power
    if spec is None:
        raise UsageError(f"{machine.name}: its inventory entry has no [power]")
    ac = _device(spec.ac, machine.name, spec.answer_s, ask) if spec.ac is not None else None
    return SwitchedPower(_device(spec.switch, machine.name, spec.answer_s, ask), spec, ac=ac)


def _device(switch: Switch, machine: str, answer_s: float, ask: Ask | None) -> Device:
    match switch:
        case IpmiSwitch():
            return IpmiDevice(switch, answer_s=answer_s)
        case RedfishSwitch():
            return RedfishDevice(switch, answer_s=answer_s)
        case PduSwitch():
            return PduDevice(switch, answer_s=answer_s)
        case CommandSwitch():
            return CommandDevice(switch, answer_s=answer_s)
        case WakeSwitch():
            return WakeDevice(switch, answer_s=answer_s)
        case ManualSwitch():
            return ManualDevice(switch, machine, ask)
        case ProcessSwitch():
            raise UsageError(f"{machine}: a virtual machine exists only while the bench runs it; nothing to switch")
