"""Intel's files and iucode_tool, for the tests marked `microcode`. They fail, and do not skip, where either is absent:
whoever asks for those tests wants them run."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from bench.images.microcode_package import Package, find_package

GET = "get it with: bench doctor --install, or ./setup --with-microcode"


@cache
def intel() -> Package:
    """The package in the cache; the test fails without it."""
    package = find_package()
    if package is None:
        pytest.fail(f"Intel's microcode is not here; {GET}", pytrace=False)
    return package


@cache
def iucode_tool() -> str:
    """The program; the test fails without it."""
    program = shutil.which("iucode_tool") or shutil.which("/usr/sbin/iucode_tool")
    if program is None:
        pytest.fail(f"iucode_tool is not here; {GET}", pytrace=False)
    return program


def run_iucode_tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it, whatever it says."""
    return subprocess.run([iucode_tool(), *arguments], capture_output=True, text=True, errors="replace", check=False)


@dataclass(frozen=True)
class Row:
    """What iucode_tool says of an update, and of each row of its extended table (in `also`)."""

    bundle: int
    index: int
    signature: int
    flags: int
    date: str
    revision: int
    size: int
    also: tuple[tuple[int, int], ...] = ()


_UPDATE = re.compile(
    r"\s+(?P<bundle>\d+)/(?P<index>\d+): sig (?P<sig>0x[0-9a-f]+), pf_mask (?P<pf>0x[0-9a-f]+), "
    r"(?P<date>[0-9-]+), rev (?P<rev>0x[0-9a-f]+), size (?P<size>\d+)"
)
_ALSO = re.compile(r"\s+sig (?P<sig>0x[0-9a-f]+), pf_mask (?P<pf>0x[0-9a-f]+), ")


def rows_of(said: str) -> list[Row]:
    """Its listing (-l or -L) as rows."""
    rows: list[Row] = []
    for line in said.splitlines():
        if m := _UPDATE.match(line):
            rows.append(
                Row(
                    int(m["bundle"]), int(m["index"]), int(m["sig"], 16), int(m["pf"], 16), m["date"],
                    int(m["rev"], 16), int(m["size"]),
                )
            )  # fmt: skip
        elif m := _ALSO.match(line):
            rows[-1] = Row(**vars(rows[-1]) | {"also": (*rows[-1].also, (int(m["sig"], 16), int(m["pf"], 16)))})
        elif not line.startswith(("microcode bundle", "selected microcodes")):
            raise AssertionError(f"iucode_tool says what this test does not know: {line!r}")
    return rows


def select(files: Sequence[Path], *selectors: str) -> list[Row]:
    """What it selects (-s) out of `files`."""
    chosen = run_iucode_tool("-l", *(part for each in selectors for part in ("-s", each)), "-tb", *files)
    assert chosen.returncode == 0, chosen.stderr
    return rows_of(chosen.stdout)
