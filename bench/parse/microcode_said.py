"""What a boot's console says of microcode: the kernel's own lines, and /proc/cpuinfo as init shows it.

Nothing in this text would tell that the serial line has lost a byte, so each is given as often as it was said: the
console, and the kernel's log where init shows that; /proc/cpuinfo each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

INIT = b"bench-init: "
_LOG = re.compile(rb"^(?:bench-init: )?log: ")
_STAMP = re.compile(rb"^(?:\[ *\d+\.\d+\] )?")
_OURS = re.compile(rb"microcode: |CPU\d+ microcode updated early|File \S+ exceeding MAX_CPIO_FILE_NAME")
_CPUINFO = re.compile(rb"^(?:bench-init: cpuinfo: )?(processor|microcode)\s*: (\S+)\s*$")


def console_lines(data: bytes) -> tuple[str, ...]:
    """The kernel's lines, without time stamps, up to init's first word."""
    return tuple(_lines(data.partition(INIT)[0].split(b"\n")))


def logged_lines(data: bytes) -> tuple[str, ...] | None:
    """The same out of the kernel's log (after a kexec, of both logs), in lines that begin with ``log: ``; None if init
    does not show it."""
    if b"log: " not in data:
        return None
    stripped = (line.strip(b"\r") for line in data.split(b"\n"))
    return tuple(_lines(_LOG.sub(b"", line) for line in stripped if _LOG.match(line)))


def all_console_lines(data: bytes) -> tuple[str, ...]:
    """The kernel's lines on the console to the end, without those of its log that init shows."""
    return tuple(_lines(data.split(b"\n")))


def _lines(lines: list[bytes] | Iterator[bytes]) -> Iterator[str]:
    for line in lines:
        text = line.strip(b"\r")
        stamp = _STAMP.match(text)
        text = text[stamp.end() if stamp else 0 :]
        if _OURS.match(text):
            yield text.decode("ascii", "backslashreplace")


def cpuinfo_readings(data: bytes) -> tuple[dict[int, int], ...]:
    """Processor → revision, each time that /proc/cpuinfo was shown. A processor without a revision has no line of it,
    which stands for 0."""
    readings: list[dict[int, int]] = []
    processor: int | None = None
    for line in data.split(b"\n"):
        match = _CPUINFO.match(line.strip(b"\r"))
        if match and match[1] == b"processor":
            processor = _number(match[2], 10)
            if not readings or processor == 0 or processor in readings[-1]:
                readings.append({})
            readings[-1][processor] = 0
        elif match and processor is not None:
            readings[-1][processor] = _number(match[2], 16)
    return tuple(readings)


def _number(digits: bytes, base: int) -> int:
    """-1 for what is no number: nothing is predicted to be that."""
    try:
        return int(digits, base)
    except ValueError:
        return -1
