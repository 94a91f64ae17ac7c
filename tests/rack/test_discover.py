"""`bench inventory discover` against a real sshd: this computer as the machine, and machines that answer nonsense."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.hardware import SshAccess
from bench.lab.discover_serial import Ears, probe
from bench.lab.ssh import Ssh
from bench.x86 import signature as signatures
from tests.rack import servers
from tests.rack.servers import SshHost

pytestmark = [pytest.mark.rack, pytest.mark.slow]

REPO = Path(__file__).parents[2]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SshHost]:
    with servers.ssh_host(tmp_path / "ssh") as one:
        yield one


def discover(host: SshHost, *words: str, key: str = "") -> subprocess.CompletedProcess[str]:
    way = ["127.0.0.1", "--port", str(host.port), "--user", host.user, "--key-file", host.key_file]
    pin = ["--host-key", key or host.host_key] if key != "none" else []
    command = [sys.executable, "-m", "bench", "inventory", "discover", *way, *pin, *words]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=False
    )


def test_this_computer_is_what_its_kernel_says(host: SshHost) -> None:
    done = discover(host, "--name", "this", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    info = dict(
        map(str.strip, line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        if ":" in line
    )
    processor = told["processor"]
    numbers = [int(info[key]) for key in ("cpu family", "model", "stepping")]
    assert list(signatures.processor(processor["signature"])) == numbers
    assert processor["vendor"] == info["vendor_id"] and processor["count"] == os.cpu_count()
    assert processor["nx"] == ("nx" in info["flags"].split())
    assert tomllib.loads(told["entry"])["ssh"]["host_key"] == host.host_key
    names = {card["name"]: card["mac"] for card in told["cards"]}
    assert all((Path("/sys/class/net") / name / "address").read_text().strip() == mac for name, mac in names.items())
    assert told["loader"] and platform.machine() == "x86_64"


def test_without_a_pinned_key_the_shown_one_is_told_and_nobody_logs_in(host: SshHost) -> None:
    done = discover(host, key="none")
    assert done.returncode == 2 and f"--host-key '{host.host_key}'" in done.stderr
    listed = subprocess.run(
        [servers.program("ssh-keygen"), "-lf", host.folder / "host.pub"], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split()[1] in done.stderr
    assert f"user {host.user}" not in host.log and "Accepted" not in host.log


def test_another_key_is_not_talked_to(host: SshHost) -> None:
    stranger = " ".join((host.folder / "stranger.pub").read_text().split()[:2])
    done = discover(host, key=stranger)
    assert done.returncode == 3 and host.host_key in done.stderr and "Accepted" not in host.log


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("echo 'Microsoft Windows [Version 10.0]'", "Microsoft Windows [Version 10.0]"),
        ("printf '@end\\n'", "does not answer as Linux"),
        ("sh -c \"$SSH_ORIGINAL_COMMAND\" | grep -v '^@connection'", "no answer to 'connection'"),
        ("sh -c \"$SSH_ORIGINAL_COMMAND\" | sed 's/^@processors/&\\nmany\\x1b[2J/'", "invalid literal"),
    ],
)
def test_what_answers_otherwise_is_the_labs_trouble(answer: str, said: str, tmp_path: Path) -> None:
    script = tmp_path / "answer"
    script.write_text(f"#!/bin/sh\n{answer}\n")
    script.chmod(0o755)
    with servers.ssh_host(tmp_path / "ssh", forced=str(script)) as host:
        done = discover(host, "--name", "box")
    assert done.returncode == 3 and said in done.stderr and "Traceback" not in done.stderr and "\033" not in done.stderr


def test_a_probe_finds_the_cable_and_leaves_the_ports_settings(host: SshHost, tmp_path: Path) -> None:
    with servers.cable(tmp_path / "a") as wired, servers.cable(tmp_path / "b") as other:
        machine_end = wired[0].resolve()
        url, silent = str(wired[1].resolve()), str(other[1].resolve())
        settings = ["stty", "-F", str(machine_end)]
        subprocess.run([*settings, "9600", "echo", "icanon"], check=True)
        before = subprocess.run([*settings, "-g"], capture_output=True, check=True).stdout
        access = SshAccess("127.0.0.1", host.user, host.host_key, host.port, host.key_file)
        with Ssh(access) as ssh, Ears([silent, url], baud=115200) as ears:
            name = str(machine_end.relative_to("/dev"))
            heard = probe(ssh, [name, "ttyABSENT"], ears, baud=115200, wait_s=10)
        assert subprocess.run([*settings, "-g"], capture_output=True, check=True).stdout == before
    assert heard[0].urls == (url,) and not heard[0].trouble
    assert heard[1].urls == () and "ttyABSENT" in heard[1].trouble
