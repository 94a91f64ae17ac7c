"""A machine whose disk is first: its own system has firmware boot from the network once, by BootNext."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.hardware import Netboot, PxeLoader
from bench.hosts import with_files
from bench.lab.boot import Limits, boot
from bench.lab.capture import CaptureWriter
from bench.lab.flash import boot_options
from bench.lab.flash.reach import SYSTEM_S, reach
from bench.lab.flash.refused import MethodRefused
from bench.lab.net import bootnext
from bench.lab.net.bootnext import NextBoot
from bench.lab.virtual_host import POST_S
from bench.lab.virtual_rack import racked
from bench.records import Machine
from bench.run import judge_folders
from tests.hosts.flashing import MACHINES, ROOT, nothing
from tests.net.boots import payload_load

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(900)]
LIMITS = Limits(first_byte_s=180, silence_s=90, total_s=300)
WAIT_S = 600.0
LOADERS = [PxeLoader.UKI, PxeLoader.UKI_HTTP, PxeLoader.IPXE]


def machine_with(loader: PxeLoader = PxeLoader.UKI, **more: Any) -> Machine:
    machine = with_files(MACHINES["host-pxe-bootnext"], ROOT)
    spec = machine.virtual
    assert spec is not None and spec.host is not None
    return replace(machine, virtual=replace(spec, host=replace(spec.host, pxe_loader=loader, **more)))


@pytest.mark.parametrize("loader", LOADERS, ids=[loader.value for loader in LOADERS])
def test_an_image_is_booted_over_the_network_once_and_then_the_disk(loader: PxeLoader, tmp_path: Path) -> None:
    machine = machine_with(loader)
    load, meta = payload_load(machine)
    boot(machine, load, tmp_path / "boot", meta=meta, limits=LIMITS)
    assert judge_folders([tmp_path / "boot"]).verdict.value == "PASS"
    rows = [json.loads(row) for row in (tmp_path / "boot" / "events.jsonl").read_text().splitlines()]
    steps = [row["witness"]["step"] for row in rows if row["kind"] == "loading"]
    assert steps[:2] == ["known-good system answers", "one-shot set"]
    (loaded,) = [row["witness"] for row in rows if row["kind"] == "loaded"]
    assert loaded["selected by"] == "bootnext" and set(loaded["steps"].split()) <= set(steps)
    restored = rows[-1]["witness"]
    assert rows[-1]["kind"] == "restored" and restored["one-shot"] == "consumed"
    assert restored["default"] == "untouched" and restored["boot id"] != loaded["boot id before"]


def test_firmware_that_has_http_boot_first_boots_an_image_by_it_and_then_its_disk(tmp_path: Path) -> None:
    machine = machine_with(PxeLoader.UKI_HTTP, netboot=Netboot.ORDER)
    load, _ = payload_load(machine)
    with racked(machine, tmp_path / "rack") as (there, loader), line(there.machine, tmp_path) as heard:
        assert loader is not None
        notes: list[Mapping[str, str]] = []
        loader.load(there.machine, load, there.power, notes.append)
        there.power.on()
        heard.wait_for(b" done WN", timeout_s=LIMITS.total_s)
        there.power.off()
        assert {"offer", "kernel", "spent"} <= {note["step"] for note in notes}, notes
        loader.fall_back(there.machine)
        ssh, _ = reach(there.machine, there.power, wait_s=WAIT_S)
        with ssh:
            assert ssh.run("cat /proc/cmdline", timeout_s=30).output.startswith(b"BOOT_IMAGE=/vmlinuz")


@pytest.mark.faults
def test_a_boot_that_never_came_leaves_nothing_set(tmp_path: Path) -> None:
    """BootNext is set behind the bench's back and the machine does not restart: it is taken back."""
    with racked(machine_with(), tmp_path) as (there, _), line(there.machine, tmp_path):
        upcoming = NextBoot(there.machine, there.power, nothing, wait_s=POST_S["uefi"] + SYSTEM_S)
        number = upcoming._number
        ssh, _ = reach(there.machine, there.power, wait_s=POST_S["uefi"] + SYSTEM_S)
        with ssh:
            assert ssh.run(boot_options.arming(number).setting, timeout_s=30).status == 0
            assert boot_options.next_number(boot_options.ask_options(ssh)) == number
        told = upcoming.fall_back()
        assert told["one-shot"] == f"was still set: {boot_options.option_name(number)}"
        ssh, _ = reach(there.machine, there.power, wait_s=POST_S["uefi"] + SYSTEM_S)
        with ssh:
            assert boot_options.next_number(boot_options.ask_options(ssh)) is None


def test_a_card_that_firmware_does_not_start_from_is_refused_with_what_it_has(tmp_path: Path) -> None:
    with racked(machine_with(), tmp_path) as (there, _), line(there.machine, tmp_path):
        other = replace(there.machine, wiring=replace(there.machine.wiring, mac="52:54:00:00:00:99"))
        with pytest.raises(
            MethodRefused, match=r"no entry for PXE over IPv4 on the card 52:54:00:00:00:99; it has Boot"
        ):
            NextBoot(other, there.power, nothing, wait_s=POST_S["uefi"] + SYSTEM_S)
    assert bootnext.METHOD == "pxe by BootNext"


def line(machine: Machine, folder: Path) -> CaptureWriter:
    """Its serial line, so that nothing of what it says is waited for."""
    return CaptureWriter(folder / "capture", url=machine.serial_url, info={"machine": machine.name})
