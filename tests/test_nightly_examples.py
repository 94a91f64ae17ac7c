"""The examples in inventory/nightly/: valid for whom they are for, and what they run is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
NIGHTLY = ROOT / "inventory" / "nightly"
# What a runner does beside the bench's own commands: the forge's, and the README's installation.
SETUP = "./setup --yes --no-system"


def commands(name: str) -> list[str]:
    """What a runner executes of an example, in order."""
    document: dict[str, Any] = YAML(typ="safe").load(NIGHTLY / name)
    if name.startswith("github"):
        steps = [step["run"] for job in document["jobs"].values() for step in job["steps"] if "run" in step]
    else:
        job = document["nightly"]
        steps = [*job["script"], *job["after_script"]]
    assert SETUP in steps
    return [step for step in steps if step != SETUP]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "schema"), [("github.yml", "github-workflows"), ("gitlab.yml", "gitlab-ci")])
def test_a_forges_example_is_valid_by_the_forges_schema(name: str, schema: str, tmp_path: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*check, NIGHTLY / name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / name
    broken.write_text((NIGHTLY / name).read_text().replace("runs-on:", "run-on:").replace("script:", "scripts: 1 #"))
    assert subprocess.run([*check, broken], capture_output=True, timeout=60).returncode == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_and_the_timer_are_valid_by_systemd(tmp_path: Path) -> None:
    program = tmp_path / ".venv" / "bin" / "bench"
    program.parent.mkdir(parents=True)
    program.symlink_to("/bin/true")
    for name in ("bench-nightly.service", "bench-nightly.timer"):
        text = (NIGHTLY / name).read_text().replace("/srv/bench", str(tmp_path)).replace("User=bench", "User=root")
        (tmp_path / name).write_text(text)
    verify = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "bench-nightly.timer")]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.lab
@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml", "bench-nightly.service"])
def test_what_an_example_runs_ends_well_on_a_lab_of_one_machine(name: str, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    for folder in ("firmware-images", "inventory/virtual", "inventory/nightly"):
        shutil.copytree(ROOT / folder, lab / folder)
    shutil.copy(ROOT / "inventory" / "quirks.toml", lab / "inventory")
    (lab / ".venv").symlink_to(sys.prefix)
    row = '[[run]]\nmachine = ["haswell"]\nvariant = "v3.9"\nscenario = ["ping-pong"]\n'
    (lab / "inventory" / "nightly" / "nightly.toml").write_text(row)
    summary = tmp_path / "summary.md"
    if name.endswith(".service"):
        lines = (NIGHTLY / name).read_text().splitlines()
        steps = [line.removeprefix("ExecStart=/srv/bench/") for line in lines if line.startswith("ExecStart=")]
    else:
        steps = commands(name)
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(summary), "PYTHONPATH": str(ROOT)}
    for step in steps:
        command = ["bash", "-ec", step]
        done = subprocess.run(command, cwd=lab, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{step}\n{done.stdout}\n{done.stderr}"
    assert (lab / "results" / "reports" / "index.html").is_file()
    if name.startswith("github"):
        assert "haswell" in summary.read_text() and "<testsuite" in (lab / "junit.xml").read_text()
    elif name.startswith("gitlab"):
        assert "haswell" in (lab / "summary.md").read_text() and "<testsuite" in (lab / "junit.xml").read_text()
