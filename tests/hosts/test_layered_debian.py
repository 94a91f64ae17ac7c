"""A machine whose /boot is on RAID and whose root is encrypted, both real: what is refused there, and what works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.errors import LabError
from bench.lab.capture import CaptureWriter
from bench.lab.discover_boot import methods_of as ways_of
from bench.lab.flash.guard import read_default
from bench.lab.flash.kexec import KexecLoader
from bench.lab.flash.loader import FlashLoader, MethodRefused
from bench.lab.flash.plan import METHODS
from bench.lab.flash.proof import Proofs
from bench.lab.flash.reach import SYSTEM_S, connected, reach
from bench.lab.flash.refusals import refusals
from bench.lab.flash.system import read_system
from bench.lab.load import Loader
from bench.lab.ssh import SshError
from bench.lab.virtual_host import Plugged, plugged
from bench.records import Machine
from tests.hosts import layered_debian
from tests.hosts.flashing import image, methods_of, noting

pytestmark = [pytest.mark.boot, pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(2400)]
WAIT_S, TYPINGS = 400.0, 8


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return layered_debian.build(tmp_path_factory.mktemp("layered") / "made")


class Box:
    """It, in its rack, with an open capture."""

    def __init__(self, there: Plugged, capture: CaptureWriter) -> None:
        self.there, self.capture, self.machine = there, capture, there.machine

    def start(self, *, asked: bool) -> None:
        """Power it on and wait for its SSH; `asked`: and type the passphrase when it asks for it."""
        start = self.capture.size
        self.there.power.on()
        if asked:
            self.capture.wait_for(layered_debian.PROMPT, timeout_s=WAIT_S, start=start)
            self._type_until_opened(start)
        access = self.machine.wiring.ssh
        assert access is not None
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                connected(access).close()
                return
            except SshError:
                assert time.monotonic() < deadline, self.capture.tail()
                time.sleep(1)

    def _type_until_opened(self, start: int) -> None:
        # What is typed while it turns the echo off is thrown away.
        for _ in range(TYPINGS):
            self.capture.port.send(layered_debian.PASSPHRASE + b"\n")
            with suppress(LabError):
                self.capture.wait_for(layered_debian.OPENED, timeout_s=WAIT_S / TYPINGS, start=start)
                return
        raise AssertionError(self.capture.tail())

    def run(self, command: str) -> str:
        line, _ = reach(self.machine, self.there.power, wait_s=WAIT_S)
        with line:
            done = line.run(command, timeout_s=900)
        assert done.status == 0, done
        return done.output.decode()

    def files(self) -> str:
        return self.run("cd /boot && find . -type f -exec sha256sum {} + | sort -k2")


@contextmanager
def box(machine: Machine, folder: Path) -> Iterator[Box]:
    with (
        plugged(machine, folder) as there,
        CaptureWriter(folder / "capture", url=there.machine.serial_url, info={"machine": machine.name}) as capture,
    ):
        yield Box(there, capture)
        there.power.off()


def loader_of(method: str, folder: Path) -> Loader:
    if method == "kexec":
        return KexecLoader(system_s=SYSTEM_S, wait_s=WAIT_S)
    return FlashLoader(METHODS[method], wait_s=WAIT_S, proofs=Proofs(folder / "proofs"))


def test_what_asks_for_a_passphrase_is_refused_and_what_opens_itself_is_loaded_by_kexec_as_grub_cannot_write_on_raid(
    debian: Machine, tmp_path: Path
) -> None:
    machine = methods_of(debian, "grub", "kexec")
    with box(machine, tmp_path / "host") as one:
        one.start(asked=True)
        line, _ = reach(one.machine, one.there.power, wait_s=WAIT_S)
        with line:
            system, default = read_system(line), read_default(line, read_system(line))
        assert system.boot_layers == ("RAID md0",) and system.root_layers == ("CRYPT secret",)
        (why,) = refusals(system)
        assert "lies on secret, which asks for a passphrase: an unattended boot would hang" in why
        assert ways_of(system).in_the_way == (why,)
        before = one.files()
        steps: list[str] = []
        with pytest.raises(LabError, match="which asks for a passphrase"):
            loader_of("grub", tmp_path).load(one.machine, image(tmp_path, "good"), one.there.power, noting(steps))
        assert "uploading" not in steps
        assert one.files() == before

        one.run(layered_debian.OPEN_BY_FILE.format(passphrase=layered_debian.PASSPHRASE.decode()))
        one.there.power.off()
        one.start(asked=False)
        line, _ = reach(one.machine, one.there.power, wait_s=WAIT_S)
        with line:
            system = read_system(line)
        assert refusals(system) == [] and system.root_layers == ("CRYPT secret",)
        assert ways_of(system).usable == ("kexec",)
        assert ways_of(system).refused["grub"] == (
            "grubenv lies on RAID md0, where GRUB cannot write: a one-shot would stay",
        )
        steps = []
        with pytest.raises(MethodRefused, match="it was started, and is still set"):
            loader = loader_of("grub", tmp_path)
            loader.load(one.machine, image(tmp_path, "good"), one.there.power, noting(steps))
        assert "uploading" not in steps and steps[-1] == "not proved"
        loader.fall_back(one.machine)

        kexec = loader_of("kexec", tmp_path)
        assert kexec.load(one.machine, image(tmp_path, "good"), one.there.power, lambda _: None)["loader"] == "kexec"
        start = one.capture.size
        one.there.power.on()
        one.capture.wait_for(b" done", timeout_s=2 * WAIT_S, start=start)
        one.there.power.off()
        kexec.fall_back(one.machine)
        line, _ = reach(one.machine, one.there.power, wait_s=WAIT_S)
        with line:
            system = read_system(line)
            assert "bench" not in system.command_line and METHODS["grub"].pending(line, system) == ""
            assert read_default(line, system) == default
