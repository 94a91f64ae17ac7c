"""The folder of images on a machine: what is in it, and what goes when there is too much."""

from __future__ import annotations

import re
import shlex

from bench.lab.flash import files
from bench.lab.flash.oneshot import ask, done
from bench.lab.flash.system import System
from bench.lab.flash.upload import HASH_DIGITS, PART
from bench.lab.ssh import Ssh

# The newest so many of each kind stay: what is run again is not sent again.
KEEP = 4
_OURS = re.compile(rf"[0-9a-f]{{{HASH_DIGITS}}}\.(kernel|initrd)({re.escape(PART)})?")


def prune(
    ssh: Ssh, system: System, folder: str, *, keep: int = KEEP, needed: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """Remove all but the `keep` newest images of each kind, and parts; the names that went, and that stay.

    What is `needed`, what any configuration of the boot loader names and what is not named as ours are stays.
    """
    removed: list[str] = []
    staying: list[str] = []
    kept = {"kernel": 0, "initrd": 0}
    for name in files.listed(ssh, folder):
        match = _OURS.fullmatch(name)
        if match is None:
            continue
        if not match[2]:
            kept[match[1]] += 1
            if kept[match[1]] <= keep or name in needed or _is_named(ssh, system, name):
                staying.append(name)
                continue
        removed.append(name)
    files.remove(ssh, *(f"{folder}/{name}" for name in removed))
    return removed, staying


def make(ssh: Ssh, folder: str) -> None:
    """Have the folder, on disk."""
    quoted, above = shlex.quote(folder), shlex.quote(folder.rpartition("/")[0])
    done(ssh, f"[ -d {quoted} ] || {{ mkdir -p {quoted} && sync {above}; }}", what=f"make {folder}")


def _is_named(ssh: Ssh, system: System, name: str) -> bool:
    places = [f"{system.grub}/grub.cfg", f"{system.grub}/custom.cfg"] if system.grub else []
    places += [f"{system.loader}/loader"] if system.loader else []
    quoted = " ".join(map(shlex.quote, places))
    return bool(places) and ask(ssh, f"grep -rqF {shlex.quote(name)} {quoted}").status == 0
