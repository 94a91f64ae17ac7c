"""A machine's one-shot methods, looked at, proved and cleaned up after, apart from any image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bench.errors import UsageError
from bench.lab.flash import store, survey
from bench.lab.flash.bootnext import BootNext
from bench.lab.flash.grub import Grub
from bench.lab.flash.oneshot import OneShot
from bench.lab.flash.proof import Proofs, key_of, prove
from bench.lab.flash.reach import reach, switch_off
from bench.lab.flash.refusals import refusals
from bench.lab.flash.system import BOOT
from bench.lab.flash.systemd_boot import SystemdBoot
from bench.lab.load import Note
from bench.lab.power import Power
from bench.lab.ssh import Ssh
from bench.records import OWN_SYSTEM_ANSWERS, Machine

METHODS: Mapping[str, OneShot] = {method.name: method for method in (Grub(), SystemdBoot(), BootNext())}


@dataclass(frozen=True)
class MethodState:
    """How it stands with a method on a machine."""

    method: str
    state: str
    """``refused``, ``not proved yet``, ``proved`` or ``does not work``."""
    reasons: tuple[str, ...] = ()


def methods_of(machine: Machine, only: str | None = None) -> list[OneShot]:
    """The methods of its `boot_methods` that keep something on the disk. Raises UsageError if it has none."""
    found = [METHODS[name] for name in machine.wiring.boot_methods if name in METHODS and only in (None, name)]
    if not found:
        has = ", ".join(machine.wiring.boot_methods) or "none"
        raise UsageError(f"{machine.name}: boot_methods: {has}: none of {', '.join(METHODS)} is there to be looked at")
    return found


class _Talk:
    """The connection that is open now; a proof replaces it."""

    def __init__(self, ssh: Ssh) -> None:
        self.ssh = ssh


@contextmanager
def _talking(machine: Machine, power: Power, note: Note, wait_s: float) -> Iterator[_Talk]:
    """Its own system, which switches itself off at the end."""
    ssh, how = reach(machine, power, wait_s=wait_s)
    note({"step": OWN_SYSTEM_ANSWERS, **how})
    talk = _Talk(ssh)
    try:
        yield talk
        switch_off(machine, talk.ssh, power)
    finally:
        talk.ssh.close()


def plan_methods(
    machine: Machine, power: Power, note: Note, *, wait_s: float, proofs: Proofs | None = None, boot: str = BOOT
) -> list[MethodState]:
    """What is in the way of each method, and whether it is proved."""
    methods = methods_of(machine)
    with _talking(machine, power, note, wait_s) as talk:
        return [_state(machine, method, talk.ssh, proofs or Proofs(), boot)[0] for method in methods]


def look(
    machine: Machine, ssh: Ssh, *, proofs: Proofs | None = None, boot: str = BOOT
) -> Iterator[tuple[MethodState, str]]:
    """What there is to say of each one-shot method of `machine` in its running system, and what it has set already."""
    names = [name for name in machine.wiring.boot_methods if name in METHODS]
    for name in names:
        state, _, pending = _state(machine, METHODS[name], ssh, proofs or Proofs(), boot)
        yield state, pending


def _state(machine: Machine, method: OneShot, ssh: Ssh, proofs: Proofs, boot: str) -> tuple[MethodState, str, str]:
    """And the key by which its proof is kept, and what the next boot will take instead of the default."""
    found = survey.look(ssh, method, boot=boot)
    system, pending = found.system, found.left.pending
    reasons = refusals(system) + method.objections(system)
    if reasons:
        return MethodState(method.name, "refused", tuple(reasons)), "", pending
    key = key_of(machine, method.name, system, found.default)
    proof = proofs.find(machine, method.name, key)
    if proof is None:
        return MethodState(method.name, "not proved yet"), key, pending
    if proof.good:
        return MethodState(method.name, "proved"), key, pending
    return MethodState(method.name, "does not work", (proof.why,)), key, pending


def prove_methods(
    machine: Machine,
    power: Power,
    note: Note,
    *,
    wait_s: float,
    only: str | None = None,
    proofs: Proofs | None = None,
    boot: str = BOOT,
) -> list[MethodState]:
    """Prove each method anew, and keep the outcomes."""
    methods, proofs, found = methods_of(machine, only), proofs or Proofs(), []
    with _talking(machine, power, note, wait_s) as talk:
        for method in methods:
            proofs.forget(machine, method.name)
            state, key, _ = _state(machine, method, talk.ssh, proofs, boot)
            if not state.reasons:
                proof, talk.ssh = prove(machine, method, talk.ssh, power, note, wait_s=wait_s, boot=boot)
                proofs.keep(machine, method.name, key, proof)
                state = MethodState(method.name, "proved" if proof.good else "does not work", (proof.why,))
            found.append(state)
    return found


def prune_images(
    machine: Machine, power: Power, note: Note, *, wait_s: float, keep: int, boot: str = BOOT
) -> list[str]:
    """Take back entries and one-shots of ours, and all images but the `keep` newest; what went."""
    methods, removed = methods_of(machine), []
    with _talking(machine, power, note, wait_s) as talk:
        for method in methods:
            found = survey.look(talk.ssh, method, boot=boot)
            if not method.objections(found.system):
                removed += method.withdraw(talk.ssh, found.system)
                folder, _ = method.folder(found.system)
                gone = store.prune(talk.ssh, found.system, folder, found.folder, keep=keep)
                removed += [f"{folder}/{name}" for name in gone]
    return removed
