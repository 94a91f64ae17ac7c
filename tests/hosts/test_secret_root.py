"""A machine whose root is encrypted (LUKS): what asks for a passphrase is refused, what opens itself is flashed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.cli_flash import plan
from bench.errors import LabError
from bench.hosts import with_files
from bench.images.disk_layers import PASSPHRASE
from bench.lab.capture import CaptureWriter
from bench.lab.discover_boot import methods_of as ways_of
from bench.lab.flash.guard import read_default
from bench.lab.flash.proof import Proofs
from bench.lab.flash.reach import access_of, connected, reach
from bench.lab.flash.refusals import refusals
from bench.lab.flash.system import read_system
from bench.lab.ssh import Ssh, SshError
from bench.lab.virtual_host import plugged
from tests.hosts.flashing import ROOT, Host, by, image, noting

pytestmark = [pytest.mark.boot, pytest.mark.faults, pytest.mark.timeout(1200)]
PROMPT, OPENED = b"Enter passphrase for /dev/vda4:", b"known-good: root is open"
TYPINGS = 6
WAIT_S = 45.0
OPENS_ITSELF = f"""\
printf '{PASSPHRASE.decode()}' >/boot/secret.key
chmod 600 /boot/secret.key
echo 'secret /dev/vda4 /boot/secret.key luks' >/etc/crypttab
sync
"""


@contextmanager
def answering(one: Host) -> Iterator[Ssh]:
    line, _ = reach(one.machine, one.there.power, wait_s=one.wait_s)
    with line:
        yield line


@contextmanager
def host(folder: Path) -> Iterator[Host]:
    machine = with_files(by("host-bios-grub", "grub", "kexec", disk="bios-grub-luks"), ROOT)
    with (
        plugged(machine, folder) as there,
        CaptureWriter(folder / "capture", url=there.machine.serial_url, info={"machine": machine.name}) as capture,
    ):
        yield Host(there, capture, "grub", Proofs(folder / "proofs"), {})
        there.power.off()


def opened_by_hand(one: Host) -> None:
    """Switch it on and type the passphrase when it asks."""
    start = one.capture.size
    one.there.power.on()
    one.capture.wait_for(PROMPT, timeout_s=one.wait_s, start=start)
    with pytest.raises(SshError):
        connected(access_of(one.machine))
    # What is typed while the echo is being switched off is thrown away.
    for _ in range(TYPINGS):
        one.capture.port.send(PASSPHRASE + b"\n")
        with suppress(LabError):
            one.capture.wait_for(OPENED, timeout_s=one.wait_s / TYPINGS, start=start)
            return
    raise AssertionError(one.capture.tail())


def test_what_asks_for_a_passphrase_is_refused_and_what_opens_itself_is_flashed(tmp_path: Path) -> None:
    with host(tmp_path / "host") as one:
        opened_by_hand(one)
        before = one.run("ls -lR /boot")
        with answering(one) as ssh:
            system = read_system(ssh)
            one.default = read_default(ssh, system)
        assert (system.boot_layers, system.root_layers) == ((), ("CRYPT secret",))
        (why,) = refusals(system)
        assert "lies on secret, which asks for a passphrase: an unattended boot would hang" in why
        assert ways_of(system).in_the_way == (why,)
        steps: list[str] = []
        with pytest.raises(LabError, match="which asks for a passphrase"):
            one.loader().load(one.machine, image(tmp_path, "good"), one.there.power, noting(steps))
        assert steps == ["known-good system answers"]
        assert one.run("ls -lR /boot") == before
        one.there.power.off()
        opened_by_hand(one)

        one.run(OPENS_ITSELF)
        one.there.power.off()
        one.there.power.on()
        with answering(one) as ssh:
            system = read_system(ssh)
            assert refusals(system) == [] and system.root_layers == ("CRYPT secret",)
            assert ways_of(system).usable == ("grub", "kexec")
        loader = one.loader()
        assert loader.load(one.machine, image(tmp_path, "good"), one.there.power, noting([]))["loader"] == "grub"
        start = one.capture.size
        loader.starting(one.there.power).on()
        one.capture.wait_for(b" done", timeout_s=one.wait_s, start=start)
        one.there.power.off()
        assert loader.fall_back(one.machine)["one-shot"] == "consumed"
        one.is_as_it_was()


def test_whoever_waits_in_vain_is_told_what_the_machine_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = by("host-bios-grub", "grub", disk="bios-grub-luks")
    monkeypatch.setattr("bench.inventory.load_inventory", lambda _: {machine.name: machine})
    monkeypatch.setattr("bench.cli_flash._patience", lambda _: WAIT_S)
    with pytest.raises(LabError, match="does not answer SSH"):
        plan(machine.name, results=tmp_path)
    assert "said last: Enter passphrase for /dev/vda4:" in capsys.readouterr().err
