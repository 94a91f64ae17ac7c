"""The rescue system, which a machine without a system of its own gets over the network. It lives in memory.

Its kernel is Debian's for PCs, not the one for virtual machines that the known-good system has: that one has no driver
for the cards of real machines.
"""

from __future__ import annotations

from pathlib import Path

from bench.images.known_good import APPLETS
from bench.images.modules import by_alias
from bench.images.small_system import BuiltSystem, SmallSystem, build_system

NAME = "rescue"
SYSTEM = SmallSystem(
    name=NAME,
    recipe=1,
    sources=Path("firmware-images") / "rescue",
    scripts={"init": "init", "etc/udhcpc": "udhcpc"},
    kernel="debian-6.1",
    packages=(
        "busybox-static",
        "dropbear-bin",
        "openssh-sftp-server",
        "grub-common",
        "e2fsprogs",
        "dosfstools",
        "util-linux",
        "fdisk",
        "efibootmgr",
        "dmidecode",
        "xz-utils",
        "zstd",
    ),
    # Where each program lies in its package, the names of Debian 12 and 13.
    programs={
        "bin/busybox": ("bin/busybox", "usr/bin/busybox"),
        "usr/sbin/dropbear": ("usr/sbin/dropbear",),
        "usr/lib/sftp-server": ("usr/lib/openssh/sftp-server", "usr/lib/sftp-server"),
        "usr/bin/grub-editenv": ("usr/bin/grub-editenv",),
        "usr/bin/chattr": ("usr/bin/chattr",),
        "sbin/e2fsck": ("sbin/e2fsck", "usr/sbin/e2fsck"),
        "sbin/fsck.fat": ("sbin/fsck.fat", "usr/sbin/fsck.fat"),
        "sbin/blkid": ("sbin/blkid", "usr/sbin/blkid"),
        "bin/lsblk": ("bin/lsblk", "usr/bin/lsblk"),
        "sbin/sfdisk": ("sbin/sfdisk", "usr/sbin/sfdisk"),
        "bin/efibootmgr": ("bin/efibootmgr", "usr/bin/efibootmgr"),
        "usr/sbin/dmidecode": ("usr/sbin/dmidecode",),
        # Kernels are packed by them, and a look at one unpacks it; busybox' xz calls a sound one of Debian's corrupted.
        "usr/bin/xz": ("usr/bin/xz",),
        "usr/bin/zstd": ("usr/bin/zstd",),
    },
    applets=tuple(
        sorted(
            {*APPLETS, "arping", "blockdev", "cpio", "gunzip", "gzip", "less", "modprobe", "setsid", "vi"} - {"blkid"}
        )
    ),
    modules={
        # Cards of the last fifteen years whose driver needs no file of firmware, or starts without.
        "network": (
            *("virtio_net", "e1000", "e1000e", "igb", "igc", "ixgbe", "i40e", "r8169", "tg3", "bnxt_en", "atlantic"),
            *("8139cp", "8139too", "sky2", "alx", "forcedeth", "vmxnet3"),
        ),
        "disks": (
            *("ahci", "ata_piix", "ata_generic", "nvme", "virtio_blk", "virtio_scsi", "megaraid_sas", "mpt3sas"),
            *("sd_mod", "sr_mod", "sdhci_pci", "mmc_block", "xhci_pci", "ehci_pci", "usb_storage", "uas", "virtio_pci"),
        ),
        "file systems": ("ext4", "vfat", "nls_cp437", "nls_ascii", "nls_utf8", "btrfs", "xfs", "efivarfs"),
        # Sums that file systems and disks ask the kernel for by name.
        "sums": (
            *("crc32c_generic", "crc32c_intel", "crct10dif_generic", "crc64_rocksoft_generic"),
            *("xxhash_generic", "sha256_generic", "blake2b_generic"),
        ),
        "processor": ("msr", "cpuid"),
    },
    place_modules=by_alias,
)


def build_rescue(root: Path, *, cache: Path | None = None) -> BuiltSystem:
    """Build the rescue system of the project at `root`, or find it built. See `build_system`."""
    return build_system(root, SYSTEM, cache=cache)
