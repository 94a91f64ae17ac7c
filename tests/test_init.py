"""init, run as an ordinary program in a folder of its own: it does what /bench/steps says, in order."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.images import build_init

ROOT = Path(__file__).parents[1]
# A user namespace in which we are root, so that the folder can be the root and nothing outside of it is touched.
# Not on the path of every user.
CHROOT = shutil.which("chroot", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "chroot"
ALONE = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", CHROOT)


def run(folder: Path, *steps: str, **files: str) -> list[str]:
    """init's words up to its last one. Input and output are pipes: there is no console."""
    root = folder / "root"
    (root / "bench").mkdir(parents=True)
    (root / "bench" / "steps").write_text("".join(f"{step}\n" for step in steps))
    for name, text in files.items():
        (root / name).write_text(text)
    shutil.copy(build_init(ROOT), root / "init")
    with subprocess.Popen([*ALONE, str(root), "/init"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = []
        for line in process.stdout:
            lines.append(line.decode().rstrip("\n"))
            if lines[-1] == "bench-init: done":
                break
        process.kill()
        complaint = process.stderr.read().decode()
    if not lines:
        pytest.skip(f"no user namespaces here: {complaint.strip()}")
    return lines


def test_steps_are_carried_out_in_order(tmp_path: Path) -> None:
    said = run(
        tmp_path, "say one  and two", "show /text", "put /text other", "show /text", "say", "move /text /moved",
        "show /moved", text="first\nlines\n",
    )  # fmt: skip
    assert said == [
        "bench-init: here", "one  and two", "first", "lines", "other", "lines", "", "other", "lines",
        "bench-init: done",
    ]  # fmt: skip


def test_what_does_not_work_is_said_twice_and_the_next_step_is_done(tmp_path: Path) -> None:
    said = run(tmp_path, "show /absent", "dance and sing", "put /absent/file x", "say on")
    assert said[1:] == [
        *["bench-init: failed 2: show /absent"] * 2,
        *["bench-init: failed 22: dance and sing"] * 2,
        *["bench-init: failed 2: put /absent/file x"] * 2,
        "on", "bench-init: done",
    ]  # fmt: skip


def test_cpuinfo_is_shown_behind_a_mark_of_its_own(tmp_path: Path) -> None:
    said = run(tmp_path, "cpuinfo")
    assert [line for line in said if line.startswith("bench-init: cpuinfo: processor\t: 0")]


def test_without_steps_nothing_is_done(tmp_path: Path) -> None:
    assert run(tmp_path) == ["bench-init: here", "bench-init: done"]


@pytest.mark.slow
def test_equal_sources_are_built_once(tmp_path: Path) -> None:
    first = build_init(ROOT, cache=tmp_path)
    assert build_init(ROOT, cache=tmp_path) == first and len(list(tmp_path.iterdir())) == 1
