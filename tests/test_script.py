"""The script is read by a machine that can ask nothing back: its form is held to the letter."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import FormatError
from bench.script import ACCESS_SIZES, Flag, ScriptWindow, Step, read, render
from bench.wire import VARIANTS, Access

addresses = st.integers(0, 2**64 - 1)
sizes = st.sampled_from(ACCESS_SIZES)
reads = st.builds(Step, st.just("access"), st.just(Access.READ), addresses, sizes, fixup=st.booleans())
writes = st.builds(
    Step, st.just("access"), st.just(Access.WRITE), addresses, sizes, value=addresses, fixup=st.booleans()
)
fetches = st.builds(Step, st.just("access"), st.just(Access.FETCH), addresses, st.just(1), fixup=st.booleans())
moves = st.builds(Step, st.just("access"), st.just(Access.MOVE), addresses, sizes, addresses, fixup=st.booleans())
others = st.sampled_from(["final", "digest", "dump"]).map(Step)
updates = st.builds(
    Step, st.just("ucode"), update=st.binary(min_size=6, max_size=12).map(lambda b: b * 8), align=st.integers(0, 63)
)
steps = reads | writes | fetches | moves | others | updates
windows = st.builds(
    ScriptWindow,
    number=st.integers(0, 2**16),
    variant=st.integers(0, len(VARIANTS) - 1),
    pool=st.integers(1, 64),
    place=st.integers(1, 2**40).map(lambda n: n << 21),
    levels=st.sampled_from([4, 5]),
    steps=st.lists(steps, max_size=6).map(tuple),
    mend=st.integers(0, 2**10),
    bug=st.integers(0, 24),
    flags=st.sampled_from([0, int(Flag.BEYOND_RAM)]),
)
scripts = st.lists(windows, max_size=3).map(tuple)
nonces = st.integers(0, 2**64 - 1)

LINE = re.compile(
    r"bench-script 1 H H|win H H H H H H H H|rf? H H|wf? H H H|xf? H|mf? H H H|c|d|u|k H H|\+(?: H){1,4}|end H".replace(
        "H", "(?:0|[1-9a-f][0-9a-f]{0,15})"
    )
)


def test_a_script_to_the_letter() -> None:
    window = ScriptWindow(
        number=3,
        variant=1,
        pool=64,
        place=0x1000000,
        levels=4,
        steps=(
            Step("access", Access.READ, 0xFFFF888000000000, 8),
            Step("access", Access.WRITE, 0xFFFF8880001FFFFE, 4, value=0xC3, fixup=True),
            Step("access", Access.FETCH, 0xFFFF888000200000, 1),
            Step("access", Access.MOVE, 0xFFFF888000000000, 8, va_to=0xFFFF888040000000),
            Step("digest"),
            Step("dump"),
            Step("final"),
        ),
        mend=0x18,
        bug=15,
        flags=Flag.BEYOND_RAM,
    )
    body = (
        b"bench-script 1 1c0ffee 1\n"
        b"win 3 1 18 40 1000000 4 f 1\n"
        b"r ffff888000000000 8\n"
        b"wf ffff8880001ffffe 4 c3\n"
        b"x ffff888000200000\n"
        b"m ffff888000000000 ffff888040000000 8\n"
        b"d\n"
        b"u\n"
        b"c\n"
    )
    assert render((window,), nonce=0x1C0FFEE) == body + b"end %x\n" % zlib.crc32(body)


@pytest.mark.slow
@given(scripts, nonces)
def test_every_line_has_one_of_the_forms_of_the_table(script: tuple[ScriptWindow, ...], nonce: int) -> None:
    text = render(script, nonce=nonce).decode("ascii")
    assert text.endswith("\n")
    assert all(LINE.fullmatch(line) for line in text[:-1].split("\n"))


@pytest.mark.slow
@given(scripts, nonces)
def test_the_first_line_counts_the_windows_and_the_last_seals_all_before_it(
    script: tuple[ScriptWindow, ...], nonce: int
) -> None:
    text = render(script, nonce=nonce)
    first, *middle, last = text.splitlines(keepends=True)
    assert first == b"bench-script 1 %x %x\n" % (nonce, sum(line.startswith(b"win ") for line in middle))
    assert last == b"end %x\n" % zlib.crc32(text[: -len(last)])


@pytest.mark.slow
@given(scripts, nonces)
def test_read_undoes_render(script: tuple[ScriptWindow, ...], nonce: int) -> None:
    assert read(render(script, nonce=nonce)) == script


@pytest.mark.slow
@given(scripts, nonces, st.data())
def test_a_damaged_script_is_refused(script: tuple[ScriptWindow, ...], nonce: int, data: st.DataObject) -> None:
    text = render(script, nonce=nonce)
    bit = data.draw(st.integers(0, 8 * (len(text) - 1) - 1), label="flipped bit")
    damaged = bytearray(text)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FormatError):
        read(bytes(damaged))


@pytest.mark.slow
@given(scripts, nonces, st.data())
def test_a_cut_script_is_refused(script: tuple[ScriptWindow, ...], nonce: int, data: st.DataObject) -> None:
    text = render(script, nonce=nonce)
    end = data.draw(st.integers(0, len(text) - 2), label="bytes left")
    with pytest.raises(FormatError):
        read(text[:end])
