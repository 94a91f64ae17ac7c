"""A machine that starts its disk: its BMC has it boot an image over the network once, and then it starts its disk."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import LabError
from bench.hardware import Netboot, PxeLoader, RedfishSwitch, Secret, SshAccess
from bench.health import FALL_THROUGH, Check, Examination, Health, examine
from bench.lab import metal
from bench.lab.net import fall_through
from bench.lab.net.loader import NetLoader
from bench.lab.net.segment import Segment, segment
from bench.lab.net.selection import select
from bench.lab.power import PowerState
from bench.lab.power.choose import power_of
from bench.records import Machine as Entry
from bench.records import Verdict
from bench.store import Store
from tests.net import bmcs
from tests.net.boots import boot_network, boot_payload, events, payload_load, steps
from tests.net.machines import ADDRESSES, ASKS, DISK_SAYS, ONCE, Box, box
from tests.rack import servers

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(600)]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmyD/lF97plBgyhBb7QxizdRNkEQyIoExgJCp95fgVU"
BMCS = [Netboot.IPMI, Netboot.REDFISH]


@contextmanager
def system_on_disk(one: Box, folder: Path) -> Iterator[SshAccess]:
    """The way into the system that its disk would start: there from when the disk has spoken on the serial line.

    An sshd here plays the system; the capture is that of an examination into `folder`.
    """
    port, over = servers.free_port(), threading.Event()
    with servers.ssh_host(one.machine.folder / "ssh") as sshd, ExitStack() as stack:

        def open_when_it_speaks() -> None:
            said = folder / "serial.bin"
            while not over.wait(0.1):
                if said.exists() and DISK_SAYS.encode() in said.read_bytes():
                    words = [servers.program("socat"), f"TCP-LISTEN:{port},fork,reuseaddr,bind=127.0.0.1"]
                    stack.enter_context(servers.server([*words, f"TCP:127.0.0.1:{sshd.port}"], folder / "socat.log"))
                    return

        watching = threading.Thread(target=open_when_it_speaks)
        watching.start()
        try:
            yield SshAccess("127.0.0.1", sshd.user, sshd.host_key, port, sshd.key_file)
        finally:
            over.set()
            watching.join()


def examined(entry: Entry, wire: Segment, folder: Path) -> tuple[Examination, Check]:
    with Store(folder / "bench.sqlite") as store:
        found = examine(entry, Health(store), folder / "health", power=power_of(entry), place=wire.place)
    (check,) = [one for one in found.checks if one.name == FALL_THROUGH]
    return found, check


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bmcs.PASSWORD_ENV, servers.Bmc(0).password)


@pytest.mark.parametrize("netboot", BMCS, ids=[netboot.value for netboot in BMCS])
def test_an_image_is_booted_once_and_then_the_disk_without_a_word_to_the_network(
    netboot: Netboot, tmp_path: Path
) -> None:
    with (
        boot_network() as (wire, server),
        box(tmp_path / "box", wire, 0, PxeLoader.IPXE, disk_first=True) as one,
        bmcs.behind_bmc(netboot, tmp_path, one) as entry,
    ):
        # Without a selection an offer changes nothing: the servers run, and it starts its disk.
        server.offer(entry, payload_load(entry)[0], lambda _: None)
        assert ASKS not in bmcs.starts_its_disk_by_bmc(one, entry)
        server.withdraw(entry.wiring.mac)

        assert boot_payload(entry, server, tmp_path / "boot").verdict is Verdict.PASS
        (loaded,) = [event["witness"] for event in events(tmp_path / "boot") if event["kind"] == "loaded"]
        assert loaded["selected by"] == netboot.value and loaded["next boot"].startswith("network, read back from ")
        assert steps(tmp_path / "boot") == [*loaded["steps"].split(), "spent"]
        restored = events(tmp_path / "boot")[-1]["witness"]
        assert restored["next boot"].startswith("default, read back from ")

        assert ASKS not in bmcs.starts_its_disk_by_bmc(one, entry)


@pytest.mark.parametrize("netboot", BMCS, ids=[netboot.value for netboot in BMCS])
def test_where_nobody_offers_anything_the_one_boot_goes_on_to_the_disk(netboot: Netboot, tmp_path: Path) -> None:
    with (
        boot_network() as (wire, server),
        box(tmp_path / "box", wire, 0, PxeLoader.IPXE, disk_first=True) as one,
        bmcs.behind_bmc(netboot, tmp_path, one) as entry,
    ):
        server.close()
        select(entry)
        assert ASKS in bmcs.starts_its_disk_by_bmc(one, entry)
        assert ASKS not in bmcs.starts_its_disk_by_bmc(one, entry)


@pytest.mark.parametrize("netboot", BMCS, ids=[netboot.value for netboot in BMCS])
def test_a_boot_that_was_prepared_and_never_started_leaves_nothing_set(netboot: Netboot, tmp_path: Path) -> None:
    with (
        boot_network() as (wire, server),
        box(tmp_path / "box", wire, 0, PxeLoader.IPXE, disk_first=True) as one,
        bmcs.behind_bmc(netboot, tmp_path, one) as entry,
    ):
        loader, power = NetLoader(server), power_of(entry)
        loader.load(entry, payload_load(entry)[0], power, lambda _: None)
        assert (one.machine.folder / ONCE).exists()
        assert loader.fall_back(entry)["next boot"].startswith("default, read back from ")
        assert not (one.machine.folder / ONCE).exists() and power.state() is PowerState.OFF


def test_a_server_that_hangs_keeps_nobody_from_taking_the_selection_back(tmp_path: Path) -> None:
    with (
        boot_network() as (wire, server),
        box(tmp_path / "box", wire, 0, PxeLoader.IPXE, disk_first=True) as one,
        bmcs.behind_bmc(Netboot.IPMI, tmp_path, one) as entry,
    ):
        loader = NetLoader(server)
        loader.load(entry, payload_load(entry)[0], power_of(entry), lambda _: None)
        assert (one.machine.folder / ONCE).exists()
        os.kill(server.dnsmasq_pid, signal.SIGSTOP)
        try:
            with pytest.raises(LabError, match="dnsmasq has not read the new hosts"):
                loader.fall_back(entry)
        finally:
            os.kill(server.dnsmasq_pid, signal.SIGCONT)
        assert not (one.machine.folder / ONCE).exists()


@pytest.mark.parametrize("netboot", BMCS, ids=[netboot.value for netboot in BMCS])
def test_health_sees_the_selected_boot_go_on_to_the_disk(netboot: Netboot, tmp_path: Path) -> None:
    with (
        segment(ADDRESSES) as wire,
        box(tmp_path / "box", wire, 0, PxeLoader.IPXE, disk_first=True) as one,
        bmcs.behind_bmc(netboot, tmp_path, one) as entry,
        system_on_disk(one, tmp_path / "health") as ssh,
    ):
        entry = replace(entry, wiring=replace(entry.wiring, ssh=ssh))
        found, check = examined(entry, wire, tmp_path)
        assert check.ok and check.found.startswith("asked the network after "), found.checks
        assert found.ok and found.time_to_disk_s is not None and found.time_to_disk_s > 1
        assert not (one.machine.folder / ONCE).exists()
        assert ASKS not in bmcs.starts_its_disk_by_bmc(one, entry)


def test_health_finds_a_machine_that_does_not_go_on_to_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fall_through, "LONGEST_S", 0)
    monkeypatch.setattr(metal, "SYSTEM_S", 0)
    with segment(ADDRESSES) as wire, box(tmp_path / "box", wire, 0, PxeLoader.IPXE, own_disk=False) as one:
        nobody = SshAccess("127.0.0.1", "root", KEY, servers.free_port())
        found, check = examined(replace(one.entry, wiring=replace(one.entry.wiring, ssh=nobody)), wire, tmp_path)
    assert check.ok is False and check.found.endswith("and its disk's system was not seen to come up")
    assert not found.ok and found.time_to_disk_s is None


def test_health_finds_a_bmc_that_does_not_select_the_network(tmp_path: Path) -> None:
    with (
        segment(ADDRESSES) as wire,
        box(tmp_path / "box", wire, 0, PxeLoader.IPXE, disk_first=True) as one,
        servers.redfish_bmc(tmp_path / "bmc", one.machine) as bmc,
        system_on_disk(one, tmp_path / "health") as ssh,
    ):
        entry = bmcs.by(RedfishSwitch(bmc.url, bmc.user, Secret(env=bmcs.PASSWORD_ENV)), Netboot.REDFISH, one)
        found, check = examined(replace(entry, wiring=replace(entry.wiring, ssh=ssh)), wire, tmp_path)
    assert check.ok is False and "its BMC does not select the network: Redfish" in check.found
    assert not found.ok and found.time_to_ssh_s is not None, "the rest is examined all the same"
