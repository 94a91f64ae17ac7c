"""The rescue system on machines without a disk: booted over the network, logged into, asked, and off again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.hardware import PxeLoader
from bench.images.rescue import build_rescue
from bench.lab.capture import CaptureWriter
from bench.lab.net.server import BootServer
from bench.lab.power.choose import power_of
from bench.rescue.session import Rescued, rescued
from tests.net.boots import boot_network, steps
from tests.net.machines import REPO, Box, box

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(900)]

WAYS = [
    pytest.param(PxeLoader.IPXE, "bios", id="bios-ipxe"),
    pytest.param(PxeLoader.IPXE, "uefi", id="uefi-ipxe"),
]


@contextmanager
def rescue(one: Box, server: BootServer, folder: Path, told: list[str] | None = None) -> Iterator[Rescued]:
    info = {"machine": one.entry.name, "image": "rescue"}
    with (
        CaptureWriter(folder, url=one.entry.serial_url, info=info) as capture,
        rescued(
            one.entry,
            build_rescue(REPO),
            power_of(one.entry),
            capture,
            server=server,
            told=(told if told is not None else []).append,
        ) as there,
    ):
        yield there


@pytest.mark.parametrize(("loader", "firmware"), WAYS)
def test_a_machine_without_a_disk_answers_ssh(tmp_path: Path, loader: PxeLoader, firmware: str) -> None:
    told: list[str] = []
    with (
        boot_network(1) as (wire, server),
        box(tmp_path / "box", wire, 0, loader, firmware=firmware, rom=firmware == "bios", own_disk=False) as one,
    ):
        with rescue(one, server, tmp_path / "capture", told) as there:
            done = there.ssh.run("hostname; cat /proc/cmdline", timeout_s=60)
            assert done.output.decode().split()[0] == one.entry.name
            assert there.heard, "the serial line is this machine's"
            print(told)
        assert one.machine.pid is None, "it is off"
    assert steps(tmp_path / "capture")[-2:] == ["spent", "rescue system"]
