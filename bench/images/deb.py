"""Debian's packages as files: what is inside, without installing them (deb(5): an ar archive of tar archives)."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench.errors import FormatError

AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60
_CONTROL_ARCHITECTURE = re.compile(r"^Architecture: *(\S+)$", re.MULTILINE)


def ar_members(file: IO[bytes], deb: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member. Raises FormatError (with the offset)."""
    offset = file.seek(len(AR_MAGIC))
    while header := file.read(_AR_HEADER_BYTES):
        if len(header) != _AR_HEADER_BYTES or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            raise FormatError("not a member of an ar archive", source=str(deb), offset=offset)
        size = int(header[48:58])
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), file.read(size)
        offset = file.seek(size & 1, io.SEEK_CUR)


@contextmanager
def member_of(deb: Path, part: str) -> Iterator[tarfile.TarFile]:
    """The package's ``data`` or ``control`` archive."""
    with deb.open("rb") as file:
        if file.read(len(AR_MAGIC)) != AR_MAGIC:
            raise FormatError("is not a Debian package", source=str(deb), offset=0)
        for name, data in ar_members(file, deb):
            if name.startswith(f"{part}.tar"):
                try:
                    with tarfile.open(fileobj=io.BytesIO(data)) as files:
                        yield files
                except tarfile.TarError as error:
                    raise FormatError(f"its {name} cannot be read: {error}", source=str(deb)) from error
                return
    raise FormatError(f"has no {part}.tar in it", source=str(deb))


def architecture(deb: Path) -> str:
    """The package's field Architecture: ``amd64``, ``i386``, …"""
    with member_of(deb, "control") as files:
        for member in files:
            control = files.extractfile(member) if member.name.removeprefix("./") == "control" else None
            if control and (said := _CONTROL_ARCHITECTURE.search(control.read().decode("utf-8", "replace"))):
                return said[1]
    raise FormatError("does not say which architecture it is for", source=str(deb))


def boot_files(deb: Path) -> dict[str, bytes]:
    """``vmlinuz`` and ``config`` of a kernel's package. Raises FormatError if they are not there, once each."""
    found: dict[str, bytes] = {}
    with member_of(deb, "data") as files:
        for member in files:
            match = re.fullmatch(r"(?:\./)?boot/(vmlinuz|config)-[^/]+", member.name)
            content = files.extractfile(member) if match else None
            if match and content:
                if match[1] in found:
                    raise FormatError(f"has more than one /boot/{match[1]}-*", source=str(deb))
                found[match[1]] = content.read()
    if missing := [name for name in ("vmlinuz", "config") if name not in found]:
        raise FormatError(f"has no /boot/{missing[0]}-*: not a kernel's package", source=str(deb))
    return found
