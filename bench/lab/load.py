"""What is loaded into a machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Load:
    """A kernel or payload that speaks Linux's boot protocol, its initrd (the script) and its command line."""

    kernel: Path
    initrd: bytes
    command_line: str
    offer: bytes | None = None
    """What a capture keeps of the initrd, if not all of it: the part that the model has to know."""
