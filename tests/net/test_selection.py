"""A BMC is asked to boot its machine from the network once, and is believed only if it reads back so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.hardware import IpmiSwitch, Netboot, PowerSpec, RedfishSwitch, Secret, Wiring
from bench.inventory import load_inventory
from bench.lab.net.selection import deselect, select
from bench.lab.power.failure import Failure, PowerError
from bench.records import Machine as Entry
from tests.rack import servers

pytestmark = [pytest.mark.rack, pytest.mark.slow]
REPO = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACK_PASSWORD", servers.Bmc(0).password)


def entry(switch: IpmiSwitch | RedfishSwitch, netboot: Netboot) -> Entry:
    wiring = Wiring(power=PowerSpec(switch), netboot=netboot, mac="52:54:00:77:00:01", firmware="bios")
    return replace(load_inventory(REPO)["haswell"], virtual=None, wiring=wiring)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[servers.Machine]:
    with servers.machine(tmp_path / "m", tmp_path / "no-kernel") as one:
        yield one


# What stands for the board behind ipmi_sim: it keeps what its next boot is, unless it is told to forget.
BOARD = """#!/bin/sh
case "$1 $2" in
    "get power") echo power:0 ;;
    "get boot") echo "boot:$(cat {state} 2>/dev/null || echo none)" ;;
    "set boot") echo "$*" >>{log}; {keep} echo "$3" >{state} ;;
    *) echo "unknown: $*" ; exit 1 ;;
esac
"""


@contextmanager
def ipmi(folder: Path, *, forgets: bool = False) -> Iterator[Entry]:
    """A BMC that knows boot devices: OpenIPMI's simulator with a program for its chassis."""
    folder.mkdir()
    bmc = servers.Bmc(servers.free_udp_port())
    board, state = folder / "board", folder / "state"
    board.write_text(BOARD.format(state=folder / "next", log=folder / "orders", keep="exit 0;" if forgets else ""))
    board.chmod(0o755)
    state.mkdir()
    kinds = "".join(f"    allowed_auths_{who} none md2 md5 straight\n" for who in ("user", "operator", "admin"))
    (folder / "lan.conf").write_text(
        f'name "rack"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {bmc.port}\n    priv_limit admin\n'
        f"{kinds}    guid a123456789abcdefa123456789abcdef\n  endlan\n"
        f'  chassis_control "{board}"\n'
        f'  user 2 true "{bmc.user}" "{bmc.password}" admin 10 none md2 md5 straight\n'
    )
    (folder / "bmc.emu").write_text(
        "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n"
    )
    command = [servers.program("ipmi_sim"), "-n", "-c", str(folder / "lan.conf"), "-f", str(folder / "bmc.emu")]
    with servers.server([*command, "-s", str(state)], folder / "log"):
        servers.wait_for(lambda: servers.udp_bound(bmc.port), "ipmi_sim listens")
        yield entry(IpmiSwitch("127.0.0.1", bmc.user, Secret(env="RACK_PASSWORD"), bmc.port), Netboot.IPMI)


def test_ipmi_selects_the_network_and_takes_it_back(tmp_path: Path) -> None:
    with ipmi(tmp_path / "bmc") as box:
        assert select(box)["next boot"] == "network, read back from IPMI 127.0.0.1"
        assert (tmp_path / "bmc" / "next").read_text() == "pxe\n", "the board itself was told"
        assert deselect(box)["next boot"] == "default, read back from IPMI 127.0.0.1"
        assert (tmp_path / "bmc" / "next").read_text() in ("none\n", "default\n")


def test_an_ipmi_bmc_that_takes_the_order_and_forgets_it_is_not_believed(tmp_path: Path) -> None:
    with ipmi(tmp_path / "bmc", forgets=True) as box, pytest.raises(PowerError, match="reads back default") as caught:
        select(box)
    assert caught.value.failure is Failure.LIES
    assert (tmp_path / "bmc" / "orders").read_text(), "the order had come"


def test_a_redfish_bmc_that_would_boot_the_network_for_ever_is_not_believed(
    tmp_path: Path, machine: servers.Machine
) -> None:
    """sushy-tools' emulator knows no Once: it takes the order and overrides every boot."""
    with servers.redfish_bmc(tmp_path / "bmc", machine) as bmc:
        box = entry(RedfishSwitch(bmc.url, bmc.user, Secret(env="RACK_PASSWORD")), Netboot.REDFISH)
        with pytest.raises(PowerError, match="reads back always") as caught:
            select(box)
        assert caught.value.failure is Failure.LIES


def test_an_entry_whose_bmc_is_another_is_refused() -> None:
    box = entry(IpmiSwitch("127.0.0.1", "u", Secret(env="X")), Netboot.IPMI)
    with pytest.raises(UsageError, match=r"netboot: 'ipmi' is the BMC of \[power\]"):
        select(replace(box, wiring=replace(box.wiring, power=None)))
