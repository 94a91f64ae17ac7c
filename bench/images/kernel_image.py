"""A built kernel, as the rest of the bench sees it. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.images.kernel_cache import read_manifest


@dataclass(frozen=True)
class KernelImage:
    """A built kernel. `kernel` is the bzImage, `sha256` of it; `image_id` is what its trace says, if it has one."""

    name: str
    folder: Path
    release: str
    image_id: int
    sha256: str
    found: bool
    """It was there already."""

    @property
    def kernel(self) -> Path:
        """The bzImage."""
        return self.folder / "bzImage"

    @property
    def vmlinux(self) -> Path:
        """The linked kernel with its symbols."""
        return self.folder / "vmlinux"

    @property
    def manifest(self) -> dict[str, Any]:
        """All that went into it and came out."""
        return read_manifest(self.folder)

    @property
    def traced(self) -> bool:
        """Whether it has the trace, so that every fault can be held against the reference."""
        return "trace" in self.manifest["series"]
