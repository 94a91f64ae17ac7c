"""The trace held to account by a second witness: an exception log that was made without our code.

On a virtual machine QEMU's own log (``-d int``) has every exception that the processor raised. Each
exception that the trace shows must be in it, in order, with the same vector, error code, CR2 and
instruction address; and a window that came to its `end` must have raised just as many as it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.describe import event_words
from bench.records import Event, EventKind, Finding, Window
from bench.wire import START_KERNEL_MAP


@dataclass(frozen=True)
class Testimony:
    """One exception as the witness saw it."""

    vector: int
    error: int
    cr2: int
    ip: int


@dataclass(frozen=True)
class Agreement:
    """How many exceptions trace and witness agree on, and the first on which they do not."""

    exceptions: int
    finding: Finding | None


def cross_examine(windows: Iterable[Window], log: Sequence[Testimony]) -> Agreement:
    """Compare the windows of one boot, in order, with the witness's exceptions of the same boot."""
    at = 0
    for window in windows:
        shown = [e for e in window.observation.events if e.kind is EventKind.ENTER]
        end = window.observation.events[-1] if window.observation.complete else None
        total = end.faults if end and end.faults is not None else len(log) - at
        part = log[at : at + total]
        position = 0
        for event in shown:
            found = next((i for i in range(position, len(part)) if _same(event, part[i])), None)
            if found is None:
                due = part[position] if position < len(part) else None
                return Agreement(at + position, _finding(window, event, due))
            position = found + 1
        if end is not None and (len(part) != total or (total <= len(shown) and position != total)):
            summary = f"the trace counts {total} exceptions in the window, the witness saw {len(part)}"
            return Agreement(at + position, Finding("trace", summary, window=window.number))
        at += total
    if at != len(log):
        return Agreement(at, Finding("trace", f"the witness saw {len(log) - at} exceptions outside of any window"))
    return Agreement(at, None)


def of_the_kernel(windows: Sequence[Window], log: Sequence[Testimony]) -> list[Testimony]:
    """What a kernel's one window can answer for: its decompressor takes page faults of its own, at low addresses, and
    what runs on behind the window has other exceptions than early ones."""
    own = [seen for seen in log if seen.ip >= START_KERNEL_MAP]
    counted = [w.observation.events[-1].faults for w in windows if w.observation.complete]
    return own if len(counted) != 1 else own[: counted[0]]


def _same(event: Event, seen: Testimony) -> bool:
    ip = None if event.ip is None else (event.ip + START_KERNEL_MAP) & 0xFFFFFFFFFFFFFFFF
    # CR2 means something for page faults only; other exceptions leave an older one.
    cr2_agrees = event.vector != 14 or event.cr2 == seen.cr2
    return (event.vector, event.error, ip) == (seen.vector, seen.error, seen.ip) and cr2_agrees


def _finding(window: Window, event: Event, due: Testimony | None) -> Finding:
    other = f"vector {due.vector:#x}, error {due.error:#x}, CR2 0x{due.cr2:016x}" if due else "nothing more"
    summary = f"the trace says {event_words(event)}, the witness saw {other}"
    return Finding("trace", summary, window=window.number, step=event.step, witness={"record": f"{event.seq or 0:#x}"})
