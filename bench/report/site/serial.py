"""A boot's serial log as lines for a page: trace records with their names, damaged lines shown as such, all as text.

Bytes from a machine are hostile: nothing leaves here but printable characters, and no line is endless.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.describe import printable
from bench.parse.kernel import in_words, read_kernel_log
from bench.parse.lines import Mark
from bench.parse.trace import TraceLog

# Characters of a line, and lines of a page; the rest is in the raw file.
MAX_LINE = 600
MAX_LINES = 12_000
# Kinds of records that say that something ended badly.
_GRAVE = frozenset({"fatal", "cap", "spin", "refuse"})


@dataclass(frozen=True)
class Line:
    """One line of the log."""

    number: int
    offset: int
    text: str
    mark: str
    """A `Mark`, or ``kernel`` for what a kernel itself said of exceptions and microcode."""
    note: str = ""
    """What the bench makes of it."""
    grave: bool = False
    cut: int = 0
    """Characters that are left out."""


def lines(data: bytes, log: TraceLog, notes: Mapping[int, str]) -> Iterator[Line]:
    """Every line of the log up to MAX_LINES. `notes` has what belongs to the record at a byte offset."""
    kernel = {thing.span[0]: in_words(thing) for thing in read_kernel_log(data)}
    marks = [(s.span, s) for s in log.stretches]
    place = 0
    for number, (start, end) in enumerate(_spans(data), start=1):
        while place < len(marks) and marks[place][0][1] <= start:
            place += 1
        here = []
        at = place
        while at < len(marks) and marks[at][0][0] < max(end, start + 1):
            here.append(marks[at][1])
            at += 1
        # Of several stretches on a line the one that is not plain text is what matters.
        stretch = next((s for s in here if s.mark not in (Mark.RECORD, Mark.FOREIGN)), None)
        stretch = stretch or next((s for s in here if s.mark is Mark.RECORD), None)
        mark = str(stretch.mark) if stretch else "foreign"
        note, grave = (stretch.why, mark != "record") if stretch else ("", False)
        if stretch and stretch.line and stretch.mark is Mark.RECORD:
            note, grave = stretch.line.kind, stretch.line.kind in _GRAVE
        said = next((words for offset, words in kernel.items() if start <= offset < max(end, start + 1)), "")
        if said and mark == "foreign":
            mark, note, grave = "kernel", said, "exception" in said
        told = next((notes[s.span[0]] for s in here if s.span[0] in notes), "")
        text = printable(data[start:end].decode("ascii", "backslashreplace"))
        yield Line(
            number,
            start,
            text[:MAX_LINE],
            mark,
            printable(told or note),
            grave or bool(told),
            max(0, len(text) - MAX_LINE),
        )
        if number == MAX_LINES:
            return


def _spans(data: bytes) -> Iterator[tuple[int, int]]:
    """[start, end) of each line, without its line end."""
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        stop = len(data) if end < 0 else end
        yield at, stop - (data[at:stop].endswith(b"\r"))
        at = stop + 1
