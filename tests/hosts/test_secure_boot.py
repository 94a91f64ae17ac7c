"""Firmware with Secure Boot on and Debian's signed chain: the machine boots, and what would not is refused before."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.lab.flash import loader as flash_loader
from bench.lab.flash.choose import FirstThatWorks
from bench.lab.flash.proof import Proofs
from bench.lab.flash.reach import reach
from bench.lab.flash.refused import MethodRefused
from bench.lab.flash.system import read_system
from bench.records import KNOWN_GOOD_INSTEAD, SECURE_BOOT_DISK
from tests.hosts.flashing import by, host, image, loader_of, noting
from tests.rack.servers import wait_for

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(900)]
METHODS = ("grub", "bootnext")


def test_every_method_is_refused_with_the_reasons_and_nothing_is_written(tmp_path: Path) -> None:
    machine = by("host-uefi-grub", *METHODS, disk=SECURE_BOOT_DISK)
    proofs = Proofs(tmp_path / "proofs")
    with host(machine, "grub", tmp_path / "host", proofs) as one:
        ssh, _ = reach(one.machine, one.there.power, wait_s=one.wait_s)
        with ssh:
            system = read_system(ssh)
        assert system.secure_boot and system.lockdown == "integrity" and system.efivars
        before = one.run("ls -lR /boot")
        steps: list[str] = []
        chosen = FirstThatWorks([loader_of(method, one.wait_s, proofs) for method in METHODS])
        with pytest.raises(MethodRefused) as error:
            chosen.load(one.machine, image(tmp_path, "good"), one.there.power, noting(steps))
        for method in METHODS:
            (reason, other) = (words for words in error.value.reasons if words.startswith(f"{method}: "))
            assert "Secure Boot is on" in reason and "locked down (integrity)" in other
        assert set(steps) == {"known-good system answers", "refused"}
        chosen.fall_back(one.machine)
        assert one.run("ls -lR /boot") == before
        one.is_as_it_was()


@pytest.mark.faults
@pytest.mark.parametrize("method", METHODS)
def test_an_image_that_is_forced_on_it_is_refused_by_what_would_start_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why the bench refuses; and even then the machine's own system is what comes next."""
    monkeypatch.setattr(flash_loader, "refusals", lambda *_, **__: [])
    machine = by("host-uefi-grub", method, disk=SECURE_BOOT_DISK)
    with host(machine, method, tmp_path / "host", Proofs(tmp_path / "proofs")) as one:
        steps: list[str] = []
        loader = one.loader()
        loader.load(one.machine, image(tmp_path, "good"), one.there.power, noting(steps))
        assert "proved" in steps, "its own system is signed"
        start = one.capture.size
        loader.starting(one.there.power).on()
        if method == "grub":
            one.capture.wait_for(b"bad shim signature", timeout_s=one.wait_s, start=start)
        else:
            wait_for(lambda: KNOWN_GOOD_INSTEAD in steps, "its own system", patience_s=one.wait_s)
        assert b" begin " not in one.capture.read(start, one.capture.size)
        assert loader.fall_back(one.machine)["one-shot"] == "consumed"
        one.is_as_it_was()
