"""Boots files by UEFI firmware in QEMU, from a FAT medium that holds them, and reads the serial port."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench.inventory import find_root, load_inventory
from bench.lab.virtual import firmware_files, machine_options
from bench.records import Machine
from tests.lab.payload_machine import Record, decode, until_done

FALLBACK = "EFI/BOOT/BOOTX64.EFI"
"""What firmware starts from a medium that it does not know."""
SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
IPXE = Path("/usr/lib/ipxe/ipxe.efi")
GRUB_MODULES = (
    "fat", "normal", "linux", "linuxefi", "chain", "configfile", "serial", "terminal", "echo", "boot", "minicmd",
)  # fmt: skip
GRUB_START = "serial --unit=0 --speed=115200\nterminal_output serial\nconfigfile /grub/grub.cfg\n"
# Firmware alone takes 4 s on an idle core.
DEADLINE_S = 240.0
# What depends on the way the script came.
OF_THE_LOADER = ("RD", "CL")
OF_A_SPIN = ("I", "N", "R", "J")

# All of the payload's handler variants; its firmware is told by the tests.
MACHINE = load_inventory(find_root(Path(__file__).parent))["uefi-la57"]


def by_bios(machine: Machine) -> Machine:
    assert machine.virtual is not None
    return replace(machine, virtual=replace(machine.virtual, firmware="bios"))


def small(mib: int) -> Machine:
    return replace(MACHINE, memory_bytes=mib << 20)


def qemu(machine: Machine, *options: str) -> list[str]:
    """QEMU's command line for the machine of the inventory, its serial port on standard output."""
    command = [*machine_options(machine), "-no-reboot", "-serial", "stdio"]
    if machine.virtual is not None and machine.virtual.firmware == "uefi":
        code, variables = firmware_files()
        command += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
        command += ["-drive", f"if=pflash,unit=1,format=raw,snapshot=on,file={variables}"]
    return [*command, *options]


def medium(path: Path, files: Mapping[str, bytes | Path], *, mib: int = 64) -> Path:
    """A FAT file system without partitions, with these files by their paths."""
    with path.open("wb") as out:
        out.truncate(mib << 20)
    subprocess.run(["mformat", "-i", path, "-F", "::"], check=True)
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    if folders:
        subprocess.run(["mmd", "-i", path, *(f"::/{folder}" for folder in folders)], check=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            subprocess.run(["mcopy", "-i", path, "-", f"::/{name}"], input=content, check=True)
        else:
            subprocess.run(["mcopy", "-i", path, content, f"::/{name}"], check=True)
    return path


def disk(path: Path, number: int = 1) -> tuple[str, ...]:
    """The medium as the disk that firmware tries as the `number`-th."""
    drive = f"if=none,id=disk{number},format=raw,file={path}"
    return "-drive", drive, "-device", f"virtio-blk-pci,drive=disk{number},bootindex={number}"


def grub(folder: Path, config: str) -> dict[str, bytes | Path]:
    """GRUB as the fallback program, and its configuration."""
    early, image = folder / "early.cfg", folder / "grub.efi"
    early.write_text(GRUB_START)
    subprocess.run(
        ["grub-mkimage", "-O", "x86_64-efi", "-p", "/grub", "-c", early, "-o", image, *GRUB_MODULES], check=True
    )
    return {FALLBACK: image, "grub/grub.cfg": config.encode()}


def boot_files(
    folder: Path, files: Mapping[str, bytes | Path], *, machine: Machine = MACHINE, times: int = 1, mib: int = 64
) -> bytes:
    """What the serial port says when `machine` starts from a medium with these files, up to so many `done`."""
    image = medium(folder / "esp.img", files, mib=mib)
    return until_done(qemu(machine, *disk(image)), deadline_s=DEADLINE_S, times=times)


def told(data: bytes) -> list[Record]:
    """The trace's records without what depends on the loader (not `RS`: the script always has the same length), and
    without where a tick of the watchdog has met an endless loop."""
    records = [record for record in map(decode, data.split(b"\r\n")) if record is not None]
    told_ = []
    for record, before in zip(records, [{}, *records], strict=False):
        chance = OF_A_SPIN if "spin" in (record["kind"], before.get("kind")) else ()
        told_.append({name: value for name, value in record.items() if name not in (*OF_THE_LOADER, *chance)})
    return told_
