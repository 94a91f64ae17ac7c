"""A load onto a machine's own disk, started once by one way of doing that."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

from bench.errors import LabError
from bench.lab.flash import store
from bench.lab.flash.guard import read_default, require_untouched
from bench.lab.flash.lookout import Lookout
from bench.lab.flash.oneshot import PREFIX, Entry, OneShot
from bench.lab.flash.proof import Proof, Proofs, key_of, prove
from bench.lab.flash.reach import reach, switch_off
from bench.lab.flash.refusals import refusals, room_refusal
from bench.lab.flash.refused import MethodRefused
from bench.lab.flash.system import BOOT, System, read_system
from bench.lab.flash.upload import Image, upload
from bench.lab.load import Load, Loader, Note
from bench.lab.power import Power
from bench.lab.ssh import Ssh
from bench.records import Machine


class FlashLoader(Loader):
    """Loads by `method`. One machine, one load: make a new one for the next.

    `wait_s`: from power-on to a system that answers SSH. `boot`: where the machine has its boot loader's files.
    """

    def __init__(self, method: OneShot, *, wait_s: float, proofs: Proofs | None = None, boot: str = BOOT) -> None:
        self._method = method
        self._wait_s = wait_s
        self._proofs = proofs or Proofs()
        self._boot = boot
        self._power: Power | None = None
        self._default: Mapping[str, str] | None = None
        self._lookout: Lookout | None = None

    def load(self, machine: Machine, load: Load, power: Power, note: Note) -> Mapping[str, str]:
        """See Loader. Raises MethodRefused, with nothing changed, if the machine or the image rules the method out."""
        begun = time.monotonic()
        kernel = load.kernel.read_bytes()
        if objections := self._method.image_objections(kernel):
            raise MethodRefused(machine.name, self._method.name, objections)
        ssh, how = reach(machine, power, wait_s=self._wait_s)
        note({"step": "known-good system answers", **how})
        try:
            ssh, system = self.require_usable(machine, ssh, power, note, updates=load.updates)
            images = [Image("kernel", kernel), *([Image("initrd", load.initrd)] if load.initrd else [])]
            self._power, self._default = power, read_default(ssh, system)
            self._method.withdraw(ssh, system)
            entry = self._put(machine, ssh, system, images, load.command_line, note)
            arming = self._method.arming(ssh, system, entry)
            require_untouched(machine.name, self._default, read_default(ssh, system))
            off = switch_off(machine, ssh, power, arming)
        finally:
            ssh.close()
        note({"step": "one-shot set", "method": self._method.name, "entry": entry.name, **off})
        self._lookout = Lookout(machine, system.boot_id, note)
        return {
            "loader": self._method.name, "entry": entry.name, "boot id before": system.boot_id,
            "took": f"{time.monotonic() - begun:.1f} s",
        }  # fmt: skip

    def require_usable(
        self, machine: Machine, ssh: Ssh, power: Power, note: Note, *, updates: bool = False
    ) -> tuple[Ssh, System]:
        """The connection, or a new one, to a machine on which the method is proved. Raises MethodRefused.

        `updates`: what is loaded offers microcode, so the machine has to fall back to a system that does not.
        """
        system = read_system(ssh, boot=self._boot)
        # A virtual machine forgets what it has taken.
        found = refusals(system, updates=updates and machine.virtual is None)
        if objections := found + self._method.objections(system):
            raise MethodRefused(machine.name, self._method.name, objections)
        key = key_of(machine, self._method.name, system, read_default(ssh, system))
        proof = self._proofs.find(machine, self._method.name, key)
        if proof is None:
            self._power = power
            proof, ssh = prove(machine, self._method, ssh, power, note, wait_s=self._wait_s, boot=self._boot)
            self._proofs.keep(machine, self._method.name, key, proof)
            note({"step": "proved" if proof.good else "not proved", "method": self._method.name, "why": proof.why,
                  "took": f"{proof.took_s:g} s"})  # fmt: skip
            system = read_system(ssh, boot=self._boot)
        if not proof.good:
            raise MethodRefused(machine.name, self._method.name, [_unproved(self._method.name, proof)])
        return ssh, system

    def _put(
        self, machine: Machine, ssh: Ssh, system: System, images: list[Image], command_line: str, note: Note
    ) -> Entry:
        """Images and entry onto the machine's disk."""
        folder, _ = self._method.folder(system)
        store.make(ssh, folder)
        names = tuple(image.name for image in images)
        pruned, there = store.prune(ssh, system, folder, needed=names)
        if pruned:
            note({"step": "pruned", "files": ", ".join(pruned)})
        needed = sum(len(image.content) for image in images if image.name not in there)
        _, free_bytes = self._method.folder(read_system(ssh, boot=self._boot) if pruned else system)
        if too_little := room_refusal(free_bytes, needed, folder):
            raise MethodRefused(machine.name, self._method.name, too_little)
        paths = [upload(ssh, folder, image, note) for image in images]
        entry = Entry(secrets.token_hex(8), paths[0], paths[1] if paths[1:] else "", command_line)
        self._method.add(ssh, system, entry)
        note({"step": "entry written", "method": self._method.name, "entry": entry.name})
        return entry

    def fall_back(self, machine: Machine) -> Mapping[str, str]:
        """See Loader: its own system is started, and seen to be the default; the machine is off afterwards."""
        if self._lookout is not None:
            self._lookout.stop()
        power, self._power = self._power, None
        if power is None:
            return {"loader": self._method.name, "withdrawn": "nothing was prepared"}
        ssh, how = reach(machine, power, wait_s=self._wait_s)
        try:
            system = read_system(ssh, boot=self._boot)
            pending = self._method.pending(ssh, system)
            removed = self._method.withdraw(ssh, system)
            if (still := self._method.pending(ssh, system)).startswith(PREFIX):
                words = f"{still} is still set for the next boot and cannot be taken back"
                raise LabError(f"{machine.name}: {self._method.name}: {words}", component="boot loader", witness=still)
            if self._default is not None:
                require_untouched(machine.name, self._default, read_default(ssh, system))
            off = switch_off(machine, ssh, power)
        finally:
            ssh.close()
            power.off()
        return {
            "loader": self._method.name, **how, "one-shot": f"was still set: {pending}" if pending else "consumed",
            "withdrawn": ", ".join(removed) or "nothing", "default": "untouched", "boot id": system.boot_id, **off,
        }  # fmt: skip


def _unproved(method: str, proof: Proof) -> str:
    tried = f"a one-shot of its own system by {method} was tried on {proof.when}"
    return f"{tried}: {proof.why}; `bench flash prove` tries again"
