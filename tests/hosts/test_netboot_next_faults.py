"""BootNext as what selects the network: machines that do not have it, and a controller that is killed on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.hardware import BootNetwork, Netboot, PxeLoader
from bench.lab.capture import CaptureWriter
from bench.lab.flash import boot_options
from bench.lab.flash.guard import read_default
from bench.lab.flash.proof import Proofs
from bench.lab.flash.reach import come_back, reach
from bench.lab.flash.refused import MethodRefused
from bench.lab.flash.system import read_system
from bench.lab.load import Loader
from bench.lab.net.bootnext import NextBoot
from bench.lab.net.loader import NetLoader
from bench.lab.net.place import Place
from bench.lab.net.segment import INTERFACE
from bench.lab.net.server import BootServer
from bench.lab.virtual_rack import ADDRESS
from bench.records import SECURE_BOOT_DISK, Machine
from tests.hosts.flashing import SENT, Host, by, host, image, killed_at, nothing
from tests.hosts.test_fall_through import on_a_network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ANSWERS, SET = "known-good system answers", "one-shot set"


def netbooted(machine: Machine) -> Machine:
    wiring = replace(machine.wiring, mac="52:54:00:77:00:01", netboot=Netboot.BOOTNEXT)
    return replace(machine, wiring=wiring)


def reasons(one: Host) -> list[str]:
    """Why BootNext cannot select the network on a machine; nothing is set there afterwards."""
    with pytest.raises(MethodRefused) as error:
        NextBoot(netbooted(one.machine), one.there.power, nothing, wait_s=one.wait_s)
    one.is_as_it_was()
    return list(error.value.reasons)


@pytest.mark.boot
def test_a_machine_with_bios_is_refused(tmp_path: Path) -> None:
    with host(by("host-bios-grub", "grub"), "grub", tmp_path, Proofs(tmp_path / "proofs")) as one:
        assert reasons(one) == ["the machine was not started by UEFI firmware"]


@pytest.mark.boot
def test_a_machine_with_secure_boot_is_refused(tmp_path: Path) -> None:
    machine = by("host-uefi-grub", "bootnext", disk=SECURE_BOOT_DISK)
    with host(machine, "bootnext", tmp_path, Proofs(tmp_path / "proofs")) as one:
        (reason,) = reasons(one)
        assert reason.startswith("Secure Boot is on: its firmware starts signed programs only")


@pytest.mark.boot
def test_a_system_that_cannot_set_or_delete_a_variable_is_refused(tmp_path: Path) -> None:
    with host(by("host-uefi-grub", "bootnext"), "bootnext", tmp_path, Proofs(tmp_path / "proofs")) as one:
        one.run("mount -o remount,ro /sys/firmware/efi/efivars; mv /usr/bin/chattr /usr/bin/chattr-")
        assert reasons(one) == [
            "UEFI variables cannot be written (efivarfs is not mounted read-write)",
            "no chattr on the machine: a variable could be set and not be deleted again",
        ]
        one.run("mount -o remount,rw /sys/firmware/efi/efivars; mv /usr/bin/chattr- /usr/bin/chattr")
        (reason,) = reasons(one)
        assert "no entry for PXE over IPv4 on the card 52:54:00:77:00:01; it has Boot" in reason
        assert reason.endswith("switch the network stack on in the firmware's setup, with this card in it")


def test_a_machine_without_a_way_in_is_refused() -> None:
    machine = netbooted(by("host-uefi-grub", "bootnext"))
    with pytest.raises(UsageError, match="ssh: missing"):
        NextBoot(machine, None, nothing, wait_s=1)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Place]]:
    """A machine for all who kill its controller: its disk is first, and nobody else serves its network."""
    folder = tmp_path_factory.mktemp("next")
    with on_a_network("uefi", Netboot.BOOTNEXT, folder / "rack") as (there, place):
        wiring = replace(there.machine.wiring, pxe_loader=PxeLoader.UKI)
        there = replace(there, machine=replace(there.machine, wiring=wiring))
        with CaptureWriter(folder / "capture", url=there.machine.serial_url, info={"machine": "next"}) as capture:
            found = Host(there, capture, "bootnext", Proofs(folder / "proofs"), {})
            ssh, _ = reach(found.machine, there.power, wait_s=found.wait_s)
            with ssh:
                found.default = read_default(ssh, read_system(ssh))
            yield found, place
            there.power.off()


def net_loader(place: Place, wait_s: float) -> Loader:
    return NetLoader(BootServer(BootNetwork(INTERFACE, ADDRESS), place), own_system_s=wait_s)


@pytest.mark.boot
def test_an_image_with_updates_is_refused_behind_a_system_that_loads_its_own(one: tuple[Host, Place]) -> None:
    """The restart would keep them. It is asked of a system that was started for it, from power-off."""
    there, steps = one[0], list[Mapping[str, str]]()
    there.run("true")
    with pytest.raises(MethodRefused, match="was started without dis_ucode_ldr"):
        NextBoot(there.machine, there.there.power, steps.append, wait_s=there.wait_s, updates=True)
    assert steps[0]["system"] == "was started"
    there.is_as_it_was()


@pytest.mark.faults
@pytest.mark.parametrize("step", [ANSWERS, SENT, SET])
def test_with_the_controller_killed_the_machine_carries_on_and_its_disk_s_system_comes_up(
    one: tuple[Host, Place], step: str, tmp_path: Path
) -> None:
    """Before the one command nothing is set; from then on the machine asks the network once, and nobody answers."""
    there, place = one
    before = there.run("cat /proc/sys/kernel/random/boot_id")
    make = partial(net_loader, place, there.wait_s)
    assert killed_at(there, step, image(tmp_path, "good"), tmp_path, make=make)[-1] == step
    if step == ANSWERS:
        assert there.run("cat /proc/sys/kernel/random/boot_id") == before, "nobody has touched it"
    else:
        with come_back(there.machine, there.there.power, before, wait_s=there.wait_s) as ssh:
            assert boot_options.next_number(boot_options.ask_options(ssh)) is None
    there.there.power.off()
    there.is_as_it_was()
