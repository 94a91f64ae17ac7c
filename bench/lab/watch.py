"""What can be told about a boot while it runs, from the bytes alone: lines, faults so far, the marker."""

from __future__ import annotations

import re

from bench.lab.text import escape

# The whole line has to be there, up to the CRC: the machine may be switched off as soon as this matches.
_DONE = re.compile(rb"@[0-9a-f]{1,8} done(?: [A-Z]+[0-9a-f]+)*\*[0-9a-f]{8}")
_BEGIN = re.compile(rb"@[0-9a-f]{1,8} begin ")
_FAULT = re.compile(rb"@[0-9a-f]{1,8} (?:pf|ex) ")
# Longer than any line of the trace; noise without line ends is searched in pieces of this size.
_LINE_BYTES = 4096
_SHOWN_BYTES = 120


class LineWatch:
    """Follows a stream of chunks. Nothing here is evidence: the verdict comes from parsing the whole capture."""

    def __init__(self) -> None:
        self.done = False
        """The `done` record has come."""
        self.begun = False
        """A `begin` record has come: what speaks now is not the firmware."""
        self.faults = 0
        """Lines so far that report a page fault or another exception."""
        self._rest = b""
        self._last = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._rest) > _LINE_BYTES:
            self._line(self._rest)
            self._rest = b""
        self.done = self.done or _DONE.search(self._rest) is not None

    def _line(self, line: bytes) -> None:
        self.faults += len(_FAULT.findall(line))
        self.begun = self.begun or _BEGIN.search(line) is not None
        self.done = self.done or _DONE.search(line) is not None
        self._last = line.rstrip(b"\r") or self._last

    @property
    def last_line(self) -> str:
        """The last line that is not empty, escaped and cut to a terminal's width."""
        shown = (self._rest.rstrip(b"\r") or self._last)[:_SHOWN_BYTES]
        return escape(shown)
