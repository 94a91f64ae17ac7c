"""How a boot without a trace ended, and what says so: never a plain time-out.

| class | what is seen | witness |
|---|---|---|
| panic | the whole line ``PANIC: early exception`` | the line; what the processor does |
| cut panic | that line breaks off: the print itself took an exception that was not handled | the same |
| silent halt | no such line; the processor is in HLT and no interrupt can wake it | registers, several looks |
| silent spin | no such line; the processor runs, but nothing comes | registers, several looks; faults in QEMU's log |
| firmware restart | the machine reset itself: a triple fault, or the kernel asked for it | QMP; the first line again |
| kernel panic | ``Kernel panic - not syncing``: an ordinary panic, long after the early handler | the line |
| rebooted | ``reboot: Restarting system``, then the restart: the kernel was asked to | the line |
| waiting | no byte, but the processor waits for interrupts: the kernel lives and has nothing to say | registers |
| untold | no byte, and nobody can look at the processor | – |
| talking | bytes kept coming until the deadline | the last line |
| done | the marker came | – |
| lab | machine gone, port closed, interrupted: not the kernel's doing | the lab's |

From outside, silicon shows less: see lab/README.md, "What silicon does not show".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bench.parse.early_window import has_triple_fault, read_early_window
from bench.parse.kernel import read_kernel_log
from bench.parse.kernel_panic import EarlyException
from bench.records import Capture, LabEvent, LabEventKind


class OutcomeClass(StrEnum):
    """The classes; see the module's table."""

    PANIC = "panic"
    CUT_PANIC = "cut panic"
    HALTED = "silent halt"
    SPINNING = "silent spin"
    RESTART = "firmware restart"
    KERNEL_PANIC = "kernel panic"
    REBOOTED = "rebooted"
    WAITING = "waiting"
    UNTOLD = "untold"
    TALKING = "talking"
    DONE = "done"
    LAB = "lab"


# The kernel died before it could do anything of its own accord.
EARLY_DEATHS = frozenset(
    {OutcomeClass.PANIC, OutcomeClass.CUT_PANIC, OutcomeClass.HALTED, OutcomeClass.SPINNING, OutcomeClass.RESTART}
)


@dataclass(frozen=True)
class BootOutcome:
    """How one boot ended."""

    outcome: OutcomeClass
    sentence: str
    """One sentence in a kernel developer's words."""
    witness: Mapping[str, str] = field(default_factory=dict)
    panic: EarlyException | None = None
    could_be: tuple[OutcomeClass, ...] = ()
    """UNTOLD: what it can be, as far as one can tell from outside."""

    @property
    def early_death(self) -> bool:
        """Whether the kernel died early. False for UNTOLD: that is not known."""
        return self.outcome in EARLY_DEATHS


# Ends of a boot; the capture's last event of one of these kinds ended it.
_ENDS = (
    LabEventKind.MARKER,
    LabEventKind.RESET,
    LabEventKind.SILENCE,
    LabEventKind.DEADLINE,
    LabEventKind.MACHINE_LOST,
    LabEventKind.PORT_CLOSED,
    LabEventKind.INTERRUPTED,
)
_LAB_WORDS = {
    LabEventKind.MACHINE_LOST: "the machine went away although nobody switched it off",
    LabEventKind.PORT_CLOSED: "the serial port closed",
    LabEventKind.INTERRUPTED: "the boot was interrupted",
}
HALTED_FOR_GOOD, RUNNING = "halted, interrupts off", "running"
_WAITING = ("halted, interrupts on", "running and halted in turn")
_KERNEL_PANIC = re.compile(rb"Kernel panic - not syncing[^\r\n]*")
_REBOOT = re.compile(rb"reboot: (?:Restarting system|machine restart)[^\r\n]*")
_BANNER = b"Linux version "
# A line as short as this comes again by itself.
_TELLING_BYTES = 16
_LOG_LIMIT = "exceptions.log"


def classify(capture: Capture, *, log: bytes = b"", where: Callable[[int], str | None] = lambda _: None) -> BootOutcome:
    """The class of a boot, from its bytes and the lab's events.

    `log` is QEMU's log of exceptions, if there is one beside the capture's; `where` names the function that an address
    lies in.
    """
    log = log or capture.exceptions
    end = next((e for e in reversed(capture.events) if e.kind in _ENDS), None)
    exceptions = [t for t in read_kernel_log(capture.data) if isinstance(t, EarlyException)]
    panic = exceptions[-1] if exceptions else None
    witness = {**(end.witness if end else {}), **_last_words(capture.data)}
    again = _restarted_at(capture)
    if end and end.kind is LabEventKind.MARKER:
        return BootOutcome(OutcomeClass.DONE, "the boot came to its marker", witness, panic)
    if panic is None and (of_its_own := _of_its_own_accord(capture.data, end, witness)):
        return of_its_own
    if (end and end.kind is LabEventKind.RESET) or again:
        return _restart(capture, end, again, log, where, witness, panic)
    if panic is not None:
        return _panicked(panic, end, witness)
    if end is None:
        what = "the capture has no word of how the boot ended"
        return BootOutcome(OutcomeClass.UNTOLD, what, witness, could_be=_ALL_SILENT)
    if end.kind in _LAB_WORDS:
        return BootOutcome(OutcomeClass.LAB, f"{_LAB_WORDS[end.kind]}, {end.at_s:.1f} s after it began", witness)
    if end.kind is LabEventKind.DEADLINE and _LOG_LIMIT not in end.witness.get("limit", ""):
        return BootOutcome(OutcomeClass.TALKING, f"it was still talking at its limit, {_stage(capture.data)}", witness)
    return _silent(capture, end, log, where, witness)


def _of_its_own_accord(data: bytes, end: LabEvent | None, witness: dict[str, str]) -> BootOutcome | None:
    """A kernel that panicked or rebooted long after its early window, and said so."""
    if said := _KERNEL_PANIC.search(data):
        text = said[0].decode("ascii", "replace")
        return BootOutcome(OutcomeClass.KERNEL_PANIC, f"the kernel panicked of its own accord: {text}", witness)
    if end and end.kind is LabEventKind.RESET and (said := _REBOOT.search(data)):
        text = said[0].decode("ascii", "replace")
        return BootOutcome(
            OutcomeClass.REBOOTED, f"the kernel restarted the machine because it was told to: {text}", witness
        )
    return None


_ALL_SILENT = (OutcomeClass.HALTED, OutcomeClass.SPINNING, OutcomeClass.WAITING, OutcomeClass.LAB)


def _last_words(data: bytes) -> dict[str, str]:
    lines = [line for line in re.split(rb"[\r\n]+", data) if line.strip()]
    return {"last line": lines[-1][-120:].decode("ascii", "backslashreplace")} if lines else {}


def _stage(data: bytes) -> str:
    """Up to where the kernel had come when the last byte came."""
    if not data:
        return "before the first byte"
    if _BANNER not in data:
        return "before the kernel's console existed"
    return "after the kernel's banner"


def _restarted_at(capture: Capture) -> int | None:
    """Where the firmware's first telling line stands a second time. A virtual machine's reset is an event instead."""
    if capture.virtual:
        return None
    data = capture.data
    first = next((line.strip() for line in data.split(b"\n") if len(line.strip()) >= _TELLING_BYTES), b"")
    # A kernel that was started by kexec says all that the first one said, but no firmware is between them.
    if not re.search(rb"[A-Za-z]{4}", first) or re.match(rb"\[ *\d+\.\d+\]", first) or _BANNER in first:
        return None
    again = data.find(first, data.find(first) + len(first))
    return again if again > 0 and data[again - 1 : again] in (b"\n", b"\r", b" ") else None


def _restart(
    capture: Capture,
    end: LabEvent | None,
    again: int | None,
    log: bytes,
    where: Callable[[int], str | None],
    witness: dict[str, str],
    panic: EarlyException | None,
) -> BootOutcome:
    data = capture.data if again is None else capture.data[:again]
    if again is not None:
        witness["first line again"] = f"byte {again}"
    if has_triple_fault(log):
        witness["exception log"] = "an exception while a double fault was delivered"
        cause = "a triple fault: an exception while no gate, or no valid stack, could take it"
    elif log:
        cause = "not by a triple fault, which QEMU's log would show: the kernel asked for a reset"
    else:
        cause = "by a triple fault or because the kernel asked for it: from outside they look alike"
    at = f" at {_place(end.witness['rip'], where)}" if end and "rip" in end.witness else ""
    stage = _stage(data)
    return BootOutcome(OutcomeClass.RESTART, f"the machine restarted{at}, {stage}: {cause}", witness, panic)


def _panicked(panic: EarlyException, end: LabEvent | None, witness: dict[str, str]) -> BootOutcome:
    state = end.witness.get("processor", "") if end else ""
    then = f"; the processor is {state}" if state else ""
    witness["panic"] = f"line {panic.line}, bytes {panic.span[0]}-{panic.span[1]}"
    at = panic.symbol or (f"0x{int(panic.ip, 16):016x}" if panic.ip else "an unknown address")
    vector = f"{panic.vector:#x}" if panic.vector is not None else "unknown"
    if panic.truncated:
        why = "the PANIC line of an early exception breaks off: printing it took another exception"
        return BootOutcome(OutcomeClass.CUT_PANIC, f"{why}{then}", witness, panic)
    cr2 = f", CR2 0x{int(panic.cr2, 16):016x}" if panic.cr2 else ""
    what = f"early exception {vector} at {at}{cr2}: neither the early handler nor the exception table took it"
    return BootOutcome(OutcomeClass.PANIC, f"{what}{then}", witness, panic)


def _silent(
    capture: Capture, end: LabEvent, log: bytes, where: Callable[[int], str | None], witness: dict[str, str]
) -> BootOutcome:
    state, stage = end.witness.get("processor", ""), _stage(capture.data)
    at = _place(end.witness["rip"], where) if "rip" in end.witness else "an unknown address"
    if state == HALTED_FOR_GOOD:
        what = f"it halted for good at {at}, {stage}: HLT with interrupts off, which nothing but a reset ends"
        return BootOutcome(OutcomeClass.HALTED, what, witness)
    if state == RUNNING or (end.kind is LabEventKind.DEADLINE and not state):
        return BootOutcome(OutcomeClass.SPINNING, _spin(at, stage, end, log, where, witness), witness)
    if state in _WAITING:
        what = f"no byte came any more, {stage}, and the processor waits for interrupts: the kernel lives"
        return BootOutcome(OutcomeClass.WAITING, what, witness)
    what = f"no byte came any more, {stage}, and nobody can look at the processor"
    return BootOutcome(OutcomeClass.UNTOLD, what, witness, could_be=_ALL_SILENT)


def _spin(
    at: str, stage: str, end: LabEvent, log: bytes, where: Callable[[int], str | None], witness: dict[str, str]
) -> str:
    if seen := read_early_window(log):
        (cr2, error, ip), count = Counter((f.cr2, f.error, f.ip) for f in seen.faults).most_common(1)[0]
        if seen.endless:
            witness["exception log"] = f"{count} of {len(seen.faults)} faults: CR2 0x{cr2:016x}, error {error:#x}"
            place = _place(f"{ip:#x}", where)
            again = f"{place} faults on 0x{cr2:016x} (error {error:#x}) again and again"
            return f"livelock, {stage}: {again}, and the early handler calls it handled each time"
    looks = list(dict.fromkeys(end.witness.get("looks", "").split()))
    places = f"{len(looks)} places, {looks[0]} among them" if len(looks) > 1 else at
    return f"it spins, {stage}: the processor runs at {places} and no byte comes"


def _place(address: str, where: Callable[[int], str | None]) -> str:
    value = int(address, 16)
    name = where(value)
    return f"0x{value:016x} ({name})" if name else f"0x{value:016x}"
