"""Payload and kernel by each way of starting them once: the verdict of a direct boot, and no secret anywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.hosts import keys_folder
from bench.scenarios import load_scenarios
from tests.hosts.flashing import ROOT, WAYS

ALL = (*WAYS, ("host-bios-grub", "kexec"))

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(1500)]
KERNEL = "linux-6.1-trace"


def bench(*words: str, code: int = 0) -> Any:
    """`bench` in a process of its own; what it says with --json."""
    command = [sys.executable, "-m", "bench", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-2000:] + done.stdout[-2000:]
    return json.loads(done.stdout)


def told(answer: Any) -> list[tuple[object, ...]]:
    """What each scenario came to, without times and paths."""
    return [
        (row["scenario"], row["verdict"], row["predicted"], row["resets"], row["digests"])
        for row in answer["runs"]
        if row["verdict"] != "SKIP"
    ]


def direct(tmp_path: Path, name: str) -> Path:
    """A lab whose machine is the same but for its disk: QEMU itself loads what is run."""
    text = (ROOT / "inventory" / "virtual" / f"{name}.toml").read_text()
    lab = tmp_path / "lab"
    (lab / "inventory" / "virtual").mkdir(parents=True)
    (lab / "firmware-images").symlink_to(ROOT / "firmware-images")
    (lab / "inventory" / "quirks.toml").write_text((ROOT / "inventory" / "quirks.toml").read_text())
    alone = re.sub(r"(?ms)^\[virtual\.host\].*", "", text)
    (lab / "inventory" / "virtual" / "alone.toml").write_text(alone.replace(f'name = "{name}"', 'name = "alone"'))
    return lab


@contextmanager
def processes_read() -> Iterator[list[str]]:
    """Command lines of all processes that run meanwhile."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_text(errors="replace"))
                except OSError:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    found: list[str] = []
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found += seen


def without_updates(method: str) -> list[str]:
    """kexec refuses a script that offers updates: nothing is reset, and its processor is not what a boot would find."""
    if method != "kexec":
        return []
    known = load_scenarios(ROOT / "firmware-images" / "scenarios").values()
    chosen = [s.name for s in known if s.set == "hil" and "v3.9" in s.variants and not s.name.startswith("update")]
    return [word for name in chosen for word in ("--scenario", name)]


@pytest.mark.parametrize(("name", "method"), ALL, ids=[f"{name}-{method}" for name, method in ALL])
def test_the_payload_gives_the_verdict_of_a_direct_boot(name: str, method: str, tmp_path: Path) -> None:
    what = ("--image", "payload", "--variant", "v3.9", *without_updates(method))
    expected = told(bench("run", "--lab", str(direct(tmp_path, name)), "--machine", "alone", *what,
                          "--results", str(tmp_path / "direct")))  # fmt: skip
    results = tmp_path / "flashed"
    with processes_read() as processes:
        answer = bench("run", "--machine", name, "--method", method, *what, "--results", str(results))
    assert len(expected) > 5 and told(answer) == expected
    (events,) = (results / "captures").glob("*/*/boot-1/events.jsonl")
    steps = [json.loads(line) for line in events.read_text().splitlines()]
    last = "kexec" if method == "kexec" else "one-shot set"
    assert last in [step["witness"].get("step") for step in steps]
    assert steps[-1]["kind"] == "restored"
    assert method == "kexec" or steps[-1]["witness"]["one-shot"] == "consumed"
    secret = secret_of(keys_folder() / "user")
    assert len(processes) > 3 and not [line for line in processes if secret in line]
    assert not [path for path in results.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def secret_of(key: Path) -> str:
    """A line out of the middle of a private key."""
    lines = key.read_text().splitlines()
    return lines[len(lines) // 2]


@pytest.mark.kernels
@pytest.mark.parametrize(("name", "method"), ALL, ids=[f"{name}-{method}" for name, method in ALL])
def test_the_kernel_gives_the_verdict_of_a_direct_boot(name: str, method: str, tmp_path: Path) -> None:
    """Firmware and kexec leave other memory maps than QEMU does: the faults are others, and all equal the model's."""
    answer = bench("run", "--machine", name, "--method", method, "--image", KERNEL, "--boot", "plain",
                   "--results", str(tmp_path))  # fmt: skip
    rows = told(answer)
    assert [(row[0], row[1]) for row in rows] == [("plain", "PASS")] and int(str(rows[0][2])) > 2


def test_a_machine_is_looked_at_and_proved_and_cleaned(tmp_path: Path) -> None:
    where = ("--results", str(tmp_path))
    assert bench("flash", "prove", "host-uefi-grub", "--method", "bootnext", *where)[0]["state"] == "proved"
    rows = {row["method"]: row for row in bench("flash", "plan", "host-uefi-grub", *where)}
    assert rows["bootnext"]["state"] == "proved" and set(rows) == {"grub", "bootnext"}
    assert bench("flash", "prune", "host-uefi-grub", *where) == []


def test_a_method_that_the_machine_does_not_have_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "--machine", "host-bios-grub", "--method", "bootnext"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "not loaded by 'bootnext'; its boot_methods are: grub, kexec" in done.stderr
