"""Disks of virtual machines: a boot loader, /boot and a known-good system, made without root or loop devices.

| kind | partitions | boot loader |
|---|---|---|
| ``bios-grub`` | 1 ESP (unused), 2 /boot (ext4), 3 BIOS boot | GRUB in the gap and in partition 3 |
| ``uefi-grub`` | 1 ESP, 2 /boot (ext4) | GRUB at the fallback path |
| ``uefi-grub-signed`` | as uefi-grub | Debian's signed shim and GRUB; its firmware has Secure Boot on |
| ``systemd-boot`` | 1 ESP, which is /boot | systemd-boot at the fallback path |
| ``bios-grub-blind`` | as bios-grub, /boot is btrfs | GRUB, which cannot write there: a one-shot would boot for ever |
| ``bios-grub-lvm`` | as bios-grub, /boot on a logical volume | the same |
| ``bios-grub-raid`` | as bios-grub, /boot on a mirror (md) without its other half | the same |
| ``bios-grub-luks`` | as bios-grub, and 4, on which the machine makes itself an encrypted root | as bios-grub |

GRUB's configuration is that of Debian's grub-mkconfig as far as one-shots go: next_entry, saved_entry, custom.cfg.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cache import cache_folder
from bench.errors import LabError, UsageError
from bench.images.disk_layers import BLIND, ON_MIRROR, ON_VOLUME, PASSPHRASE, SECRET_ROOT, layer_under_boot
from bench.images.kernel_cache import hash_of
from bench.images.kernel_source import sha256_of
from bench.images.packages import files_of, obtain
from bench.images.small_system import BuiltSystem
from bench.initrd import FOLDER, entry
from bench.records import SECURE_BOOT_DISK

RECIPE = 1
_SECTOR = 512
_MIB = 1 << 20
SIZE_BYTES = 448 * _MIB
# First and last sector of the partitions; the ESP of systemd-boot is large enough for kernels.
_BIOS_BOOT = (34, 2047)
_ESP = (2048, 34815)
_BOOT = (34816, SIZE_BYTES // _SECTOR - 35)
_WHOLE = (2048, SIZE_BYTES // _SECTOR - 35)
# Beside an encrypted root of 128 MiB.
_LESS_BOOT = (_BOOT[0], _BOOT[1] - (128 << 11))
_SECRET = (_LESS_BOOT[1] + 1, _BOOT[1])
_LABEL = "BENCHBOOT"
_GRUB_MODULES = (
    *("part_gpt", "fat", "ext2", "btrfs", "normal", "configfile", "linux", "echo", "serial", "terminal", "test"),
    *("loadenv", "search", "search_label", "sleep", "reboot", "boot", "minicmd", "zstd", "gzio"),
)
COMMAND_LINE = "console=ttyS0,115200 panic=10"

_EARLY_CONFIG = f"""\
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
search --no-floppy --label {_LABEL} --set=root
set prefix=($root)/grub
configfile $prefix/grub.cfg
"""
# As grub-mkconfig of Debian 12 writes it (00_header, 10_linux, 41_custom), with one entry.
_GRUB_CONFIG = """\
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="known-good"
fi
set timeout=0
menuentry 'known-good' --id known-good {
  linux /vmlinuz %(words)s
  initrd /initrd
}
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""
_LOADER_CONFIG = "default known-good.conf\ntimeout 0\neditor no\n"
_LOADER_ENTRY = "title known-good\nlinux /vmlinuz\ninitrd /initrd\noptions %(words)s\n"
# Program → package.
TOOLS: Mapping[str, str] = {
    "sgdisk": "gdisk", "mkfs.vfat": "dosfstools", "mcopy": "mtools", "mmd": "mtools", "mkfs.ext4": "e2fsprogs",
    "mkfs.btrfs": "btrfs-progs", "grub-mkimage": "grub-common", "grub-editenv": "grub-common",
}  # fmt: skip
GRUB_FOLDER = Path("/usr/lib/grub")
SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
_BY_BIOS = ("bios-grub", BLIND, ON_VOLUME, ON_MIRROR, SECRET_ROOT)
KINDS = (*_BY_BIOS, "uefi-grub", SECURE_BOOT_DISK, "systemd-boot")
# What init goes by where it is not ext4 on a partition, and root not in memory.
_TOLD = {BLIND: {"etc/boot-fs": b"btrfs\n"}, SECRET_ROOT: {"etc/secret-root": PASSPHRASE}}
# Name on the ESP → where it lies in Debian's packages.
SIGNED_PACKAGES = ("shim-signed", "grub-efi-amd64-signed")
_SIGNED = {
    "BOOTX64.EFI": "usr/lib/shim/shimx64.efi.signed",
    "grubx64.efi": "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
}
# Where the signed GRUB looks for its configuration; it loads no modules.
_SIGNED_FOLDER = "EFI/debian"
_SIGNED_CONFIG = f"""\
search --no-floppy --label {_LABEL} --set=root
set prefix=($root)/grub
configfile $prefix/grub.cfg
"""


@dataclass(frozen=True)
class Disk:
    """A raw disk image that is never written to: machines run on overlays of it."""

    path: Path
    kind: str
    identity: str


def disks_cache() -> Path:
    """``$XDG_CACHE_HOME/bench/disks``, in ``~/.cache`` if that is not set."""
    return cache_folder("disks")


def build_disk(kind: str, system: BuiltSystem, keys: bytes, *, cache: Path | None = None) -> Disk:
    """A disk of `kind` with `system`; `keys` goes behind its initrd. Found if it was made before.

    Raises UsageError for an unknown kind or a missing program (with its package).
    """
    if kind not in KINDS:
        raise UsageError(f"no disk {kind!r}; there are: {', '.join(KINDS)}")
    programs = _require(kind)
    identity = hash_of({
        "recipe": RECIPE, "bytes": SIZE_BYTES, "kind": kind, "system": system.identity, "keys": keys.hex(),
        "texts": [_EARLY_CONFIG, _GRUB_CONFIG, _LOADER_CONFIG, _LOADER_ENTRY, COMMAND_LINE],
        "loader": [sha256_of(path) for path in programs],
        **({"signed": [_SIGNED_CONFIG, _SIGNED_FOLDER]} if kind == SECURE_BOOT_DISK else {}),
    })  # fmt: skip
    path = (cache or disks_cache()) / f"{kind}-{identity[:16]}.img"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as scratch:
            _make(kind, system, keys, Path(scratch))
            (Path(scratch) / "disk").rename(path)
    return Disk(path, kind, identity)


def _require(kind: str) -> list[Path]:
    """Check that all programs are there; the boot loader's files, which the disk depends on."""
    lacking = {package for program, package in TOOLS.items() if _program(program) is None}
    wanted = {
        **{each: [GRUB_FOLDER / "i386-pc" / "boot.img"] for each in _BY_BIOS},
        "uefi-grub": [GRUB_FOLDER / "x86_64-efi" / "kernel.img"],
        "systemd-boot": [SYSTEMD_BOOT],
        SECURE_BOOT_DISK: [],
    }[kind]
    packages = {"i386-pc": "grub-pc-bin", "x86_64-efi": "grub-efi-amd64-bin", "efi": "systemd-boot-efi"}
    lacking |= {packages[path.parent.name] for path in wanted if not path.is_file()}
    if lacking:
        raise UsageError(f"not installed: {', '.join(sorted(lacking))}: ./setup --with-boot, or bench doctor --install")
    return wanted or list(obtain(SIGNED_PACKAGES).values())


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _run(*words: str | Path) -> None:
    program = _program(str(words[0]))
    assert program is not None
    # The same input gives the same bytes: no time of day, no random identity.
    environment = os.environ | {"SOURCE_DATE_EPOCH": "0", "LC_ALL": "C", "MTOOLS_SKIP_CHECK": "1"}
    command = [program, *map(str, words[1:])]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-300:]
        raise LabError(f"{words[0]}: exit code {done.returncode}: {said}", component="build computer", witness=said)


def _make(kind: str, system: BuiltSystem, keys: bytes, work: Path) -> None:
    place = _LESS_BOOT if kind == SECRET_ROOT else _BOOT
    layer = layer_under_boot(kind, _sectors(place))
    disk, boot = work / "disk", work / "boot"
    boot.mkdir()
    shutil.copyfile(system.kernel, boot / "vmlinuz")
    if told := layer.told if layer else _TOLD.get(kind):
        files = b"".join(entry(name, content) for name, content in told.items())
        keys += entry("etc", mode=FOLDER) + files + entry("TRAILER!!!", mode=0)
    initrd = system.initrd.read_bytes()
    (boot / "initrd").write_bytes(initrd + bytes(-len(initrd) % 4) + keys)
    with disk.open("wb") as file:
        file.truncate(SIZE_BYTES)
    words = {"words": COMMAND_LINE}
    if kind == "systemd-boot":
        _partition(disk, {1: (_WHOLE, "ef00")})
        entries = boot / "loader" / "entries"
        entries.mkdir(parents=True)
        (boot / "loader" / "loader.conf").write_text(_LOADER_CONFIG)
        (entries / "known-good.conf").write_text(_LOADER_ENTRY % words)
        efi = boot / "EFI" / "BOOT"
        efi.mkdir(parents=True)
        shutil.copyfile(SYSTEMD_BOOT, efi / "BOOTX64.EFI")
        _put(_fat(boot, _WHOLE, work), disk, _WHOLE)
        return
    partitions = {3: (_BIOS_BOOT, "ef02"), 1: (_ESP, "ef00"), 2: (place, layer.partition_type if layer else "8300")}
    if kind == SECRET_ROOT:
        partitions[4] = (_SECRET, "8309")
    _partition(disk, partitions)
    (boot / "grub").mkdir()
    (boot / "grub" / "grub.cfg").write_text(_GRUB_CONFIG % words)
    _run("grub-editenv", boot / "grub" / "grubenv", "create")
    (work / "early.cfg").write_text(_EARLY_CONFIG)
    efi = work / "esp" / "EFI" / "BOOT"
    efi.mkdir(parents=True)
    if kind == SECURE_BOOT_DISK:
        _put_signed_loaders(work / "esp")
        _put(_fat(work / "esp", _ESP, work), disk, _ESP)
        _put(_ext4(boot, work), disk, _BOOT)
        return
    common = ("-c", work / "early.cfg", "-p", "/grub")
    if kind == "uefi-grub":
        _run("grub-mkimage", "-O", "x86_64-efi", *common, "-o", efi / "BOOTX64.EFI", *_GRUB_MODULES)
    else:
        modules = (*_GRUB_MODULES, "biosdisk", *((layer.grub_module,) if layer else ()))
        _run("grub-mkimage", "-O", "i386-pc", *common, "-o", work / "core.img", *modules)
        _install_for_bios(disk, work / "core.img")
    _put(_fat(work / "esp", _ESP, work), disk, _ESP)
    if layer is not None:
        (work / "head").write_bytes(layer.head)
        _put(work / "head", disk, place)
        first = place[0] + len(layer.head) // _SECTOR
        place = (first, first + layer.sectors - 1)
    _put(_btrfs(boot, work) if kind == BLIND else _ext4(boot, work, place), disk, place)


def _put_signed_loaders(esp: Path) -> None:
    """Debian's signed boot loaders, and the way from there to grub.cfg."""
    debs = obtain(SIGNED_PACKAGES)
    there = {name: content for package in SIGNED_PACKAGES for name, content in files_of(debs[package])}
    for name, place in _SIGNED.items():
        content = there.get(place)
        if not isinstance(content, bytes):
            raise LabError(f"Debian's packages have no {place} any more", component="mirror")
        (esp / "EFI" / "BOOT" / name).write_bytes(content)
    (esp / _SIGNED_FOLDER).mkdir()
    (esp / _SIGNED_FOLDER / "grub.cfg").write_text(_SIGNED_CONFIG)


def _partition(disk: Path, partitions: Mapping[int, tuple[tuple[int, int], str]]) -> None:
    words = []
    for number, ((first, last), kind) in partitions.items():
        words += ["-n", f"{number}:{first}:{last}", "-t", f"{number}:{kind}"]
        words += ["-u", f"{number}:00000000-0000-4000-8000-{number:012x}"]
    _run("sgdisk", "-a1", *words, "-U", "00000000-0000-4000-8000-0000000000ff", disk)


def _sectors(place: tuple[int, int]) -> int:
    return place[1] - place[0] + 1


def _fat(tree: Path, place: tuple[int, int], work: Path) -> Path:
    image = work / "fat"
    with image.open("wb") as file:
        file.truncate(_sectors(place) * _SECTOR)
    _run("mkfs.vfat", "-n", "BENCHESP", "-i", "bec40000", image)
    tops: Sequence[Path] = sorted(tree.iterdir())
    _run("mcopy", "-s", "-m", "-i", image, *tops, "::/")
    return image


def _ext4(tree: Path, work: Path, place: tuple[int, int] = _BOOT) -> Path:
    image = work / "ext4"
    size = f"{_sectors(place) // 2}k"
    identity = "00000000-0000-4000-8000-000000000b00"
    extended = f"root_owner=0:0,hash_seed={identity}"
    _run("mkfs.ext4", "-q", "-F", "-L", _LABEL, "-U", identity, "-d", tree, "-E", extended, image, size)
    return image


def _btrfs(tree: Path, work: Path) -> Path:
    image = work / "btrfs"
    with image.open("wb") as file:
        file.truncate(_sectors(_BOOT) * _SECTOR)
    _run("mkfs.btrfs", "-q", "-f", "-L", _LABEL, "--mixed", "--rootdir", tree, image)
    return image


def _put(image: Path, disk: Path, place: tuple[int, int]) -> None:
    with image.open("rb") as source, disk.open("r+b") as target:
        target.seek(place[0] * _SECTOR)
        while block := source.read(_MIB):
            if any(block):
                target.write(block)
            else:
                target.seek(len(block), os.SEEK_CUR)
    image.unlink()


def _install_for_bios(disk: Path, core_file: Path) -> None:
    """What grub-bios-setup does, without a block device: boot.img into the first sector, core.img into partition 3.

    Offsets from GRUB 2.06, include/grub/i386/pc/boot.h and grub-core/boot/i386/pc/{boot,diskboot}.S.
    """
    core = bytearray(core_file.read_bytes())
    boot = bytearray((GRUB_FOLDER / "i386-pc" / "boot.img").read_bytes())
    if len(core) > _sectors(_BIOS_BOOT) * _SECTOR:
        raise LabError(f"GRUB's core image has {len(core)} bytes: too many", component="build computer")
    struct.pack_into("<Q", boot, 0x5C, _BIOS_BOOT[0])  # GRUB_BOOT_MACHINE_KERNEL_SECTOR
    boot[0x66:0x68] = b"\x90\x90"  # GRUB_BOOT_MACHINE_DRIVE_CHECK: take the drive that the BIOS names
    struct.pack_into("<Q", core, 0x1F4, _BIOS_BOOT[0] + 1)  # the first block list entry of diskboot.img
    with disk.open("r+b") as file:
        table = file.read(_SECTOR)
        file.seek(0)
        file.write(bytes(boot[:440]) + table[440:])
        file.seek(_BIOS_BOOT[0] * _SECTOR)
        file.write(core)
