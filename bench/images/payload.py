"""The payload: a bare-metal program, compiled here with no make in between.

A build is found again by the hash of all that goes into it, in ``$XDG_CACHE_HOME/bench/payloads/<hash>/``
(``~/.cache`` if that is not set).
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.cache import cache_folder
from bench.errors import UsageError
from bench.images import payload_pe
from bench.images.payload_pe import FILE_ALIGNMENT, PAGE_BYTES, PayloadLayout, pe_headers

PAYLOADS = Path("firmware-images") / "payloads"
PAYLOAD = "early_pf"
KERNEL_NAME = "payload.bin"
WINDOW_NAME = "window.bin"
"""The window image, which is a part of it: kept for a look at its code."""

_COMMON_FLAGS = (
    "-std=gnu11", "-O2", "-Wall", "-Wextra", "-ffreestanding", "-fno-stack-protector", "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables", "-fno-strict-aliasing", "-fno-jump-tables", "-fno-builtin",
    "-mno-red-zone", "-mno-mmx", "-mno-sse", "-mno-sse2", "-mno-80387", "-m64",
)  # fmt: skip
_LINK_FLAGS = ("-nostdlib", "-static", "-Wl,--oformat=binary", "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096")
_PART_FLAGS = {
    "window": ("-fno-pic", "-no-pie", "-mcmodel=kernel"),
    # Position independent without relocations: linked at 0, and the linker script refuses absolute addresses.
    "supervisor": ("-fPIE", "-no-pie", "-mcmodel=small"),
    "setup": ("-fno-pic", "-no-pie"),
}
_COMPILERS = {"gcc": (), "clang": ("-fuse-ld=lld",)}
_PACKAGES = {"gcc": "gcc and binutils", "clang": "clang and lld"}

# Offsets in the boot protocol's header (Documentation/arch/x86/boot.rst), and where the supervisor tells the build of
# UEFI's entry, of its data and of the memory it needs.
_SETUP_SECTS, _SYSSIZE, _INIT_SIZE, _HANDOVER_OFFSET = 0x1F1, 0x1F4, 0x260, 0x264
_SUPERVISOR_FACTS = 0x1CC
# A loader adds it to handover_offset for the 64-bit entry.
_HANDOVER_64 = 0x200
_SECTOR_BYTES = 512


@dataclass(frozen=True)
class PayloadImage:
    """A built payload. `kernel` goes where a bzImage goes; its trace says `image_id`; `sha256` is of the file."""

    kernel: Path
    image_id: int
    sha256: str
    compiler: str = ""

    @property
    def details(self) -> dict[str, str]:
        """What it is made of, in words: what a page of results says of the image beside its hash."""
        return {"image id": f"{self.image_id:016x}", "source": str(PAYLOADS / PAYLOAD), "compiler": self.compiler}


def build_payload(root: Path, *, compiler: str = "gcc", cache: Path | None = None) -> PayloadImage:
    """Build the payload of the project at `root` with ``gcc`` or ``clang``, or find it built.

    Equal input gives equal bytes. Several processes may build at once: each writes a folder of its own, and the
    first to rename it wins. Raises UsageError if the compiler is missing or fails.
    """
    base = root / PAYLOADS
    inputs = sorted(path for path in base.rglob("*") if path.suffix in {".c", ".h", ".S", ".lds"})
    if not inputs:
        raise UsageError(f"{base}: no payload sources here")
    digest = _hash_inputs(base, inputs, compiler)
    image_id = int(digest[:16], 16)
    folder = (cache or default_cache()) / digest
    if not (folder / KERNEL_NAME).is_file():
        _build_into(base / PAYLOAD, folder, compiler, image_id)
    kernel = folder / KERNEL_NAME
    version = compiler_version(compiler).splitlines()[0]
    return PayloadImage(kernel, image_id, hashlib.sha256(kernel.read_bytes()).hexdigest(), version)


def default_cache() -> Path:
    """Where built payloads are kept: ``$XDG_CACHE_HOME/bench/payloads``, by default below ``~/.cache``."""
    return cache_folder("payloads")


def _hash_inputs(base: Path, inputs: list[Path], compiler: str) -> str:
    """Hash of sources, flags, the build's own code and the compiler's version."""
    total = hashlib.sha256()
    parts = [
        compiler,
        compiler_version(compiler),
        repr((_COMMON_FLAGS, _LINK_FLAGS, _PART_FLAGS, _COMPILERS[compiler])),
    ]
    for part in parts:
        total.update(part.encode() + b"\0")
    for path in (*inputs, Path(__file__), Path(payload_pe.__file__)):
        content = path.read_bytes()
        name = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def compiler_version(compiler: str) -> str:
    """What the compiler says of itself. Raises UsageError, with the packages, if it or its linker is missing."""
    if compiler not in _COMPILERS:
        raise UsageError(f"unknown compiler {compiler!r}: use {' or '.join(_COMPILERS)}")
    for tool in (compiler, "ld.lld" if compiler == "clang" else "ld"):
        if shutil.which(tool) is None:
            raise UsageError(f"{tool} is not installed: install {_PACKAGES[compiler]} to build the payload")
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def _build_into(source: Path, folder: Path, compiler: str, image_id: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
        work = Path(scratch)
        for part in ("window", "supervisor", "setup"):
            _compile_part(source, part, work, compiler, image_id)
        finished = work / "finished"
        finished.mkdir()
        kernel = _join((work / "setup.bin").read_bytes(), (work / "supervisor.bin").read_bytes())
        (finished / KERNEL_NAME).write_bytes(kernel)
        (finished / WINDOW_NAME).write_bytes((work / "window.bin").read_bytes())
        try:
            finished.rename(folder)
        except OSError:
            # Another process was first; its bytes are the same.
            if not (folder / KERNEL_NAME).is_file():
                raise


def _compile_part(source: Path, part: str, work: Path, compiler: str, image_id: int) -> None:
    sources = sorted((source / part).glob("*.S")) + sorted((source / part).glob("*.c"))
    if part != "setup":
        sources.append(source / "common" / "memory_functions.c")
    command = [
        compiler, *_COMMON_FLAGS, *_PART_FLAGS[part], *_COMPILERS[compiler], *_LINK_FLAGS,
        f"-DBENCH_IMAGE_ID={image_id:#x}ULL", f"-Wl,-T,{source / part / part}.lds", "-o", f"{part}.bin",
        *(str(path) for path in sources),
    ]  # fmt: skip
    run = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if run.returncode:
        raise UsageError(f"{compiler} could not build the payload's {part}:\n{run.stderr.strip()}")


def _join(setup: bytes, supervisor: bytes) -> bytes:
    """The file as a boot loader reads it: set-up code in whole sectors, then the protected-mode part."""
    image = bytearray(setup.ljust(-(-len(setup) // PAGE_BYTES) * PAGE_BYTES, b"\0"))
    body = supervisor.ljust(-(-len(supervisor) // FILE_ALIGNMENT) * FILE_ALIGNMENT, b"\0")
    handover, entry, data_at, memory_bytes = struct.unpack_from("<IIIQ", supervisor, _SUPERVISOR_FACTS)
    headers = pe_headers(PayloadLayout(len(image), data_at, len(body), memory_bytes, entry))
    image[: len(headers)] = headers
    # setup_sects does not count the first sector.
    struct.pack_into("<B", image, _SETUP_SECTS, len(image) // _SECTOR_BYTES - 1)
    struct.pack_into("<I", image, _SYSSIZE, len(body) // 16)
    struct.pack_into("<I", image, _INIT_SIZE, memory_bytes)
    struct.pack_into("<I", image, _HANDOVER_OFFSET, handover - _HANDOVER_64)
    return bytes(image) + body
