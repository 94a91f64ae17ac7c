"""Whatever goes wrong at whatever step of kexec: nothing of it outlives the power."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import LabError
from bench.lab.flash import kexec
from bench.lab.flash.kexec import KexecLoader
from bench.lab.flash.oneshot import done
from bench.lab.flash.proof import Proofs
from bench.lab.flash.reach import SYSTEM_S
from bench.lab.flash.upload import Image, upload
from bench.lab.load import Load, Note
from bench.lab.power import PowerState
from bench.lab.ssh import Ssh
from tests.hosts.flashing import (
    HALF,
    QUIET_S,
    Host,
    by,
    cut_in_mid_upload,
    flip_in_mid_upload,
    host,
    image,
    killed_at,
    noting,
)

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]
STARTS = b"kexec_core: Starting new kernel"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A machine for all faults: each leaves it as it was, which is what is tested."""
    folder = tmp_path_factory.mktemp("host")
    with host(by("host-bios-grub", "kexec"), "grub", folder / "host", Proofs(folder / "proofs")) as there:
        yield there


def started(one: Host, load: Load, steps: list[str]) -> KexecLoader:
    loader = KexecLoader(system_s=SYSTEM_S, wait_s=one.wait_s)
    loader.load(one.machine, load, one.there.power, noting(steps))
    assert one.there.power.state() is PowerState.OFF
    loader.starting(one.there.power).on()
    return loader


def failed(one: Host, load: Load, said: str) -> list[str]:
    """Load what cannot be loaded: its fall back says why, and the machine's own system has stayed up."""
    steps: list[str] = []
    start = one.capture.size
    loader = started(one, load, steps)
    assert loader._thread is not None
    loader._thread.join(one.wait_s)
    one.there.power.off()
    with pytest.raises(LabError, match=said):
        loader.fall_back(one.machine)
    assert STARTS not in one.capture.read(start, one.capture.size)
    assert steps[-1] == "kexec failed"
    one.is_as_it_was()
    return steps


@pytest.mark.parametrize("kind", ["broken", "hangs"])
def test_nothing_of_an_image_that_fails_outlives_the_power(one: Host, tmp_path: Path, kind: str) -> None:
    steps: list[str] = []
    start = one.capture.size
    loader = started(one, image(tmp_path, kind), steps)
    one.capture.wait_for(STARTS, timeout_s=one.wait_s, start=start)
    one.capture.wait_quiet(QUIET_S, timeout_s=60)
    one.there.power.off()
    loader.fall_back(one.machine)
    assert steps[-1] == "kexec"
    one.is_as_it_was()


@pytest.mark.parametrize("step", ["known-good system answers", "uploading", HALF, "verified", "kexec"])
def test_a_controller_that_is_killed(one: Host, tmp_path: Path, step: str) -> None:
    one.there.power.off()
    start = one.capture.size
    assert killed_at(one, step, image(tmp_path, "good"), tmp_path, "kexec")[-1] == step
    if step == "kexec":
        one.capture.wait_for(b" done", timeout_s=one.wait_s, start=start)
    else:
        assert one.run("true") == "", "it stays up, as if nothing had been begun"
        assert STARTS not in one.capture.read(start, one.capture.size)
    one.there.power.off()
    one.is_as_it_was()


def test_power_that_is_lost_in_mid_upload(one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_in_mid_upload(one, monkeypatch)
    assert "uploading" in failed(one, image(tmp_path, "good"), "SSH 127.0.0.1")


def test_a_disk_that_is_full(one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def into_little(ssh: Ssh, folder: str, wanted: Image, note: Note) -> str:
        done(ssh, f"grep -q ' {folder} ' /proc/mounts || mount -t tmpfs -o size=16k none {folder}", what="mount")
        return upload(ssh, folder, wanted, note)

    monkeypatch.setattr(kexec, "upload", into_little)
    assert "verified" not in failed(one, image(tmp_path, "good"), "No space left")


def test_a_file_that_arrives_as_another_one(one: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_in_mid_upload(monkeypatch)
    assert "verified" not in failed(one, image(tmp_path, "good"), "SHA-256 there is")
