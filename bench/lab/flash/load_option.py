"""UEFI's boot options and the device paths in them: layouts of UEFI 2.10, sections 3.1.3 and 10.3; GPT, section 5.3."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from bench.errors import FormatError

ACTIVE = 0x00000001
_MEDIA, _HARD_DRIVE, _FILE_PATH = 4, 1, 4
_END = b"\x7f\xff\x04\x00"
_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")


@dataclass(frozen=True)
class LoadOption:
    """Content of a variable ``Boot####``."""

    description: str
    paths: bytes
    """Packed device paths, ends included."""
    data: bytes = b""
    attributes: int = ACTIVE

    def pack(self) -> bytes:
        """As it is stored."""
        head = struct.pack("<IH", self.attributes, len(self.paths))
        return head + f"{self.description}\0".encode("utf-16-le") + self.paths + self.data


def parse_load_option(data: bytes) -> LoadOption:
    """Raises FormatError if it is none."""
    if len(data) < 8:
        raise FormatError("a boot option has 8 bytes at least", source="Boot####", offset=len(data))
    attributes, length = struct.unpack_from("<IH", data)
    end = 6
    while data[end : end + 2] != b"\0\0":
        end += 2
        if end + 2 > len(data):
            raise FormatError("the description does not end", source="Boot####", offset=6)
    start = end + 2
    if start + length > len(data):
        raise FormatError(f"device paths of {length} bytes reach beyond the end", source="Boot####", offset=4)
    description = data[6:end].decode("utf-16-le", "replace")
    return LoadOption(description, data[start : start + length], data[start + length :], attributes)


@dataclass(frozen=True)
class Node:
    """A node of a device path (10.3): type, subtype, and its data without the head."""

    kind: int
    subtype: int
    data: bytes


def nodes(paths: bytes) -> list[Node]:
    """The nodes of packed device paths, in order. Raises FormatError where one reaches beyond the end."""
    found, at = [], 0
    while at < len(paths):
        if at + 4 > len(paths):
            raise FormatError("a node of 4 bytes at least is cut off", source="device path", offset=at)
        kind, subtype, length = struct.unpack_from("<BBH", paths, at)
        if length < 4 or at + length > len(paths):
            raise FormatError(f"a node of {length} bytes reaches beyond the end", source="device path", offset=at)
        found.append(Node(kind, subtype, paths[at + 4 : at + length]))
        at += length
    return found


@dataclass(frozen=True)
class Partition:
    """A partition of a GPT, in logical blocks."""

    number: int
    first: int
    blocks: int
    guid: bytes


def file_on(partition: Partition, path: str) -> bytes:
    """Device path of a file by its partition alone (a short form, 3.1.2): firmware looks for the disk."""
    drive = struct.pack("<IQQ16sBB", partition.number, partition.first, partition.blocks, partition.guid, 2, 2)
    name = ("\\" + path.strip("/").replace("/", "\\") + "\0").encode("utf-16-le")
    return _node(_HARD_DRIVE, drive) + _node(_FILE_PATH, name) + _END


def _node(kind: int, data: bytes) -> bytes:
    return struct.pack("<BBH", _MEDIA, kind, 4 + len(data)) + data


def gpt_partition(table: bytes, block_bytes: int, number: int) -> Partition:
    """Partition `number` of a disk whose first blocks are `table`. Raises FormatError."""
    if len(table) < block_bytes + _GPT_HEADER.size:
        raise FormatError("the disk's first blocks are too short for a GPT", source="disk", offset=len(table))
    fields = _GPT_HEADER.unpack_from(table, block_bytes)
    if fields[0] != b"EFI PART":
        raise FormatError("the disk has no GPT", source="disk", offset=block_bytes)
    entries_at, count, size = fields[10] * block_bytes, fields[11], fields[12]
    at = entries_at + (number - 1) * size
    if not 1 <= number <= count or size < 128 or at + 48 > len(table):
        raise FormatError(f"the GPT has no partition {number}", source="disk", offset=at)
    guid, first, last = table[at + 16 : at + 32], *struct.unpack_from("<QQ", table, at + 32)
    if not last >= first > 0:
        raise FormatError(f"partition {number} is not there", source="disk", offset=at)
    return Partition(number, first, last - first + 1, guid)
