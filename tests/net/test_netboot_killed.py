"""The controller is killed at each step of a boot over the network: the machine's next boot is its disk's."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.hardware import Netboot, PxeLoader
from bench.lab.net.segment import segment
from tests.net import bmcs
from tests.net.boots import events, steps
from tests.net.killed import FETCHES, POWERED, SELECTED, SELECTING, SPEAKS, killed_at, orphans
from tests.net.machines import ADDRESSES, ASKS, box, starts_its_disk
from tests.rack import servers

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("step", [POWERED, *FETCHES, SPEAKS])
def test_a_machine_that_asks_the_network_first_starts_its_disk(step: str, tmp_path: Path) -> None:
    with segment(ADDRESSES) as wire, box(tmp_path / "box", wire, 0, PxeLoader.IPXE) as one:
        killed_at(step, one.entry, wire, tmp_path / "boot")
        came = steps(tmp_path / "boot")
        if step == POWERED:
            assert not came and one.machine.starts == 1
        elif step == SPEAKS:
            assert set(FETCHES) <= set(came) and b"begin " in (tmp_path / "boot" / "serial.bin").read_bytes()
        else:
            assert came[-1] == step
        one.machine.kill()
        starts_its_disk(one)
    assert not orphans(), "dnsmasq died with its parent"


@pytest.mark.parametrize(
    ("netboot", "step"),
    [
        (Netboot.IPMI, SELECTING),
        (Netboot.IPMI, SELECTED),
        (Netboot.IPMI, POWERED),
        (Netboot.IPMI, SPEAKS),
        (Netboot.REDFISH, SELECTED),
        (Netboot.REDFISH, SPEAKS),
    ],
)
def test_a_machine_that_its_bmc_has_boot_the_network_once_starts_its_disk(
    netboot: Netboot, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is selected and not used up costs one boot a question to the network, and no more."""
    monkeypatch.setenv(bmcs.PASSWORD_ENV, servers.Bmc(0).password)
    with (
        segment(ADDRESSES) as wire,
        box(tmp_path / "box", wire, 0, PxeLoader.IPXE, disk_first=True) as one,
        bmcs.behind_bmc(netboot, tmp_path, one) as entry,
    ):
        killed_at(step, entry, wire, tmp_path / "boot")
        assert one.machine.starts == (step in (POWERED, SPEAKS))
        assert not [event for event in events(tmp_path / "boot") if event["kind"] == "restored"]
        bmcs.power_off(entry)
        assert (ASKS in bmcs.starts_its_disk_by_bmc(one, entry)) == (step == SELECTED)
        assert ASKS not in bmcs.starts_its_disk_by_bmc(one, entry)
    assert not orphans(), "dnsmasq died with its parent"
