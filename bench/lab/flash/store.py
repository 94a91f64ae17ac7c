"""The folder of images on a machine: what is in it, and what goes when there is too much."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from bench.lab.flash.oneshot import done
from bench.lab.flash.system import System
from bench.lab.flash.upload import HASH_DIGITS, PART
from bench.lab.ssh import Ssh

# The newest so many of each kind stay: what is run again is not sent again.
KEEP = 4
_OURS = re.compile(rf"([0-9a-f]{{{HASH_DIGITS}}}\.(kernel|initrd))({re.escape(PART)})?")


def prune(
    ssh: Ssh, system: System, folder: str, names: Sequence[str], *, keep: int = KEEP, needed: Sequence[str] = ()
) -> list[str]:
    """Of `names` in `folder`, the newest first, remove all but the `keep` newest images of each kind, and parts.

    What is `needed`, whole or in part, what any configuration of the boot loader names and what is not named as ours
    stay. The names that went.
    """
    going: list[str] = []
    kept = {"kernel": 0, "initrd": 0}
    for name in names:
        match = _OURS.fullmatch(name)
        if match is None:
            continue
        kept[match[2]] += not match[3]
        if match[1] not in needed and (match[3] or kept[match[2]] > keep):
            going.append(name)
    return _removed(ssh, system, folder, going) if going else []


def _removed(ssh: Ssh, system: System, folder: str, names: Sequence[str]) -> list[str]:
    places = [f"{system.grub}/grub.cfg", f"{system.grub}/custom.cfg"] if system.grub else []
    places += [f"{system.loader}/loader"] if system.loader else []
    quoted = " ".join(map(shlex.quote, places)) or "/dev/null"
    command = (
        f"cd {shlex.quote(folder)} || exit 1\n"
        f"for n in {' '.join(names)}; do grep -rqF $n {quoted} || {{ rm -f $n && echo $n; }} || exit 1; done\nsync ."
    )
    return done(ssh, command, what=f"remove images from {folder}").decode("ascii", "replace").split()
