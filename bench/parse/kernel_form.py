"""Statements with numbers in them, as printf forms: what of a line fits, how far, and which numbers are certain.

A form is text with fields: ``CPU{cpu:d} sig={sig:x}, pf={pf:x}, revision={to:x}``. Kinds of fields, by the kernel's
printf: `d` %d, `x` 0x%x (32 bits), `x8` 0x%08x, `hex` %lx (64 bits), `vec` %02x, `cs` %lx or the four digits of a
symbolic address, `ip` an address, a symbol or both, `iso` %04x-%02x-%02x, `bcd` %08x,
`v` a version, `w` any word, `rest` what follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from functools import cache

_NAME = r"[A-Za-z_.$][\w.$]*"
_OFFSET = r"\+0x[0-9a-f]+/0x[0-9a-f]+"
SYMBOL = rf"{_NAME}(?:{_OFFSET})?(?: \[\w+\])?"
# In place of an address: a bare word there is an address with a wrong digit.
_PLACE = rf"{_NAME}{_OFFSET}(?: \[\w+\])?(?: \([^()]*\))?|{_NAME} \([^()]*\)"
_HEX64 = r"(?:0|[1-9a-f][0-9a-f]{0,15})"
_IP = rf"\[<[0-9a-f]*>\](?: {SYMBOL})?|[\w.$]+(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(?: \[\w+\])?(?: \([^()]*\))?"

# What stands in a field's place, right or wrong: never less than the whole word, so that a wrong digit spoils all.
_WORD = {
    "ip": rf"(?:{_IP})?\S*",
    "cs": r"[^\s:]*",
    "hex": r"\S*",
    "vec": r"\S*",
    "rest": r".*",
}
_ANY_WORD = r"[^\s,;()]*"
# What the kernel can have printed there. %x never writes leading zeros, %08x and %02x always do.
_RIGHT = {
    "d": r"0|[1-9]\d{0,4}",
    "x": r"0x(?:0|[1-9a-f][0-9a-f]{0,7})",
    "x8": r"0x[0-9a-f]{8}",
    "hex": _HEX64,
    "vec": r"[0-9a-f]{2}|[1-9a-f][0-9a-f]{2,15}",
    "cs": rf"{_HEX64}|00[0-9a-f][0-9a-f]",
    "ip": rf"(?:0x)?{_HEX64}(?: \({SYMBOL}\))?|\[<[0-9a-f]{{16}}>\](?: {SYMBOL})?|{_PLACE}",
    "iso": r"\d{4}-\d\d-\d\d",
    "bcd": r"\d{8}",
    "v": r"\d+\.\d+[a-z]?\.?",
    "w": r"\S+",
    "rest": r".*",
}
# Values that cannot go on, wherever the line ends: all digits are there, or a digit more would be a leading zero's.
_FINISHED = {
    "x": r"0x0|0x[0-9a-f]{8}",
    "x8": r"0x[0-9a-f]{8}",
    "hex": r"0|[0-9a-f]{16}",
    "vec": r"0[0-9a-f]",
    "ip": r"0|[0-9a-f]{16}",
    "iso": r"\d{4}-\d\d-\d\d",
    "bcd": r"\d{8}",
    "rest": r".*",
}
# What a cut one can look like, where not everything can.
_BEGUN = {
    "d": r"",
    "x": r"0?|0x",
    "x8": r"0?|0x[0-9a-f]{0,7}",
    "hex": r"",
    "iso": r"[\d-]*",
    "bcd": r"\d*",
}
# The same with anything but a letter or digit run into them: what is there is whole all the same.
_ENDED = {kind: rf"(?:{_FINISHED[kind]})(?![\w-])" for kind in ("x", "x8", "hex", "iso", "bcd")}
_PARTS = re.compile(r"\{(\w*):(\w+)\}")


@dataclass(frozen=True)
class Field:
    """A place for a value; one without a name is read and forgotten."""

    name: str
    kind: str


Form = tuple[str | Field, ...]


class State(Enum):
    """How a line fits a form."""

    WHOLE = "whole"
    CUT = "cut"
    """The line ends before the form does."""
    BROKEN = "broken"
    """Other text stands where the form's own text should."""


@dataclass
class Reading:
    """What was read of a form. `values` has only those that are printed rightly and followed by what must follow."""

    state: State
    stop: int
    """Character behind the last one that was read."""
    values: dict[str, str] = field(default_factory=dict)
    places: list[tuple[Field, int, int]] = field(default_factory=list)
    """Where each right value stands, as [start, stop)."""
    right: int = 0
    """Fields, with a name or without, that hold what the kernel can have printed."""
    wrong: list[str] = field(default_factory=list)
    """Fields whose place holds something that the kernel cannot have printed."""
    open: str | None = None
    """The field that ends where the line ends and may go on."""
    literals: int = 0
    """Pieces of the form's own text that were found whole."""
    rest: str = ""
    """What follows a whole statement on its line."""

    @property
    def says_nothing(self) -> bool:
        """Whether there are numbers in it, or should be, and not one of them is right."""
        return bool(self.wrong) and not self.right


@cache
def compile_form(form: str) -> Form:
    """A form's text and fields in order."""
    pieces = _PARTS.split(form)
    parts: list[str | Field] = [pieces[0]]
    for name, kind, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        parts += [Field(name, kind), text]
    return tuple(part for part in parts if part)


def read_form(parts: Form, text: str, at: int) -> Reading:
    """Read `text` from `at` on as the form `parts`."""
    reading = Reading(State.WHOLE, at)
    end = len(text.rstrip())
    for number, part in enumerate(parts):
        if isinstance(part, str):
            if not text.startswith(part, reading.stop):
                return _stopped(reading, parts[number - 1] if number else part, part, text[reading.stop : end])
            reading.literals += 1
            reading.stop += len(part)
            continue
        found = _pattern("ended", part.kind).match(text, reading.stop) or _word(part.kind).match(text, reading.stop)
        stop = min(found.end(), end) if found else reading.stop
        word = text[reading.stop : max(stop, reading.stop)].rstrip()
        if word.endswith(".") and parts[number + 1 : number + 2] == (".",):
            word, stop = word[:-1], stop - 1
        last = all(isinstance(each, Field) and each.kind == "rest" for each in parts[number + 1 :])
        if stop >= end and not (last and (word or part.kind == "rest")):
            reading.state = State.CUT
        if _take(reading, part, word, at_end=stop >= end):
            reading.places.append((part, reading.stop, reading.stop + len(word)))
        reading.stop += len(word)
        if reading.state is State.CUT:
            return reading
    reading.rest = text[reading.stop :].strip()
    return reading


def _stopped(reading: Reading, before: str | Field, expected: str, rest: str) -> Reading:
    reading.state = State.CUT if expected.startswith(rest) else State.BROKEN
    # A number's last digits may be what stands there now.
    unsure = isinstance(before, Field) and not is_finished(before.kind, reading.values.get(before.name, ""))
    if reading.state is State.BROKEN and isinstance(before, Field) and unsure:
        reading.values.pop(before.name, None)
    return reading


def is_certain(reading: Reading, text: str, breaks: tuple[int, ...]) -> bool:
    """Whether each value that goes over one of `breaks` has all its digits."""
    return all(
        is_finished(part.kind, text[start:stop])
        for part, start, stop in reading.places
        if any(start < at < stop for at in breaks)
    )


def _take(reading: Reading, part: Field, word: str, *, at_end: bool) -> bool:
    """Enter a word as the value of `part`; False if it is none."""
    if not _right(part.kind, word):
        if not at_end or reading.state is State.WHOLE or not _pattern("begun", part.kind).fullmatch(word):
            reading.wrong.append(part.name)
        return False
    if at_end and not is_finished(part.kind, word):
        reading.open = part.name
        if reading.state is State.CUT:
            return False
    reading.right += 1
    if part.name:
        reading.values[part.name] = word
    return True


@cache
def _word(kind: str) -> re.Pattern[str]:
    return re.compile(_WORD.get(kind, _ANY_WORD), re.ASCII)


@cache
def _pattern(table: str, kind: str) -> re.Pattern[str]:
    tables = {"right": _RIGHT, "finished": _FINISHED, "ended": _ENDED, "begun": _BEGUN}
    return re.compile(tables[table].get(kind, r".*" if table == "begun" else r"(?!)"), re.ASCII)


def _right(kind: str, word: str) -> bool:
    return _pattern("right", kind).fullmatch(word) is not None


def is_finished(kind: str, word: str) -> bool:
    """Whether a value cannot have had further digits."""
    return _pattern("finished", kind).fullmatch(word) is not None
