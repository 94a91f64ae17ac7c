"""Before a machine's first flash: its boot loader shows that it starts something once, and the default after it.

What is started is the machine's own system, told apart by a word; nothing can be lost by it. The outcome is kept, by
machine, method and all that it depends on, good or bad, and asked for again when any of that changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.cache import cache_folder
from bench.errors import LabError
from bench.lab.flash.guard import read_default, require_untouched
from bench.lab.flash.oneshot import OneShot, add
from bench.lab.flash.reach import come_back, reach, switch_off
from bench.lab.flash.restart import restart_into
from bench.lab.flash.survey import look
from bench.lab.flash.system import System
from bench.lab.load import Note
from bench.lab.power import Power
from bench.lab.ssh import Ssh
from bench.records import Machine

VERSION = 2


@dataclass(frozen=True)
class Proof:
    """What came of it."""

    good: bool
    why: str
    """In words: what was seen."""
    when: str
    took_s: float


def proofs_folder() -> Path:
    """``$XDG_CACHE_HOME/bench/one-shots``, in ``~/.cache`` if that is not set."""
    return cache_folder("one-shots")


def key_of(machine: Machine, method: str, system: System, default: Mapping[str, str]) -> str:
    """Hash of everything that a proof depends on."""
    loader = {"grub": ("grub.cfg",), "systemd-boot": ("loader.conf",)}.get(method, ())
    facts = {
        "version": VERSION,
        "machine": machine.name,
        "method": method,
        "firmware": system.firmware,
        "loader": {name: default.get(name, "") for name in loader},
        "says": system.loader_info,
        "under": [system.boot.source, system.boot.kind, *system.boot_layers],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Proofs:
    """The proofs in a folder, one file each. Without one that can be written everything is proved every time."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or proofs_folder()

    def find(self, machine: Machine, method: str, key: str) -> Proof | None:
        """The proof by `key`, if there was one."""
        try:
            return Proof(**json.loads(self._path(machine, method, key).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, machine: Machine, method: str, key: str, proof: Proof) -> None:
        """Keep it. Raises LabError if the folder cannot be written."""
        path = self._path(machine, method, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_text(json.dumps(asdict(proof), indent=1) + "\n")
            beside.rename(path)
        except OSError as error:
            raise LabError(f"{path}: no proof can be kept there: {error.strerror}", component="disk") from error

    def forget(self, machine: Machine, method: str) -> None:
        """Have it proved again the next time."""
        for path in self._folder.glob(f"{machine.name}.{method}.*.json"):
            path.unlink(missing_ok=True)

    def _path(self, machine: Machine, method: str, key: str) -> Path:
        return self._folder / f"{machine.name}.{method}.{key[:16]}.json"


def prove(
    machine: Machine, method: OneShot, ssh: Ssh, power: Power, note: Note, *, wait_s: float, boot: str
) -> tuple[Proof, Ssh]:
    """Start the machine's own system once by `method`, and once more without; the outcome, and a new connection.

    `ssh` is closed. Raises LabError if the machine does not come back, or its default is another one afterwards.
    """
    begun = time.monotonic()
    found = look(ssh, method, boot=boot)
    system, before = found.system, found.default
    if found.left.something:
        method.withdraw(ssh, system)
        found = look(ssh, method, boot=boot)
    entry, addition = method.twin(ssh, system, found.answers, secrets.token_hex(8))
    add(ssh, addition)
    with ssh:
        restart_into(machine.name, ssh, addition.arming)
    note({"step": "proof: one-shot of its own system set", "method": method.name, "entry": entry.name})
    ssh = come_back(machine, power, system.boot_id, wait_s=wait_s)
    ran = method.ran(ssh, system, entry)
    left = method.pending(ssh, system)
    note({"step": "proof: first boot", "ran": str(ran), "left": left or "nothing"})
    if ran and not left:
        switch_off(machine, ssh, power)
        ssh, _ = reach(machine, power, wait_s=wait_s)
        again = method.ran(ssh, system, entry)
        note({"step": "proof: second boot", "ran": str(again)})
        why = "it was started twice" if again else "started once, and the default after it"
        good = not again
    else:
        good = False
        why = f"it was started, and is still set: {left}" if ran else "the default was started instead of it"
    method.withdraw(ssh, system)
    if still := method.pending(ssh, system):
        words = f"{method.name}: {still} is still set for the next boot and cannot be taken back"
        raise LabError(f"{machine.name}: {words}", component="boot loader", witness=still)
    require_untouched(machine.name, before, read_default(ssh, system))
    took_s = round(time.monotonic() - begun, 1)
    return Proof(good, why, datetime.now(UTC).isoformat(timespec="seconds"), took_s), ssh
