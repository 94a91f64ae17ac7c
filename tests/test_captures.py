"""Every capture in tests/captures/ still gives the verdict that is written beside it, byte for byte.

A new case is a file: drop NAME.capture in, run pytest with --rewrite-verdicts, review NAME.verdict.json.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
