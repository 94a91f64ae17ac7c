"""What two machines cannot share, and what works today but will not for long."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.hardware import (
    CommandSwitch,
    Cuts,
    IpmiSwitch,
    ManualSwitch,
    PduSwitch,
    ProcessSwitch,
    RedfishSwitch,
    Switch,
    WakeSwitch,
)
from bench.records import Machine

# Names that the kernel gives in the order of plugging in (Documentation/admin-guide/devices.txt).
_ENUMERATED = re.compile(r"/dev/tty(USB|ACM)[0-9]+")


@dataclass(frozen=True)
class Problem:
    """Something about the inventory. An error keeps the machines from being used, a warning does not."""

    path: Path
    text: str
    """Key and what is wrong with it."""
    error: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def conflicts(machines: Mapping[Path, Machine]) -> Iterator[Problem]:
    """Two machines on one serial port, outlet, BMC, MAC or address."""
    taken: dict[tuple[str, str], Path] = {}
    for path, machine in machines.items():
        for key, what, value in _exclusive(machine):
            if (what, value) in taken:
                yield Problem(path, f"{key}: {value} is already the {what} of {taken[what, value]}")
            taken.setdefault((what, value), path)


def _exclusive(machine: Machine) -> Iterator[tuple[str, str, str]]:
    """(key, what it is, value) of all that only one machine can have."""
    wiring = machine.wiring
    if wiring.mac:
        yield "mac", "MAC", wiring.mac
    if wiring.ip:
        yield "ip", "address", wiring.ip
    if machine.serial_url:
        yield "serial.url", "serial port", _one_port(machine.serial_url)
    if wiring.power is not None:
        yield from (("power", *one) for one in _outlets(wiring.power.switch))
        if wiring.power.ac is not None:
            yield from (("power.ac", *one) for one in _outlets(wiring.power.ac))


def _one_port(url: str) -> str:
    """One name for a port, however it is written: links of a device are followed, options left out."""
    if url.startswith("/"):
        return str(Path(url).resolve())
    parts = urlsplit(url)
    # rfc2217 and raw are two protocols; on one host and port only one of them is spoken.
    return f"{parts.hostname}:{parts.port}" if parts.scheme != "ipmi-sol" else f"ipmi-sol://{parts.hostname}"


def _outlets(switch: Switch) -> Iterable[tuple[str, str]]:
    match switch:
        case IpmiSwitch():
            return [("BMC", f"{switch.host}:{switch.port}")]
        case RedfishSwitch():
            return [("BMC", f"{switch.url}{switch.system}")]
        case PduSwitch():
            return [("outlet", f"{switch.pdu} outlet {outlet} of {switch.url}") for outlet in switch.outlets]
        case CommandSwitch():
            where = f"{switch.ssh.host}: " if switch.ssh else ""
            return [("power command", where + " ".join(switch.on or switch.short_press))]
        case WakeSwitch():
            return [("card to wake", switch.mac)]
        case ManualSwitch() | ProcessSwitch():
            return []


def warnings(machines: Mapping[Path, Machine]) -> Iterator[Problem]:
    """What works today but will not for long, or keeps the bench from bringing a machine back."""
    for path, machine in machines.items():
        if machine.virtual is None:
            for text in _of_metal(machine):
                yield Problem(path, text, error=False)


def _of_metal(machine: Machine) -> Iterator[str]:
    url, power = machine.serial_url, machine.wiring.power
    if _ENUMERATED.fullmatch(url):
        yield (
            f"serial.url: {url} is whichever adapter was plugged in first; "
            "use the name in /dev/serial/by-path/ (or by-id/) that points to it"
        )
    if power is None:
        yield "power: missing: nobody can bring the machine back when a kernel hangs early"
        return
    switch = power.switch
    if isinstance(switch, RedfishSwitch) and switch.insecure:
        yield "power.insecure: whoever sits in between learns the BMC's password; give ca_file"
    if isinstance(switch, WakeSwitch) and power.ac is None:
        yield "power: wake-on-lan cannot switch off a machine that hangs; give [power.ac] too"
    if isinstance(switch, CommandSwitch) and switch.short_press and not switch.status:
        yield "power.status: missing: without it every power-on begins with a long press"
    cuts_ac = isinstance(switch, PduSwitch) or (isinstance(switch, CommandSwitch) and switch.cuts is Cuts.AC)
    if cuts_ac and power.after_power_loss is None:
        yield 'power.after_power_loss: missing: with the firmware\'s setting "off" the outlet alone will not start it'
