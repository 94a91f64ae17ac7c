"""What is loaded into a machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.records import MsrSite


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
