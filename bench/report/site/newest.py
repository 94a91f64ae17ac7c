"""The newest microcode that Intel has for a processor, by its own files, if this computer has them."""

from __future__ import annotations

from bench.errors import BenchError
from bench.images.microcode_package import Package
from bench.x86.microcode_set import best_match, stored_updates


def newest_known(package: Package | None, model: str, signature: int, flags: int) -> str:
    """Revision and whose word it is, in words; empty without Intel's files. `flags`: ``1 << platform id``."""
    if package is None:
        return ""
    try:
        updates = list(stored_updates(package.file(model)))
    except BenchError:
        return f"none in Intel's files of {package.version}"
    found = best_match(updates, signature, flags)
    if found is None:
        return f"none in Intel's files of {package.version}"
    return f"0x{found.update.revision:08x} of {found.update.iso_date}, in Intel's files of {package.version}"
