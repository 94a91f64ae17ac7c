"""What a boot's end says: of a window that it broke off, and of one that was never opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.describe import describe_next
from bench.loading import first_missing
from bench.outcome import classify
from bench.parse.trace import TraceLog
from bench.records import (
    KNOWN_GOOD_INSTEAD,
    PAYLOAD,
    STILL_UP,
    Capture,
    Finding,
    LabEvent,
    LabEventKind,
    Prediction,
    Verdict,
    Window,
)
from bench.wire import START_KERNEL_MAP

# What ended a boot, in the order in which one outranks another.
_ENDINGS = (
    LabEventKind.RESET,
    LabEventKind.MACHINE_LOST,
    LabEventKind.PORT_CLOSED,
    LabEventKind.INTERRUPTED,
    LabEventKind.SILENCE,
    LabEventKind.DEADLINE,
)
_LAB_COMPONENT: Mapping[LabEventKind, tuple[str, str]] = {
    LabEventKind.MACHINE_LOST: ("machine", "the machine went away although nobody switched it off"),
    LabEventKind.PORT_CLOSED: ("port", "the serial port closed"),
    LabEventKind.INTERRUPTED: ("bench", "the run was interrupted"),
    LabEventKind.DEADLINE: ("machine", "the boot took longer than allowed although bytes kept coming"),
    LabEventKind.SILENCE: ("serial line", "silence, and nothing to tell a dead line from a dead machine"),
}


def ending(capture: Capture, log: TraceLog) -> LabEvent | None:
    """What ended the boot before its script was done, if the lab or the trace knows."""
    if log.done:
        return None
    for kind in _ENDINGS:
        for event in capture.events:
            if event.kind is kind:
                return event
    if log.restarted_at is not None:
        return LabEvent(LabEventKind.RESET, 0.0, log.restarted_at, {"trace": "numbering began anew"})
    return None


def died(end: LabEvent | None, log: TraceLog) -> bool:
    """True if the machine itself, not the lab, ended the boot inside a window."""
    inside = bool(log.windows) and not log.windows[-1].observation.complete
    return inside and end is not None and end.kind in (LabEventKind.RESET, LabEventKind.SILENCE)


def unfinished(window: Window, prediction: Prediction, end: LabEvent | None) -> tuple[Verdict, Finding | None]:
    """A window without `end` whose events agree so far: whose fault is it that it stopped?"""
    seen = len(window.observation.events)
    rest = prediction.events[seen:]
    common = {"window": window.number, "event": seen}
    due = describe_next(window, rest[0]) if rest else f"the model ends here too: {prediction.outcome}"
    if end is None:
        summary = f"the capture ends inside the window; due next: {due}"
        return Verdict.MISS, Finding("capture", summary, **common)  # type: ignore[arg-type]
    if end.kind is LabEventKind.RESET:
        if prediction.outcome == "triple fault" and not rest:
            return Verdict.PASS, None
        summary = f"the machine reset itself (triple fault) where the model goes on; due next: {due}"
        return Verdict.FAIL, Finding(
            "handler",
            summary,
            witness=end.witness,
            expected=prediction.outcome,
            observed="triple fault",
            **common,  # type: ignore[arg-type]
        )
    if end.kind is LabEventKind.SILENCE and "processor" in end.witness:
        state = end.witness["processor"]
        where = f" at {end.witness['rip']}" if "rip" in end.witness else ""
        summary = f"the machine fell silent, its processor {state}{where}; due next: {due}"
        return Verdict.FAIL, Finding(
            "handler",
            summary,
            witness=end.witness,
            expected=prediction.outcome,
            observed=f"silence, {state}",
            **common,  # type: ignore[arg-type]
        )
    component, what = _LAB_COMPONENT[end.kind]
    summary = f"{what}, {end.at_s:.1f} s after the capture was opened; due next: {due}"
    return Verdict.MISS, Finding(component, summary, witness=end.witness, **common)  # type: ignore[arg-type]


def known_good_instead(number: int, capture: Capture) -> tuple[Verdict, Finding] | None:
    """The machine's own system came up, or stayed, and the window was not opened: the image was not started, or gave
    up."""
    for event in capture.events:
        if event.kind is LabEventKind.LOADING and event.witness.get("step") == KNOWN_GOOD_INSTEAD:
            summary = "the machine's own system came up instead of the image, or after it had restarted the machine"
            return Verdict.MISS, Finding("boot loader", summary, window=number, witness=event.witness)
    for event in capture.events:
        if event.kind is LabEventKind.LOADING and event.witness.get("step") == STILL_UP:
            summary = "the machine's own system did not go down when it was told to restart into the image"
            return Verdict.MISS, Finding("machine", summary, window=number, witness=event.witness)
    return None


def unopened(number: int, end: LabEvent | None, capture: Capture) -> tuple[Verdict, Finding] | None:
    """A kernel that died before its window opened: in startup_64, or in C before the trace's first record.

    Only where that is certain: the machine reset itself, or stands still at an address of the kernel's own map. At a
    low address it may as well be firmware. None if it is not certain, or the image is the payload.
    """
    if end is None or not capture.image or capture.image.startswith(f"{PAYLOAD}/"):
        return None
    where = int(end.witness.get("rip", "0"), 16)
    stands = end.kind is LabEventKind.SILENCE and where >= START_KERNEL_MAP
    if end.kind is not LabEventKind.RESET and not stands:
        return None
    died = classify(capture)
    summary = f"the kernel died before its window opened: {died.sentence}"
    return Verdict.FAIL, Finding("kernel", summary, window=number, observed=died.outcome.value, witness=died.witness)


def not_loaded(number: int, end: LabEvent | None, capture: Capture, log: TraceLog) -> tuple[Verdict, Finding] | None:
    """A machine that was to boot from the network and said nothing of ours: the first step that is missing."""
    if end is None or end.kind not in (LabEventKind.SILENCE, LabEventKind.DEADLINE) or log.gaps or log.damage():
        return None
    finding = first_missing(capture, window=number)
    return (Verdict.MISS, replace(finding, witness={**finding.witness, **end.witness})) if finding else None


def absent_window(number: int, end: LabEvent | None, log: TraceLog) -> tuple[Verdict, Finding]:
    """A window of the script that no `begin` opened."""
    for refusal in log.refusals:
        if refusal.window is None and not log.windows:
            return Verdict.ERROR, Finding("payload", f"the payload refused: {refusal.why}", window=number)
    if log.gaps or log.damage():
        span = log.gaps[0].span if log.gaps else log.damage()[0].span
        why = log.gaps[0].why if log.gaps else log.damage()[0].why
        witness = {"bytes": f"{span[0]}-{span[1]}", "damage": why}
        return Verdict.MISS, Finding(
            "serial line", "the window's begin record was lost", window=number, witness=witness
        )
    if end is None:
        what = "the script came to its end without it" if log.done else "the capture ends before it"
        component = "payload" if log.done else "capture"
        return (Verdict.ERROR if log.done else Verdict.MISS), Finding(component, what, window=number)
    if end.kind is LabEventKind.RESET:
        summary = "the machine reset itself outside of any window"
        return Verdict.ERROR, Finding("payload", summary, window=number, witness=end.witness)
    component, what = _LAB_COMPONENT[end.kind]
    if end.kind is LabEventKind.SILENCE:
        what = "no byte came at all" if end.offset == 0 else f"{end.offset} bytes came, but no trace"
        component = "serial line" if end.offset == 0 else "boot"
    return Verdict.MISS, Finding(component, what, window=number, witness=end.witness)
