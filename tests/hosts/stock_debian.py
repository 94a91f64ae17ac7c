"""A machine that somebody else has set up: Debian as it comes, with systemd, OpenSSH and GRUB, on a disk.

Packages are unpacked and configured by mmdebstrap (as root, or in a user namespace with subordinate ids); the machine
itself installs its boot loader, at its first start, with grub-install and update-grub.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.hosts import public_line
from bench.images.kernel_apt import debian_origins
from bench.inventory import load_inventory
from bench.lab.virtual import machine_options
from bench.records import HostFiles, Machine
from tests.hosts.flashing import ROOT
from tests.rack.servers import program

PACKAGES = (
    *("linux-image-cloud-amd64", "initramfs-tools", "zstd", "systemd-sysv", "udev", "dbus"),
    *("openssh-server", "grub-pc", "kexec-tools"),
)
DISK_BYTES = 1600 << 20
# Where GRUB's core goes, and then the system's partition; of the end GPT has its copy.
GAP_BYTES = 1 << 20
INSTALL = """\
#!/bin/sh
set -x
mount -o remount,rw /
grub-install /dev/vda && update-grub && rm /install-grub && echo INSTALLED
sync
mount -o remount,ro /
echo o >/proc/sysrq-trigger
sleep 60
"""
FILES = {
    "etc/fstab": "LABEL=stock / ext4 defaults 0 1\n",
    "etc/hostname": "stock\n",
    "etc/default/grub": (
        'GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\nGRUB_CMDLINE_LINUX="console=ttyS0,115200"\n'
        'GRUB_TERMINAL=serial\nGRUB_SERIAL_COMMAND="serial --speed=115200"\nGRUB_DISABLE_OS_PROBER=true\n'
    ),
    "etc/systemd/network/wired.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n",
    "install-grub": INSTALL,
}


def build(folder: Path) -> Machine:
    """The machine, ready to be plugged in: fetched, configured, its boot loader installed. About 40 MB are fetched."""
    origin = next(one for one in debian_origins() if not one.suites[0].endswith("-security"))
    suite = origin.suites[0]
    folder.mkdir()
    user, host = _key(folder / "user"), _key(folder / "host")
    for name, text in {**FILES, "root/.ssh/authorized_keys": f"{public_line(user)}\n"}.items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "files" / "install-grub").chmod(0o755)
    system = folder / "system.ext4"
    hooks = [
        f'cp -a --no-preserve=ownership {folder}/files/. "$1"/',
        f'install -m 600 {folder}/host "$1"/etc/ssh/ssh_host_ed25519_key',
        'chmod 700 "$1"/root/.ssh; chroot "$1" systemctl enable systemd-networkd ssh',
        f'cp -L "$1"/vmlinuz "$1"/initrd.img {folder}/',
        # Not /proc and /sys, which are mounted there meanwhile.
        f'cp -a --one-file-system "$1" {folder}/root',
        f"truncate -s {DISK_BYTES - 2 * GAP_BYTES} {system}; mkfs.ext4 -q -L stock -d {folder}/root {system}",
        f"rm -rf {folder}/root",
    ]
    command = [
        program("mmdebstrap"), "--variant=minbase", f"--include={','.join(PACKAGES)}", "--format=null",
        *(f"--customize-hook={hook}" for hook in hooks), suite, "/dev/null", origin.uri,
    ]  # fmt: skip
    _run(command, folder / "mmdebstrap.log")
    disk = folder / "disk"
    with disk.open("wb") as out:
        out.truncate(DISK_BYTES)
    parts = ["--set-alignment=1", "--new=1:34:2047", "--typecode=1:ef02", "--new=2:2048:0"]
    _run([program("sgdisk"), *parts, str(disk)], folder / "sgdisk.log")
    copy = ["dd", f"if={system}", f"of={disk}", "bs=1M", "seek=1", "conv=sparse,notrunc"]
    _run(copy, folder / "dd.log")
    system.unlink()
    machine = load_inventory(ROOT)["host-bios-grub"]
    _install_boot_loader(machine, disk, folder)
    spec = machine.virtual
    assert spec is not None and spec.host is not None
    files = HostFiles(disk, folder / "user", public_line(host))
    return replace(machine, name="stock-debian", virtual=replace(spec, host=replace(spec.host, files=files)))


def _install_boot_loader(machine: Machine, disk: Path, folder: Path) -> None:
    command = [
        *machine_options(machine), "-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img"),
        "-append", "root=/dev/vda2 console=ttyS0 quiet init=/install-grub", "-serial", "stdio",
        "-drive", f"if=virtio,format=raw,file={disk}",
    ]  # fmt: skip
    _run(command, folder / "install.log")
    assert "INSTALLED" in (folder / "install.log").read_text(errors="replace")


def _run(command: list[str], log: Path) -> None:
    with log.open("wb") as out:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=400)
    assert done.returncode == 0, f"{command[0]}: {log.read_text(errors='replace')[-2000:]}"


def _key(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    pem, openssh = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    path.touch(0o600)
    path.write_bytes(key.private_bytes(pem, openssh, serialization.NoEncryption()))
    return key
