"""`bench recover --rescue` on virtual machines with a disk of their own: what anybody can try without a lab."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.test_virtual_host import ROOT

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(900)]


def recover(name: str, results: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "recover", name, "--rescue", "--results", str(results), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    return done


def test_a_person_reads_what_is_on_its_disk(tmp_path: Path) -> None:
    done = recover("host-pxe-bios", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("firmware bios; bios vendor SeaBIOS")
    assert "  vda2: 431.0 MiB, ext4, BENCHBOOT" in lines
    assert "      'known-good': /vmlinuz (its header and its length), /initrd (how it begins)" in lines
    assert "whole   grub on vda2: 'known-good'" in lines
    assert lines[-1].startswith("host-pxe-bios: off; captured in ")
    assert any(line.startswith("SSH answers after ") for line in done.stderr.splitlines()), "progress, step by step"


def test_with_uefi_and_as_json(tmp_path: Path) -> None:
    done = recover("host-pxe-uefi", tmp_path, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["firmware"], found["secure_boot"]) == (0, True, "uefi", False)
    assert len(found["whole"]) == 1 and found["boot_order"]
    (disk,) = found["disks"]
    assert disk["volumes"][0]["kind"] == "vfat"


def test_it_cannot_be_kept_and_not_every_machine_can_be_rescued(tmp_path: Path) -> None:
    kept = recover("host-pxe-bios", tmp_path, "--keep")
    assert kept.returncode == 2 and "goes with the bench that plays it" in kept.stderr
    for name in ("haswell", "host-bios-grub"):
        done = recover(name, tmp_path)
        assert done.returncode == 2 and "'pxe' goes first" in done.stderr
