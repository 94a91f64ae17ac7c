"""A load onto a machine's own disk, started once by one way of doing that."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.errors import LabError, UsageError
from bench.lab.fingerprint import split_answers
from bench.lab.flash import store
from bench.lab.flash.guard import default_question, default_told, require_untouched
from bench.lab.flash.lookout import DOWN_S, Lookout
from bench.lab.flash.oneshot import PREFIX, Arming, Entry, OneShot, add
from bench.lab.flash.proof import Proof, Proofs, key_of, prove
from bench.lab.flash.reach import reach, switch_off
from bench.lab.flash.refusals import refusals, room_refusal
from bench.lab.flash.refused import MethodRefused
from bench.lab.flash.restart import RestartPower, restart_into
from bench.lab.flash.survey import Survey, look
from bench.lab.flash.system import BOOT, read_system
from bench.lab.flash.upload import PART, Image, upload
from bench.lab.load import Load, Loader, Note
from bench.lab.power import Power
from bench.lab.ssh import Ssh
from bench.records import OWN_SYSTEM_ANSWERS, PROVED, Machine


@dataclass(frozen=True)
class _Ready:
    """A machine that is loaded, its own system still running; nothing is set."""

    machine: Machine
    ssh: Ssh
    arming: Arming
    entry: Entry
    boot_id: str
    note: Note


class FlashLoader(Loader):
    """Loads by `method`. One machine, one load: make a new one for the next.

    `wait_s`: from power-on to a system that answers SSH. `boot`: where the machine has its boot loader's files.
    """

    delay_s = DOWN_S

    def __init__(self, method: OneShot, *, wait_s: float, proofs: Proofs | None = None, boot: str = BOOT) -> None:
        self._method = method
        self._wait_s = wait_s
        self._proofs = proofs or Proofs()
        self._boot = boot
        self._power: Power | None = None
        self._default: Mapping[str, str] | None = None
        self._ready: _Ready | None = None
        self._lookout: Lookout | None = None

    def load(self, machine: Machine, load: Load, power: Power, note: Note) -> Mapping[str, str]:
        """See Loader. Raises MethodRefused, with nothing changed, if the machine or the image rules the method out."""
        begun = time.monotonic()
        kernel = load.kernel.read_bytes()
        if objections := self._method.image_objections(kernel):
            raise MethodRefused(machine.name, self._method.name, objections)
        images = [Image("kernel", kernel), *([Image("initrd", load.initrd)] if load.initrd else [])]
        ssh, how = reach(machine, power, wait_s=self._wait_s)
        if load.updates and "starts" not in how:
            # What its processor runs may have been loaded since power-on, and a restart may leave it there.
            switch_off(machine, ssh, power)
            ssh, how = reach(machine, power, wait_s=self._wait_s)
        asked = ssh.round_trips
        note({"step": OWN_SYSTEM_ANSWERS, **how})
        try:
            found = self._look(ssh, images)
            ssh, found = self.require_usable(machine, ssh, power, note, found=found, updates=load.updates)
            asked = ssh.round_trips if found.left.something else asked
            self._power, self._default = power, found.default
            if found.left.something:
                self._method.withdraw(ssh, found.system)
                found = self._look(ssh, images)
            entry, arming = self._put(machine, ssh, found, images, load.command_line, note)
        except BaseException:
            ssh.close()
            raise
        self._ready = _Ready(machine, ssh, arming, entry, found.system.boot_id, note)
        return {
            "loader": self._method.name, "entry": entry.name, "boot id before": found.system.boot_id,
            "took": f"{time.monotonic() - begun:.1f} s", "commands": str(ssh.round_trips - asked),
        }  # fmt: skip

    def starting(self, power: Power) -> Power:
        """See Loader: its own system restarts it."""
        return power if self._ready is None else RestartPower(power, self._restart)

    def _restart(self) -> Mapping[str, str]:
        ready, self._ready = self._ready, None
        if ready is None:
            raise UsageError("a load is started once: make a new one for the next")
        with ready.ssh:
            restart_into(ready.machine.name, ready.ssh, ready.arming)
        ready.note({"step": "one-shot set", "method": self._method.name, "entry": ready.entry.name})
        self._lookout = Lookout(ready.machine, ready.boot_id, ready.note)
        return {"start": "its own system restarts it"}

    def _look(self, ssh: Ssh, images: Sequence[Image] = ()) -> Survey:
        return look(ssh, self._method, boot=self._boot, images=[image.name for image in images])

    def require_usable(
        self,
        machine: Machine,
        ssh: Ssh,
        power: Power,
        note: Note,
        *,
        found: Survey | None = None,
        updates: bool = False,
    ) -> tuple[Ssh, Survey]:
        """The connection, or a new one, to a machine on which the method is proved. Raises MethodRefused.

        `updates`: what is loaded offers microcode, so the machine has to fall back to a system that does not.
        """
        found = found or self._look(ssh)
        system = found.system
        # A virtual machine forgets what it has taken.
        objections = refusals(system, updates=updates and machine.virtual is None)
        if objections := objections + self._method.objections(system):
            raise MethodRefused(machine.name, self._method.name, objections)
        key = key_of(machine, self._method.name, system, found.default)
        proof = self._proofs.find(machine, self._method.name, key)
        if proof is None:
            self._power = power
            proof, ssh = prove(machine, self._method, ssh, power, note, wait_s=self._wait_s, boot=self._boot)
            self._proofs.keep(machine, self._method.name, key, proof)
            note({"step": PROVED if proof.good else "not proved", "method": self._method.name, "why": proof.why,
                  "took": f"{proof.took_s:g} s"})  # fmt: skip
            images = [name for name in found.stored if not name.endswith(PART)]
            found = look(ssh, self._method, boot=self._boot, images=images)
        if not proof.good:
            raise MethodRefused(machine.name, self._method.name, [_unproved(self._method.name, proof)])
        return ssh, found

    def _put(
        self, machine: Machine, ssh: Ssh, found: Survey, images: list[Image], command_line: str, note: Note
    ) -> tuple[Entry, Arming]:
        """Images and entry onto the machine's disk; its default is compared behind it."""
        system = found.system
        folder, free_bytes = self._method.folder(system)
        names = [image.name for image in images]
        if pruned := store.prune(ssh, system, folder, found.folder, needed=names):
            note({"step": "pruned", "files": ", ".join(pruned)})
            _, free_bytes = self._method.folder(read_system(ssh, boot=self._boot))
        there = {name.removesuffix(PART): stored.size_bytes for name, stored in found.stored.items()}
        needed = sum(max(len(image.content) - there.get(image.name, 0), 0) for image in images)
        if too_little := room_refusal(free_bytes, needed, folder):
            raise MethodRefused(machine.name, self._method.name, too_little)
        paths = [upload(ssh, folder, image, note, stored=found.stored) for image in images]
        entry = Entry(secrets.token_hex(8), paths[0], paths[1] if paths[1:] else "", command_line)
        addition = self._method.adding(system, found.answers, entry)
        added = add(ssh, addition, f"touch {' '.join(map(shlex.quote, paths))}", default_question(system))
        note({"step": "entry written", "method": self._method.name, "entry": entry.name})
        require_untouched(machine.name, found.default, default_told(ssh, split_answers(added)))
        return entry, addition.arming

    def fall_back(self, machine: Machine) -> Mapping[str, str]:
        """See Loader: its own system is started, and seen to be the default; the machine is off afterwards."""
        if self._lookout is not None:
            self._lookout.stop()
        if self._ready is not None:
            self._ready.ssh.close()
        power, self._power = self._power, None
        if power is None:
            return {"loader": self._method.name, "withdrawn": "nothing was prepared"}
        ssh, how = reach(machine, power, wait_s=self._wait_s)
        try:
            pending = (found := self._look(ssh)).left.pending
            removed: list[str] = []
            if found.left.something:
                removed = self._method.withdraw(ssh, found.system)
                found = self._look(ssh)
            if (still := found.left.pending).startswith(PREFIX):
                words = f"{still} is still set for the next boot and cannot be taken back"
                raise LabError(f"{machine.name}: {self._method.name}: {words}", component="boot loader", witness=still)
            if self._default is not None:
                require_untouched(machine.name, self._default, found.default)
            off = switch_off(machine, ssh, power)
        finally:
            ssh.close()
            power.off()
        return {
            "loader": self._method.name, **how, "one-shot": f"was still set: {pending}" if pending else "consumed",
            "withdrawn": ", ".join(removed) or "nothing", "default": "untouched",
            "boot id": found.system.boot_id, **off,
        }  # fmt: skip


def _unproved(method: str, proof: Proof) -> str:
    tried = f"a one-shot of its own system by {method} was tried on {proof.when}"
    return f"{tried}: {proof.why}; `bench flash prove` tries again"
