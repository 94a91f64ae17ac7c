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
    k <align> <words>               offer an update of microcode, whose words follow
    + <word> ...                    8 bytes of it each, little-endian, at most 4 a line
    end <CRC-32 of all bytes before this line>

``f`` behind the letter gives the access an entry in the exception table: a rejected fault goes on
behind the instruction instead of ending the window. `variant` is an index into `wire.VARIANTS`;
`mend` a bit mask over the seed's list of mistakes; `pool` 1..40 (hex); `place` the physical address
of _text, 2 MiB aligned; `bug` a number that the trace does not reveal (0: none); `flags` see Flag.
An update's header lies `align` bytes (less than 40) behind a multiple of 40 (hex); those of one window lie behind one
another in a MiB, see `places`. Steps are numbered from 0 in their window. The payload checks the CRC before it does
anything.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntFlag

from bench.errors import FormatError
from bench.wire import Access

SCRIPT_VERSION = 1
MAGIC = b"bench-script "
ACCESS_SIZES = (1, 2, 4, 8)
UPDATES_BYTES = 1 << 20
"""Room for the updates of one window."""
UPDATE_ALIGNMENT = 64
_WORD_BYTES = 8
_WORDS_A_LINE = 4
_LETTER = {Access.READ: "r", Access.WRITE: "w", Access.FETCH: "x", Access.MOVE: "m"}


class Flag(IntFlag):
    """Bits of a window's `flags`."""

    BEYOND_RAM = 1
    """Physical addresses that the memory map does not call RAM may be touched: the machine is a sacrifice."""


@dataclass(frozen=True)
class Step:
    """One step of a window. `op` is ``access``, ``final``, ``digest``, ``dump`` or ``ucode``; `update` and `align`
    belong to ``ucode``, the rest to ``access``."""

    op: str
    access: Access = Access.READ
    va: int = 0
    size: int = 8
    va_to: int = 0
    value: int = 0
    fixup: bool = False
    update: bytes = b""
    """Whole words of 8 bytes."""
    align: int = 0


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
    flags: int = 0
    """Bits of Flag."""


def render(windows: tuple[ScriptWindow, ...], *, nonce: int) -> bytes:
    """The script as the payload reads it."""
    lines = [f"bench-script {SCRIPT_VERSION} {nonce:x} {len(windows):x}"]
    for w in windows:
        lines.append(
            f"win {w.number:x} {w.variant:x} {w.mend:x} {w.pool:x} {w.place:x} {w.levels:x} {w.bug:x} {w.flags:x}"
        )
        for step in w.steps:
            lines += [_step(step), *_words(step)]
    text = "".join(f"{line}\n" for line in lines).encode("ascii")
    return text + b"end %x\n" % zlib.crc32(text)


def _step(step: Step) -> str:
    if step.op == "ucode":
        return f"k {step.align:x} {len(step.update) // _WORD_BYTES:x}"
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


def _words(step: Step) -> Iterator[str]:
    """An update's own lines."""
    for at in range(0, len(step.update), _WORD_BYTES * _WORDS_A_LINE):
        line = step.update[at : at + _WORD_BYTES * _WORDS_A_LINE]
        words = (line[byte : byte + _WORD_BYTES] for byte in range(0, len(line), _WORD_BYTES))
        yield " ".join(("+", *(f"{int.from_bytes(word, 'little'):x}" for word in words)))


def places(steps: Sequence[Step]) -> Iterator[int]:
    """Where the headers of a window's updates lie in its MiB, in order."""
    used = 0
    for step in steps:
        if step.op == "ucode":
            place = -(-used // UPDATE_ALIGNMENT) * UPDATE_ALIGNMENT + step.align
            used = place + len(step.update)
            yield place


_OP = {"c": "final", "d": "digest", "u": "dump"}
_ACCESS = {letter: access for access, letter in _LETTER.items()}
_ARGUMENTS = {Access.READ: 2, Access.WRITE: 3, Access.FETCH: 1, Access.MOVE: 3}


def read(text: bytes, *, source: str = "script") -> tuple[ScriptWindow, ...]:
    """The windows of a script: `read(render(w, nonce=n)) == w`. Raises FormatError with the line number."""
    body, _, tail = text.rpartition(b"end ")
    if not body or tail.strip() != b"%x" % zlib.crc32(body):
        raise FormatError("the script is cut or damaged: its CRC does not fit", source=source, offset=text.count(b"\n"))
    windows: list[ScriptWindow] = []
    due = 0  # bytes of an update that are still to come
    for number, line in enumerate(body.decode("ascii", "replace").splitlines()[1:], start=2):
        word, *rest = line.split(" ")
        try:
            values = [int(item, 16) for item in rest]
            if due and word != "+":
                raise ValueError("the update before it is not whole")
            if word == "win":
                n, variant, mend, pool, place, levels, bug, flags = values
                windows.append(ScriptWindow(n, variant, pool, place, levels, (), mend, bug, flags))
            elif word == "+":
                last = windows[-1].steps[-1]
                due -= _WORD_BYTES * len(values)
                if due < 0:
                    raise ValueError("words that belong to no update")
                more = b"".join(value.to_bytes(_WORD_BYTES, "little") for value in values)
                windows[-1] = replace(
                    windows[-1], steps=(*windows[-1].steps[:-1], replace(last, update=last.update + more))
                )
            else:
                windows[-1] = replace(windows[-1], steps=(*windows[-1].steps, _read_step(word, values)))
                due = values[1] * _WORD_BYTES if word == "k" else 0
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise FormatError(f"line {number} is not of the script's form: {line!r}", source=source) from error
    return tuple(windows)


def _read_step(word: str, values: list[int]) -> Step:
    if word in _OP:
        return Step(_OP[word])
    if word == "k":
        align, _ = values
        return Step("ucode", align=align)
    access = _ACCESS[word[0]]
    if len(values) != _ARGUMENTS[access] or word[1:] not in ("", "f"):
        raise ValueError(word)
    fixup = word[1:] == "f"
    match access:
        case Access.FETCH:
            return Step("access", access, values[0], 1, fixup=fixup)
        case Access.MOVE:
            return Step("access", access, values[0], values[2], va_to=values[1], fixup=fixup)
        case Access.WRITE:
            return Step("access", access, values[0], values[1], value=values[2], fixup=fixup)
        case _:
            return Step("access", access, values[0], values[1], fixup=fixup)
