"""A machine that starts its disk: its BMC has it boot an image over the network once, and then it starts its disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.hardware import Netboot, PxeLoader
from bench.lab.net.loader import NetLoader
from bench.lab.net.selection import select
from bench.lab.power import PowerState
from bench.lab.power.choose import power_of
from bench.records import Verdict
from tests.net import bmcs
from tests.net.boots import boot_network, boot_payload, events, payload_load, steps
from tests.net.machines import ASKS, ONCE, box
from tests.rack import servers

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(600)]
BMCS = [Netboot.IPMI, Netboot.REDFISH]


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
