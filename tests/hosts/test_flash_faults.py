"""Whatever goes wrong at whatever step: the machine's own system answers, nothing is set, the default is untouched."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bench.errors import LabError
from bench.lab.flash import loader as flash_loader
from bench.lab.flash import upload
from bench.lab.flash.choose import FirstThatWorks
from bench.lab.flash.kexec import KexecLoader
from bench.lab.flash.proof import Proofs
from bench.lab.flash.reach import SYSTEM_S, reach
from bench.lab.flash.refused import MethodRefused
from bench.lab.load import Load, Note
from bench.lab.power import PowerState
from bench.lab.ssh import Ssh, SshError
from tests.hosts.flashing import QUIET_S, WAYS, Host, by, host, image, killed_at

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


def nothing(step: Mapping[str, str]) -> None:
    del step


def noting(steps: list[str]) -> Note:
    return lambda step: steps.append(step["step"])


def folder_of(one: Host) -> str:
    return {"grub": "/boot/bench", "bootnext": "/boot/efi/bench", "systemd-boot": "/boot/bench"}[one.method]


@pytest.mark.parametrize("kind", ["good", "broken", "hangs"])
def test_whatever_the_image_does_the_next_boot_is_the_machines_own(one: Host, tmp_path: Path, kind: str) -> None:
    before, loader = one.run("cat /proc/sys/kernel/random/boot_id"), one.loader()
    steps: list[str] = []
    try:
        loader.load(one.machine, image(tmp_path, kind), one.there.power, noting(steps))
        assert one.there.power.state() is PowerState.OFF
        assert steps[-1] == "one-shot set" and steps.count("verified") == 2
        start = one.capture.size
        one.there.power.on()
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


@pytest.mark.parametrize("step", ["uploading", "verified", "entry written"])
def test_a_controller_that_is_killed_before_the_one_shot_leaves_the_default(
    one: Host, tmp_path: Path, proofs: Path, step: str
) -> None:
    load = fresh(image(tmp_path, "good"), tmp_path, step.encode())
    assert killed_at(one, step, load, proofs)[-1] == step
    one.there.power.off()
    one.is_as_it_was()


def test_a_controller_that_is_killed_after_it_leaves_one_boot_of_the_image_and_no_more(
    one: Host, tmp_path: Path, proofs: Path
) -> None:
    killed_at(one, "one-shot set", image(tmp_path, "good"), proofs)
    assert one.there.power.state() is PowerState.OFF
    start = one.capture.size
    one.there.power.on()
    one.capture.wait_for(b" done", timeout_s=one.wait_s, start=start)
    one.there.power.off()
    one.is_as_it_was()


def test_power_that_is_lost_in_mid_upload(one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(ssh: Ssh, path: str, content: bytes) -> None:
        with ssh.sftp(timeout_s=5) as sftp, sftp.writing(path) as file:
            file.write(content[:4096])
            one.there.power.off()
            while True:  # until the connection is noticed to be gone
                file.write(content[:4096])

    monkeypatch.setattr(upload, "_send", cut)
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
        with pytest.raises(LabError, match=r"cannot be written|No space"):
            loader.load(one.machine, load, one.there.power, nothing)
        loader.fall_back(one.machine)
        assert ".part" not in one.run(f"ls {folder}")
    finally:
        one.run(f"rm -f {folder}/filler-*; sync")
    one.is_as_it_was()


def test_a_file_that_arrives_as_another_one(one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = upload._send

    def flip(ssh: Ssh, path: str, content: bytes) -> None:
        honest(ssh, path, content[:100] + bytes([content[100] ^ 1]) + content[101:])

    monkeypatch.setattr(upload, "_send", flip)
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


def fresh(load: Load, folder: Path, tail: bytes) -> Load:
    """The same image with other bytes behind it, so that it is not there yet."""
    kernel = folder / "fresh"
    kernel.write_bytes(load.kernel.read_bytes() + tail * 16)
    return Load(kernel, load.initrd, load.command_line)


def test_a_grub_that_cannot_consume_is_found_before_the_first_flash_and_the_next_method_taken(tmp_path: Path) -> None:
    machine = by("host-bios-grub", "grub", disk="bios-grub-blind")
    proofs = Proofs(tmp_path / "proofs")
    with host(machine, "grub", tmp_path / "host", proofs) as one:
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


def test_nothing_of_a_kexec_outlives_the_power(tmp_path: Path) -> None:
    with host(by("host-bios-grub", "kexec"), "grub", tmp_path / "host", Proofs(tmp_path / "proofs")) as one:
        for kind in ("broken", "hangs"):
            steps: list[str] = []
            loader = KexecLoader(system_s=SYSTEM_S, wait_s=one.wait_s)
            loader.load(one.machine, image(tmp_path, kind), one.there.power, noting(steps))
            start = one.capture.size
            one.there.power.on()
            one.capture.wait_for(b"kexec_core: Starting new kernel", timeout_s=one.wait_s, start=start)
            one.capture.wait_quiet(QUIET_S, timeout_s=60)
            one.there.power.off()
            loader.fall_back(one.machine)
            assert steps[-1] == "kexec"
            one.is_as_it_was()
