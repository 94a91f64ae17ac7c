"""A BMC is asked to boot its machine from the network once, and is believed only if it reads back so."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from bench.errors import UsageError
from bench.hardware import IpmiSwitch, Netboot, PowerSpec, RedfishSwitch, Secret, Wiring
from bench.inventory import load_inventory
from bench.lab.net.selection import deselect, select
from bench.lab.power.failure import Failure, PowerError
from bench.records import Machine as Entry
from tests.net import bmcs
from tests.rack import servers

pytestmark = [pytest.mark.rack, pytest.mark.slow]
REPO = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bmcs.PASSWORD_ENV, servers.Bmc(0).password)


def entry(switch: IpmiSwitch | RedfishSwitch, netboot: Netboot) -> Entry:
    wiring = Wiring(power=PowerSpec(switch), netboot=netboot, mac="52:54:00:77:00:01", firmware="bios")
    return replace(load_inventory(REPO)["haswell"], virtual=None, wiring=wiring)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[servers.Machine]:
    with servers.machine(tmp_path / "m", tmp_path / "no-kernel") as one:
        yield one


@contextmanager
def ipmi(folder: Path, machine: servers.Machine, *, forgets: bool = False) -> Iterator[Entry]:
    """A BMC that knows boot devices: OpenIPMI's simulator with a program for its chassis."""
    with bmcs.ipmi_sim(folder, bmcs.board(folder / "board", machine, forgets=forgets)) as switch:
        yield entry(switch, Netboot.IPMI)


def orders(folder: Path) -> list[str]:
    """What the board itself was told."""
    return bmcs.orders(folder / "board").read_text().split()


def test_ipmi_selects_the_network_and_takes_it_back(tmp_path: Path, machine: servers.Machine) -> None:
    with ipmi(tmp_path / "bmc", machine) as box:
        assert select(box)["next boot"] == "network, read back from IPMI 127.0.0.1"
        assert orders(tmp_path / "bmc") == ["pxe"], "the board itself was told"
        assert deselect(box)["next boot"] == "default, read back from IPMI 127.0.0.1"
        assert orders(tmp_path / "bmc")[1:] in (["none"], ["default"])


def test_an_ipmi_bmc_that_takes_the_order_and_forgets_it_is_not_believed(
    tmp_path: Path, machine: servers.Machine
) -> None:
    with (
        ipmi(tmp_path / "bmc", machine, forgets=True) as box,
        pytest.raises(PowerError, match="reads back default") as caught,
    ):
        select(box)
    assert caught.value.failure is Failure.LIES
    assert orders(tmp_path / "bmc"), "the order had come"


@pytest.mark.parametrize("keeps", [False, True])
def test_an_ipmi_bmc_that_would_boot_the_network_for_ever_is_refused_and_told_otherwise(
    keeps: bool, tmp_path: Path
) -> None:
    """One that reads back "for all future boots", which it was not told."""
    with bmcs.ipmi_for_ever(tmp_path / "bmc", keeps=keeps) as switch:
        box = entry(switch, Netboot.IPMI)
        with pytest.raises(PowerError, match="reads back always: boot flags 0xc0, device 0x1; ") as caught:
            select(box)
        assert caught.value.failure is Failure.LIES
        assert bmcs.orders(tmp_path / "bmc").read_text().splitlines() == ["0x80 0x04", "0x00 0x00"]
        if keeps:
            assert "AND STAYS SO, it cannot be taken back: boot flags 0xc0, device 0x1" in caught.value.witness
            with pytest.raises(PowerError, match="took the order \\(default next\\), and reads back always"):
                deselect(box)
        else:
            assert caught.value.witness.endswith("was taken back: boot flags 0x00, device 0x0")
            assert deselect(box)["next boot"].startswith("default, read back from ")


def test_redfish_selects_the_network_once_and_takes_it_back(tmp_path: Path, machine: servers.Machine) -> None:
    with servers.redfish_bmc(tmp_path / "bmc", machine, once=tmp_path / bmcs.ONCE) as bmc:
        box = entry(RedfishSwitch(bmc.url, bmc.user, Secret(env=bmcs.PASSWORD_ENV)), Netboot.REDFISH)
        assert select(box)["said"] == "BootSourceOverride Once Pxe"
        assert (tmp_path / bmcs.ONCE).exists(), "the board itself was told"
        assert deselect(box)["said"] == "BootSourceOverride Disabled None"
        assert not (tmp_path / bmcs.ONCE).exists()


def test_a_redfish_bmc_that_would_boot_the_network_for_ever_is_refused_and_left_as_it_was(
    tmp_path: Path, machine: servers.Machine
) -> None:
    """sushy-tools' emulator knows no Once: it takes the order and overrides every boot."""
    with servers.redfish_bmc(tmp_path / "bmc", machine) as bmc:
        box = entry(RedfishSwitch(bmc.url, bmc.user, Secret(env=bmcs.PASSWORD_ENV)), Netboot.REDFISH)
        with pytest.raises(PowerError, match="reads back always: BootSourceOverride Continuous Pxe") as caught:
            select(box)
        assert caught.value.failure is Failure.LIES
        assert "was given back what it had: BootSourceOverride Continuous Hdd" in caught.value.witness
        assert deselect(box)["said"] == "BootSourceOverride Continuous Hdd", "what is somebody else's stays"


def test_an_override_that_was_left_by_another_is_ended_by_a_bmc_that_wants_a_target_too(
    tmp_path: Path, machine: servers.Machine
) -> None:
    with servers.redfish_bmc(tmp_path / "bmc", machine) as bmc:
        box = entry(RedfishSwitch(bmc.url, bmc.user, Secret(env=bmcs.PASSWORD_ENV)), Netboot.REDFISH)
        patch(bmc, {"BootSourceOverrideTarget": "Pxe"})
        assert deselect(box)["said"] == "BootSourceOverride Continuous Hdd"


def patch(bmc: servers.Bmc, boot: dict[str, str]) -> None:
    """Set something of its only system's boot behind the bench's back."""
    login = base64.b64encode(f"{bmc.user}:{bmc.password}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    with urlopen(Request(f"{bmc.url}/redfish/v1/Systems", headers=headers)) as answer:
        (system,) = json.load(answer)["Members"]
    body = json.dumps({"Boot": boot}).encode()
    urlopen(Request(bmc.url + system["@odata.id"], body, headers, method="PATCH")).close()


def test_an_entry_whose_bmc_is_another_is_refused() -> None:
    box = entry(IpmiSwitch("127.0.0.1", "u", Secret(env="X")), Netboot.IPMI)
    with pytest.raises(UsageError, match=r"netboot: 'ipmi' is the BMC of \[power\]"):
        select(replace(box, wiring=replace(box.wiring, power=None)))
