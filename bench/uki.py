"""A unified kernel image: kernel or payload, initrd and command line in one program that UEFI starts.

The sections are appended to systemd's stub, which finds them by name, hands the initrd over by
LINUX_EFI_INITRD_MEDIA_GUID and starts the kernel. Equal input gives equal bytes. Source: Microsoft's PE Format; the
UAPI group's specification of unified kernel images; systemd-stub(7).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from bench.errors import FormatError, UsageError

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
STUB_PACKAGE = "systemd-boot-efi"

_PE_POINTER = 0x3C
_COFF_BYTES, _ROW_BYTES = 24, 40
_MACHINE_AMD64, _PE32_PLUS, _EFI_APPLICATION = 0x8664, 0x20B, 10
# Offsets in the optional header.
_INITIALIZED, _SECTION_ALIGNMENT, _FILE_ALIGNMENT = 8, 32, 36
_IMAGE_BYTES, _HEADER_BYTES, _CHECKSUM, _SUBSYSTEM, _SECURITY = 56, 60, 64, 68, 144
_DATA_READ = 0x4000_0040
_PAGE_BYTES = 0x1000
# A section's address and size have 32 bits, and firmware has to find so much memory in one piece.
_LIMIT = 1 << 31


@dataclass(frozen=True)
class PeSection:
    """A row of a section table, in bytes."""

    name: str
    address: int
    memory_bytes: int
    file_at: int
    file_bytes: int

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.address + max(self.memory_bytes, self.file_bytes)


@dataclass(frozen=True)
class PeImage:
    """What has to be known of a PE32+ program to append sections to it. `table_at`: where its section table begins."""

    coff_at: int
    table_at: int
    section_alignment: int
    file_alignment: int
    header_bytes: int
    image_bytes: int
    sections: tuple[PeSection, ...]


def build_uki(kernel: bytes, initrd: bytes, command_line: str, *, stub: Path = STUB) -> bytes:
    """The image as a file. Without an initrd (empty) there is no section for it.

    Raises UsageError if the stub is not installed, the command line is not ASCII, or it all is too large, FormatError
    (with the offset) for a stub or kernel that is no program for UEFI.
    """
    try:
        base = stub.read_bytes()
    except OSError as error:
        raise UsageError(f"{stub}: {error.strerror}: install {STUB_PACKAGE}") from error
    if not command_line.isascii() or not command_line.isprintable():
        raise UsageError(f"a command line is of printable ASCII characters: {command_line!r}")
    read_pe(kernel, "the kernel")
    contents = {".cmdline": command_line.encode(), ".linux": kernel, ".initrd": initrd}
    return append_sections(base, {name: data for name, data in contents.items() if data}, str(stub))


def read_pe(data: bytes, source: str) -> PeImage:
    """The headers of a program for UEFI on x86-64. Raises FormatError for what is none or overlaps itself."""
    if len(data) < _PE_POINTER + 4 or data[:2] != b"MZ":
        raise FormatError("is no program for UEFI: no MZ", source=source, offset=0)
    (coff,) = struct.unpack_from("<I", data, _PE_POINTER)
    if coff + _COFF_BYTES > len(data) or data[coff : coff + 4] != b"PE\0\0":
        raise FormatError("is no program for UEFI: no PE signature", source=source, offset=_PE_POINTER)
    machine, count = struct.unpack_from("<HH", data, coff + 4)
    (optional_bytes,) = struct.unpack_from("<H", data, coff + 20)
    optional, table = coff + _COFF_BYTES, coff + _COFF_BYTES + optional_bytes
    if table + count * _ROW_BYTES > len(data) or optional_bytes < _SECURITY + 8:
        raise FormatError("its headers are cut off", source=source, offset=coff)
    (magic,) = struct.unpack_from("<H", data, optional)
    (subsystem,) = struct.unpack_from("<H", data, optional + _SUBSYSTEM)
    if (machine, magic, subsystem) != (_MACHINE_AMD64, _PE32_PLUS, _EFI_APPLICATION):
        raise FormatError("is no UEFI application for x86-64", source=source, offset=coff + 4)
    section_alignment, file_alignment = struct.unpack_from("<II", data, optional + _SECTION_ALIGNMENT)
    image_bytes, header_bytes = struct.unpack_from("<II", data, optional + _IMAGE_BYTES)
    image = PeImage(
        coff, table, section_alignment, file_alignment, header_bytes, image_bytes,
        tuple(_read_row(data, table + n * _ROW_BYTES) for n in range(count)),
    )  # fmt: skip
    _check(image, len(data), source)
    return image


def _read_row(data: bytes, at: int) -> PeSection:
    name, memory, address, file_bytes, file_at = struct.unpack_from("<8sIIII", data, at)
    return PeSection(name.rstrip(b"\0").decode("latin-1"), address, memory, file_at, file_bytes)


def _check(image: PeImage, file_bytes: int, source: str) -> None:
    """Raises FormatError unless the sections lie in the file and in the image, apart from each other and aligned."""
    for alignment in (image.section_alignment, image.file_alignment):
        if alignment == 0 or alignment & (alignment - 1):
            raise FormatError(f"alignment {alignment:#x} is not a power of two", source=source, offset=image.coff_at)
    end = image.header_bytes
    for row in sorted(image.sections, key=lambda row: row.address):
        where = f"section {row.name!r}"
        if row.file_bytes and (row.file_at < image.header_bytes or row.file_at + row.file_bytes > file_bytes):
            raise FormatError(f"{where} is not within the file", source=source, offset=image.table_at)
        if row.address < end:
            raise FormatError(f"{where} overlaps what lies before it", source=source, offset=image.table_at)
        if row.address + row.memory_bytes > image.image_bytes:
            raise FormatError(f"{where} reaches beyond the image", source=source, offset=image.table_at)
        end = row.address + row.memory_bytes


def append_sections(base: bytes, contents: dict[str, bytes], source: str) -> bytes:
    """`base` with sections behind its own, each on a page of its own. Raises FormatError, UsageError."""
    image = read_pe(base, source)
    optional = image.coff_at + _COFF_BYTES
    rows = len(image.sections)
    table_end = image.table_at + (rows + len(contents)) * _ROW_BYTES
    first_file_at = min((row.file_at for row in image.sections if row.file_bytes), default=image.header_bytes)
    if table_end > min(image.header_bytes, first_file_at):
        raise FormatError(
            f"has no room for {len(contents)} more rows in its section table", source=source, offset=image.table_at
        )
    if any(struct.unpack_from("<II", base, optional + _SECURITY)):
        raise FormatError("is signed, which appended sections would break", source=source, offset=optional + _SECURITY)
    if taken := {row.name for row in image.sections} & set(contents):
        raise FormatError(f"has a section {min(taken)} already", source=source, offset=image.table_at)
    step = max(image.section_alignment, _PAGE_BYTES)
    # What lies behind the sections, a table of symbols, is left out.
    out = bytearray(base[: max(row.file_at + row.file_bytes for row in image.sections)])
    struct.pack_into("<II", out, image.coff_at + 12, 0, 0)
    address = max(image.image_bytes, *(row.end for row in image.sections))
    for n, (name, data) in enumerate(contents.items()):
        address = _up(address, step)
        out += bytes(_up(len(out), image.file_alignment) - len(out))
        file_bytes = _up(len(data), image.file_alignment)
        row = (name.encode(), len(data), address, file_bytes, len(out), 0, 0, 0, 0, _DATA_READ)
        struct.pack_into("<8sIIIIIIHHI", out, image.table_at + (rows + n) * _ROW_BYTES, *row)
        out += data.ljust(file_bytes, b"\0")
        address += len(data)
        if max(address, len(out)) > _LIMIT:
            raise UsageError(f"a unified kernel image of {len(out)} bytes is too large: at most {_LIMIT}")
    (initialized,) = struct.unpack_from("<I", out, optional + _INITIALIZED)
    added = sum(_up(len(data), image.file_alignment) for data in contents.values())
    struct.pack_into("<I", out, optional + _INITIALIZED, initialized + added)
    struct.pack_into("<I", out, optional + _IMAGE_BYTES, _up(address, image.section_alignment))
    # UEFI does not look at it, and 0 says that there is none.
    struct.pack_into("<I", out, optional + _CHECKSUM, 0)
    struct.pack_into("<H", out, image.coff_at + 6, rows + len(contents))
    return bytes(out)


def _up(value: int, step: int) -> int:
    """`value`, rounded up to a multiple of `step`."""
    return -(-value // step) * step
