"""The BIOS's own microcode revision, as far as the log of a running system gives it away."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bench.lab.fingerprint import SystemFacts
from bench.parse.kernel import read_kernel_log
from bench.parse.kernel_microcode import Microcode

INTEL = "GenuineIntel"
FACT = "BIOS microcode revision"
"""What a fingerprint calls it."""
BEGINNING = b"Linux version "
"""In the first line of every kernel's log."""
# The events (`bench.parse.kernel`) that tell of another revision than before.
CHANGES = frozenset({"updated_early", "updated_early_from", "late_updated", "reload_completed", "reload_succeeded"})


class Told(StrEnum):
    """What the log tells."""

    SAME = "nothing has been updated"
    KNOWN = "updated, and from what"
    HIDDEN = "updated, and not from what"
    UNKNOWN = "the log does not reach back to its beginning"


@dataclass(frozen=True)
class BiosRevision:
    """The answer."""

    told: Told
    revision: int | None = None
    """With SAME and KNOWN."""


def bios_revision(log: bytes, running: int) -> BiosRevision:
    """What the BIOS had loaded before this system; `log` is the kernel's, `running` is the revision now."""
    said = [thing for thing in read_kernel_log(log) if isinstance(thing, Microcode) and thing.event in CHANGES]
    if said:
        # An early update always comes first, so that a late one's revision before is the BIOS's only without it.
        first = said[0]
        complete = BEGINNING in log or first.event.startswith("updated_early")
        if first.before is not None and complete:
            return BiosRevision(Told.KNOWN, first.before)
        return BiosRevision(Told.HIDDEN)
    return BiosRevision(Told.SAME, running) if BEGINNING in log else BiosRevision(Told.UNKNOWN)


def firmware_of(facts: SystemFacts) -> dict[str, str]:
    """The firmware's fingerprint, with `FACT` in it if the processor is Intel's and the log gives it away.

    The running revision is none of the firmware's: the package that updates it is the system's.
    """
    found = dict(facts.fingerprint)
    if facts.vendor == INTEL and facts.microcode is not None:
        own = bios_revision(facts.kernel_log, facts.microcode).revision
        if own is not None:
            found[FACT] = f"0x{own:08x}"
    return found
