"""One boot: from power-on to the marker, or to whatever else ends it.

`RULES` is the whole state machine: off → powered → speaking → over. What a machine does is never an
exception here; it becomes an event of the capture, with a witness. Exceptions are for our own trouble.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from pathlib import Path

from bench.errors import UsageError
from bench.lab import metal, virtual
from bench.lab.capture import LIMIT_BYTES, CaptureWriter
from bench.lab.load import Load, Loader
from bench.lab.power import IncidentKind, Power
from bench.lab.power.choose import power_of
from bench.lab.power.manual import Ask
from bench.lab.power.switched import SwitchedPower
from bench.lab.virtual_rack import racked
from bench.lab.watch import LineWatch
from bench.records import LabEvent, LabEventKind, Machine

__all__ = ["Limits", "Load", "Loader", "Progress", "State", "boot"]

# The loop looks at the bytes at most so often: the reader and the machine need the processor more.
PACE_S = 0.01
# How often limits are looked at while nothing happens, and how often at most progress is told.
TICK_S = 0.1
PROGRESS_S = 0.25
# Bytes may still be on their way when a machine resets or goes away: wait until none came for …
FLIGHT_QUIET_S = 0.05
FLIGHT_S = 2.0


class State(StrEnum):
    """Where a boot stands."""

    OFF = "off"
    POWERED = "powered"
    SPEAKING = "speaking"
    OVER = "over"


@dataclass(frozen=True)
class Limits:
    """When to give up on a machine, in seconds of wall time and in bytes."""

    first_byte_s: float = 30.0
    """From power-on to the first byte."""
    silence_s: float = 10.0
    """From one byte to the next."""
    total_s: float = 120.0
    """From power-on to the marker."""
    post_s: float = 0.0
    """From power-on to the trace's first record. So long firmware may be silent, and `first_byte_s` and `total_s` are
    longer by it; of a machine of metal it is at least what its inventory entry makes likely."""
    max_bytes: int = LIMIT_BYTES
    """Of the capture, and four times as many of QEMU's log of exceptions."""


@dataclass(frozen=True)
class Progress:
    """How a boot is getting on. `last_line` is escaped and safe to print."""

    machine: str
    state: State
    elapsed_s: float
    size_bytes: int
    last_line: str
    faults: int
    """Lines that report a page fault or another exception, so far."""


class Sign(Enum):
    """What the loop can see."""

    MARKER = auto()
    CANCELLED = auto()
    RESET = auto()
    LOST = auto()
    STILL = auto()
    PORT_CLOSED = auto()
    BYTE = auto()
    FULL = auto()
    LATE = auto()
    NO_FIRST_BYTE = auto()
    SILENT = auto()


@dataclass(frozen=True)
class Rule:
    """In one of `states`, `sign` leads to `then` and to `event` (None: the event is noted elsewhere)."""

    states: tuple[State, ...]
    sign: Sign
    then: State
    event: LabEventKind | None
    look: bool = False
    """Ask the power switch what the processor is doing, for the witness."""
    flight: bool = False
    """Wait for bytes that are on their way first; they may hold the marker."""


_RUNNING = (State.POWERED, State.SPEAKING)
# The first rule that fits is followed: what the machine said weighs more than how it ended.
RULES: tuple[Rule, ...] = (
    Rule((State.POWERED,), Sign.BYTE, State.SPEAKING, LabEventKind.FIRST_BYTE),
    Rule(_RUNNING, Sign.MARKER, State.OVER, LabEventKind.MARKER),
    Rule(_RUNNING, Sign.CANCELLED, State.OVER, LabEventKind.INTERRUPTED),
    Rule(_RUNNING, Sign.RESET, State.OVER, LabEventKind.RESET, look=True, flight=True),
    Rule(_RUNNING, Sign.LOST, State.OVER, LabEventKind.MACHINE_LOST, flight=True),
    Rule(_RUNNING, Sign.STILL, State.OVER, LabEventKind.SILENCE, look=True, flight=True),
    Rule(_RUNNING, Sign.PORT_CLOSED, State.OVER, None),
    Rule(_RUNNING, Sign.FULL, State.OVER, LabEventKind.DEADLINE, look=True),
    Rule(_RUNNING, Sign.LATE, State.OVER, LabEventKind.DEADLINE, look=True),
    Rule((State.POWERED,), Sign.NO_FIRST_BYTE, State.OVER, LabEventKind.SILENCE, look=True),
    Rule((State.SPEAKING,), Sign.SILENT, State.OVER, LabEventKind.SILENCE, look=True),
)


def boot(
    machine: Machine,
    load: Load,
    folder: Path,
    *,
    meta: Mapping[str, object],
    limits: Limits,
    witness: bool = False,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    loader: Loader | None = None,
    ask: Ask | None = None,
) -> Path:
    """Boot `machine` once with `load` and capture what it says into `folder`, which must not hold a capture yet.

    `meta` goes into ``capture.json``: image, nonce (hex text), scenarios (window number → name), and what the
    caller adds. `witness`: QEMU logs every exception to ``exceptions.log``. A machine of metal is switched by what its
    entry says (`ask` asks the person where that is one) and loaded by `loader` (default: by its ``boot_methods``).
    Returns `folder`. Power is removed before this returns, whatever happens. Raises UsageError for a machine that
    cannot be booted so, LabError (with component and witness) when port, power, QEMU, loading or disk fail.
    """
    info: dict[str, object] = {
        "machine": machine.name,
        "model": machine.model,
        "virtual": machine.virtual is not None,
        "quirks": list(machine.quirks),
        **meta,
    }
    host = machine.virtual is not None and machine.virtual.host is not None
    if machine.virtual is None or host:
        if witness:
            raise UsageError(f"{machine.name}: the second witness is QEMU's, of a direct boot; it has none here")
        if not host:
            power = power_of(machine, ask=ask)
            return _boot_metal(machine, load, folder, info, limits, progress, cancel, loader, power)
        with racked(machine, folder) as (there, its_own):
            chosen = loader or its_own
            return _boot_metal(there.machine, load, folder, info, limits, progress, cancel, chosen, there.power)
    limits = replace(limits, post_s=max(limits.post_s, virtual.post_s(machine)))
    with virtual.rig(machine, load, folder, witness=witness) as rig:
        script = load.initrd if load.offer is None else load.offer
        capture = CaptureWriter(folder, url=rig.serial_url, info=info, script=script, limit_bytes=limits.max_bytes)
        with capture:
            rig.power.changed = capture.wake
            attend(capture, rig.power, limits, name=machine.name, progress=progress, cancel=cancel)
        if rig.processors is not None and rig.processors.trouble is not None:
            raise rig.processors.trouble
    return folder


def _boot_metal(
    machine: Machine,
    load: Load,
    folder: Path,
    info: Mapping[str, object],
    limits: Limits,
    progress: Callable[[Progress], None] | None,
    cancel: threading.Event | None,
    loader: Loader | None,
    power: SwitchedPower,
) -> Path:
    loader = loader or metal.loader_of(machine)
    limits = replace(limits, post_s=max(limits.post_s, metal.post_s(machine)) + loader.delay_s)
    capture = CaptureWriter(
        folder,
        url=machine.serial_url,
        baud=machine.serial_baud,
        info=info,
        script=load.initrd,
        limit_bytes=limits.max_bytes,
        reconnect_s=metal.RECONNECT_S,
    )
    with capture, metal.loaded(machine, load, power, loader, capture) as switch:
        attend(capture, switch, limits, name=machine.name, progress=progress, cancel=cancel)
    return folder


def attend(
    capture: CaptureWriter,
    power: Power,
    limits: Limits,
    *,
    name: str,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> LabEvent | None:
    """Power a machine up, watch its open capture until a rule ends the boot, and power it down.

    Works on any port and any switch. Returns the event that ended the boot (None: the port closed).
    """
    boot_ = _Boot(capture, power, limits, name, progress, cancel or threading.Event())
    with _powered(capture, power):
        return boot_.run()


@contextmanager
def _powered(capture: CaptureWriter, power: Power) -> Iterator[None]:
    capture.await_first()
    asked = capture.mark(LabEventKind.POWER_ON)
    try:
        capture.event(LabEventKind.POWER_ON, power.on(), at=asked)
        yield
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C in the thread that boots
            capture.event(LabEventKind.INTERRUPTED, {"why": type(error).__name__})
        raise
    finally:
        off = power.off()
        capture.event(LabEventKind.POWER_OFF, off)


class _Boot:
    """The loop over `RULES`, and what it has seen so far."""

    def __init__(
        self,
        capture: CaptureWriter,
        power: Power,
        limits: Limits,
        name: str,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event,
    ) -> None:
        self._capture = capture
        self._power = power
        self._limits = limits
        self._name = name
        self._progress = progress
        self._cancel = cancel
        self._watch = LineWatch()
        self._seen = 0
        self._state = State.OFF
        self._told_at = 0.0

    def run(self) -> LabEvent | None:
        """Follow the rules until the boot is over; the event that ended it."""
        self._state = State.POWERED
        self._on_at = time.monotonic()
        self._tell(always=True)
        waited = False
        event = None
        while self._state is not State.OVER:
            signs = self._signs()
            rule = next((r for r in RULES if self._state in r.states and r.sign in signs), None)
            if rule is None:
                self._capture.wait_change(self._seen, timeout_s=TICK_S)
                self._tell()
                time.sleep(PACE_S)
            elif rule.flight and not waited:
                waited = True
                self._capture.wait_quiet(FLIGHT_QUIET_S, timeout_s=FLIGHT_S)
            else:
                event = self._follow(rule, signs[rule.sign])
        return event

    def _follow(self, rule: Rule, witness: Mapping[str, str]) -> LabEvent | None:
        if rule.look:
            witness = {**witness, **self._power.processor()}
        self._state = rule.then
        at = self._capture.first if rule.sign is Sign.BYTE else None
        event = self._capture.event(rule.event, witness, at=at) if rule.event else None
        self._tell(always=True)
        return event

    def _signs(self) -> dict[Sign, Mapping[str, str]]:
        """All that can be seen now, each with its witness."""
        # These two before the bytes: nothing comes any more after a port has closed.
        port_closed, incident = bool(self._capture.port_closed), self._power.incident()
        size = self._capture.size
        if size > self._seen:
            self._watch.feed(self._capture.read(self._seen, size))
            self._seen = size
        limits, quiet_s = self._limits, self._capture.quiet_s
        since_on_s = time.monotonic() - self._on_at
        first_byte_s, total_s = limits.first_byte_s + limits.post_s, limits.total_s + limits.post_s
        found: dict[Sign, Mapping[str, str] | None] = {
            Sign.MARKER: _if(self._watch.done),
            Sign.BYTE: _if(self._capture.first is not None),
            Sign.CANCELLED: _if(self._cancel.is_set(), why="asked to stop"),
            Sign.RESET: incident.witness if incident and incident.kind is IncidentKind.RESET else None,
            Sign.LOST: incident.witness if incident and incident.kind is IncidentKind.LOST else None,
            Sign.STILL: incident.witness if incident and incident.kind is IncidentKind.STILL else None,
            Sign.PORT_CLOSED: _if(port_closed),
            Sign.FULL: _if(self._capture.full, limit=f"{limits.max_bytes} bytes of serial output") or self._log_full(),
            Sign.LATE: _if(since_on_s > total_s, limit=f"{total_s:g} s in all"),
            Sign.NO_FIRST_BYTE: _if(
                self._capture.first is None and since_on_s > first_byte_s,
                limit=f"{first_byte_s:g} s to the first byte",
            ),
            Sign.SILENT: _if(
                quiet_s > limits.silence_s and (self._watch.begun or since_on_s > limits.post_s),
                limit=f"{limits.silence_s:g} s without a byte",
                last=self._watch.last_line,
            ),
        }
        return {sign: witness for sign, witness in found.items() if witness is not None}

    def _log_full(self) -> Mapping[str, str] | None:
        """QEMU's log of exceptions has no limit of its own."""
        try:
            size = (self._capture.folder / virtual.EXCEPTIONS).stat().st_size
        except OSError:
            return None
        limit = 4 * self._limits.max_bytes
        return _if(size > limit, limit=f"{limit} bytes of {virtual.EXCEPTIONS}")

    def _tell(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or (not always and now - self._told_at < PROGRESS_S):
            return
        self._told_at = now
        self._progress(
            Progress(
                machine=self._name,
                state=self._state,
                elapsed_s=now - self._on_at,
                size_bytes=self._seen,
                last_line=self._watch.last_line,
                faults=self._watch.faults,
            )
        )


def _if(true: bool, **witness: str) -> Mapping[str, str] | None:
    return witness if true else None
