"""Initrds of kernel boots: the exerciser's script first, then an early cpio with updates, none of it compressed; behind
it a compressed one with init, if there is something to do for an init.

The format is "newc" of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: 110 bytes of ASCII,
then name and data, each padded to 4 bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence

from bench.errors import FormatError

SCRIPT_NAME = "bench/script"
STEPS_NAME = "bench/steps"
REGULAR, PROGRAM, FOLDER, LINK = 0o100644, 0o100755, 0o040755, 0o120777
_HEADER_BYTES = 110
# What is behind the script begins where the data of updates may begin.
_ALIGNMENT = 16


def entry(name: str, data: bytes = b"", *, mode: int = REGULAR) -> bytes:
    """One entry of an archive whose length so far is a multiple of 4."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % value for value in fields) + path
    return _padded(_padded(head, 4) + data, 4)


def early_cpio(script: bytes = b"", updates: bytes = b"", *, filler_bytes: int = 0) -> bytes:
    """Script (if any), the archive `updates` or else an end mark, then `filler_bytes` of zeros."""
    head = _padded(entry(SCRIPT_NAME, script), _ALIGNMENT) if script else b""
    return head + (updates or entry("TRAILER!!!", mode=0)) + bytes(filler_bytes)


def user_cpio(files: Mapping[str, bytes]) -> bytes:
    """What the kernel unpacks as its root: files that may be run, and their folders, compressed. Same input, same
    bytes."""
    folders = sorted({name[:at] for name in files for at, letter in enumerate(name) if letter == "/"})
    out = b"".join(entry(folder, mode=FOLDER) for folder in folders)
    out += b"".join(entry(name, data, mode=PROGRAM) for name, data in files.items())
    return gzip.compress(out + entry("TRAILER!!!", mode=0), mtime=0)


def init_cpio(init: bytes, steps: Sequence[str], files: Mapping[str, bytes] | None = None) -> bytes:
    """`user_cpio` with the program `init`, what it is to do (``firmware-images/init/README.md``) and more files."""
    told = "".join(f"{step}\n" for step in steps).encode()
    return user_cpio({"init": init, STEPS_NAME: told, **(files or {})})


def script_in(initrd: bytes) -> bytes:
    """The exerciser's script, empty if the initrd does not begin with one. Raises FormatError with the offset."""
    path = SCRIPT_NAME.encode() + b"\0"
    if not initrd.startswith(b"070701") or initrd[_HEADER_BYTES : _HEADER_BYTES + len(path)] != path:
        return b""
    try:
        size = int(initrd[54:62], 16)
    except ValueError as error:
        raise FormatError("the size of the cpio's first file is not hexadecimal", source="initrd", offset=54) from error
    start = -(-(_HEADER_BYTES + len(path)) // 4) * 4
    return initrd[start : start + size]


def _padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)
