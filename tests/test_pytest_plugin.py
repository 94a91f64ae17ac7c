"""The plugin as its users meet it: sessions of their own, with suites written for the purpose."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest

ROOT = Path(__file__).resolve().parent.parent


def session(folder: Path, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """`pytest` in `folder`, with the plugin and nothing of this project's own configuration."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(ROOT)]))
    if path is not None:
        environment["PATH"] = path
    command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "bench.pytest_plugin", "--strict-markers", "-rA"]
    command += ["-p", "no:cacheprovider", "--rootdir", str(folder), "-c", os.devnull, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def suite(folder: Path, text: str) -> Path:
    (folder / "test_it.py").write_text("import pytest\nfrom bench.errors import *\n" + text)
    return folder


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """The last line's counts: ``{"passed": 2, "errors": 1}``."""
    last = done.stdout.strip().splitlines()[-1]
    return {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", last)}


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A clone with an inventory of its own: what others hold in this one does not matter."""
    root = tmp_path / "clone"
    for name in ("inventory", "firmware-images/payloads", "firmware-images/scenarios"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.mark.plugin
def test_without_a_lab_tests_are_skipped_with_the_reason(tmp_path: Path) -> None:
    done = session(suite(tmp_path, "def test_a(machine): pass\ndef test_b(): pass\n"))
    assert outcomes(done) == {"passed": 1, "skipped": 1}
    assert "no lab was named: --bench-lab virtual" in done.stdout


@pytest.mark.plugin
def test_a_machine_fits_its_marks_or_the_test_is_skipped(tmp_path: Path, lab: Path) -> None:
    text = """
@pytest.mark.hil(model="06-3c-03")
def test_model(machine): assert machine.name == "haswell"
@pytest.mark.hil(needs=["no-nx"])
def test_needs(machine): assert not machine.nx
@pytest.mark.hil(needs=["la57"])
def test_la57(machine): assert machine.la57
@pytest.mark.hil(needs=["silicon"])
def test_silicon(machine): raise AssertionError
@pytest.mark.hil(model="06-3c-03", needs=["no-nx"])
def test_both(machine): raise AssertionError
"""
    done = session(suite(tmp_path, text), "--bench-lab", str(lab))
    assert outcomes(done) == {"passed": 3, "skipped": 2}
    assert "no machine of the lab fits: silicon" in done.stdout
    assert "no machine of the lab fits: model 06-3c-03, no-nx" in done.stdout


@pytest.mark.plugin
def test_options_choose_machine_and_model(tmp_path: Path, lab: Path) -> None:
    folder = suite(tmp_path, "def test_a(machine): assert machine.name in ('penryn', 'conroe')\n")
    assert outcomes(session(folder, "--bench-lab", str(lab), "--bench-machine", "penryn")) == {"passed": 1}
    assert outcomes(session(folder, "--bench-lab", str(lab), "--bench-model", "06-0f-0b")) == {"passed": 1}
    done = session(folder, "--bench-lab", str(lab), "--bench-machine", "nosuch")
    assert outcomes(done) == {"error": 1} and "--bench-machine nosuch: the lab has" in done.stdout


@pytest.mark.slow
def test_trouble_of_the_lab_is_an_error_and_a_wrong_kernel_a_failure(tmp_path: Path) -> None:
    text = """
def test_lab(): raise LabError("the port closed", component="port")
def test_boot(): raise BootError("no byte in 30 s")
def test_kernel(): assert "PUD entry" == "the model's"
@pytest.fixture
def broken(): raise LabError("the outlet does not answer", component="power")
def test_power(broken): pass
def test_good(): pass
"""
    done = session(suite(tmp_path, text), "--junit-xml", "out.xml")
    assert outcomes(done) == {"passed": 1, "failed": 1, "error": 3}
    assert "lab: the port closed" in done.stdout
    cases = {c.get("name"): [e.tag for e in c] for c in xml.parse(tmp_path / "out.xml").iter("testcase")}
    assert (cases["test_lab"], cases["test_boot"], cases["test_kernel"]) == (["error"], ["error"], ["failure"])


@pytest.mark.plugin
def test_a_lab_without_qemu_gives_errors_that_say_so(tmp_path: Path, lab: Path) -> None:
    compiler = tmp_path / "bin"
    compiler.mkdir()
    for name in ("gcc", "cc1", "as", "ld", "objcopy"):
        if found := shutil.which(name):
            (compiler / name).symlink_to(found)
    folder = suite(tmp_path, "def test_a(boot): boot('repeated')\n")
    done = session(folder, "--bench-lab", str(lab), "--bench-machine", "haswell", path=str(compiler))
    assert outcomes(done) == {"error": 1}, done.stdout
    assert "qemu-system-x86_64" in done.stdout


HOLDERS = """
import os, time
from pathlib import Path
@pytest.mark.parametrize("n", range(6))
def test_alone(machine, n):
    mark = Path(os.environ["MARKS"]) / machine.name
    mark.mkdir()  # Fails if somebody else has the machine.
    time.sleep(0.15)
    mark.rmdir()
"""


@pytest.mark.plugin
def test_workers_and_sessions_never_hold_one_machine_together(
    tmp_path: Path, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setenv("MARKS", str(marks))
    folder = suite(tmp_path, HOLDERS)
    words = ["--bench-lab", str(lab), "--bench-machine", "haswell", "--bench-machine", "penryn", "-n", "3"]
    command = [sys.executable, "-m", "pytest", "-p", "bench.pytest_plugin", "-q", "-c", os.devnull, *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])}
    other = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    done = session(folder, *words)
    output, _ = other.communicate(timeout=120)
    assert outcomes(done) == {"passed": 6}, done.stdout
    assert "6 passed" in output
    assert list(marks.iterdir()) == []


@pytest.mark.plugin
def test_a_machine_that_stays_held_is_an_error_that_names_the_holder(tmp_path: Path, lab: Path) -> None:
    from bench.inventory import load_inventory
    from bench.lab.hold import hold_one

    folder = suite(tmp_path, "def test_a(machine): pass\n")
    words = ["--bench-lab", str(lab), "--bench-machine", "haswell", "--bench-wait", "0.2"]
    with hold_one([load_inventory(lab)["haswell"]], lab / "results" / "locks", wait_s=1):
        done = session(folder, *words)
    assert outcomes(done) == {"error": 1}
    assert f"haswell: process {os.getpid()} since" in done.stdout
    assert outcomes(session(folder, *words)) == {"passed": 1}


@pytest.mark.slow
def test_a_killed_holder_leaves_no_orphan(lab: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from bench.inventory import load_inventory
from bench.lab.hold import hold_one
lab = Path(sys.argv[1])
with hold_one([load_inventory(lab)["haswell"]], lab / "locks", wait_s=1):
    os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(lab)], cwd=ROOT, timeout=60)
    assert killed.returncode == -9
    from bench.inventory import load_inventory
    from bench.lab.hold import hold_one

    with hold_one([load_inventory(lab)["haswell"]], lab / "locks", wait_s=0) as machine:
        assert machine.name == "haswell"


@pytest.mark.lab
def test_the_example_suite_passes_on_virtual_machines(lab: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "hardware", tmp_path / "hardware")
    done = session(tmp_path, "hardware", "--bench-lab", str(lab), "-n", "2")
    assert outcomes(done) == {"passed": 6}, done.stdout


@pytest.mark.lab
def test_a_bug_on_a_machine_is_a_failure_with_its_story(lab: Path, tmp_path: Path) -> None:
    folder = suite(tmp_path, "def test_a(boot): assert boot('ping-pong', bug=19).verdict == 'PASS'\n")
    done = session(folder, "--bench-lab", str(lab), "--bench-machine", "haswell")
    assert outcomes(done) == {"failed": 1}
    assert "bench explain early-pf/v3.9" in done.stdout and "PMD entry is" in done.stdout
