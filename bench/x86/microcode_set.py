"""Updates of many files: folders, files of updates, Debian's ``.initramfs`` files, early cpio images.

Files are mapped, not read: what one of them claims of its size costs nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import FormatError, UsageError
from bench.x86 import early_cpio
from bench.x86.microcode import Bytes, Update, read_updates, suits

# First bytes of what an initrd is compressed with (init/do_mounts_rd.c, lib/decompress.c of Linux 6.1).
_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"\x1f\x9e": "gzip", b"BZh": "bzip2", b"\x5d\x00": "lzma", b"\xfd7zXZ": "xz",
    b"\x89LZO": "lzo", b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """An update and where it is: the number `index` (from 1) of `file`, whose whole content is `content`."""

    file: str
    index: int
    update: Update
    content: Bytes

    @property
    def data(self) -> bytes:
        """The update's own bytes."""
        return bytes(self.content[self.update.offset : self.update.end])


@dataclass(frozen=True)
class Part:
    """A file of updates within a file: all of it, or a member of an early cpio image, which begins at `offset`."""

    name: str
    offset: int
    content: memoryview


def files_of(paths: Iterable[Path]) -> list[Path]:
    """The files that `paths` name: a folder stands for the files in it, in order of their names, without those that
    begin with a dot and without folders. Raises UsageError for what does not exist, and for an empty folder."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            if not inside:
                raise UsageError(f"{path}: no file is in this folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"{path}: there is no such file or folder")
    return found


@contextmanager
def content_of(path: Path) -> Iterator[memoryview]:
    """A file's bytes. Raises UsageError if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            # An empty file cannot be mapped.
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    yield whole


def update_files(content: memoryview, source: str) -> Iterator[Part]:
    """The files of updates within a file: the file itself, or of an early cpio image all members whose names begin as
    the one that the kernel looks for. It reads the first of them.

    Raises FormatError for an image without microcode, for a malformed one, and for a compressed archive.
    """
    if early_cpio.looks_like_cpio(content):
        found = False
        for member in early_cpio.members(content, source=source):
            if member.name.startswith(early_cpio.UCODE_PATH) and member.is_regular:
                found = True
                end = member.data_offset + member.data_bytes
                yield Part(f"{source}!{member.name}", member.data_offset, content[member.data_offset : end])
        if not found:
            raise FormatError(f"is a cpio archive without {early_cpio.UCODE_PATH}", source=source)
        return
    for magic, name in _COMPRESSED.items():
        if bytes(content[: len(magic)]) == magic:
            text = f"is compressed ({name}): microcode has to lie in front, in an archive that is not compressed"
            raise FormatError(text, source=source, offset=0)
    yield Part(source, 0, content)


def stored_updates(path: Path) -> Iterator[Stored]:
    """All updates of one file, in order. Raises FormatError for the first that is malformed."""
    with content_of(path) as content:
        for part in update_files(content, str(path)):
            for index, update in enumerate(read_updates(part.content, source=part.name), start=1):
                yield Stored(part.name, index, update, part.content)


def best_match(
    updates: Iterable[Stored], signature: int, platform_flags: int, *, above: int | None = None
) -> Stored | None:
    """The update for a processor with this signature and these platform flags whose revision is highest (unsigned),
    if `above` is given only one that is newer than that. Of equals the first."""
    fitting = (s for s in updates if suits(s.update, signature, platform_flags))
    newer = [s for s in fitting if above is None or s.update.revision > above]
    return max(newer, key=lambda s: s.update.revision, default=None)


def early_image(updates: Sequence[Stored]) -> bytes:
    """An early cpio image with these updates, in their order, each once: the kernel reads them from the first to the
    last, and so does iucode_tool."""
    parts = list(dict.fromkeys(stored.data for stored in updates))
    return early_cpio.build({early_cpio.UCODE_PATH: b"".join(parts)})
