"""Watches, while a machine boots an image, whether its own system comes up instead: images answer no SSH."""

from __future__ import annotations

import threading
from contextlib import suppress

from bench.errors import LabError
from bench.lab.flash.reach import access_of, read_boot_id
from bench.lab.load import Note
from bench.lab.ssh import Ssh, greets
from bench.records import KNOWN_GOOD_INSTEAD, Machine

EVERY_S = 2.0
ANSWER_S = 10.0


class Lookout:
    """Asks from now on, in a thread, until it has seen the system or is stopped; what it sees goes to `note`.

    `before` is the boot id of the system that is going down: it may still answer for a while.
    """

    def __init__(self, machine: Machine, before: str, note: Note) -> None:
        self._access = access_of(machine)
        self._before = before
        self._note = note
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"lookout of {machine.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; nothing is noted after this."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            with suppress(LabError):
                if greets(self._access.host, self._access.port, timeout_s=2) and self._seen():
                    return

    def _seen(self) -> bool:
        with Ssh(self._access, timeout_s=ANSWER_S) as ssh:
            boot = read_boot_id(ssh)
        if boot == self._before or self._over.is_set():
            return False
        self._note({"step": KNOWN_GOOD_INSTEAD, "boot id": boot})
        return True
