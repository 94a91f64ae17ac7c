"""A built kernel, as the rest of the bench sees it. Standard library only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.images.kernel_cache import hash_of, read_manifest


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
    def details(self) -> dict[str, str]:
        """What it is made of, in words: what a page of results says of the image beside its hash."""
        manifest = self.manifest
        inputs, source = manifest["inputs"], manifest["source"]
        patches = inputs.get("patches", [])
        counts = Counter(patch["series"] for patch in patches)
        rows = {
            "release": self.release,
            "source": source["name"] + (f" ({source['departure']})" if source["departure"] else ""),
            "source SHA-256": source["identity"],
            "patches": ", ".join(f"{series} ({count})" for series, count in counts.items()) or "none",
            "patches SHA-256": hash_of({"patches": patches}) if patches else "",
            "config": " + ".join([inputs.get("config", {}).get("base", ""), *manifest["fragments"]]).strip(" +"),
            "config SHA-256": manifest["outputs"][".config"]["sha256"],
            "compiler": ", ".join(inputs.get("compiler", {}).values()),
        }
        return {name: text for name, text in rows.items() if text}

    @property
    def traced(self) -> bool:
        """Whether it has the trace, so that every fault can be held against the reference."""
        return "trace" in self.manifest["series"]
