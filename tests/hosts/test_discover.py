"""`bench inventory discover` on virtual machines with disks: what it writes is an entry that the bench runs by.

To the bench they are machines of metal: a switch that is a command, two serial cables, SSH.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.hosts import with_files
from bench.inventory import load_inventory
from bench.lab.ssh import Ssh, SshAccess, SshError
from bench.lab.virtual import firmware_files, machine_options
from bench.records import HostFiles, Machine
from tests.rack import servers

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 150.0
MAC = "52:54:00:be:c4:77"
SWITCH = """
[power]
backend = "command"
cuts = "ac"
on = ["{switch}", "on"]
off = ["{switch}", "off"]
status = ["{switch}", "status"]
after_power_loss = "on"
minimum_off_s = 0.1
settle_s = 60
"""


@dataclass
class Box:
    """A machine that is on, and the lab that is to have it."""

    machine: Machine
    access: SshAccess
    cables: tuple[Path, Path]
    """The controller's ends: of ttyS0, of ttyS1."""
    switch: Path
    lab: Path

    @property
    def file(self) -> Path:
        return self.lab / "inventory" / "machines" / "box.toml"

    def bench(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "BENCH_ROOT": str(self.lab), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "bench", *words], env=environment, capture_output=True, text=True, check=False
        )

    def discover(self, *words: str, host_key: str = "") -> subprocess.CompletedProcess[str]:
        way = ("--port", str(self.access.port), "--key-file", self.access.key_file)
        key = ("--host-key", host_key or self.access.host_key)
        return self.bench("inventory", "discover", self.access.host, *way, *key, *words)


def _ready(access: SshAccess) -> bool:
    try:
        Ssh(access, timeout_s=10).close()
    except SshError:
        return False
    return True


@contextmanager
def box(name: str, folder: Path) -> Iterator[Box]:
    machine = with_files(load_inventory(ROOT)[name], ROOT)
    spec = machine.virtual
    assert spec is not None and spec.host is not None and spec.host.files is not None
    with servers.cable(folder / "first") as first, servers.cable(folder / "second") as second:
        port = servers.free_port()
        rig = _rig(machine, spec.host.files, folder / "m", (first[0], second[0]), port)
        lab = folder / "lab"
        (lab / "inventory" / "machines").mkdir(parents=True)
        (lab / "firmware-images").symlink_to(ROOT / "firmware-images")
        shutil.copyfile(ROOT / "inventory" / "quirks.toml", lab / "inventory" / "quirks.toml")
        access = SshAccess("127.0.0.1", "root", spec.host.files.host_key, port, str(spec.host.files.key_file))
        one = Box(machine, access, (first[1].resolve(), second[1].resolve()), rig.switch(), lab)
        try:
            subprocess.run([one.switch, "on"], check=True)
            servers.wait_for(lambda: _ready(access), f"{name} answers SSH", PATIENCE_S)
            yield one
        finally:
            rig.kill()


def _rig(machine: Machine, files: HostFiles, folder: Path, ends: tuple[Path, Path], port: int) -> servers.Machine:
    """QEMU with a disk of its own, started by a program."""
    folder.mkdir()
    assert files.disk is not None and machine.virtual is not None
    subprocess.run(["cp", "--sparse=always", files.disk, folder / "disk"], check=True)
    words = machine_options(machine)
    for number, end in enumerate(ends):
        words += ["-chardev", f"serial,id=s{number},path={end}", "-serial", f"chardev:s{number}"]
    words += ["-drive", "if=none,id=disk,format=raw,file=disk", "-device", "virtio-blk-pci,drive=disk,bootindex=1"]
    if machine.virtual.firmware == "uefi":
        code, variables = firmware_files()
        shutil.copyfile(variables, folder / "variables")
        words += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
        words += ["-drive", "if=pflash,unit=1,format=raw,file=variables"]
    words += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"]
    words += ["-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile=", "-device", "virtio-rng-pci"]
    start, pid_file = folder / "start", folder / "pid"
    quoted = " ".join(f"'{word}'" for word in words)
    start.write_text(f"#!/bin/sh\ncd {folder}\necho $$ >{pid_file}.new && mv {pid_file}.new {pid_file}\n"
                     f"exec {quoted} 2>>qemu.stderr\n")  # fmt: skip
    start.chmod(0o755)
    return servers.Machine(folder, start, pid_file)


METHODS = {
    "host-bios-grub": ["grub", "kexec"],
    "host-uefi-grub": ["grub", "bootnext", "kexec"],
    "host-systemd-boot": ["systemd-boot", "bootnext", "kexec"],
}


@pytest.mark.parametrize("name", METHODS)
def test_the_entry_says_what_the_machine_is(name: str, tmp_path: Path) -> None:
    with box(name, tmp_path) as one:
        done = one.discover("--name", "box", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        entry: dict[str, Any] = tomllib.loads(told["entry"])
        machine = one.machine
        assert machine.virtual is not None
        wanted = {
            "name": "box",
            "signature": machine.model,
            # QEMU's register, which reads 0 whatever the inventory calls the machine.
            "platform_id": 0,
            "maxphyaddr": machine.maxphyaddr,
            "nx": machine.nx,
            "la57": machine.la57,
            "memory": f"{machine.memory_bytes >> 30} GiB",
            "mac": MAC,
            "firmware": machine.virtual.firmware,
            "boot_methods": METHODS[name],
        }
        assert {key: entry.get(key) for key in wanted} == wanted
        assert told["processor"]["source"] == "CPUID" and told["processor"]["platform_source"] == "MSR 0x17"
        assert sum(stop - start for start, stop in told["ram"]) <= machine.memory_bytes
        assert [port["name"] for port in told["ports"]] == ["ttyS0", "ttyS1"]
        assert "serial" not in entry and "power" not in entry


def test_the_port_that_a_cable_is_in_is_found_and_the_entry_runs(tmp_path: Path) -> None:
    with box("host-bios-grub", tmp_path) as one:
        first, second = one.cables
        probe = ("--probe-serial", "--serial-url", str(second), "--serial-url", str(first))
        done = one.discover("--output", str(one.file), *probe)
        assert done.returncode == 0, done.stderr
        text = one.file.read_text()
        assert f"ttyS0: heard on {first}" in text and f"ttyS1: heard on {second}" in text
        assert tomllib.loads(text)["serial"]["url"] == str(first)
        again = one.discover("--output", str(one.file))
        assert again.returncode == 2 and "exists already" in again.stderr

        one.file.write_text(text + SWITCH.format(switch=one.switch))
        checked = one.bench("inventory", "check", "--json")
        assert checked.returncode == 0 and json.loads(checked.stdout) == {"machines": ["box"], "problems": []}
        begun = time.monotonic()
        ran = one.bench("run", "--machine", "box", "--scenario", "repeated", "--variant", "seed-2012", "--json")
        print(f"bench run by the discovered entry: {time.monotonic() - begun:.1f} s", ran.stdout, ran.stderr)
        assert ran.returncode == 0
        assert json.loads(ran.stdout)["verdict"] == "PASS"


def test_another_host_key_ends_it_before_anything_is_asked(tmp_path: Path) -> None:
    with box("host-bios-grub", tmp_path) as one, servers.ssh_host(tmp_path / "stranger") as stranger:
        done = one.discover("--output", str(one.file), host_key=stranger.host_key)
        assert done.returncode == 3 and "another host key" in done.stderr and not one.file.exists()
