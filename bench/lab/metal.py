"""A machine of metal before and after a boot: loaded, known to be off, and whatever happens back to what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from bench.errors import UsageError
from bench.hardware import Netboot
from bench.lab.capture import CaptureWriter
from bench.lab.flash.choose import FirstThatWorks
from bench.lab.flash.kexec import KexecLoader
from bench.lab.flash.loader import FlashLoader
from bench.lab.flash.plan import METHODS
from bench.lab.flash.reach import SYSTEM_S
from bench.lab.load import AlreadyLoaded, Load, Loader
from bench.lab.net.loader import NetLoader
from bench.lab.power import Power
from bench.lab.power.failure import Failure, PowerError
from bench.lab.power.switched import SwitchedPower
from bench.records import LabEventKind, Machine

# A port that goes away may come back for so long: a USB adapter that resets, a console server that is restarted.
RECONNECT_S = 30.0
# From power-on to the trace where nobody has measured it: servers with much memory take minutes.
UNKNOWN_POST_S = 300.0
# What a measured time is multiplied with, and what is added.
POST_MARGIN = (2.0, 30.0)
# After power-off the line has to be silent for so long, within so long: buffers on the way run dry.
SILENT_S = 0.5
FALLS_SILENT_S = 10.0


def loader_of(machine: Machine) -> Loader:
    """The ways to load `machine` that its entry has, the preferred one first. Raises UsageError if it has none."""
    methods = machine.wiring.boot_methods
    unknown = [method for method in methods if method not in LOADERS]
    if unknown or not methods:
        has = ", ".join(methods) or "none"
        raise UsageError(f"{machine.name}: boot_methods: {has}: supported are {', '.join(LOADERS)}")
    loaders = [LOADERS[method](machine) for method in methods]
    return loaders[0] if len(loaders) == 1 else FirstThatWorks(loaders)


def _flash(method: str) -> Callable[[Machine], Loader]:
    return lambda machine: FlashLoader(METHODS[method], wait_s=system_s(machine))


# A row for each value of `boot_methods`.
LOADERS: Mapping[str, Callable[[Machine], Loader]] = {
    "loaded": lambda _: AlreadyLoaded(),
    **{name: _flash(name) for name in METHODS},
    "pxe": lambda machine: NetLoader(
        own_system_s=system_s(machine) if machine.wiring.netboot is Netboot.BOOTNEXT else 0.0
    ),
    "kexec": lambda machine: KexecLoader(system_s=SYSTEM_S, wait_s=system_s(machine)),
}


def system_s(machine: Machine) -> float:
    """How long `machine` may take from power-on to its own system's SSH, in seconds."""
    return post_s(machine) + SYSTEM_S


def post_s(machine: Machine) -> float:
    """How long `machine` may take from power-on to the first record of the trace, in seconds.

    What `bench.health` has learnt is an upper bound: it lengthens what is unknown, and shortens nothing.
    """
    given, learnt = machine.wiring.time_to_post_s, machine.wiring.learnt_post_s
    if given is None:
        return UNKNOWN_POST_S if learnt is None else max(UNKNOWN_POST_S, _with_margin(learnt))
    return _with_margin(given)


def _with_margin(measured_s: float) -> float:
    return POST_MARGIN[0] * measured_s + POST_MARGIN[1]


@contextmanager
def loaded(
    machine: Machine, load: Load, power: SwitchedPower, loader: Loader, capture: CaptureWriter
) -> Iterator[Power]:
    """Have `machine` with `load` ready, to be started by the power that this gives; all is withdrawn at the end.

    The machine is off, unless its own system is to restart it. Raises LabError, with the machine as it was found or
    off.
    """

    def note(step: Mapping[str, str]) -> None:
        capture.event(LabEventKind.LOADING, step)

    try:
        capture.event(LabEventKind.LOADED, loader.load(machine, load, power, note))
        starting = loader.starting(power)
        if starting is power:
            capture.event(LabEventKind.POWER_OFF, _off_and_silent(power, capture))
        yield starting
    finally:
        capture.event(LabEventKind.RESTORED, loader.fall_back(machine))


def _off_and_silent(power: SwitchedPower, capture: CaptureWriter) -> Mapping[str, str]:
    """Off, and the serial line agrees. Raises PowerError if the machine goes on speaking: the switch lies."""
    witness = dict(power.off())
    if capture.wait_quiet(SILENT_S, timeout_s=FALLS_SILENT_S):
        return witness | {"serial line": f"silent for {SILENT_S:g} s"}
    words = f"says off, and the serial line still speaks {FALLS_SILENT_S:g} s later"
    component = power.device.component
    raise PowerError(f"{component}: {words}", Failure.LIES, component=component, witness=words)
