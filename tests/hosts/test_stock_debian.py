"""A machine that the bench has not made: Debian with systemd and a GRUB that it has installed itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.lab.boot import Limits, boot
from bench.lab.flash.proof import Proofs
from bench.records import Machine
from bench.run import judge_folders
from tests.hosts import stock_debian
from tests.hosts.flashing import HALF, SENT, fresh, host, image, killed_at, methods_of, nothing
from tests.net.boots import payload_load

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(1200)]
# systemd takes long to start and to end on a processor that is emulated.
LIMITS = Limits(first_byte_s=180, silence_s=90, total_s=400)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return stock_debian.build(tmp_path_factory.mktemp("debian") / "made")


@pytest.mark.parametrize("method", ["grub", "kexec"])
def test_an_image_is_started_once_and_then_the_system_is_as_it_was(
    debian: Machine, method: str, tmp_path: Path
) -> None:
    machine = methods_of(debian, method)
    load, meta = payload_load(machine)
    boot(machine, load, tmp_path / "boot", meta=meta, limits=LIMITS)
    judgement = judge_folders([tmp_path / "boot"])
    assert judgement.verdict.value == "PASS", judgement
    rows = [json.loads(row) for row in (tmp_path / "boot" / "events.jsonl").read_text().splitlines()]
    assert rows[-1]["kind"] == "restored"
    if method == "grub":
        assert rows[-1]["witness"]["one-shot"] == "consumed"


@pytest.mark.faults
@pytest.mark.parametrize("step", [HALF, SENT, "one-shot set"])
def test_with_the_controller_killed_its_next_boot_is_its_own(debian: Machine, step: str, tmp_path: Path) -> None:
    """Once the command has been given the machine carries on by itself: the restart is the image's one boot."""
    with host(methods_of(debian, "grub"), "grub", tmp_path, Proofs(tmp_path / "proofs")) as one:
        said = one.run("cat /etc/os-release; readlink -f /sbin/init; findmnt -no SOURCE,FSTYPE /")
        assert "ID=debian" in said and "/systemd" in said and "/dev/vda2 ext4" in said
        # Its boot loader is proved before: that has a restart of its own, which is not the one that is meant.
        loader = one.loader()
        loader.load(one.machine, image(tmp_path, "good"), one.there.power, nothing)
        loader.fall_back(one.machine)
        start, again = one.capture.size, fresh(image(tmp_path, "good"), tmp_path, step.encode())
        assert killed_at(one, step, again, tmp_path / "proofs")[-1] == step
        if step != HALF:
            one.capture.wait_for(b" done", timeout_s=one.wait_s, start=start)
        one.there.power.off()
        one.is_as_it_was()


@pytest.mark.faults
def test_with_the_power_cut_while_it_shuts_down_the_one_shot_is_used_up_by_the_next_boot(
    debian: Machine, tmp_path: Path
) -> None:
    """It is not left for some later boot: GRUB, which replays no journal, finds what was written last."""
    with host(methods_of(debian, "grub"), "grub", tmp_path, Proofs(tmp_path / "proofs")) as one:
        loader = one.loader()
        loader.load(one.machine, image(tmp_path, "good"), one.there.power, nothing)
        loader.fall_back(one.machine)
        # From now on what was committed to the journal stays there alone, unless somebody has it written.
        one.run("echo 0 >/proc/sys/vm/dirty_writeback_centisecs")
        new = fresh(image(tmp_path, "good"), tmp_path, b"cut")
        assert killed_at(one, "one-shot set", new, tmp_path / "proofs")[-1] == "one-shot set"
        one.there.power.off()
        start = one.capture.size
        one.there.power.on()
        one.capture.wait_for(b" done", timeout_s=one.wait_s, start=start)
        one.there.power.off()
        one.is_as_it_was()
