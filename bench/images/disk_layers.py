"""What lies between a partition of a virtual machine's disk and the file system in it, by the disk's kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.images import lvm, md

BLIND, ON_VOLUME, ON_MIRROR, SECRET_ROOT = "bios-grub-blind", "bios-grub-lvm", "bios-grub-raid", "bios-grub-luks"
# Whose known-good system needs programs that the others do not have.
LAYERED = frozenset({ON_MIRROR, SECRET_ROOT})
# What opens the encrypted root. It keeps nothing secret.
PASSPHRASE = b"correct horse"


@dataclass(frozen=True)
class Layer:
    """What /boot lies on."""

    head: bytes
    """Whole sectors, in front of the file system."""
    sectors: int
    """The file system's."""
    partition_type: str
    """As sgdisk names it."""
    grub_module: str
    told: Mapping[str, bytes]
    """Files by which the known-good system's init finds it."""


def layer_under_boot(kind: str, sectors: int) -> Layer | None:
    """What /boot's partition, of so many sectors, begins with on a disk of this kind; None: with its file system."""
    if kind == ON_VOLUME:
        volume = lvm.one_volume(sectors)
        told = f"{lvm.GROUP}-{lvm.VOLUME} {volume.uuid}\n{volume.sectors} {lvm.FIRST}\n"
        return Layer(volume.head, volume.sectors, "8e00", "lvm", {"etc/boot-volume": told.encode()})
    if kind == ON_MIRROR:
        half = md.half_a_mirror(sectors)
        return Layer(half.head, half.sectors, "fd00", "mdraid1x", {"etc/boot-mirror": b""})
    return None
