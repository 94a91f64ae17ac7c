"""The init of lab boots (firmware-images/init/README.md): a static program, compiled here and found again by its
inputs' hash."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

from bench.errors import UsageError
from bench.images.payload import compiler_version, default_cache

SOURCES = Path("firmware-images") / "init"
_FLAGS = (
    "-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror",
    "-ffreestanding", "-fno-stack-protector", "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables", "-fno-pie", "-no-pie", "-m64", "-nostdlib", "-static", "-Wl,--build-id=none",
)  # fmt: skip


def build_init(root: Path, *, cache: Path | None = None) -> Path:
    """Build the init of the project at `root` with gcc, or find it built. Raises UsageError if gcc fails."""
    sources = sorted((root / SOURCES).glob("*.[ch]"))
    if not sources:
        raise UsageError(f"{root / SOURCES}: no sources of init here")
    total = hashlib.sha256(repr((compiler_version("gcc"), _FLAGS)).encode())
    for path in sources:
        total.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    folder = (cache or default_cache()) / f"init-{total.hexdigest()}"
    program = folder / "init"
    if not program.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch:
            built = Path(scratch) / "init"
            command = ["gcc", *_FLAGS, "-o", str(built), *(str(path) for path in sources if path.suffix == ".c")]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                raise UsageError(f"gcc could not build init:\n{run.stderr.strip()}")
            built.rename(program)
    return program
