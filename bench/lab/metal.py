"""A machine of metal before and after a boot: loaded, known to be off, and whatever happens back to what it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.errors import UsageError
from bench.lab.capture import CaptureWriter
from bench.lab.load import AlreadyLoaded, Load, Loader
from bench.lab.net.loader import NetLoader
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
    """The way to load `machine` that its entry prefers. Raises UsageError for ways that are not supported yet."""
    methods = machine.wiring.boot_methods
    for method in methods:
        if method == "loaded":
            return AlreadyLoaded()
        if method == "pxe":
            return NetLoader()
    has = ", ".join(methods) or "none"
    raise UsageError(
        f"{machine.name}: no way to load it is supported yet (boot_methods: {has}): only loaded and pxe are"
    )


def post_s(machine: Machine) -> float:
    """How long `machine` may take from power-on to the first record of the trace, in seconds."""
    measured = machine.wiring.time_to_post_s
    return UNKNOWN_POST_S if measured is None else POST_MARGIN[0] * measured + POST_MARGIN[1]


@contextmanager
def loaded(
    machine: Machine, load: Load, power: SwitchedPower, loader: Loader, capture: CaptureWriter
) -> Iterator[None]:
    """Have `machine` off, with `load` to be started at the next power-on; what was prepared is withdrawn at the end.

    Raises LabError, with the machine as it was found or off.
    """

    def note(step: Mapping[str, str]) -> None:
        capture.event(LabEventKind.LOADING, step)

    try:
        capture.event(LabEventKind.LOADED, loader.load(machine, load, power, note))
        capture.event(LabEventKind.POWER_OFF, _off_and_silent(power, capture))
        yield
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
