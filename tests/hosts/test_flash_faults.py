"""Whatever goes wrong at whatever step: the machine's own system answers, nothing is set, the default is untouched."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bench.errors import LabError
from bench.lab.flash import loader as flash_loader
from bench.lab.flash import lookout, restart, upload
from bench.lab.flash.choose import FirstThatWorks
from bench.lab.flash.kexec import KexecLoader
from bench.lab.flash.plan import METHODS
from bench.lab.flash.proof import Proofs
from bench.lab.flash.reach import SYSTEM_S, reach
from bench.lab.flash.refused import MethodRefused
from bench.lab.flash.system import read_system
from bench.lab.power import PowerState
from bench.lab.ssh import SshError
from bench.records import STILL_UP
from tests.hosts.flashing import (
    HALF,
    QUIET_S,
    SENT,
    WAYS,
    Host,
    by,
    cut_in_mid_upload,
    flip_in_mid_upload,
    fresh,
    host,
    image,
    killed_at,
    nothing,
    noting,
)

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proofs")


@pytest.fixture(scope="module", params=WAYS, ids=[f"{name}-{method}" for name, method in WAYS])
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, proofs: Path) -> Iterator[Host]:
    """A machine for all faults: each leaves it as it was, which is what is tested."""
    name, method = request.param
    with host(by(name, method), method, tmp_path_factory.mktemp("host"), Proofs(proofs)) as there:
        ssh, _ = reach(there.machine, there.there.power, wait_s=there.wait_s)
        there.loader().require_usable(there.machine, ssh, there.there.power, nothing)[0].close()
        yield there


def folder_of(one: Host) -> str:
    return {"grub": "/boot/bench", "bootnext": "/boot/efi/bench", "systemd-boot": "/boot/bench"}[one.method]


@pytest.mark.parametrize("kind", ["good", "broken", "hangs"])
def test_whatever_the_image_does_the_next_boot_is_the_machines_own(one: Host, tmp_path: Path, kind: str) -> None:
    before, loader = one.run("cat /proc/sys/kernel/random/boot_id"), one.loader()
    steps: list[str] = []
    try:
        loader.load(one.machine, image(tmp_path, kind), one.there.power, noting(steps))
        assert steps[-1] == "entry written" and steps.count("verified") == 2
        start = one.capture.size
        loader.starting(one.there.power).on()
        assert steps[-1] == "one-shot set"
        if kind == "good":
            one.capture.wait_for(b" done", timeout_s=one.wait_s, start=start)
        one.capture.wait_quiet(QUIET_S, timeout_s=one.wait_s)
        one.there.power.off()
    finally:
        witness = loader.fall_back(one.machine)
    assert witness["default"] == "untouched" and one.there.power.state() is PowerState.OFF
    if kind == "good":
        assert witness["one-shot"] == "consumed"
    assert one.is_as_it_was() != before


@pytest.mark.parametrize("step", ["uploading", HALF, "verified", "entry written"])
def test_a_controller_that_is_killed_before_the_one_shot_leaves_the_default(
    one: Host, tmp_path: Path, proofs: Path, step: str
) -> None:
    load = fresh(image(tmp_path, "good"), tmp_path, step.encode())
    assert killed_at(one, step, load, proofs)[-1] == step
    one.there.power.off()
    one.is_as_it_was()


@pytest.mark.parametrize("step", [SENT, "one-shot set"])
def test_a_controller_that_is_killed_while_it_starts_the_image_has_the_machine_carry_on(
    one: Host, tmp_path: Path, proofs: Path, step: str
) -> None:
    """Nobody has to switch anything: the image's one boot is the restart, and the next boot is the machine's own."""
    start = one.capture.size
    assert killed_at(one, step, image(tmp_path, "good"), proofs)[-1] == step
    one.capture.wait_for(b" done", timeout_s=one.wait_s, start=start)
    one.there.power.off()
    one.is_as_it_was()


def test_a_system_that_does_not_go_down_takes_the_one_shot_back(
    one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = restart.script
    monkeypatch.setattr(restart, "script", lambda arming: script(arming, restart="true", latest_s=3))
    monkeypatch.setattr(lookout, "DOWN_S", 3)
    loader, steps = one.loader(), list[str]()
    loader.load(one.machine, image(tmp_path, "good"), one.there.power, noting(steps))
    loader.starting(one.there.power).on()
    ssh, how = reach(one.machine, one.there.power, wait_s=one.wait_s)
    assert how["system"] == "was running"
    with ssh:
        system = read_system(ssh)
        assert METHODS[one.method].pending(ssh, system).startswith("bench-")
        deadline = time.monotonic() + 60
        while METHODS[one.method].pending(ssh, system):
            assert time.monotonic() < deadline
        while steps[-1] != STILL_UP:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    one.there.power.off()
    one.is_as_it_was()
    loader.fall_back(one.machine)
    one.is_as_it_was()


def test_an_upload_that_was_cut_goes_on(one: Host, tmp_path: Path, proofs: Path) -> None:
    load, steps = fresh(image(tmp_path, "good"), tmp_path, b"cut"), list[Mapping[str, str]]()
    killed_at(one, HALF, load, proofs)
    loader = one.loader()
    loader.load(one.machine, load, one.there.power, steps.append)
    kernel = next(step for step in steps if step["step"] == "uploading")
    assert 0 < int(kernel["goes on at"]) <= int(kernel["bytes"]) // 2
    loader.fall_back(one.machine)
    one.is_as_it_was()


def test_power_that_is_lost_in_mid_upload(one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_in_mid_upload(one, monkeypatch)
    loader = one.loader()
    with pytest.raises(SshError):
        loader.load(one.machine, fresh(image(tmp_path, "good"), tmp_path, b"power"), one.there.power, nothing)
    loader.fall_back(one.machine)
    one.is_as_it_was()


def test_a_disk_that_is_full(one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, folder = fresh(image(tmp_path, "good"), tmp_path, b"full"), folder_of(one)
    fill = "; ".join(f"dd if=/dev/zero of={folder}/filler-{size} bs={size}; sync" for size in ("64k", "1k"))
    one.run(f"mkdir -p {folder}; {fill}")
    try:
        loader = one.loader()
        with pytest.raises(MethodRefused, match="bytes are free"):
            loader.load(one.machine, load, one.there.power, nothing)
        loader.fall_back(one.machine)
        monkeypatch.setattr(flash_loader, "room_refusal", lambda *_: [])
        loader = one.loader()
        with pytest.raises(LabError, match=r"No space"):
            loader.load(one.machine, load, one.there.power, nothing)
        loader.fall_back(one.machine)
        assert ".part" not in one.run(f"ls {folder}")
    finally:
        one.run(f"rm -f {folder}/filler-*; sync")
    one.is_as_it_was()


def test_a_file_that_arrives_as_another_one(one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_in_mid_upload(monkeypatch)
    loader, load = one.loader(), fresh(image(tmp_path, "good"), tmp_path, b"flip")
    with pytest.raises(LabError, match="SHA-256 there is"):
        loader.load(one.machine, load, one.there.power, nothing)
    assert upload.Image("kernel", load.kernel.read_bytes()).name not in one.run(f"ls {folder_of(one)}")
    loader.fall_back(one.machine)
    one.is_as_it_was()


def test_a_host_key_that_is_another_one_stops_it_before_any_byte(one: Host, tmp_path: Path) -> None:
    one.run("true")
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmyD/lF97plBgyhBb7QxizdRNkEQyIoExgJCp95fgVU"
    wiring = one.machine.wiring
    assert wiring.ssh is not None
    stranger = dataclasses.replace(
        one.machine, wiring=dataclasses.replace(wiring, ssh=dataclasses.replace(wiring.ssh, host_key=other))
    )
    before = one.run("ls -l /boot /boot/bench; grep -c 'auth succeeded' /var/log/dropbear")
    loader = one.loader()
    with pytest.raises(SshError, match="another host key") as error:
        loader.load(stranger, image(tmp_path, "good"), one.there.power, nothing)
    assert error.value.trouble == "refuses"
    assert loader.fall_back(stranger)["withdrawn"] == "nothing was prepared"
    # The two logins are those of this test.
    listing, count = before.rsplit(" ", 1)
    assert (
        one.run("ls -l /boot /boot/bench; grep -c 'auth succeeded' /var/log/dropbear") == f"{listing} {int(count) + 1}"
    )


@pytest.mark.parametrize(
    ("disk", "layers"),
    [("bios-grub-blind", ()), ("bios-grub-lvm", ("LVM bench-boot",)), ("bios-grub-raid", ("RAID md0",))],
)
def test_a_grub_that_cannot_consume_is_found_before_the_first_flash_and_the_next_method_taken(
    disk: str, layers: tuple[str, ...], tmp_path: Path
) -> None:
    machine = by("host-bios-grub", "grub", disk=disk)
    proofs = Proofs(tmp_path / "proofs")
    with host(machine, "grub", tmp_path / "host", proofs) as one:
        ssh, _ = reach(one.machine, one.there.power, wait_s=one.wait_s)
        with ssh:
            assert read_system(ssh).boot_layers == layers
        loader = one.loader()
        steps: list[str] = []
        with pytest.raises(MethodRefused, match="it was started, and is still set"):
            loader.load(one.machine, image(tmp_path, "good"), one.there.power, noting(steps))
        assert "uploading" not in steps and steps[-1] == "not proved"
        loader.fall_back(one.machine)
        one.is_as_it_was()
        steps.clear()
        loader = one.loader()
        with pytest.raises(MethodRefused, match="`bench flash prove` tries again"):
            loader.load(one.machine, image(tmp_path, "good"), one.there.power, noting(steps))
        assert steps == ["known-good system answers"], "what was found is kept"
        one.is_as_it_was()
        kexec = KexecLoader(system_s=SYSTEM_S, wait_s=one.wait_s)
        chosen = FirstThatWorks([one.loader(), kexec])
        assert chosen.load(one.machine, image(tmp_path, "good"), one.there.power, nothing)["loader"] == "kexec"
        assert one.there.power.state() is PowerState.OFF
        start = one.capture.size
        one.there.power.on()
        one.capture.wait_for(b" done", timeout_s=2 * one.wait_s, start=start)
        one.there.power.off()
        chosen.fall_back(one.machine)
        one.is_as_it_was()
