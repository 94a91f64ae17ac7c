"""Bytes of a capture → trace records with their byte ranges, and marks for all that is not one.

Whether a record is true is decided by its CRC (with the nonce folded in), whether one is missing by
the sequence numbers. Nothing is repaired and nothing is hidden: text between records is kept as
`foreign`, a line that carries the sentinel but is no record as `damaged`, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from bench import wire

# A record's text is at most this long: longer runs after a sentinel are not even tried.
_RECORD_BYTES_MAX = 1200
_RECORD = re.compile(rb"@[0-9a-f]{1,8} [a-z]+[!-~ ]*?\*[0-9a-f]{8}")
_ATTEMPT = re.compile(rb"@[0-9a-f]{1,8} [a-z]")
_NONCE = re.compile(rb"@[0-9a-f]{1,8} boot K([0-9a-f]{1,16})[ *]")


class Mark(StrEnum):
    """What a stretch of the capture is."""

    RECORD = "record"
    FOREIGN = "foreign"
    """Firmware, loader or kernel text; normal before `begin` and between records."""
    DAMAGED = "damaged"
    """Begins as a record and is none: cut, spliced or with a byte changed."""
    REPEATED = "repeated"
    """A true record that was there before, byte for byte."""
    MISPLACED = "misplaced"
    """A true record whose number does not fit its place."""
    ALIEN = "alien"
    """A true record of another boot: its nonce is not this run's."""


@dataclass(frozen=True)
class Stretch:
    """A stretch of the capture. `span` is [start, end) in bytes, line end not included."""

    span: tuple[int, int]
    mark: Mark
    line: wire.Line | None = None
    why: str = ""


def has_record(data: bytes) -> bool:
    """Whether anything in `data` has the form of a record, true or not."""
    return _RECORD.search(data) is not None


def learn_nonce(data: bytes) -> int | None:
    """The nonce of the first `boot` record that is true under the nonce that it carries, or None."""
    for match in _NONCE.finditer(data):
        nonce = int(match[1], 16)
        record = _RECORD.match(data, match.start(), match.start() + _RECORD_BYTES_MAX)
        if record and isinstance(wire.decode(record[0], nonce=nonce), wire.Line):
            return nonce
    return None


def stretches(data: bytes, *, nonce: int | None) -> Iterator[Stretch]:
    """All non-empty stretches of `data` in order. `nonce` None: whatever the first `boot` record says."""
    if nonce is None:
        nonce = learn_nonce(data)
    position = 0
    while position < len(data):
        end = data.find(b"\n", position)
        end = len(data) if end < 0 else end
        stop = end - 1 if end > position and data[end - 1] == 0x0D else end
        if stop > position:
            yield from _split_line(data, position, stop, nonce)
        position = end + 1


def _split_line(data: bytes, start: int, stop: int, nonce: int | None) -> Iterator[Stretch]:
    """One line: usually one record or one piece of text, sometimes several that ran together."""
    pending = start
    at = data.find(b"@", start, stop)
    while at >= 0:
        record = _RECORD.match(data, at, min(stop, at + _RECORD_BYTES_MAX))
        verdict = _verify(record[0], nonce) if record else None
        if record and isinstance(verdict, Stretch):
            if at > pending:
                yield _other(data, pending, at)
            yield Stretch((at, record.end()), verdict.mark, verdict.line, verdict.why)
            pending = record.end()
            at = data.find(b"@", pending, stop)
        else:
            at = data.find(b"@", at + 1, stop)
    if stop > pending:
        yield _other(data, pending, stop)


def _verify(text: bytes, nonce: int | None) -> Stretch | None:
    """A record or alien stretch (its span is the caller's business), or None if the text is no true record."""
    reason = ""
    for candidate in (nonce, 0):
        if candidate is None:
            continue
        line = wire.decode(text, nonce=candidate)
        if isinstance(line, wire.Line):
            return Stretch((0, 0), Mark.RECORD, line)
        reason = reason or line
    carried = _NONCE.match(text)
    if carried and isinstance(wire.decode(text, nonce=int(carried[1], 16)), wire.Line):
        return Stretch((0, 0), Mark.ALIEN, None, f"carries nonce {carried[1].decode()} of another run")
    return None


def _other(data: bytes, start: int, stop: int) -> Stretch:
    attempt = _ATTEMPT.search(data, start, stop)
    if not attempt:
        return Stretch((start, stop), Mark.FOREIGN)
    text = data[attempt.start() : stop]
    if text.count(b"@") > 1:
        why = "spliced: a second sentinel inside the record"
    elif not re.search(rb"\*[0-9a-f]{8}$", text):
        why = "cut: the CRC is missing or incomplete"
    else:
        why = "the CRC does not fit its text"
    return Stretch((start, stop), Mark.DAMAGED, None, why)
