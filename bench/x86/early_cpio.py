"""Early cpio images: uncompressed archives in front of an initrd, in which Linux looks for microcode.

The form is cpio's "newc" (cpio(5)): a header of 110 ASCII bytes, a magic of six digits and 13 fields of eight
hexadecimal digits; the name with its NUL, and the data, each padded with zeros to a multiple of four bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.errors import FormatError

UCODE_PATH = "kernel/x86/microcode/GenuineIntel.bin"
TRAILER = "TRAILER!!!"
HEADER_BYTES = 110
MAGICS = (b"070701", b"070702")
"""Without and with a checksum of each member's data (newc and crc)."""
REGULAR, DIRECTORY, TYPE_MASK = 0o100000, 0o040000, 0o170000
# WRMSR 0x79 wants its data 16-byte aligned (SDM Vol. 3A, "Microcode Update Loader"). Headers of updates are 48 bytes
# and their sizes multiples of 1024, so that one aligned file aligns them all.
ALIGN_BYTES = 16
# iucode_tool 2.3.1 pads its images to so much; what follows, a compressed archive say, then begins at a round offset.
IMAGE_BYTES = 1024


@dataclass(frozen=True)
class Member:
    """A member of an archive; offsets are from the archive's beginning."""

    name: str
    mode: int
    offset: int
    """Of its header."""
    data_offset: int
    data_bytes: int
    end: int
    """Where the next header begins."""

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file."""
        return self.mode & TYPE_MASK == REGULAR


def looks_like_cpio(data: bytes | memoryview) -> bool:
    """Whether the first header, behind zeros, has a cpio magic."""
    at = _skip_zeros(data, 0)
    return bytes(data[at : at + 6]) in MAGICS


def _skip_zeros(data: bytes | memoryview, at: int) -> int:
    while at < len(data):
        block = bytes(data[at : at + 4096])
        if stripped := block.lstrip(b"\0"):
            return (at + len(block) - len(stripped)) & ~3
        at += len(block)
    return len(data)


def members(data: bytes | memoryview, *, source: str = "") -> Iterator[Member]:
    """The members in order, up to the end or the first byte that cannot be cpio (a compressed archive behind it).

    Several archives behind one another are read as one, as Linux does. Raises FormatError, with the offset, for a
    header that begins as one and is malformed, and for a member that does not fit.
    """
    at = 0
    while (at := _skip_zeros(data, at)) < len(data):
        if bytes(data[at : at + 6]) not in MAGICS:
            return
        member = _member(data, at, source)
        if member.name != TRAILER:
            yield member
        at = member.end


def _member(data: bytes | memoryview, at: int, source: str) -> Member:
    header = bytes(data[at : at + HEADER_BYTES])
    if len(header) < HEADER_BYTES:
        raise FormatError(f"cpio header is cut: {len(header)} of {HEADER_BYTES} bytes", source=source, offset=at)
    digits = header[6:]
    for i in range(0, len(digits), 8):
        if any(c not in b"0123456789abcdefABCDEF" for c in digits[i : i + 8]):
            raise FormatError(
                f"cpio header field {i // 8} is not hexadecimal: {digits[i : i + 8]!r}",
                source=source,
                offset=at + 6 + i,
            )
    fields = [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]
    mode, data_bytes, name_bytes = fields[1], fields[6], fields[11]
    data_offset = (at + HEADER_BYTES + name_bytes + 3) & ~3
    end = (data_offset + data_bytes + 3) & ~3
    if data_offset + data_bytes > len(data):
        raise FormatError(
            f"cpio member of {name_bytes} bytes of name and {data_bytes} of data does not fit: "
            f"{len(data) - at} bytes are left",
            source=source,
            offset=at,
        )
    name = bytes(data[at + HEADER_BYTES : at + HEADER_BYTES + name_bytes]).split(b"\0")[0]
    return Member(name.decode("utf-8", "backslashreplace"), mode, at, data_offset, data_bytes, end)


def header(name: bytes, mode: int, data_bytes: int, *, inode: int = 0, links: int = 1, check: int = 0) -> bytes:
    """A header with its name, padded: what stands in front of a member's data that begins at a multiple of four.

    `name` goes in as it is, with whatever NULs it has. `check` is 0 in a newc archive.
    """
    fields = (inode, mode, 0, 0, links, 0, data_bytes, 0, 0, 0, 0, len(name), check)
    text = MAGICS[0] + b"".join(b"%08X" % field for field in fields) + name
    return text + bytes(-len(text) % 4)


def build(files: dict[str, bytes], *, align: int = ALIGN_BYTES, executable: frozenset[str] = frozenset()) -> bytes:
    """An early image of regular `files`, with their folders before them. Data of each begins at a multiple of `align`.

    Those named in `executable` may be run. Padding goes behind the NUL of a name, which Linux's unpacker and early
    loader, and cpio, all read up to the first NUL: of the file's last folder if that is new, so that the file's own
    name has no more than one, and of the file if it is not. The same files always give the same bytes.
    """
    image = bytearray()
    folders: set[str] = set()
    inode = 0
    for name, data in files.items():
        called = name.encode() + b"\0"
        new = [f for f in _folders_of(name) if f not in folders]
        for folder in new:
            folders.add(folder)
            inode += 1
            padded = folder.encode() + b"\0"
            if folder == new[-1]:
                behind = len(header(called, REGULAR, 0))
                padded += bytes(-(len(image) + len(header(padded, DIRECTORY, 0)) + behind) % align)
            image += header(padded, DIRECTORY | 0o755, 0, inode=inode, links=2)
        if not new:
            called += bytes(-(len(image) + HEADER_BYTES + len(called)) % align)
        inode += 1
        mode = 0o755 if name in executable else 0o644
        image += header(called, REGULAR | mode, len(data), inode=inode)
        image += data + bytes(-len(data) % 4)
    image += header(TRAILER.encode() + b"\0", 0, 0)
    return bytes(image + bytes(-len(image) % IMAGE_BYTES))


def _folders_of(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]
