"""The small Linux that virtual machines with a disk have as their own system. Keys are no part of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.images.modules import by_list
from bench.images.small_system import SmallSystem

# Of Debian's busybox, what init and whoever logs in may use.
APPLETS = (
    "ash", "awk", "base64", "basename", "blkid", "cat", "chmod", "cmp", "cp", "cut", "date", "dd", "df",
    "dirname", "dmesg", "du", "echo", "env", "expr", "false", "find", "free", "grep", "head", "hexdump", "hostname",
    "hwclock", "id", "ifconfig", "insmod", "ip", "kill", "ln", "ls", "lsmod", "md5sum", "mkdir", "mkfifo",
    "mknod", "mktemp", "mount", "mountpoint", "mv", "nc", "nproc", "od", "paste", "ping", "printf", "ps", "pwd",
    "readlink", "realpath", "reset", "rm", "rmdir", "rmmod", "sed", "seq", "sh", "sha256sum", "sleep", "sort",
    "stat", "stty", "sync", "tail", "tar", "tee", "test", "timeout", "touch", "tr", "true", "tty", "udhcpc",
    "umount", "uname", "uniq", "uptime", "usleep", "wc", "wget", "which", "xargs", "xxd", "poweroff", "reboot",
    "halt",
)  # fmt: skip

SYSTEM = SmallSystem(
    name="known-good",
    recipe=2,
    sources=Path("firmware-images") / "known-good",
    scripts={"init": "init", "etc/serve": "serve", "etc/udhcpc": "udhcpc"},
    kernel="debian-cloud-6.1",
    packages=(
        "busybox-static",
        "dropbear-bin",
        "openssh-sftp-server",
        "kexec-tools",
        "grub-common",
        "dmsetup",
        "e2fsprogs",
    ),
    # Where each program lies in its package, the names of Debian 12 and 13.
    programs={
        "bin/busybox": ("bin/busybox", "usr/bin/busybox"),
        "usr/sbin/dropbear": ("usr/sbin/dropbear",),
        "usr/lib/sftp-server": ("usr/lib/openssh/sftp-server", "usr/lib/sftp-server"),
        "sbin/kexec": ("sbin/kexec", "usr/sbin/kexec"),
        "usr/bin/grub-editenv": ("usr/bin/grub-editenv",),
        "sbin/dmsetup": ("sbin/dmsetup", "usr/sbin/dmsetup"),
        # Without it no variable of a boot loader's can be deleted again; Debian's busybox has none.
        "usr/bin/chattr": ("usr/bin/chattr",),
    },
    applets=APPLETS,
    modules={
        "modules": (
            *("virtio_pci", "virtio_blk", "virtio_net", "ext4", "vfat", "nls_cp437", "nls_ascii", "efivarfs"),
            *("msr", "cpuid"),
        ),
        # Loaded only where /boot is one, or lies on one.
        "modules.btrfs": ("btrfs",),
        "modules.dm_mod": ("dm_mod",),
    },
    place_modules=by_list,
)

# The same, where /boot is on RAID or root is encrypted.
LAYERED_SYSTEM = replace(
    SYSTEM,
    name="known-good-layered",
    packages=(*SYSTEM.packages, "mdadm", "cryptsetup-bin"),
    programs={
        **SYSTEM.programs,
        "sbin/mdadm": ("sbin/mdadm", "usr/sbin/mdadm"),
        "sbin/cryptsetup": ("sbin/cryptsetup", "usr/sbin/cryptsetup"),
        "sbin/mke2fs": ("sbin/mke2fs", "usr/sbin/mke2fs"),
    },
    applets=(*APPLETS, "switch_root"),
    modules={**SYSTEM.modules, "modules.raid1": ("raid1",), "modules.dm_crypt": ("dm_crypt", "ecb", "xts")},
)
