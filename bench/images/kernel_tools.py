"""What a computer needs to build kernels, and the package that brings it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from bench.errors import UsageError


@dataclass(frozen=True)
class Tool:
    """A program, or with a name that ends in .h a C header."""

    name: str
    why: str
    package: str

    def works(self) -> bool:
        """Whether it is there."""
        if not self.name.endswith(".h"):
            return shutil.which(self.name) is not None
        try:
            done = subprocess.run(
                ["gcc", "-E", "-x", "c", "-"], input=f"#include <{self.name}>\n".encode(),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0


COMPILER = (
    Tool("gcc", "compiles kernels", "gcc"),
    Tool("ld", "links kernels", "binutils"),
)
TOOLS = (
    Tool("make", "builds kernels", "make"),
    Tool("patch", "applies patch series to kernels", "patch"),
    Tool("tar", "unpacks a kernel's source", "tar"),
    Tool("xz", "unpacks a kernel's source", "xz-utils"),
    Tool("flex", "Linux's configuration needs it", "flex"),
    Tool("bison", "Linux's configuration needs it", "bison"),
    Tool("bc", "Linux's time constants are computed with it", "bc"),
    Tool("cpio", "Linux packs its built-in initramfs with it", "cpio"),
    Tool("libelf.h", "Linux checks its own objects with it (objtool)", "libelf-dev"),
    Tool("openssl/opensslv.h", "Linux's certificates and signatures need it", "libssl-dev"),
)
# Only for kernels that are packed by one of them.
UNPACKERS = (
    Tool("lz4", "unpacks kernels that are packed by it, such as Debian's for virtual machines", "lz4"),
    Tool("zstd", "unpacks kernels that are packed by it", "zstd"),
    Tool("lzop", "unpacks kernels that are packed by it", "lzop"),
)


def require_tools(tools: tuple[Tool, ...] = COMPILER + TOOLS) -> None:
    """Raises UsageError that names everything which is missing."""
    missing = [tool for tool in tools if not tool.works()]
    if missing:
        names = ", ".join(tool.name for tool in missing)
        packages = " ".join(dict.fromkeys(tool.package for tool in missing))
        raise UsageError(
            f"to build a kernel, this is missing here: {names}. Get it with: bench doctor --install, "
            f"or apt-get install --no-install-recommends {packages}"
        )


def first_line(program: str) -> str:
    """The first line of what a program says of its version."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
