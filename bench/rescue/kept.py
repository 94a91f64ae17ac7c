"""The way into a rescue system that stays up when the bench is done: key and host key in a folder of the user's own.

They open nothing but that one boot, and are removed when the machine is rescued or examined the next time.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cache import cache_folder

if TYPE_CHECKING:
    from bench.rescue.session import Rescued


def kept_folder(machine: str) -> Path:
    """``$XDG_CACHE_HOME/bench/rescue/MACHINE``, in ``~/.cache`` if that is not set."""
    return cache_folder("rescue") / machine


def forget(machine: str) -> None:
    """Remove what an earlier boot has left; harmless when there is nothing."""
    shutil.rmtree(kept_folder(machine), ignore_errors=True)


def keep(machine: str, there: Rescued) -> str:
    """Write the keys of a boot down, and return the command by which a person logs in."""
    forget(machine)
    folder = kept_folder(machine)
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(mode=0o700)
    key, known = folder / "key", folder / "known_hosts"
    key.touch(0o600)
    key.write_bytes(there.keys.private_key)
    known.write_text(f"{there.address} {there.keys.host_key}\n", encoding="ascii")
    words = ["ssh", "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={known}"]
    words += ["-o", "StrictHostKeyChecking=yes", f"{there.access.user}@{there.address}"]
    return shlex.join([*there.place.prefix, *words])
