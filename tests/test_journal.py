"""The journal of a run: what was broken off is known to the last order that came to its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import FormatError, UsageError
from bench.journal import Ended, Journal, latest

ASKED = {"machine": ["a", "b"], "full": True}
ENDED = Ended("a v3.9", "c0ffee", "PASS", "7 faults equal")


def test_a_run_that_came_to_its_end_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ASKED, 1)
    journal.ended(ENDED)
    journal.close(whole=True)
    with pytest.raises(UsageError, match="no run was broken off"):
        latest(tmp_path)


def test_a_run_that_was_broken_off_is_gone_on_with_in_the_same_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ASKED, 3)
    journal.ended(ENDED)
    journal.close(whole=False)
    first = latest(tmp_path)
    assert (first.asked, first.total, first.ended) == (ASKED, 3, (ENDED,))
    again = Journal(tmp_path, ASKED, 3, resumed=first)
    again.ended(Ended("b v3.9", "c0ffee", "FAIL", "PUD entry"))
    again.close(whole=False)
    assert again.path == first.path and [one.name for one in latest(tmp_path).ended] == ["a v3.9", "b v3.9"]


def test_what_a_killed_bench_had_written_is_there(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from bench.journal import Ended, Journal\n"
        "journal = Journal(Path(sys.argv[1]), {}, 9)\n"
        "for n in range(5): journal.ended(Ended(f'm{n}', '', 'PASS', ''))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[1], check=False)
    assert killed.returncode == -9 and [one.name for one in latest(tmp_path).ended] == [f"m{n}" for n in range(5)]


def test_a_last_line_that_was_cut_is_an_order_that_has_not_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ASKED, 3)
    journal.ended(ENDED)
    journal.close(whole=False)
    whole = journal.path.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        journal.path.write_bytes(whole[:length])
        assert latest(tmp_path).ended == ()


@pytest.mark.parametrize(
    "text",
    ["", "{}\n", "[]\n", "x\n", '{"schema": 2}\n', '{"schema": 1, "started": "", "asked": {}, "total": 1}\n{}\n'],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "1.jsonl").write_text(text)
    with pytest.raises(FormatError, match=r"1\.jsonl.*remove it"):
        latest(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("")
    with pytest.raises(UsageError, match="journal"):
        Journal(tmp_path, json.loads("{}"), 1)
