"""The payload's second face: the headers by which UEFI takes the same file for a program (PE32+).

They stand before Linux's set-up header, in the 0x1f1 bytes that a boot loader of Linux's protocol does not read. The
file is laid out so that offset and address in memory are the same, which suits those loaders too that copy a file
instead of mapping its sections. Source: Microsoft's PE Format; UEFI specification 2.10, section 2.1.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from bench.errors import FormatError

PAGE_BYTES = 0x1000
FILE_ALIGNMENT = 0x200
# Where Linux's set-up header begins.
ROOM_BYTES = 0x1F1

_PE_AT = 0x40
_MACHINE_AMD64 = 0x8664
# EXECUTABLE_IMAGE, LINE_NUMS_STRIPPED, LARGE_ADDRESS_AWARE, DEBUG_STRIPPED: nothing to relocate, but not fixed either.
_CHARACTERISTICS = 0x0226
_PE32_PLUS = 0x20B
_EFI_APPLICATION = 10
_NX_COMPAT = 0x0100
# As Linux's stub counts: from 1.0 on it takes an initrd by LINUX_EFI_INITRD_MEDIA_GUID. Loaders look at it.
_IMAGE_VERSION = (1, 0)
_DIRECTORIES = 6

_CODE, _DATA, _DISCARDABLE = 0x20, 0x40, 0x0200_0000
_EXECUTE, _READ, _WRITE = 0x2000_0000, 0x4000_0000, 0x8000_0000


@dataclass(frozen=True)
class PayloadLayout:
    """Where things are in the payload's file and in memory, in bytes; parts begin at multiples of a page."""

    setup_bytes: int
    """The real-mode part, at the begin of the file."""
    data_at: int
    """Where the written part of the protected-mode part begins, from that part's begin; before it is code."""
    body_bytes: int
    """The protected-mode part in the file."""
    memory_bytes: int
    """The protected-mode part in memory."""
    entry: int
    """UEFI's entry, from the begin of the protected-mode part."""


def pe_headers(layout: PayloadLayout) -> bytes:
    """What stands before the set-up header. Raises FormatError for a layout that cannot be described."""
    setup, body = layout.setup_bytes, layout.body_bytes
    if setup % PAGE_BYTES or layout.data_at % PAGE_BYTES or body % FILE_ALIGNMENT:
        raise FormatError("payload: its parts do not begin at multiples of a page", offset=0)
    if not 0 < layout.entry < layout.data_at <= body <= layout.memory_bytes or setup < 2 * PAGE_BYTES:
        raise FormatError("payload: its parts are not in their order", offset=0)
    memory = -(-layout.memory_bytes // PAGE_BYTES) * PAGE_BYTES
    data_file = body - layout.data_at
    sections = (
        _section(b".setup", PAGE_BYTES, setup - PAGE_BYTES, setup - PAGE_BYTES, _DATA | _READ | _DISCARDABLE),
        _section(b".text", setup, layout.data_at, layout.data_at, _CODE | _READ | _EXECUTE),
        _section(b".data", setup + layout.data_at, data_file, memory - layout.data_at, _DATA | _READ | _WRITE),
    )
    optional = struct.pack(
        "<HBBIIIII", _PE32_PLUS, 2, 0, layout.data_at, data_file, memory - body, setup + layout.entry, setup
    )
    optional += struct.pack("<QII", 0, PAGE_BYTES, FILE_ALIGNMENT)
    optional += struct.pack("<HHHHHHI", 0, 0, *_IMAGE_VERSION, 0, 0, 0)
    optional += struct.pack("<IIIHH", setup + memory, PAGE_BYTES, 0, _EFI_APPLICATION, _NX_COMPAT)
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, _DIRECTORIES) + bytes(8 * _DIRECTORIES)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", _MACHINE_AMD64, len(sections), 0, 0, 0, len(optional), _CHARACTERISTICS)
    headers = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", _PE_AT) + coff + optional + b"".join(sections)
    if len(headers) > ROOM_BYTES:
        raise FormatError(f"payload: headers of {len(headers)} bytes do not fit before the set-up header", offset=0)
    return headers.ljust(ROOM_BYTES, b"\0")


def _section(name: bytes, address: int, file_bytes: int, memory_bytes: int, flags: int) -> bytes:
    """A row of the section table; file offset and address are the same."""
    return struct.pack(
        "<8sIIIIIIHHI", name, memory_bytes, address, file_bytes, address if file_bytes else 0, 0, 0, 0, 0, flags
    )
