"""What breaks on the way: MISS with the right witness or a clean refusal, never a wrong image, never a hung bench."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import LabError
from bench.hardware import NetworkMode, PxeLoader
from bench.judge import Judgement
from bench.lab.boot import Limits, Load, boot
from bench.lab.load import Note
from bench.lab.net import dnsmasq
from bench.lab.net.dnsmasq_log import NetEvent, NetEventKind
from bench.lab.net.loader import NetLoader
from bench.lab.net.place import Place
from bench.lab.net.probe import DhcpServer, discover, offer_in
from bench.lab.net.segment import attached, segment
from bench.lab.net.server import BootServer
from bench.lab.power import Power
from bench.records import Finding, Verdict
from bench.records import Machine as Entry
from bench.run import judge_folders
from tests.net.boots import boot_network, boot_payload, events, payload_load, steps
from tests.net.cutter import cutter, http_after, tftp_from_block
from tests.net.machines import ADDRESSES, NETWORK, box, mac, starts_its_disk

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]

# A boot that comes to nothing is given up a minute and a half after power-on.
IMPATIENT = Limits(first_byte_s=30, silence_s=20, total_s=30)


def only_finding(judgement: Judgement) -> Finding:
    assert judgement.verdict is Verdict.MISS
    return judgement.scenarios[0].findings[0]


def offer_to(place: Place, card: bytes, patience_s: float) -> tuple[DhcpServer | None, list[bytes]]:
    """Ask for an address as `card`: who offers one, and every frame that came in the meantime."""
    seen: list[bytes] = []
    with place.wire() as wire:
        wire.send(discover(card, 77))
        deadline = time.monotonic() + patience_s
        while (left := deadline - time.monotonic()) > 0:
            if select.select([wire], [], [], left)[0]:
                seen.append(wire.recv(2048))
                if found := offer_in(seen[-1], 77):
                    return found, seen
    return None, seen


@pytest.mark.parametrize("mode", list(NetworkMode))
def test_a_card_outside_of_the_inventory_gets_no_answer(tmp_path: Path, mode: NetworkMode) -> None:
    stranger = bytes.fromhex("020000000099")
    with boot_network(ports=3, mode=mode) as (wire, server), box(tmp_path / "box", wire, 0, PxeLoader.IPXE) as one:
        server.offer(one.entry, payload_load(one.entry)[0], lambda _: None)
        cable = tuple(map(str, wire.socket_pair(1)))
        with attached(["10.77.0.66/24"], [(cable[0], cable[1])]) as elsewhere:
            found, seen = offer_to(elsewhere, stranger, 5)
            assert found is None
            assert not [
                frame for frame in seen if stranger in frame[:6] or (frame[23:24] == b"\x11" and stranger in frame[42:])
            ]
            if mode is NetworkMode.FULL:
                known, _ = offer_to(elsewhere, bytes.fromhex(mac(0).replace(":", "")), 60)
                assert known is not None and known.address == "10.77.0.1", "the check can see an answer"


def test_tftp_that_stops_at_a_block(tmp_path: Path) -> None:
    with (
        boot_network() as (wire, server),
        cutter(wire, 0, wire.folder, tftp_from_block(20)) as cut,
        box(tmp_path / "box", wire, 0, PxeLoader.GRUB, netdev=cut.netdev) as one,
    ):
        finding = only_finding(boot_payload(one.entry, server, tmp_path / "boot", limits=IMPATIENT))
    assert cut.lost
    assert "the boot loader was not fetched" in finding.summary
    assert finding.witness["last step"].startswith("lease at ")
    assert "loader" not in steps(tmp_path / "boot")


def test_http_that_stalls(tmp_path: Path) -> None:
    with (
        boot_network() as (wire, server),
        cutter(wire, 0, wire.folder, http_after(NETWORK.http_port, 5)) as cut,
        box(tmp_path / "box", wire, 0, PxeLoader.IPXE, netdev=cut.netdev) as one,
    ):
        finding = only_finding(boot_payload(one.entry, server, tmp_path / "boot", limits=IMPATIENT))
    assert cut.lost
    assert "the kernel was not fetched" in finding.summary
    assert finding.witness["last step"].startswith("script at ")


@pytest.mark.parametrize("loader", [PxeLoader.IPXE, PxeLoader.PXELINUX, PxeLoader.GRUB])
def test_a_loader_that_cannot_fetch_its_kernel_goes_on_to_the_disk(tmp_path: Path, loader: PxeLoader) -> None:
    with boot_network() as (wire, server), box(tmp_path / "box", wire, 0, loader) as one:
        server.offer(one.entry, payload_load(one.entry)[0], lambda _: None)
        server._http.close()
        starts_its_disk(one)


class Saboteur(NetLoader):
    """Kills dnsmasq when a step comes."""

    def __init__(self, server: BootServer, step: str) -> None:
        super().__init__(server)
        self._pid, self._step = server.dnsmasq_pid, step

    def load(self, machine: Entry, load: Load, power: Power, note: Note) -> Mapping[str, str]:
        def watch(witness: Mapping[str, str]) -> None:
            note(witness)
            if witness["step"] == self._step:
                os.kill(self._pid, signal.SIGKILL)

        return super().load(machine, load, power, watch)


def test_a_dnsmasq_that_dies_is_named_and_the_machine_starts_its_disk(tmp_path: Path) -> None:
    with boot_network() as (wire, server), box(tmp_path / "box", wire, 0, PxeLoader.IPXE) as one:
        load, meta = payload_load(one.entry)
        boot(one.entry, load, tmp_path / "boot", meta=meta, limits=IMPATIENT, loader=Saboteur(server, "offer"))
        finding = only_finding(judge_folders([tmp_path / "boot"]))
        assert finding.component == "dnsmasq" and "ended by itself, signal 9" in finding.summary
        with pytest.raises(LabError, match="dnsmasq"):
            server.offer(one.entry, load, lambda _: None)
        starts_its_disk(one)


def test_an_exhausted_pool_is_named(tmp_path: Path) -> None:
    pool = {"pool": ("10.77.0.50", "10.77.0.50")}
    with (
        boot_network(ports=2, **pool) as (wire, server),
        box(tmp_path / "first", wire, 0, PxeLoader.IPXE, ip=False) as first,
        box(tmp_path / "second", wire, 1, PxeLoader.IPXE, ip=False) as second,
    ):
        assert boot_payload(first.entry, server, tmp_path / "boot-1").verdict is Verdict.PASS
        finding = only_finding(boot_payload(second.entry, server, tmp_path / "boot-2", limits=IMPATIENT))
    assert finding.component == "DHCP"
    assert finding.summary.endswith("no address available")


HOSTILE = """
import socket, sys, urllib.request, urllib.error
paths = sys.argv[1:]
for path in paths:
    for _ in range(2):
        with socket.create_connection(("10.77.0.1", 8069), timeout=30) as one:
            one.sendall(f"GET {path} HTTP/1.1\\r\\n\\r\\n".encode())
            print(path, one.makefile("rb").readline().split()[1].decode())
flood = []
for _ in range(400):
    try:
        flood.append(socket.create_connection(("10.77.0.1", 8069), timeout=5))
        flood[-1].sendall(b"GET /")
    except OSError:
        pass
print("flooded", flush=True)
sys.stdin.read()
"""


def test_a_hostile_client_gets_nothing_and_keeps_nobody_from_booting(tmp_path: Path) -> None:
    with boot_network(ports=2) as (wire, server), box(tmp_path / "box", wire, 0, PxeLoader.IPXE) as one:
        token = server.shelf.put("kernel", mac(0), b"secret", "kernel").path
        cable = tuple(map(str, wire.socket_pair(1)))
        with attached(["10.77.0.66/24"], [(cable[0], cable[1])]) as elsewhere:
            words = [*elsewhere.prefix, sys.executable, "-c", HOSTILE, token, "/../../etc/passwd", "/%2e%2e/boot.ipxe"]
            with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hostile:
                assert hostile.stdout is not None and hostile.stdin is not None
                answers = [hostile.stdout.readline().split()[-1] for _ in range(6)]
                assert answers == ["403"] * 2 + ["404"] * 4
                assert hostile.stdout.readline() == "flooded\n"
                assert boot_payload(one.entry, server, tmp_path / "boot").verdict is Verdict.PASS
                hostile.stdin.close()


ASKING = """
import socket, sys
for _ in range(2):
    with socket.create_connection(("10.77.0.1", 8069), timeout=30) as one:
        one.sendall(b"GET /boot.efi HTTP/1.1\\r\\n\\r\\n")
        print(one.makefile("rb").readline().split()[1].decode())
"""


def test_the_url_that_all_are_told_is_another_s_image_to_nobody(tmp_path: Path) -> None:
    """Firmware that boots by HTTP asks for one path; whose it is says the asking card, and once."""
    with (
        boot_network(ports=2) as (wire, server),
        box(tmp_path / "box", wire, 0, PxeLoader.UKI_HTTP, firmware="uefi", rom=False) as one,
    ):
        cable = tuple(map(str, wire.socket_pair(1)))
        with attached(["10.77.0.66/24"], [(cable[0], cable[1])]) as elsewhere:
            server.offer(one.entry, payload_load(one.entry)[0], lambda _: None)
            done = subprocess.run([*elsewhere.prefix, sys.executable, "-c", ASKING], capture_output=True, text=True)
            assert done.stdout.split() == ["404", "404"], done.stderr
            server.withdraw(mac(0))
            assert boot_payload(one.entry, server, tmp_path / "boot").verdict is Verdict.PASS


def test_firmware_that_fetches_before_its_lease_has_been_read_gets_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP boot asks milliseconds after its lease, and the bench may be late in reading what dnsmasq says."""
    late = dnsmasq.read_line

    def read_line(line: str) -> NetEvent | None:
        event = late(line)
        if event is not None and event.kind is NetEventKind.LEASE:
            time.sleep(2)
        return event

    monkeypatch.setattr(dnsmasq, "read_line", read_line)
    with (
        boot_network() as (wire, server),
        box(tmp_path / "box", wire, 0, PxeLoader.UKI_HTTP, firmware="uefi", rom=False) as one,
    ):
        assert boot_payload(one.entry, server, tmp_path / "boot").verdict is Verdict.PASS
    assert not [e for e in events(tmp_path / "boot") if "refused" in e["witness"].get("what", "")]


def test_a_port_that_is_taken_is_named() -> None:
    with segment(ADDRESSES) as wire, BootServer(NETWORK, wire.place):
        beside = replace(NETWORK, mode=NetworkMode.PROXY)
        with pytest.raises(LabError, match=r"port 8069 of 10\.77\.0\.1 cannot be had: .*[Aa]ddress already in use"):
            BootServer(beside, wire.place)


def test_what_was_prepared_is_taken_back_when_the_offer_fails(tmp_path: Path) -> None:
    with boot_network() as (wire, server), box(tmp_path / "box", wire, 0, PxeLoader.IPXE) as one:
        load, _ = payload_load(one.entry)
        server.offer(one.entry, load, lambda _: None)
        with pytest.raises(LabError, match="a boot is offered to it already"):
            server.offer(one.entry, load, lambda _: None)
        assert int(server.withdraw(mac(0))["URLs withdrawn"]) == 3
        with pytest.raises(FileNotFoundError):
            server.offer(one.entry, replace(load, kernel=Path("/nowhere")), lambda _: None)
        assert server.withdraw(mac(0)) == {"offer": "none", "URLs withdrawn": "0"}
