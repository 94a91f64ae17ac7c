"""What has to be so before an update goes to a machine of metal, and what has to be said of it.

An update that a processor has taken is there until its power goes: no kernel can lower a revision. And the system that
a machine falls back to must come up whatever lies in its own initrd, which is why its loader is switched off.
"""

from __future__ import annotations

from bench.errors import LabError, UsageError
from bench.lab.fingerprint import read_system
from bench.lab.flash.kexec import KexecLoader
from bench.lab.flash.plan import METHODS
from bench.lab.flash.refusals import fallback_objection
from bench.lab.ssh import Ssh
from bench.records import Machine


def require_allowed(machine: Machine) -> None:
    """Raise UsageError unless the inventory lets updates go to `machine`. A virtual one forgets them."""
    if machine.virtual is None and not machine.allow_updates:
        raise UsageError(
            f"{machine.name}: the inventory does not allow microcode updates on it: allow_updates = true in its file "
            "would, and means that they may be written into its processors"
        )


def warning(machine: Machine) -> str:
    """What to say before a run that updates a machine of metal."""
    return (
        f"{machine.name}: the revision of its microcode cannot be lowered again: an update that it takes stays until a "
        "cold start, and one that its firmware or known-good system loads comes back after it"
    )


def require_fallback(machine: Machine) -> str:
    """Ask the known-good system, which has to run now, how it was started; its command line.

    A way of loading that talks to that system asks it itself: then nothing is asked here. Raises LabError (component
    ``known-good system``) if it may load microcode, or nobody can ask it.
    """
    if machine.wiring.boot_methods and set(machine.wiring.boot_methods) <= {*METHODS, KexecLoader.name}:
        return ""
    access = machine.wiring.ssh
    if access is None:
        raise LabError(
            f"{machine.name}: nobody can ask its known-good system whether it loads microcode: no [ssh] in the "
            "inventory",
            component="known-good system",
        )
    try:
        with Ssh(access) as ssh:
            said = read_system(ssh).command_line
    except LabError as error:
        raise LabError(
            f"{machine.name}: its known-good system has to run, so that it can be asked whether it loads microcode "
            f"(bench power {machine.name} on): {error}",
            component="known-good system",
            witness=error.witness,
        ) from error
    objection = fallback_objection(said)
    if objection:
        raise LabError(f"{machine.name}: {objection}", component="known-good system", witness=said)
    return said
