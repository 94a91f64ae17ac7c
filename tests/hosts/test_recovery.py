"""`bench recover` on a machine whose run was broken off: what was set is withdrawn, its own system is what starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.hardware import Cuts
from bench.health import Check, Health, examine
from bench.hosts import with_files
from bench.lab.capture import CaptureWriter
from bench.lab.flash.oneshot import Entry, add, done
from bench.lab.flash.plan import METHODS
from bench.lab.flash.survey import look
from bench.lab.flash.upload import Image, upload
from bench.lab.virtual_host import Plugged, plugged
from bench.recovery import recover
from bench.store import Store
from tests.hosts.flashing import image, nothing
from tests.hosts.test_virtual_host import MACHINES, ROOT, of_disk, said, ssh_of

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_one_shot_that_a_killed_run_has_left_is_withdrawn(tmp_path: Path) -> None:
    # A GRUB that cannot forget it, as on btrfs or LVM: each boot would start it again.
    with plugged(with_files(of_disk("bios-grub-blind"), ROOT), tmp_path / "qemu") as there:
        with _line(there, tmp_path / "before"):
            there.power.on()
            said(there, "grub-editenv /boot/grub/grubenv set next_entry=bench-0123456789abcdef; sync")
            there.power.off()
        metal = replace(there.machine, virtual=None)
        checks: list[Check] = []
        with Store(tmp_path / "bench.sqlite") as store:
            sick = examine(metal, Health(store), tmp_path / "sick", power=there.power)
            (one,) = [check for check in sick.checks if check.name == "one-shot by grub"]
            assert one.ok is False and "is still set: bench recover host-bios-grub" in one.found
            found = recover(metal, Health(store), tmp_path / "captures", power=there.power, told=checks.append)
        assert found.ok, [check for check in checks if check.ok is False]
        assert {"nothing left by grub", "known-good system"} <= {check.name for check in checks if check.ok}
        assert any("next_entry" in check.found or "was set" in check.found for check in checks)
        with _line(there, tmp_path / "after"):
            there.power.on()
            assert "next_entry=bench" not in said(there, "grub-editenv /boot/grub/grubenv list")
            assert "bench" not in said(there, "cat /proc/cmdline")


def test_an_image_that_a_one_shot_has_left_comes_up_once_and_then_the_machines_own_system(tmp_path: Path) -> None:
    # Only its own switch: nothing takes its mains away.
    with plugged(with_files(MACHINES["host-bios-grub"], ROOT), tmp_path / "qemu") as there:
        there.power.device.cuts = Cuts.CHASSIS
        with _line(there, tmp_path / "before") as line:
            there.power.on()
            with ssh_of(there) as ssh:
                found = look(ssh, METHODS["grub"])
                load = image(tmp_path, "good")
                kernel = upload(ssh, "/boot/bench", Image("kernel", load.kernel.read_bytes()), nothing)
                initrd = upload(ssh, "/boot/bench", Image("initrd", load.initrd), nothing)
                addition = METHODS["grub"].adding(found.system, found.answers, Entry("0" * 16, kernel, initrd, ""))
                add(ssh, addition)
                done(ssh, f"{addition.arming.setting}; poweroff", what="set it and go off")
            line.wait_quiet(1, timeout_s=30)
            there.power.off()
        metal = replace(there.machine, virtual=None)
        with Store(tmp_path / "bench.sqlite") as store:
            found_by = recover(metal, Health(store), tmp_path / "captures", power=there.power)
        assert found_by.ok, found_by
        first = tmp_path / "captures" / "try-1" / "serial.bin"
        assert b" done" in first.read_bytes(), "the image"
        assert (tmp_path / "captures" / "try-2").is_dir()


def _line(there: Plugged, folder: Path) -> CaptureWriter:
    return CaptureWriter(folder, url=there.machine.serial_url, info={"machine": there.machine.name})
