"""kexec: the machine's own system, started as usual, starts the kernel in its place. Nothing stays on its disk.

Nothing is reset: what firmware and the first kernel did to processor and devices stays done, microcode among it.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from bench.errors import LabError
from bench.lab.flash.oneshot import done
from bench.lab.flash.reach import EVERY_S, access_of, connected, have_off
from bench.lab.flash.refusals import refusals
from bench.lab.flash.refused import MethodRefused
from bench.lab.flash.system import ask_system
from bench.lab.flash.upload import Image, upload
from bench.lab.load import Load, Loader, Note
from bench.lab.power import Power
from bench.lab.ssh import Ssh, SshError
from bench.records import OWN_SYSTEM_ANSWERS, Machine

RESETS_NOTHING = "kexec resets nothing: what the processor has of microcode is not what a boot would find"
_MICROCODE = b"kernel/x86/microcode/"
_RELOCATABLE = 0x234
LOADING_S = 120.0


class KexecLoader(Loader):
    """Loads the kernel as soon as the system that power-on starts answers; `delay_s` is how long that may take."""

    name = "kexec"

    def __init__(self, *, system_s: float, wait_s: float) -> None:
        self.delay_s = system_s
        self._wait_s = wait_s
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._trouble: LabError | None = None

    def load(self, machine: Machine, load: Load, power: Power, note: Note) -> Mapping[str, str]:
        """See Loader. Raises MethodRefused for what kexec cannot start."""
        access_of(machine)
        kernel = load.kernel.read_bytes()
        if objections := image_objections(kernel, load):
            raise MethodRefused(machine.name, self.name, objections)
        have_off(machine, power)  # else the thread would find the system that is about to be switched off
        self._thread = threading.Thread(
            target=self._work, args=(machine, kernel, load, note), name=f"kexec on {machine.name}", daemon=True
        )
        self._thread.start()
        return {"loader": self.name, "when": "as soon as its own system answers"}

    def fall_back(self, machine: Machine) -> Mapping[str, str]:  # noqa: ARG002
        """See Loader. Raises what kept the kernel from being started."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._trouble is not None:
            raise self._trouble
        return {"loader": self.name, "withdrawn": "nothing: what was loaded is gone with the power"}

    def _work(self, machine: Machine, kernel: bytes, load: Load, note: Note) -> None:
        try:
            with self._answering(machine) as ssh:
                _start(machine, ssh, kernel, load, note)
        except LabError as error:
            if not self._over.is_set():
                self._trouble = error
                with suppress(LabError):
                    note({"step": "kexec failed", "why": str(error)})

    def _answering(self, machine: Machine) -> Ssh:
        access, deadline = access_of(machine), time.monotonic() + self._wait_s
        while True:
            try:
                return connected(access)
            except SshError as error:
                if error.trouble == "refuses" or self._over.is_set() or time.monotonic() > deadline:
                    raise
            self._over.wait(EVERY_S)


def image_objections(kernel: bytes, load: Load) -> list[str]:
    """What of a load is in the way of kexec."""
    if load.updates or load.msr_sites is not None or _MICROCODE in load.initrd:
        return [RESETS_NOTHING]
    if kernel[_RELOCATABLE : _RELOCATABLE + 1] != b"\x01":
        return ["the image runs at one address only, and kexec cannot move it there from under a running kernel"]
    return []


def _start(machine: Machine, ssh: Ssh, kernel: bytes, load: Load, note: Note) -> None:
    system, said = ask_system(ssh, more="echo @scratch; mktemp -d")
    note({"step": OWN_SYSTEM_ANSWERS, "boot id": system.boot_id})
    objections = refusals(system)
    if "kexec" not in system.tools:
        objections.append("no kexec on the machine (package kexec-tools)")
    if system.kexec_off:
        objections.append("kernel.kexec_load_disabled is set: until the next boot nothing can be loaded")
    if objections:
        raise MethodRefused(machine.name, KexecLoader.name, objections)
    folder = said["scratch"]
    if not folder.startswith("/"):
        raise LabError(f"{ssh.component}: no folder can be made for the images", component=ssh.component)
    paths = [upload(ssh, folder, Image("kernel", kernel), note)]
    if load.initrd:
        paths.append(upload(ssh, folder, Image("initrd", load.initrd), note))
    words = ["kexec", "-c", "-l", paths[0], f"--command-line={load.command_line}"]
    words += [f"--initrd={paths[1]}"] if load.initrd else []
    # The pause lets the answer out.
    start = "{ sleep 0.1 || sleep 1; kexec -e; } >/dev/null 2>&1 </dev/null &"
    done(ssh, f"{shlex.join(words)} && sync || exit 1\n{start}", what="kexec -l", timeout_s=LOADING_S)
    note({"step": "kexec", "bytes": str(len(kernel) + len(load.initrd)), "commands": str(ssh.round_trips)})
