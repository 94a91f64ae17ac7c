"""Virtual machines with a disk, as far as it goes without one: inventory, keys, the archive behind the initrd."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import paramiko
import pytest

from bench.cli_systems import announce_for
from bench.errors import UsageError
from bench.hosts import with_files
from bench.images import disk
from bench.images.disk import KINDS, build_disk
from bench.images.kernel_cache import write_manifest
from bench.images.lvm import one_volume
from bench.images.md import half_a_mirror
from bench.images.modules import in_order
from bench.images.small_system import BuiltSystem, dropbear_key, keys_archive, systems_cache
from bench.inventory import load_inventory

ROOT = Path(__file__).resolve().parent.parent
ENTRY = """\
name = "box"
signature = "06-3c-03"
platform_id = 1
memory = "1 GiB"
maxphyaddr = 39

[virtual]
cpu = "Haswell"
firmware = "{firmware}"

[virtual.host]
disk = "{disk}"
boot_methods = [{methods}]
{more}
"""


def lab(folder: Path, **keys: str) -> Path:
    (folder / "inventory" / "virtual").mkdir(parents=True)
    (folder / "firmware-images").mkdir()
    text = ENTRY.format(**{"firmware": "bios", "disk": "bios-grub", "methods": '"grub"', "more": "", **keys})
    (folder / "inventory" / "virtual" / "box.toml").write_text(text)
    return folder


def test_a_machine_with_a_disk_is_read(tmp_path: Path) -> None:
    machine = load_inventory(lab(tmp_path, methods='"kexec", "grub", "pxe"'))["box"]
    assert machine.virtual is not None and machine.virtual.host is not None
    assert (machine.virtual.host.disk, machine.virtual.host.boot_methods) == ("bios-grub", ("kexec", "grub", "pxe"))
    assert machine.virtual.host.files is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"disk": "floppy"}, r"virtual\.host\.disk"),
        ({"methods": ""}, r"virtual\.host\.boot_methods"),
        ({"methods": '"bootnext"'}, r"'bootnext' is not what a disk 'bios-grub' has; allowed: grub, kexec, pxe"),
        ({"disk": "uefi-grub"}, r"virtual\.firmware: 'bios': a disk 'uefi-grub' is for 'uefi'"),
        ({"disk": "none", "methods": '"grub"'}, "allowed: pxe"),
        (
            {"methods": '"pxe"', "more": 'netboot = "bootnext"'},
            r"virtual\.host\.netboot: 'bootnext' is set by the system on a UEFI machine's disk",
        ),
        (
            {"firmware": "uefi", "disk": "uefi-grub", "more": 'netboot = "bootnext"'},
            r"virtual\.host\.netboot: 'bootnext' .* for boot_methods with 'pxe'",
        ),
        (
            {"methods": '"pxe"', "more": 'pxe_loader = "uki-http"'},
            r"virtual\.host\.pxe_loader: 'uki-http' needs firmware = 'uefi'",
        ),
    ],
)
def test_what_a_disk_cannot_do_is_refused(tmp_path: Path, keys: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_inventory(lab(tmp_path, **keys))


def test_keys_are_made_once_and_are_their_users_alone(tmp_path: Path) -> None:
    machine = load_inventory(lab(tmp_path, disk="none", methods='"pxe"'))["box"]
    made = [with_files(machine, ROOT, keys=tmp_path / "keys") for _ in range(2)]
    assert made[0] == made[1] and made[0].virtual is not None and made[0].virtual.host is not None
    files = made[0].virtual.host.files
    assert files is not None and files.disk is None and files.host_key.startswith("ssh-ed25519 ")
    assert files.key_file.stat().st_mode & 0o777 == 0o600
    assert paramiko.Ed25519Key.from_private_key_file(str(files.key_file)).get_name() == "ssh-ed25519"
    assert sorted(p.name for p in (tmp_path / "keys").iterdir()) == ["host", "user"]
    assert with_files(load_inventory(ROOT)["haswell"], ROOT) == load_inventory(ROOT)["haswell"]


def test_a_dropbear_key_is_two_strings() -> None:
    key = dropbear_key(b"p" * 32, b"q" * 32)
    assert key == b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x40" + b"p" * 32 + b"q" * 32


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_the_keys_archive_is_one_for_cpio() -> None:
    import subprocess

    archive = keys_archive(host_key=b"secret", authorized_keys=["ssh-ed25519 AAAA me"], more={"etc/x": b"y"})
    done = subprocess.run(["cpio", "-itv", "--quiet"], input=archive, capture_output=True, check=True)
    rows = {line.split()[-1]: line.split()[0] for line in done.stdout.decode().splitlines()}
    assert rows["root/.ssh/authorized_keys"] == rows["etc/x"] == "-rw-------" and rows["root/.ssh"] == "drwx------"


def test_modules_load_after_what_they_depend_on() -> None:
    def module(*depends: str) -> bytes:
        return b"\x7fELF\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"

    there = {"a": module("b-c", "d"), "b_c": module("d"), "d": module(), "e": module("built_in")}
    assert in_order(there, ("a", "e", "absent")) == ["d", "b_c", "a", "e"]


def test_missing_programs_are_named_with_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = BuiltSystem(tmp_path, tmp_path, "x")
    with pytest.raises(UsageError, match=f"no disk 'x'; there are: {', '.join(KINDS)}"):
        build_disk("x", system, b"", cache=tmp_path)
    monkeypatch.setattr(disk, "_program", lambda _: None)
    with pytest.raises(UsageError, match=r"not installed: .*gdisk.*mtools.*\./setup --with-boot"):
        build_disk("bios-grub", system, b"", cache=tmp_path)


def test_a_logical_volume_is_as_large_as_whole_extents_allow() -> None:
    volume = one_volume(2048 + 3 * 8192 + 5)
    assert (len(volume.head), volume.sectors) == (2048 * 512, 3 * 8192)
    assert volume.uuid == "LVM-" + "bench" + 27 * "g" + "bench" + 27 * "v"
    label, header = volume.head[512:1024], volume.head[4096:4608]
    # The same sums as LVM's own, calculated bit by bit.
    assert struct.unpack_from("<I", label, 16)[0] == checksum(label[20:])
    assert struct.unpack_from("<I", header)[0] == checksum(header[4:])
    offset, size, of_text = struct.unpack_from("<QQI", header, 40)
    text = volume.head[4096 + offset : 4096 + offset + size]
    assert checksum(text) == of_text and text.endswith(b"\0")
    for line in (b'id = "benchp-pppp-pppp-pppp-pppp-pppp-pppppp"', b"extent_count = 3\n", b"pe_start = 2048\n"):
        assert line in text
    assert label[32:64] == b"bench" + 27 * b"p"


def test_half_a_mirror_says_that_the_other_half_is_missing() -> None:
    half = half_a_mirror(2048 + 5)
    assert (len(half.head), half.sectors) == (2048 * 512, 5)
    block = half.head[4096 : 4096 + 260]
    # Offsets of struct mdp_superblock_1, counted by hand: magic, level, size, raid_disks, data_offset, data_size.
    fields = {0: 0xA92B4EFC, 72: 1, 80: 5, 92: 2, 128: 2048, 136: 5, 144: 8, 160: 0, 220: 2}
    assert {at: struct.unpack_from("<I", block, at)[0] for at in fields} == fields
    assert struct.unpack_from("<2H", block, 256) == (0, 0xFFFE)
    words = list(struct.unpack("<65I", block))
    own, words[54] = words[54], 0
    total = sum(words)
    assert own == (total + total // 2**32) % 2**32
    assert not any(half.head[:4096]) and not any(half.head[4096 + 260 :])


def checksum(data: bytes) -> int:
    value = 0xF597A6CF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value


def test_a_system_that_is_not_there_yet_is_announced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    boxes = [load_inventory(lab(tmp_path / disk, methods='"kexec"', disk=disk))["box"]
             for disk in ("bios-grub", "bios-grub-lvm", "bios-grub-luks")]  # fmt: skip
    diskless = load_inventory(lab(tmp_path / "none", methods='"pxe"', disk="none"))["box"]
    announce_for([*boxes, boxes[0], diskless])
    assert [line.split()[3] for line in capsys.readouterr().err.splitlines()] == ["known-good", "known-good-layered"]
    folder = systems_cache() / ("0" * 64)
    folder.mkdir(parents=True)
    write_manifest(folder, {"name": "known-good", "built": "2026-01-01T00:00:00Z"}, ())
    announce_for(boxes)
    assert [line.split()[3] for line in capsys.readouterr().err.splitlines()] == ["known-good-layered"]
