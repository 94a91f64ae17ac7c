"""Ten thousand damaged copies of the kernel logs never crash the reader, nor make it invent a value.

Invented is a value that does not stand in the bytes of its statement; or one that differs from the original's although
its statement, and the byte before and behind it, came through undamaged. (A digit that was changed within a statement
is read as it stands: only a register dump can tell.)
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from bench.parse.kernel import KernelThing, read_kernel_log
from bench.parse.kernel_microcode import Microcode
from bench.parse.kernel_panic import EarlyException

# A number that no kernel prints, such as 0x0f0, becomes one that it does when its end is cut.
NOT_OF_A_KERNEL = ("made-microcode-wrong-numbers",)
FILES = sorted((Path(__file__).parent / "captures" / "kernel-logs").glob("*.log"))
LOGS = tuple(path.read_bytes() for path in FILES if path.stem not in NOT_OF_A_KERNEL)
COPIES, BATCHES = 10_000, 20
SEED = secrets.randbits(32)

Origin = tuple[int, int]
"""Log and offset that a byte was copied from."""


@dataclass
class Copy:
    """A copy's bytes, and where each came from; None for one that was changed."""

    data: bytearray
    origins: list[Origin | None]


def copy_of(number: int) -> Copy:
    log = LOGS[number]
    return Copy(bytearray(log), [(number, offset) for offset in range(len(log))])


def damage(copy: Copy, rng: random.Random) -> None:
    """One accident."""
    size = len(copy.data)
    if not size:
        return
    at = rng.randrange(size)
    until = min(size, at + rng.choice((1, 1, 2, 5, 20, 200)))
    match rng.choice(("flip", "flip", "drop", "double", "cut front", "cut end", "splice", "overwrite")):
        case "flip":
            copy.data[at] ^= 1 << rng.randrange(8)
            copy.origins[at] = None
        case "drop":
            del copy.data[at:until], copy.origins[at:until]
        case "double":
            copy.data[until:until] = copy.data[at:until]
            copy.origins[until:until] = copy.origins[at:until]
        case "cut front":
            del copy.data[:at], copy.origins[:at]
        case "cut end":
            del copy.data[at:], copy.origins[at:]
        case "splice":
            other = rng.randrange(len(LOGS))
            start = rng.randrange(len(LOGS[other]))
            stop = min(len(LOGS[other]), start + rng.choice((10, 60, 300)))
            copy.data[at:at] = LOGS[other][start:stop]
            copy.origins[at:at] = [(other, offset) for offset in range(start, stop)]
        case "overwrite":
            copy.data[at:until] = rng.randbytes(until - at)
            copy.origins[at:until] = [None] * (until - at)


@cache
def original(number: int) -> tuple[KernelThing, ...]:
    return tuple(read_kernel_log(LOGS[number]))


VALUES = {
    EarlyException: ("vector", "cs", "ip", "symbol", "error", "cr2"),
    Microcode: ("event", "cpu", "before", "after", "date", "sig", "pf"),
}


def words(said: bytes) -> str:
    """The statement in one line: without escapes, breaks of lines, marks of mail and UTF-16's other halves."""
    text = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]|#033\[[0-9;]*m", "", said.decode("latin-1").replace("\0", ""))
    text = re.sub(r"=\r*\n", "", text).replace("=3D", "=")
    joined = re.sub(r"[\r\n]+[>| \t]*", "", text)
    return " ".join((joined, re.sub(r"[\r\n]+[>| \t]*", " ", text)))


def literals(thing: KernelThing) -> list[tuple[str, ...]]:
    """How each value may stand in the text."""
    if isinstance(thing, EarlyException):
        found: list[tuple[str, ...]] = [(text,) for text in (thing.cs, thing.ip, thing.cr2) if text is not None]
        found += [] if thing.printed_vector is None else [(f"{thing.printed_vector:02x}",)]
        found += [] if thing.symbol is None else [(thing.symbol,)]
        return found + ([] if thing.error is None else [(f"{thing.error:x}",)])
    numbers = (thing.before, thing.after, thing.sig, thing.pf)
    found = [(f"0x{number:x}", f"0x{number:08x}") for number in numbers if number is not None]
    found += [] if thing.cpu is None else [(f"CPU{thing.cpu}", f"CPU {thing.cpu}")]
    if thing.date is not None:
        year, month, day = thing.date.split("-")
        found.append((thing.date, f"{month}{day}{year}"))
    return found


def stands_in(literal: str, text: str) -> bool:
    """As a whole word: no digit more on either side."""
    return (
        re.search(rf"(?<![0-9a-f]){re.escape(literal)}(?![0-9a-f])", text.replace("00" + literal, literal)) is not None
    )


def check(copy: Copy, things: Sequence[KernelThing]) -> None:
    for thing in things:
        start, stop = thing.span
        assert 0 <= start < stop <= len(copy.data)
        text = words(bytes(copy.data[start:stop]))
        for choices in literals(thing):
            assert any(stands_in(each, text) for each in choices), (thing, choices)
        if before := undamaged(copy, thing):
            for name in VALUES[type(thing)]:
                assert getattr(thing, name) in (None, getattr(before, name)), (thing, before)


def undamaged(copy: Copy, thing: KernelThing) -> KernelThing | None:
    """The original's statement, if this one's bytes and those beside it are as they were."""
    start, stop = max(0, thing.span[0] - 1), min(len(copy.data), thing.span[1] + 1)
    origins = copy.origins[start:stop]
    first = origins[0]
    if first is None or origins != [(first[0], first[1] + n) for n in range(len(origins))]:
        return None
    at = first[1] + thing.span[0] - start
    return next((t for t in original(first[0]) if t.span[0] == at and type(t) is type(thing)), None)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_damaged_copies_neither_crash_the_reader_nor_make_it_invent(batch: int) -> None:
    print(f"seed {SEED}, batch {batch}")
    rng = random.Random(f"{SEED} {batch}")
    for _ in range(COPIES // BATCHES):
        copy = copy_of(rng.randrange(len(LOGS)))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            damage(copy, rng)
        check(copy, tuple(read_kernel_log(bytes(copy.data))))


def test_an_undamaged_copy_passes_the_same_check_and_an_invented_value_does_not() -> None:
    for number in range(len(LOGS)):
        check(copy_of(number), original(number))
    number, thing = next((n, t) for n in range(len(LOGS)) for t in original(n) if isinstance(t, EarlyException))
    for name, value in (("ip", "ffffffff81d1e015"), ("error", 99), ("printed_vector", 13), ("cr2", "8")):
        changed = type(thing)(**(vars(thing) | {name: value}))
        with pytest.raises(AssertionError):
            check(copy_of(number), (changed,))
