"""A kernel in Linux's boot format (bzImage): its header, and the ELF file that is packed inside.

Source: Documentation/arch/x86/boot.rst. Offsets are from the begin of the file, all numbers little-endian.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import FormatError, UsageError
from bench.images.kernel_description import WHY_NOT_32_BIT
from bench.images.kernel_tools import UNPACKERS

_SECTOR = 512
_HEADER_BYTES = 0x268
_SIZE_BYTES = 4
# xloadflags exists since protocol 2.12 (Linux 3.8), the packed kernel's place since 2.08 (2.6.26).
_PROTOCOL_XLOADFLAGS = 0x20C
_PROTOCOL_PAYLOAD = 0x208
_XLF_KERNEL_64 = 1
_XLF_CAN_BE_LOADED_ABOVE_4G = 2
# copy_boot_params() in arch/x86/boot/main.c copies the header from its own offset in the segment (si) by rep movs;
# the destination stands in one of the register loads beside it. In 16-bit code, 66 marks a 32-bit operand.
_HDR = 0x1F1
_COPY_HDR = re.compile(rb"(?s:.{0,24})\x66\xbe\xf1\x01\x00\x00(?s:.{0,24}?)\xf3(?:\x66)?[\xa4\xa5]")
_LOAD_REGISTER = re.compile(rb"\x66[\xb8-\xbf](?=(?P<value>.{4}))", re.DOTALL)
# It is __attribute__((aligned(16))).
_BOOT_PARAMS_ALIGNMENT = 16


@dataclass(frozen=True)
class BootHeader:
    """The setup header, as far as the bench needs it. Sizes in bytes."""

    protocol: int
    """0x20f is version 2.15."""
    version: str
    """The kernel's own words: ``6.1.0-56-amd64 (…) #1 SMP …``."""
    setup_bytes: int
    """Length of the real-mode part, the boot sector included; the protected-mode part begins there."""
    initrd_addr_max: int
    kernel_alignment: int
    relocatable: bool
    xloadflags: int
    payload_offset: int
    """From the begin of the protected-mode part."""
    payload_bytes: int
    pref_address: int
    init_size: int

    @property
    def initrd_limit(self) -> int:
        """The highest address that an initrd may have below 4 GiB; a newer kernel than its header's field says."""
        anywhere = self.xloadflags & _XLF_CAN_BE_LOADED_ABOVE_4G
        return 0xFFFF_FFFF if anywhere else self.initrd_addr_max


def read_boot_header(data: bytes, source: str) -> BootHeader:
    """The header of a bzImage.

    Raises UsageError for a 32-bit kernel, FormatError (with the offset) for what is no kernel in this format.
    """
    if len(data) < _HEADER_BYTES or data[0x1FE:0x200] != b"\x55\xaa" or data[0x202:0x206] != b"HdrS":
        raise FormatError("is not a kernel in Linux's boot format (bzImage): no HdrS", source=source, offset=0x202)
    protocol, version_at = struct.unpack_from("<H", data, 0x206)[0], struct.unpack_from("<H", data, 0x20E)[0]
    if protocol < _PROTOCOL_PAYLOAD:
        raise FormatError(f"boot protocol {protocol:#x} is older than 2.08", source=source, offset=0x206)
    end = data.find(b"\0", version_at + _SECTOR) if version_at else -1
    header = BootHeader(
        protocol=protocol,
        version=data[version_at + _SECTOR : end].decode("latin-1") if end > 0 else "",
        setup_bytes=((data[0x1F1] or 4) + 1) * _SECTOR,
        initrd_addr_max=struct.unpack_from("<I", data, 0x22C)[0],
        kernel_alignment=struct.unpack_from("<I", data, 0x230)[0],
        relocatable=bool(data[0x234]),
        xloadflags=struct.unpack_from("<H", data, 0x236)[0] if protocol >= _PROTOCOL_XLOADFLAGS else 0,
        payload_offset=struct.unpack_from("<I", data, 0x248)[0],
        payload_bytes=struct.unpack_from("<I", data, 0x24C)[0],
        pref_address=struct.unpack_from("<Q", data, 0x258)[0],
        init_size=struct.unpack_from("<I", data, 0x260)[0],
    )
    if protocol >= _PROTOCOL_XLOADFLAGS and not header.xloadflags & _XLF_KERNEL_64:
        raise UsageError(f"{source}: a 32-bit (i386) kernel: {WHY_NOT_32_BIT}")
    return header


def require_bootable(path: Path) -> BootHeader:
    """The header of the kernel in a file that somebody hands over; before protocol 2.12 the ELF file inside tells
    whether it is a 64-bit one.

    Raises UsageError for a 32-bit kernel and for a file that cannot be read, FormatError for what is no bzImage.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    header = read_boot_header(data, str(path))
    if header.protocol < _PROTOCOL_XLOADFLAGS:
        require_64_bit(unpack_kernel(data, header, str(path)), str(path))
    return header


def require_64_bit(elf: bytes, source: str) -> None:
    """Raises UsageError for a 32-bit ELF file, FormatError for what is none for x86-64."""
    if elf[:4] != b"\x7fELF":
        raise FormatError("the kernel that is packed inside is no ELF file", source=source)
    if elf[4] == 1:
        raise UsageError(f"{source}: a 32-bit (i386) kernel: {WHY_NOT_32_BIT}")
    if struct.unpack_from("<H", elf, 18)[0] != 62:
        raise FormatError("the kernel that is packed inside is not for x86-64", source=source, offset=18)


def unpack_kernel(data: bytes, header: BootHeader, source: str) -> bytes:
    """The ELF file inside a bzImage, by any of the compressions that Linux offers.

    Raises FormatError if it is damaged, UsageError if a program is missing here that unpacks it.
    """
    start = header.setup_bytes + header.payload_offset
    packed = data[start : start + header.payload_bytes]
    if not header.payload_bytes or len(packed) < header.payload_bytes:
        raise FormatError("the packed kernel is cut short", source=source, offset=start)
    for magic, unpack in _UNPACKERS:
        if packed.startswith(magic):
            return _sized(unpack, packed, source, start)
    raise FormatError(f"unknown compression {packed[:6].hex()}", source=source, offset=start)


def _sized(unpack: Callable[[bytes], bytes], packed: bytes, source: str, start: int) -> bytes:
    try:
        whole = unpack(packed)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, subprocess.SubprocessError) as error:
        raise FormatError(f"the packed kernel is damaged: {error}", source=source, offset=start) from error
    said = struct.unpack("<I", packed[-_SIZE_BYTES:])[0]
    if len(whole) != said:
        raise FormatError(f"unpacked to {len(whole)} bytes, not the {said} it says", source=source, offset=start)
    return whole


def _program(name: str) -> Callable[[bytes], bytes]:
    (tool,) = (tool for tool in UNPACKERS if tool.name == name)

    def unpack(packed: bytes) -> bytes:
        if not tool.works():
            raise UsageError(f"{name} is not installed here, and this kernel is packed by it: install {tool.package}")
        # Linux's own build appends the size; it is no part of what the program knows.
        done = subprocess.run([name, "-dc"], input=packed[:-_SIZE_BYTES], capture_output=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.decode(errors="replace").strip())
        return done.stdout

    return unpack


# gzip's own last field is the size; the others have it appended.
_UNPACKERS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", lambda packed: zlib.decompressobj(31).decompress(packed)),
    (b"\xfd7zXZ", lambda packed: lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(packed)),
    (b"]\0\0", lambda packed: lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(packed)),
    (b"BZh", lambda packed: bz2.BZ2Decompressor().decompress(packed)),
    (b"\x02\x21\x4c\x18", _program("lz4")),
    (b"\x28\xb5\x2f\xfd", _program("zstd")),
    (b"\x89LZO", _program("lzop")),
)


def boot_params_offset(data: bytes, header: BootHeader) -> int | None:
    """Where the real-mode code keeps boot_params, from the begin of its segment: what the kernel gets if a loader
    enters it in real mode, as QEMU's and old BIOS loaders do. None if its code does not show it.

    Read out of copy_boot_params() in arch/x86/boot/main.c, which copies the header from 0x1f1 to where it belongs.
    """
    found = set()
    for copy in _COPY_HDR.finditer(data, _SECTOR, header.setup_bytes):
        for load in _LOAD_REGISTER.finditer(copy[0]):
            where = int.from_bytes(load["value"], "little") - _HDR
            if 0 < where < 1 << 16 and where % _BOOT_PARAMS_ALIGNMENT == 0:
                found.add(where)
    return found.pop() if len(found) == 1 else None
