"""What is loaded into a machine, and how it gets there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.lab.power import Power
    from bench.records import Machine

from bench.records import MsrSite
from bench.x86.microcode_processor import Cores


@dataclass(frozen=True)
class Load:
    """A kernel or payload that speaks Linux's boot protocol, its initrd (the script) and its command line."""

    kernel: Path
    initrd: bytes
    command_line: str
    offer: bytes | None = None
    """What a capture keeps of the initrd, if not all of it: the part that the model has to know."""
    msr_sites: tuple[MsrSite, ...] | None = None
    """Where the kernel reads and writes registers for its microcode loader. With them a virtual machine whose
    processors take microcode plays these registers; without (None) they are QEMU's."""
    may_lie_elsewhere: bool = True
    """They are the places by its symbols, and KASLR may move it; otherwise they are where it is."""
    updates: bool = False
    """It offers processors updates of microcode: the system that the machine falls back to must not."""
    cores: Cores | None = None
    """What the cores of that machine ran when it was switched off; None: a machine nobody has used."""


Note = Callable[[Mapping[str, str]], None]
"""Notes a step of loading (``step`` and what witnesses it) in the capture; from any thread, until `fall_back` ends."""


class Loader(ABC):
    """Has a machine of metal start a load at its next start, and only then.

    All calls are bounded in time and raise LabError. `fall_back` is called whatever happened, `load` failing
    included, and after it the machine's next unattended boot is its known-good system.
    """

    delay_s: float = 0.0
    """How much later than the boot loader what is loaded may start, in seconds."""

    @abstractmethod
    def load(self, machine: Machine, load: Load, power: Power, note: Note) -> Mapping[str, str]:
        """Prepare the next start, using `power` as needed; the machine may be on or off now and afterwards.

        Returns the witness of it. Steps, those that follow while the machine boots among them, go to `note`.
        """

    def starting(self, power: Power) -> Power:
        """What starts the load once `load` has returned, by its `on`: `power`, unless the machine is to restart itself,
        and may be on until then."""
        return power

    @abstractmethod
    def fall_back(self, machine: Machine) -> Mapping[str, str]:
        """Withdraw what `load` has prepared; harmless when nothing was. Returns the witness."""


class AlreadyLoaded(Loader):
    """For a machine whose medium starts the same program every time: there is nothing to do, and nothing to undo."""

    def load(self, machine: Machine, load: Load, power: Power, note: Note) -> Mapping[str, str]:  # noqa: ARG002
        """Nothing."""
        return {"loader": "already loaded"}

    def fall_back(self, machine: Machine) -> Mapping[str, str]:  # noqa: ARG002
        """Nothing."""
        return {"loader": "already loaded"}
