"""The processor's part of a microcode update: what it takes, what it refuses in silence, what outlives a restart.

Source: SDM Vol. 3A, "Microcode Update Facilities": WRMSR 0x79 takes the linear address of the data, 48 bytes behind the
header, and wants it 16-byte aligned; what does not suit is ignored without a fault, so that software has to read the
revision again (MSR 0x8B: write 0, CPUID leaf 1, read EDX). The store is one a core: its threads share it. Updates
survive INIT and are lost with the power or a reset. Whether an older revision than the running one is taken differs
from processor to processor. Real ones check a signature over the encrypted data; what stands for that here are the
checksums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bench.x86.microcode import (
    HEADER_VERSION,
    LOADER_REVISION,
    Bytes,
    Update,
    dword_sum,
    read_update_loosely,
    suits,
)
from bench.x86.signature import platform_flag

IA32_PLATFORM_ID = 0x17
IA32_BIOS_UPDT_TRIG = 0x79
IA32_BIOS_SIGN_ID = 0x8B
ALIGN_BYTES = 16


class Act(StrEnum):
    """What a processor does when an update is written, in place of its part."""

    REFUSE = "refuse"
    """Ignores it, as it would a bad one."""
    HANG = "hang"
    """Does not come back from WRMSR."""
    RESET = "reset"
    """Resets the machine."""


class Restart(StrEnum):
    """How a kernel came to start."""

    POWER_CYCLE = "power cycle"
    RESET = "reset"
    SUSPEND = "suspend"
    """To memory (S3): the processor has no power."""
    KEXEC = "kexec"
    INIT = "INIT"

    @property
    def keeps_updates(self) -> bool:
        """Whether updates that were loaded before are still there."""
        return self in (Restart.KEXEC, Restart.INIT)


@dataclass(frozen=True)
class ProcessorRules:
    """How the processors of a machine behave; all are of one signature and platform."""

    signature: int
    platform_id: int
    bios_revision: int
    """What firmware has loaded; 0: nothing."""
    siblings: int = 1
    """Logical processors of a core: neighbours in number share what is loaded."""
    refuses: frozenset[int] = frozenset()
    """Revisions that are ignored in silence."""
    takes_older: bool = True
    """Whether a revision below the running one is taken (older processors do)."""
    acts: tuple[tuple[int, Act], ...] = ()
    """Logical processor and what it does at every write."""

    @property
    def platform_flags(self) -> int:
        """The bit by which updates mean this platform."""
        return platform_flag(self.platform_id)

    def core(self, processor: int) -> int:
        """The core that a logical processor is a thread of."""
        return processor // self.siblings

    def act(self, processor: int) -> Act | None:
        """What the logical processor does in place of its part, if anything."""
        return dict(self.acts).get(processor)


@dataclass
class Cores:
    """What the cores of one machine run, from one start to the next."""

    rules: ProcessorRules
    processors: int
    """Logical ones."""
    revisions: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.revisions:
            self.restart(Restart.POWER_CYCLE)

    def restart(self, how: Restart) -> None:
        """The machine starts again: firmware loads its own update where the processors have lost theirs."""
        if not how.keeps_updates:
            self.revisions[:] = [self.rules.bios_revision] * (self.rules.core(self.processors - 1) + 1)

    def of(self, processor: int) -> int:
        """What a logical processor runs."""
        return self.revisions[self.rules.core(processor)]

    def load(self, processor: int, revision: int) -> None:
        """Its core runs that from now on."""
        self.revisions[self.rules.core(processor)] = revision


@dataclass(frozen=True)
class Answer:
    """What came of a write: the revision that runs now, and why it is not the update's, if it is not."""

    revision: int
    why_not: str = ""


def answer(rules: ProcessorRules, update: Bytes, running: int, *, data_address: int) -> Answer:
    """A processor's answer to WRMSR 0x79 with `data_address`, in front of whose data the header lies; `update` are the
    bytes from that header on, at least 48."""
    if data_address % ALIGN_BYTES:
        return Answer(running, f"its data at {data_address:#x} is not {ALIGN_BYTES}-byte aligned")
    header = read_update_loosely(update)
    if header is None or (header.header_version, header.loader_revision) != (HEADER_VERSION, LOADER_REVISION):
        return Answer(running, "what lies in front of the data is no header of an update")
    if dword_sum(update, 0, 48 + header.data_size):
        return Answer(running, "its checksum is wrong")
    why_not = refusal(rules, header, running)
    return Answer(running, why_not) if why_not else Answer(header.revision)


def refusal(rules: ProcessorRules, update: Update, running: int) -> str:
    """Why a sound update is refused; empty if it is taken."""
    if not suits(update, rules.signature, rules.platform_flags):
        return "it is for other processors"
    if update.revision in rules.refuses:
        return f"this processor refuses revision {update.revision:#x}"
    if update.revision < running and not rules.takes_older:
        return f"it is older than {running:#x}, which runs"
    return ""
