"""How much memory a machine's firmware says is plugged in.

Source: SMBIOS Reference Specification 3.7 (DSP0134): 6.1.2 (structures), 7.18 (Memory Device, type 17).
"""

from __future__ import annotations

from collections.abc import Iterator

_HEADER_BYTES = 4
_MEMORY_DEVICE, _END = 17, 127
_SIZE, _EXTENDED_SIZE = 0x0C, 0x1C
_EMPTY, _UNKNOWN, _EXTENDED = 0, 0xFFFF, 0x7FFF
_IN_KIB = 0x8000


def installed_bytes(dump: str) -> int | None:
    """Sum of all memory devices of a table, given as hexadecimal bytes; None if it names none or is damaged."""
    try:
        table = bytes.fromhex("".join(dump.split()))
        sizes = [_size(data) for kind, data in _structures(table) if kind == _MEMORY_DEVICE]
    except (ValueError, IndexError):
        return None
    return sum(sizes) or None


def _structures(table: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER_BYTES <= len(table):
        kind, length = table[at], table[at + 1]
        if length < _HEADER_BYTES:
            raise ValueError(f"a structure of {length} bytes")
        yield kind, table[at : at + length]
        if kind == _END:
            return
        # Texts follow, each with a zero at its end, and one more.
        at = table.index(b"\0\0", at + length) + 2


def _size(data: bytes) -> int:
    size = int.from_bytes(data[_SIZE : _SIZE + 2], "little")
    if size in (_EMPTY, _UNKNOWN):
        return 0
    if size == _EXTENDED and len(data) >= _EXTENDED_SIZE + 4:
        return (int.from_bytes(data[_EXTENDED_SIZE : _EXTENDED_SIZE + 4], "little") & 0x7FFF_FFFF) << 20
    return (size & ~_IN_KIB) << (10 if size & _IN_KIB else 20)
