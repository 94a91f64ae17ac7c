"""Updates of microcode that a scenario has the payload offer: which machine may be offered which."""

from __future__ import annotations

from bench.records import Machine
from bench.scenarios.files import UpdateStep
from bench.scenarios.ground import Unfit
from bench.script import Step
from bench.x86.microcode_build import build_update, set_word
from bench.x86.microcode_processor import ALIGN_BYTES, Act
from bench.x86.signature import platform_flag

_DATE = 0x03062023
_DATA = bytes(2000)
_QEMUS_REVISION = 1
_OTHER_STEPPING = 1


def offered(step: UpdateStep, machine: Machine, newest: bytes) -> Step:
    """The script's step. `newest` is Intel's newest update for a machine of metal; empty: it is not here.

    Raises Unfit for a machine that must not be offered it.
    """
    if machine.virtual is None:
        return Step("ucode", update=_for_metal(step, machine, newest), align=step.align)
    rules = machine.virtual.microcode
    if rules and machine.virtual.firmware == "uefi":
        raise Unfit("UEFI puts the payload where the bench cannot know it: nobody plays its processors' part there")
    if rules and rules.act(0) in (Act.HANG, Act.RESET):
        raise Unfit(f"the first processor is to {rules.act(0)} at an update, and then there is nothing to read")
    return Step("ucode", update=_made_up(step, machine), align=step.align)


def _for_metal(step: UpdateStep, machine: Machine, newest: bytes) -> bytes:
    if not machine.allow_updates:
        raise Unfit("offers an update, and the inventory does not allow updates on this machine (allow_updates)")
    if step.update != "newest" or step.align % ALIGN_BYTES:
        raise Unfit("offers an update that is made up or misplaced, and that is none for a machine of metal")
    if not newest:
        raise Unfit("offers an update, and Intel's microcode is not here: get it with `bench microcode fetch`")
    return newest


def _made_up(step: UpdateStep, machine: Machine) -> bytes:
    """No real processor takes it: virtual machines only."""
    assert machine.virtual is not None
    rules = machine.virtual.microcode
    bios = rules.bios_revision if rules else _QEMUS_REVISION
    flags, signature = platform_flag(machine.platform_id), machine.signature
    # What is to be refused is newer than all that is taken, so that taking it would show.
    taken = step.update == "newest" and not step.align % ALIGN_BYTES
    revision = max(1, bios - 1) if step.update == "older" else bios + 1 if taken else bios + 2
    if step.update == "wrong-signature":
        signature ^= _OTHER_STEPPING
    if step.update == "wrong-flags":
        flags ^= 0xFF
    made = build_update(signature=signature, platform_flags=flags, revision=revision, date=_DATE, data=_DATA)
    return set_word(made, "reserved", 1, fix_checksum=False) if step.update == "bad-checksum" else made
