"""What an interrupted run has left in the boot loaders of a machine, withdrawn by the rescue system.

The only thing that it writes to disks, and only when it is asked to. What is not of the bench's stays.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from bench.errors import LabError
from bench.lab.flash.oneshot import PATH, PREFIX, done
from bench.lab.flash.plan import METHODS
from bench.lab.flash.system import read_system
from bench.lab.ssh import Ssh
from bench.lab.text import escape
from bench.rescue.findings import BootLoader, Found, Volume

PLACE = "/mnt/repair"
MOUNT_S = 60.0


def repair(ssh: Ssh, found: Found) -> list[str]:
    """Withdraw what is left over by `found`; what was withdrawn, in words. Raises LabError if a disk refuses."""
    words = []
    for volume, loader in found.loaders:
        if loader.ours or loader.one_shot.startswith(PREFIX):
            words += [f"{loader.kind} on {volume.name}: {one}" for one in _withdrawn(ssh, volume, loader)]
    if f" {PREFIX}" in found.boot_next:
        words += [f"UEFI: {one}" for one in METHODS["bootnext"].withdraw(ssh, read_system(ssh, boot="/run"))]
    return words


def _withdrawn(ssh: Ssh, volume: Volume, loader: BootLoader) -> Iterator[str]:
    device = shlex.quote(f"/dev/{volume.name}")
    kind = "ext4" if volume.kind.startswith("ext") else volume.kind
    mounting = f"mkdir -p {PLACE} && mount -t {shlex.quote(kind)} {device} {PLACE}"
    mounted = ssh.run(PATH + mounting, timeout_s=MOUNT_S)
    if mounted.status:
        words = escape(mounted.complaints[-200:].strip())
        raise LabError(f"{volume.name}: cannot be written to: {words}", component="disk", witness=words)
    try:
        # GRUB's folder is in that of boot files, loader/ is in it itself.
        folder = loader.folder.rpartition("/")[0] if loader.kind == "grub" else loader.folder.rstrip("/")
        yield from METHODS[loader.kind].withdraw(ssh, read_system(ssh, boot=PLACE + folder))
    finally:
        done(ssh, f"sync; umount {PLACE}", what=f"unmount {volume.name}")
