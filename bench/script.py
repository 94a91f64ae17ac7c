"""The script that tells the payload what to do; it travels as the initrd.

Plain ASCII text, one item a line, numbers in lower-case hexadecimal without 0x, LF line ends::

    bench-script 1 <nonce> <windows>
    win <number> <variant> <mend> <pool> <place> <levels> <bug> <flags>
    r[f] <va> <size>                read 1, 2, 4 or 8 bytes
    w[f] <va> <size> <value>        write
    x[f] <va>                       call <va> (it must hold a RET by then)
    m[f] <from> <to> <size>         memory-to-memory move of 1, 2, 4 or 8 bytes (one MOVS)
    c                               load the final tables
    d                               digest record
    u                               dump records
    end <CRC-32 of all bytes before this line>

``f`` behind the letter gives the access an entry in the exception table: a rejected fault goes on
behind the instruction instead of ending the window. `variant` is an index into `wire.VARIANTS`;
`mend` a bit mask over the seed's list of mistakes; `pool` 1..40 (hex); `place` the physical address
of _text, 2 MiB aligned; `bug` a number that the trace does not reveal (0: none); `flags` see Flag.
Steps are numbered from 0 in their window. The payload checks the CRC before it does anything.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntFlag

from bench.wire import Access

SCRIPT_VERSION = 1
ACCESS_SIZES = (1, 2, 4, 8)
_LETTER = {Access.READ: "r", Access.WRITE: "w", Access.FETCH: "x", Access.MOVE: "m"}


class Flag(IntFlag):
    """Bits of a window's `flags`."""

    BEYOND_RAM = 1
    """Physical addresses that the memory map does not call RAM may be touched: the machine is a sacrifice."""


@dataclass(frozen=True)
class Step:
    """One step of a window. `op` is ``access``, ``final``, ``digest`` or ``dump``; the rest belongs to ``access``."""

    op: str
    access: Access = Access.READ
    va: int = 0
    size: int = 8
    va_to: int = 0
    value: int = 0
    fixup: bool = False


@dataclass(frozen=True)
class ScriptWindow:
    """One window: a fresh copy of the handler's image at `place`, with its own tables, and the steps to do in it."""

    number: int
    variant: int
    pool: int
    place: int
    levels: int
    steps: tuple[Step, ...]
    mend: int = 0
    bug: int = 0
    flags: Flag = Flag(0)


def render(windows: tuple[ScriptWindow, ...], *, nonce: int) -> bytes:
    """The script as the payload reads it."""
    lines = [f"bench-script {SCRIPT_VERSION} {nonce:x} {len(windows):x}"]
    for w in windows:
        lines.append(
            f"win {w.number:x} {w.variant:x} {w.mend:x} {w.pool:x} {w.place:x} {w.levels:x} {w.bug:x} {int(w.flags):x}"
        )
        lines += [_step(step) for step in w.steps]
    text = "".join(f"{line}\n" for line in lines).encode("ascii")
    return text + b"end %x\n" % zlib.crc32(text)


def _step(step: Step) -> str:
    if step.op != "access":
        return {"final": "c", "digest": "d", "dump": "u"}[step.op]
    letter = _LETTER[step.access] + ("f" if step.fixup else "")
    match step.access:
        case Access.FETCH:
            return f"{letter} {step.va:x}"
        case Access.MOVE:
            return f"{letter} {step.va:x} {step.va_to:x} {step.size:x}"
        case Access.WRITE:
            return f"{letter} {step.va:x} {step.size:x} {step.value:x}"
        case _:
            return f"{letter} {step.va:x} {step.size:x}"
