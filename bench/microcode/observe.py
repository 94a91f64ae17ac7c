"""What a boot's microcode came to, from its capture: the kernel's own lines, /proc/cpuinfo, and what the virtual
processors have seen; and how that differs from the prediction.

Nothing in the kernel's lines would tell that the serial line has lost a byte. So init says them once more, from the
kernel's log, and shows /proc/cpuinfo twice: where two readings of one thing differ, the line is damaged, and a reading
that is as predicted is believed. Only if all readings are the same is a difference the kernel's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from bench.errors import FormatError
from bench.parse.kernel import read_kernel_log
from bench.parse.kernel_microcode import Microcode
from bench.parse.lines import Mark
from bench.parse.microcode_said import console_lines, cpuinfo_readings, logged_lines
from bench.parse.trace import parse_trace
from bench.records import Capture, LabEventKind
from bench.sim.ucode_load import EarlyLoad, End
from bench.sim.ucode_load import Write as DueWrite
from bench.updates import Search

LOG_WORDS = ("microcode", "MAX_CPIO_FILE_NAME")
_PANIC = b"Kernel panic - not syncing"
_SHOWN_PARTS = 8
_Reading = TypeVar("_Reading")


@dataclass(frozen=True)
class Write:
    """A WRMSR 0x79 that a virtual processor has seen."""

    processor: int
    revision: int | None
    before: int
    after: int


@dataclass(frozen=True)
class Observed:
    """One boot: each thing as often as it was said."""

    lines: tuple[tuple[str, ...], ...]
    """The kernel's lines: from the console, and, if init came, from its log."""
    shown: tuple[dict[int, int], ...]
    """Revision of each processor in /proc/cpuinfo, by its number."""
    writes: tuple[Write, ...]
    end: str
    """``boots``, ``reset``, ``hang``, ``panic``, or what else ended the boot."""
    searches: tuple[Search, ...] | None = None
    """The start's ``ucode`` records; None: no window of a trace came."""
    torn: str = ""
    """Where records of the trace are missing or damaged."""
    traced: bool = False
    """The kernel has the trace, so that a window has to come. Captures that do not say so are not asked for one."""


@dataclass(frozen=True)
class Difference:
    """A field in which prediction and observation are not equal."""

    field: str
    predicted: str
    observed: str


def observe(capture: Capture, record: Path) -> Observed:
    """Read a capture, and the record of its virtual processors (absent if nothing was written)."""
    logged = logged_lines(capture.data)
    lines = (console_lines(capture.data), *([] if logged is None else [logged]))
    seen = Observed(lines, cpuinfo_readings(capture.data), tuple(writes_of(record)), end_of(capture))
    return with_trace(seen, capture, capture.data)


def with_trace(seen: Observed, capture: Capture, part: bytes) -> Observed:
    """What was seen, and the trace that this part of the capture has."""
    log = parse_trace(part, nonce=capture.nonce)
    torn = [*(gap.why for gap in log.gaps), *(each.why for each in log.stretches if each.mark is Mark.DAMAGED)]
    searches = tuple(replace(search, seq=None, span=None) for search in log.searches)
    return replace(
        seen, searches=searches if log.windows else None, torn=torn[0] if torn else "", traced=capture.traced is True
    )


def writes_of(record: Path) -> Iterator[Write]:
    """What a boot's processors were given, in order. Raises FormatError, which names the line."""
    if not record.is_file():
        return
    for number, line in enumerate(record.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line)
            yield Write(row["processor"], row["revision"], row["before"], row["after"])
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError("no record of a write to MSR 0x79", source=f"{record}:{number}") from error


def end_of(capture: Capture) -> str:
    """How a boot ended: in the words of `Observed.end`."""
    kinds = {event.kind for event in capture.events}
    if LabEventKind.MARKER in kinds:
        return End.BOOTS
    if _PANIC in capture.data:
        return "panic"
    if LabEventKind.RESET in kinds:
        return End.RESET
    if kinds & {LabEventKind.SILENCE, LabEventKind.DEADLINE}:
        return End.HANG
    last = capture.events[-2].kind if len(capture.events) > 1 else "nothing"
    return f"ended by {last}"


@dataclass
class Comparison:
    """The fields that are not equal, and those of which that cannot be said."""

    found: list[Difference] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    """How the serial line is damaged."""

    def hold(self, name: str, expected: _Reading, readings: Sequence[_Reading]) -> None:
        """Compare one field with each reading of it."""
        if expected in readings:
            return
        if any(reading != readings[0] for reading in readings):
            other = next(reading for reading in readings if reading != readings[0])
            self.damage.append(f"{name}: one reading is {_text(readings[0])}, another {_text(other)}")
        else:
            self.found.append(Difference(name, _text(expected), _text(readings[0]) if readings else "nothing"))

    def hold_trace(self, expected: Sequence[Search], seen: Observed) -> None:
        """Compare the start's ``ucode`` records; to be called last. What other readings say of the kernel stands
        without them."""
        if seen.searches is None:
            if seen.traced and not self.found:
                self.damage.append(f"trace: no begin of its window: {seen.torn or 'nothing of it came'}")
            return
        due, came = (sorted(each, key=_by_processor) for each in (expected, seen.searches))
        if due != came and seen.torn and set(came) < set(due):
            self.damage.append(f"trace: {seen.torn}")
        else:
            self.hold("trace", due, [came])


def compare(predicted: EarlyLoad, observed: Observed) -> tuple[list[Difference], str]:
    """Every field that is not equal; and, if that cannot be said, how the serial line is damaged."""
    comparison = Comparison()
    hold = comparison.hold
    hold("end", str(predicted.end), [observed.end])
    # What is said before there is a console is lost with a boot that ends there.
    lost = predicted.end is not End.BOOTS and predicted.at == 0
    hold("lines", () if lost else predicted.lines, observed.lines)
    if predicted.end is End.BOOTS:
        listed = {p: revision for p, revision in enumerate(predicted.shown) if revision is not None}
        hold("cpuinfo", listed, observed.shown)
    hold("understood", statements_of(predicted.lines), [understood_of(predicted.lines)])
    expected = as_seen(predicted.writes)
    seen = list(observed.writes)
    # From 6.5 on the others start side by side: theirs may come in any order.
    hold("first write", expected[:1], [seen[:1]])
    hold("writes", sorted(expected, key=_by_processor), [sorted(seen, key=_by_processor)])
    comparison.hold_trace(predicted.searches, observed)
    return comparison.found, "; ".join(comparison.damage)


def as_seen(writes: Sequence[DueWrite]) -> list[Write]:
    """Predicted writes as a processor's record has them."""
    return [Write(w.processor, w.revision, w.before, w.after) for w in writes]


def statements_of(lines: Sequence[str]) -> int:
    """How many statements there are to be understood."""
    return sum(not line.startswith("File ") for line in lines)


def understood_of(lines: Sequence[str]) -> int:
    """How many statements the reader of kernel logs makes of these lines: all, or `bench parse` would miss some."""
    read = read_kernel_log("\n".join(lines).encode())
    return sum(isinstance(thing, Microcode) for thing in read)


def _by_processor(one: Write | Search) -> int:
    return one.processor


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v:#x}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        parts = [
            f"processor {w.processor}: {w.before:#x} -> {w.after:#x} by {w.revision or 0:#x}"
            if isinstance(w, Write) else str(w) for w in value
        ]  # fmt: skip
        more = f"; and {len(parts) - _SHOWN_PARTS} more" if len(parts) > _SHOWN_PARTS else ""
        return ("; ".join(parts[:_SHOWN_PARTS]) or "none") + more
    return str(value)
