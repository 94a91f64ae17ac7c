"""What the payload will not do, and how it says so."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from bench.script import ScriptWindow, Step
from bench.wire import Access
from tests.lab.payload_machine import (
    DIRECT_4,
    DONE,
    GIB,
    LA57,
    MIB,
    REFUSED,
    V3_9,
    boot,
    boot_bytes,
    fetch,
    number,
    read,
    reads,
    window,
)

pytestmark = [pytest.mark.lab, pytest.mark.slow]


REFUSED_WINDOWS: list[tuple[str, ScriptWindow]] = [
    ("this%20payload%20does%20not%20have%20that%20variant", window(7, 3)),
    ("that%20many%20paging%20levels", window(7, V3_9, levels=5)),
    ("no%20five-level%20paging", window(7, LA57)),
    ("not%202%20MiB%20aligned", window(7, V3_9, place=17 * MIB)),
    ("not%20free%20RAM", window(7, V3_9, place=64 * GIB)),
    ("between%201%20MiB", window(7, V3_9, place=0)),
    ("between%201%20and%2064", window(7, V3_9, pool=65)),
    ("unknown%20bug", window(7, V3_9, bug=2)),
    ("mistake%20to%20mend", window(7, V3_9, mend=8)),
]


def test_window_that_cannot_be_is_refused_by_name_and_the_next_one_runs(tmp_path: Path) -> None:
    windows = [refused for _, refused in REFUSED_WINDOWS]
    result = boot(tmp_path, *windows, window(8, V3_9, *reads(V3_9, 0)), cpu="Haswell,phys-bits=46")
    refusals = [record for record in result.records if record["kind"] == "refuse"]
    for (words, _), refusal in zip(REFUSED_WINDOWS, refusals, strict=True):
        assert str(refusal["WHY"]).startswith("window%207:%20") and words in str(refusal["WHY"])
    ends = [number(record, "OUT") for record in result.records if record["kind"] == "end"]
    assert ends == [REFUSED] * len(windows) + [DONE]


def test_access_that_could_do_harm_is_refused_at_its_step(tmp_path: Path) -> None:
    script_at = number(boot(tmp_path, window(0, V3_9)).of(0, "boot")[0], "RD")
    harmful = [
        (read(DIRECT_4 + 64 * GIB), "not%20RAM"),
        (read(DIRECT_4 + 2 * GIB - 4), "not%20RAM"),
        (Step("access", Access.WRITE, DIRECT_4 + MIB, 4), "hit%20the%20payload"),
        (Step("access", Access.WRITE, DIRECT_4 + 16 * MIB - 1, 2), "hit%20the%20payload"),
        (Step("access", Access.MOVE, DIRECT_4, 8, va_to=DIRECT_4 + script_at + 8), "hit%20the%20payload"),
        (Step("access", Access.WRITE, 0xFFFFFFFF81001000, 8), "hit%20the%20payload"),
        (fetch(DIRECT_4 + 17 * MIB), "hit%20the%20payload"),
    ]
    windows = [window(n, V3_9, *reads(V3_9, 0), step) for n, (step, _) in enumerate(harmful)]
    result = boot(tmp_path, *windows, cpu="Haswell,phys-bits=46")
    for n, (_, words) in enumerate(harmful):
        assert result.kinds(n) == "begin boot touch pf x refuse end", harmful[n]
        refusal = result.of(n, "refuse")[0]
        assert number(refusal, "O") == 1 and words in str(refusal["WHY"])
        assert number(result.end(n), "OUT") == REFUSED


def with_crc(*lines: str) -> bytes:
    text = "".join(f"{line}\n" for line in lines).encode()
    return text + b"end %x\n" % zlib.crc32(text)


GOOD_WINDOW = "win 0 1 0 40 1000000 4 0 0"
BAD_SCRIPTS = [
    (b"hello\n", 1, "not a script"),
    (b"bench-script 1 5 0\nend 1\n", 2, "the CRC does not fit"),
    (with_crc("bench-script 2 5 0"), 1, "unknown version"),
    (with_crc("bench-script 1 5 0")[:-1], 2, "the line has no end"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "r 12"), 3, "a field is missing"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "q"), 3, "neither a window nor a step"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "r 0 3"), 3, "size is not"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "r F 8"), 3, "not a lower-case hexadecimal"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "r  0 8"), 3, "1 to 16 digits"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "d 1"), 3, "more on the line"),
    (with_crc("bench-script 1 5 1", "r 0 8", GOOD_WINDOW), 2, "before the first window"),
    (with_crc("bench-script 1 5 2", GOOD_WINDOW), 3, "number of windows"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, *["d"] * 8193), 8195, "more steps"),
]


@pytest.mark.parametrize(("script", "line", "words"), BAD_SCRIPTS, ids=[words for _, _, words in BAD_SCRIPTS])
def test_malformed_script_is_refused_with_line_and_reason_and_nothing_is_done(
    tmp_path: Path, script: bytes, line: int, words: str
) -> None:
    data = boot_bytes(tmp_path, script, cpu="Haswell")
    assert b" begin " not in data
    refusal = data[data.index(b" refuse ") :].split(b"*")[0].decode()
    assert f"'script%20line%20{line:x}:%20" in refusal and words.replace(" ", "%20") in refusal
