"""Machines boot over the network, each way that there is, and say the same as when they are booted directly."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import LabError
from bench.hardware import NetworkMode, PxeLoader
from bench.images import build_init
from bench.images.kernel import build_kernel
from bench.inventory import load_inventory
from bench.lab.net import loader as loader_module
from bench.lab.net import segment as segment_module
from bench.lab.net.loader import Servers
from bench.lab.net.segment import segment
from bench.lab.net.server import BootServer
from bench.records import ScenarioResult, Verdict
from bench.run import KernelOrder
from bench.run_kernel import run_kernel
from bench.scenarios import load_boot_plans
from tests.net.boots import LIMITS, boot_network, boot_payload, events, steps
from tests.net.machines import ADDRESSES, NETWORK, REPO, box, mac, site_server, starts_its_disk

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(1500)]

WAYS = [
    pytest.param(PxeLoader.IPXE, "bios", id="bios-ipxe"),
    pytest.param(PxeLoader.PXELINUX, "bios", id="bios-pxelinux"),
    pytest.param(PxeLoader.GRUB, "bios", id="bios-grub"),
    pytest.param(PxeLoader.IPXE, "uefi", id="uefi-ipxe"),
    pytest.param(PxeLoader.GRUB, "uefi", id="uefi-grub"),
    pytest.param(PxeLoader.UKI, "uefi", id="uefi-uki"),
    pytest.param(PxeLoader.UKI_HTTP, "uefi", id="uefi-uki-http"),
]


@pytest.fixture(scope="module")
def directly(tmp_path_factory: pytest.TempPathFactory) -> tuple[ScenarioResult, ...]:
    """What the payload says when QEMU loads it."""
    folder = tmp_path_factory.mktemp("direct") / "boot"
    return boot_payload(load_inventory(REPO)["haswell"], None, folder).scenarios


@pytest.mark.parametrize(("loader", "firmware"), WAYS)
def test_the_payload_says_the_same_as_when_it_is_booted_directly(
    tmp_path: Path, directly: tuple[ScenarioResult, ...], loader: PxeLoader, firmware: str
) -> None:
    with (
        boot_network() as (wire, server),
        box(tmp_path / "box", wire, 0, loader, firmware=firmware, rom=firmware == "bios") as one,
    ):
        judgement = boot_payload(one.entry, server, tmp_path / "boot")
    assert judgement.verdict is Verdict.PASS
    assert judgement.scenarios == directly
    (loaded,) = [event["witness"] for event in events(tmp_path / "boot") if event["kind"] == "loaded"]
    assert steps(tmp_path / "boot") == [*loaded["steps"].split(), "spent"]


def test_the_same_in_a_user_namespace_of_its_own(
    tmp_path: Path, directly: tuple[ScenarioResult, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it goes without root; that nobody may do it too is in test_segment.py."""
    monkeypatch.setattr(segment_module.os, "geteuid", lambda: 1000)
    with boot_network() as (wire, server), box(tmp_path / "box", wire, 0, PxeLoader.IPXE) as one:
        assert wire.place.own_user
        assert boot_payload(one.entry, server, tmp_path / "boot").scenarios == directly


@pytest.mark.parametrize(("loader", "firmware"), WAYS)
def test_a_traced_kernel_passes_as_any_boot_of_metal_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: PxeLoader, firmware: str
) -> None:
    """The whole way of `bench run`: the loader is chosen by the entry, the servers start and end with the boot."""
    kernel = build_kernel(REPO, "linux-6.1-trace")
    # The plan asks for a processor without the hypervisor's flag, which only a virtual machine can be given: this one,
    # which stands for metal, has been given it.
    plan = load_boot_plans(REPO)["exercise"].model_copy(update={"hypervisor": True, "pool": [9]})
    with (
        segment(ADDRESSES) as wire,
        box(
            tmp_path / "box", wire, 0, loader, firmware=firmware, rom=firmware == "bios", model="skylake-server"
        ) as one,
    ):
        monkeypatch.setattr(loader_module, "SERVERS", Servers(lambda network: BootServer(network, wire.place)))
        order = KernelOrder(one.entry, kernel, (plan,), build_init(REPO))
        result = run_kernel(order, results=tmp_path / "results", limits=LIMITS)
    assert result.verdict is Verdict.PASS, [finding.summary for s in result.scenarios for finding in s.findings]


def test_beside_a_site_s_dhcp_server_the_proxy_boots_and_full_mode_refuses(tmp_path: Path) -> None:
    with segment(ADDRESSES, ports=2) as wire, site_server(wire, 1, tmp_path / "site.log"):
        with pytest.raises(LabError, match=r"another DHCP server answers there: 10\.77\.0\.2 \("):
            BootServer(NETWORK, wire.place)
        for loader, firmware in ((PxeLoader.IPXE, "bios"), (PxeLoader.GRUB, "uefi"), (PxeLoader.UKI_HTTP, "uefi")):
            folder = tmp_path / loader.value
            with (
                BootServer(replace(NETWORK, mode=NetworkMode.PROXY), wire.place) as server,
                box(folder, wire, 0, loader, firmware=firmware, rom=firmware == "bios", ip=False) as one,
            ):
                judgement = boot_payload(one.entry, server, folder / "boot")
                assert judgement.verdict is Verdict.PASS
            addresses = {e["witness"].get("address", "") for e in events(folder / "boot")} - {""}
            assert all(10 * 15 <= int(address.rpartition(".")[2]) <= 160 for address in addresses)


def test_a_boot_is_offered_once_and_then_the_machine_starts_its_disk(tmp_path: Path) -> None:
    """Servers still run and answer DHCP; the files are gone. The same with the servers gone, too."""
    with boot_network() as (wire, server), box(tmp_path / "box", wire, 0, PxeLoader.IPXE) as one:
        assert boot_payload(one.entry, server, tmp_path / "boot").verdict is Verdict.PASS
        assert b"boot.ipxe" in starts_its_disk(one), "DHCP was answered"
        server.close()
        starts_its_disk(one)


def test_four_machines_side_by_side_get_each_its_own_image(tmp_path: Path) -> None:
    """Own scenario, own loader: nothing crosses. The rounds are few here; BENCH_ROUNDS makes them more."""
    rounds = int(os.environ.get("BENCH_ROUNDS", "2"))
    loaders = (PxeLoader.IPXE, PxeLoader.PXELINUX, PxeLoader.GRUB, PxeLoader.IPXE)
    scenarios = ("ping-pong", "rejected", "final-tables", "sweep-1gib-small")
    with boot_network(ports=4) as (wire, server), ExitStack() as stack:
        boxes = [stack.enter_context(box(tmp_path / f"box{n}", wire, n, loader)) for n, loader in enumerate(loaders)]
        for turn in range(rounds):
            turned = scenarios[turn % 4 :] + scenarios[: turn % 4]

            def work(n: int, turn: int = turn, turned: tuple[str, ...] = turned) -> None:
                folder = tmp_path / f"boot-{turn}-{n}"
                judgement = boot_payload(boxes[n].entry, server, folder, scenario=turned[n])
                assert judgement.verdict is Verdict.PASS, judgement.scenarios
                assert {s.scenario for s in judgement.scenarios} == {turned[n]}
                macs = {event["witness"].get("mac", "") for event in events(folder)} - {""}
                assert macs == {mac(n)}

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(work, range(4)))


def test_an_interrupted_boot_leaves_nothing_offered(tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with boot_network() as (wire, server), box(tmp_path / "box", wire, 0, PxeLoader.IPXE) as one:
        boot_payload(one.entry, server, tmp_path / "boot", cancel=cancel)
        assert events(tmp_path / "boot")[-1]["witness"]["offer"] == "withdrawn"
        starts_its_disk(one)
