"""Watches, while a machine boots an image, whether its own system comes up instead, or stays: images answer no SSH."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from bench.errors import LabError
from bench.lab.flash.reach import access_of, read_boot_id
from bench.lab.load import Note
from bench.lab.ssh import Ssh, greets
from bench.records import KNOWN_GOOD_INSTEAD, STILL_UP, Machine

EVERY_S = 2.0
ANSWER_S = 10.0
# From the last answer of a system that restarts to the machine's reset; a longer one is not waited for.
DOWN_S = 30.0


class Lookout:
    """Asks from now on, in a thread, until it has seen the system or is stopped; what it sees goes to `note`.

    `before` is the boot id of the system that is going down: it may still answer for a while.
    """

    def __init__(self, machine: Machine, before: str, note: Note) -> None:
        self._access = access_of(machine)
        self._before = before
        self._note = note
        self._begun = time.monotonic()
        self._still_up = False
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
        if self._over.is_set():
            return False
        if boot == self._before:
            if not self._still_up and time.monotonic() > self._begun + DOWN_S:
                self._still_up = True
                self._note({"step": STILL_UP, "boot id": boot, "since": f"{DOWN_S:g} s"})
            return False
        self._note({"step": KNOWN_GOOD_INSTEAD, "boot id": boot})
        return True
