"""Every capture in tests/captures/ still gives the verdict that is written beside it, byte for byte.

A new case is a file: drop NAME.capture in, run pytest with --rewrite-verdicts, review NAME.verdict.json.
"""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import wire
from bench.judge import judge
from bench.parse.capture_file import read_captures
from bench.parse.lines import Mark, stretches
from bench.records import Verdict

CAPTURES = sorted((Path(__file__).parent / "captures").glob("*.capture"))
EXIT_CODES = {"PASS": 0, "FAIL": 1, "ERROR": 3, "MISS": 3}


def replay(capture: Path, where: Path) -> subprocess.CompletedProcess[str]:
    """`bench replay` where there is no inventory, store or image."""
    command = [sys.executable, "-m", "bench", "replay", "--json", str(capture)]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, env={"PATH": ""}, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.stem)
def test_a_capture_gives_its_verdict(capture: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    expected = capture.with_suffix(".verdict.json")
    done = replay(capture, tmp_path)
    if request.config.getoption("--rewrite-verdicts"):
        expected.write_text(done.stdout)
    assert done.stdout == expected.read_text()
    assert done.stderr == ""
    verdict = next(v for v in EXIT_CODES if f'"verdict": "{v}"' in done.stdout.splitlines()[1])
    assert done.returncode == EXIT_CODES[verdict]


def test_there_are_captures_of_each_variant_and_of_a_failure() -> None:
    stems = " ".join(p.stem for p in CAPTURES)
    assert all(variant in stems for variant in ("seed-2012", "v3.9", "la57", "hidden-bug"))


GOOD = [p for p in CAPTURES if "hidden-bug" not in p.stem]


@pytest.mark.slow
@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_an_entry_that_was_edited_and_its_crc_mended_is_found_at_that_event(path: Path) -> None:
    (capture,) = read_captures(path)
    rng = random.Random(path.stem)
    exits = [s for s in stretches(capture.data, nonce=capture.nonce) if s.line and s.line.kind == "x"]
    for stretch in rng.sample(exits, 3):
        assert stretch.line and capture.nonce
        name = rng.choice([n for n in ("pgd", "p4d", "pud", "pmd") if stretch.line.number(n)])
        fields = stretch.line.fields | {name: stretch.line.number(name) ^ 1 << rng.randrange(12, 30)}
        line = wire.encode(stretch.line.seq, "x", fields, nonce=capture.nonce)[:-2]
        data = capture.data[: stretch.span[0]] + line + capture.data[stretch.span[1] :]
        judgement = judge([replace(capture, data=data)])
        assert judgement.verdict is Verdict.FAIL
        (finding,) = [w.finding for w in judgement.windows if w.finding]
        assert finding.field_name == name
        assert finding.witness["record"] == f"{stretch.line.seq:#x}"


@pytest.mark.slow
@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_a_damaged_byte_is_no_failure(path: Path) -> None:
    (capture,) = read_captures(path)
    rng = random.Random(path.stem)
    for at in rng.sample(range(len(capture.data)), 8):
        data = bytearray(capture.data)
        data[at] ^= 1 << rng.randrange(8)
        damaged = replace(capture, data=bytes(data))
        assert judge([damaged]).verdict in (Verdict.PASS, Verdict.MISS), at
        marks = {s.mark for s in stretches(damaged.data, nonce=damaged.nonce)}
        assert marks & {Mark.DAMAGED, Mark.FOREIGN}, at
