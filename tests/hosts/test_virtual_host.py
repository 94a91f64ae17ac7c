"""Virtual machines with a disk, switched, heard and asked as one of metal is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import LabError
from bench.hosts import with_files
from bench.inventory import load_inventory
from bench.lab.capture import CaptureWriter
from bench.lab.power import PowerState
from bench.lab.ssh import Ssh
from bench.lab.virtual_host import Plugged, plugged
from bench.records import Machine

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
MACHINES = load_inventory(ROOT)
# Those that start their disk first; one that asks the network first is in tests/net/.
_DISKS = ((name, m.virtual.host) for name, m in MACHINES.items() if m.virtual is not None)
_FROM_NETWORK = {name: "pxe" in host.boot_methods for name, host in _DISKS if host is not None}
HOSTS = [name for name, network in _FROM_NETWORK.items() if not network]
PATIENCE_S = 120.0


def of_disk(kind: str) -> Machine:
    """`host-bios-grub` with another disk for the same firmware."""
    machine = MACHINES["host-bios-grub"]
    spec = machine.virtual
    assert spec is not None and spec.host is not None
    return replace(machine, virtual=replace(spec, host=replace(spec.host, disk=kind)))


@contextmanager
def heard(machine: Machine, folder: Path) -> Iterator[tuple[Plugged, CaptureWriter]]:
    """The machine in its rack, off, with an open capture."""
    with (
        plugged(with_files(machine, ROOT), folder) as there,
        CaptureWriter(folder / "capture", url=there.machine.serial_url, info={"machine": machine.name}) as capture,
    ):
        yield there, capture


def ssh_of(there: Plugged, patience_s: float = PATIENCE_S) -> Ssh:
    """Its known-good system, when it answers."""
    assert there.machine.wiring.ssh is not None
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return Ssh(there.machine.wiring.ssh, timeout_s=10)
        except LabError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def said(there: Plugged, command: str) -> str:
    with ssh_of(there) as ssh:
        done = ssh.run(command, timeout_s=30)
    assert done.status == 0, done.complaints
    return done.output.decode().strip()


@pytest.mark.parametrize("name", HOSTS)
def test_it_answers_ssh_switches_itself_off_and_comes_back_by_its_switch(name: str, tmp_path: Path) -> None:
    with heard(MACHINES[name], tmp_path) as (there, capture):
        assert there.power.state() is PowerState.OFF
        there.power.on()
        first = said(there, "cat /proc/sys/kernel/random/boot_id")
        assert said(there, "grep -c ' /boot' /proc/mounts") >= "1"
        said(there, "echo kept >/boot/note; poweroff")
        while there.power.state() is PowerState.ON:
            time.sleep(0.05)
        there.power.on()
        second = said(there, "cat /proc/sys/kernel/random/boot_id")
        assert first != second and said(there, "cat /boot/note") == "kept"
        there.power.off()
        assert there.power.state() is PowerState.OFF
        text = capture.read(0, capture.size).decode("ascii", "replace")
    assert [boot in text for boot in (first, second)] == [True, True], "one serial line for both power cycles"


@pytest.mark.parametrize("kind", ["bios-grub", "bios-grub-blind", "bios-grub-lvm", "bios-grub-raid"])
def test_a_one_shot_is_consumed_where_grub_can_write(kind: str, tmp_path: Path) -> None:
    entry = "menuentry once --id once { linux /vmlinuz console=ttyS0,115200 panic=10 once; initrd /initrd; }"
    with heard(of_disk(kind), tmp_path) as (there, _):
        there.power.on()
        said(there, f"echo '{entry}' >/boot/grub/custom.cfg; grub-editenv /boot/grub/grubenv set next_entry=once; sync")
        boots = []
        for _ in range(2):
            said(there, "poweroff")
            while there.power.state() is PowerState.ON:
                time.sleep(0.05)
            there.power.on()
            boots.append("once" in said(there, "cat /proc/cmdline"))
    assert boots == ([True, False] if kind == "bios-grub" else [True, True])


def test_what_was_not_synced_is_lost_with_the_power_and_the_system_comes_back(tmp_path: Path) -> None:
    with heard(MACHINES["host-bios-grub"], tmp_path) as (there, _):
        there.power.on()
        said(there, "sha256sum /boot/vmlinuz")
        with ssh_of(there) as ssh:
            ssh.run("dd if=/dev/zero of=/boot/half bs=64k count=400 2>/dev/null", timeout_s=60)
        there.power.off()
        there.power.on()
        assert said(there, "cat /proc/cmdline").startswith("BOOT_IMAGE=/vmlinuz")


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name, network in _FROM_NETWORK.items() if network])
def test_where_nobody_offers_a_boot_the_disk_starts(name: str, tmp_path: Path) -> None:
    """UEFI firmware asks over IPv4, IPv6 and HTTP first: OVMF takes four minutes."""
    with heard(MACHINES[name], tmp_path) as (there, _):
        there.power.on()
        with ssh_of(there, patience_s=600) as ssh:
            assert ssh.run("cat /proc/cmdline", timeout_s=30).output.startswith(b"BOOT_IMAGE=/vmlinuz")
