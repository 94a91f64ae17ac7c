"""The init of the bench's own initrds: a static program of one file (firmware-images/guest-init/init.c), compiled here.

Kept by the hash of what goes into it, in ``$XDG_CACHE_HOME/bench/init/`` (``~/.cache`` if that is not set).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UsageError
from bench.images.kernel_tree import write_whole
from bench.x86 import early_cpio

SOURCE = Path("firmware-images") / "guest-init" / "init.c"
STEPS = "bench/steps"
_FLAGS = (
    "-std=gnu11", "-Os", "-Wall", "-Wextra", "-ffreestanding", "-nostdlib", "-static", "-fno-pie", "-no-pie",
    "-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none",
)  # fmt: skip


def build_init(root: Path, *, cache: Path | None = None) -> bytes:
    """The program of the project at `root`, compiled now or found. Raises UsageError without gcc, or if it fails."""
    source = (root / SOURCE).read_bytes()
    if shutil.which("gcc") is None:
        raise UsageError("gcc is not installed: install gcc and binutils to build the init of an initrd")
    version = subprocess.run(["gcc", "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(b"\0".join((source, repr(_FLAGS).encode(), version))).hexdigest()
    path = (cache or _default_cache()) / digest
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as scratch:
            out = Path(scratch) / "init"
            command = ["gcc", *_FLAGS, "-o", str(out), str(root / SOURCE)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UsageError(f"gcc could not build {SOURCE}:\n{done.stderr.strip()}")
            write_whole(path, out.read_bytes())
    return path.read_bytes()


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "bench" / "init"


def init_archive(program: bytes, steps: Sequence[str]) -> bytes:
    """The part of an initrd that has the program as ``/init`` and what it is to do, as init.c describes."""
    return early_cpio.build(
        {"init": program, STEPS: "".join(f"{step}\n" for step in steps).encode()}, executable=frozenset({"init"})
    )
