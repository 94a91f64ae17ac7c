"""What a boot's microcode came to, from its capture: the kernel's own lines, /proc/cpuinfo, and what the virtual
processors have seen; and how that differs from the prediction."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import FormatError
from bench.parse.kernel import read_kernel_log
from bench.parse.kernel_microcode import Microcode
from bench.records import Capture, LabEventKind
from bench.sim.ucode_load import EarlyLoad, End

_STAMP = re.compile(rb"^(?:\[ *\d+\.\d+\] )?")
_OURS = re.compile(rb"microcode: |CPU\d+ microcode updated early|File \S+ exceeding MAX_CPIO_FILE_NAME")
_CPUINFO = re.compile(rb"^(processor|microcode)\s*: (\S+)\s*$")
_SHOWN_PARTS = 8
_PANIC = b"Kernel panic - not syncing"


@dataclass(frozen=True)
class Write:
    """A WRMSR 0x79 that a virtual processor has seen."""

    processor: int
    revision: int | None
    before: int
    after: int


@dataclass(frozen=True)
class Observed:
    """One boot. `shown` has the revision of each processor that /proc/cpuinfo lists, by its number."""

    lines: tuple[str, ...]
    shown: dict[int, int]
    writes: tuple[Write, ...]
    end: str
    """``boots``, ``reset``, ``hang``, or what else ended the boot, in words."""


@dataclass(frozen=True)
class Difference:
    """A field in which prediction and observation are not equal."""

    field: str
    predicted: str
    observed: str


def observe(capture: Capture, record: Path) -> Observed:
    """Read a capture, and the record of its virtual processors (absent if nothing was written).

    Raises FormatError if the kernel's lines read in two different ways.
    """
    lines = tuple(_lines(capture.data))
    _same_reading(capture, lines)
    return Observed(lines, dict(_cpuinfo(capture.data)), tuple(_writes(record)), _end(capture))


def _lines(data: bytes) -> Iterator[str]:
    for line in data.split(b"\n"):
        text = line.strip(b"\r")
        text = text[_STAMP.match(text).end() :]  # type: ignore[union-attr]
        if _OURS.match(text):
            yield text.decode("ascii", "backslashreplace")


def _same_reading(capture: Capture, lines: tuple[str, ...]) -> None:
    """The reader of kernel logs has to find as many statements as there are lines."""
    read = [thing for thing in read_kernel_log(capture.data) if isinstance(thing, Microcode)]
    own = [line for line in lines if not line.startswith("File ")]
    if len(read) != len(own):
        raise FormatError(
            f"{len(own)} lines about microcode, of which {len(read)} are understood: {own}", source=capture.source
        )


def _cpuinfo(data: bytes) -> Iterator[tuple[int, int]]:
    """/proc/cpuinfo: a processor without a revision has no line of it, which stands for 0."""
    processor, revision = None, 0
    for line in data.split(b"\n"):
        match = _CPUINFO.match(line.strip(b"\r"))
        if match and match[1] == b"processor":
            if processor is not None:
                yield processor, revision
            processor, revision = int(match[2]), 0
        elif match and processor is not None:
            revision = int(match[2], 16)
    if processor is not None:
        yield processor, revision


def _writes(record: Path) -> Iterator[Write]:
    if not record.is_file():
        return
    for line in record.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield Write(row["processor"], row["revision"], row["before"], row["after"])


def _end(capture: Capture) -> str:
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


def differences(predicted: EarlyLoad, observed: Observed) -> list[Difference]:
    """Every field that is not equal."""
    found = []

    def compare(field: str, expected: object, seen: object) -> None:
        if expected != seen:
            found.append(Difference(field, _text(expected), _text(seen)))

    compare("end", str(predicted.end), observed.end)
    heard = predicted.lines if not _dumb(predicted) else ()
    compare("lines", list(heard), list(observed.lines))
    if predicted.end is End.BOOTS:
        listed = {p: revision for p, revision in enumerate(predicted.shown) if revision is not None}
        compare("cpuinfo", listed, observed.shown)
    expected = [Write(w.processor, w.revision, w.before, w.after) for w in predicted.writes]
    seen = list(observed.writes)
    # From 6.5 on the others start side by side.
    compare("first write", expected[:1], [w for w in seen[:1] if w.processor == 0] if expected else seen[:1])
    compare("writes", sorted(expected, key=_by_processor), sorted(seen, key=_by_processor))
    return found


def _dumb(predicted: EarlyLoad) -> bool:
    """It ended at the first processor, before there was a console: what was said is lost."""
    return predicted.end is not End.BOOTS and predicted.at == 0


def _by_processor(write: Write) -> int:
    return write.processor


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v:#x}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        parts = [
            f"processor {w.processor}: {w.before:#x} -> {w.after:#x} by {w.revision or 0:#x}"
            if isinstance(w, Write) else str(w) for w in value
        ]  # fmt: skip
        more = f"; and {len(parts) - _SHOWN_PARTS} more" if len(parts) > _SHOWN_PARTS else ""
        return ("; ".join(parts[:_SHOWN_PARTS]) or "none") + more
    return str(value)
