"""What the early loader reads of an initrd, and in which order: each first touch of 2 MiB is a page fault.

To be read beside Linux's lib/earlycpio.c (find_cpio_data) and arch/x86/kernel/cpu/microcode/intel.c (scan_microcode,
microcode_sanity_check), 6.1. Compilers may swap two reads within one header; nothing here depends on that unless a
header of 48 bytes lies across a border of 2 MiB.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

from bench.errors import UsageError
from bench.x86.early_cpio import HEADER_BYTES as CPIO_HEADER_BYTES
from bench.x86.early_cpio import REGULAR, TYPE_MASK, UCODE_PATH
from bench.x86.microcode import (
    DEFAULT_DATA_BYTES,
    DEFAULT_TOTAL_BYTES,
    HEADER_BYTES,
    OFFSET_OF,
    TABLE_HEAD,
    TABLE_ROW,
    dword_sum,
)

REGION_BYTES = 2 << 20
MAX_CPIO_FILE_NAME = 18
PAGE_BYTES = 4096
_WORD = struct.Struct("<I")
_LONG_BYTES = 8
_PATH = UCODE_PATH.encode()

Range = tuple[int, int]


class InitrdReads:
    """An initrd whose reads are written down, as (offset, size), in the order in which they were made.

    `head` is its beginning, as long as the search needs, `size` its full length; `phys` is where it lies, in bytes.
    Of the ranges the last `keep` are kept, all if it is None. Raises UsageError for a read behind `head`.
    """

    def __init__(self, head: bytes | memoryview, size: int, phys: int = 0, *, keep: int | None = None) -> None:
        self.head = head
        self.size = size
        self.phys = phys
        self.ranges: deque[Range] = deque(maxlen=keep)

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Read; what lies behind the initrd itself counts as zero."""
        self.ranges.append((offset, size))
        return self._look(offset, size)

    def word(self, offset: int) -> int:
        """Read an aligned or unaligned word of 32 bits."""
        return int(_WORD.unpack(self.bytes_at(offset, 4))[0])

    def sum_downwards(self, offset: int, size: int) -> int:
        """The words of [offset, offset + size) added up, the last one read first; a range for each 2 MiB."""
        end = offset + (size & ~3)
        self._require(offset, end - offset)
        at = end
        while at > offset:
            border = ((self.phys + at - 1) & ~(REGION_BYTES - 1)) - self.phys
            begin = max(border, offset)
            # The word that is read first, and so the one that faults.
            self.ranges.append((at - 4, 4))
            self.ranges.append((begin, at - begin))
            at = begin
        return dword_sum(self.head, offset, size)

    def zeros(self, offset: int, left: int) -> int:
        """How many of `left` bytes are passed over, in steps of 4, because the first of them is zero."""
        at, end = offset, offset + left - CPIO_HEADER_BYTES
        while at < end and self._look(at, 1) == b"\0":
            at += 4
        if at > offset:
            # The byte that ended it is read too, unless too little was left.
            last = at if at < end else at - 4
            self.ranges.append((offset, last - offset + 1))
        return at - offset

    def _look(self, offset: int, size: int) -> bytes:
        self._require(offset, size)
        return bytes(self.head[offset : min(offset + size, self.size)]).ljust(min(size, 4096), b"\0")

    def _require(self, offset: int, size: int) -> None:
        """Look whether these bytes are here, or behind the initrd."""
        if max(0, min(offset + size, self.size) - len(self.head)) and size:
            raise UsageError(
                f"the loader reads the initrd's bytes {offset:#x} to {offset + size:#x}, and only the first "
                f"{len(self.head):#x} are here"
            )


@dataclass(frozen=True)
class CpioData:
    """What find_cpio_data found."""

    offset: int
    size: int
    name: str
    """What stands behind the path that was looked for: empty for the file itself."""
    warning: str = ""
    """The line that the kernel logs of it."""


def find_cpio_data(initrd: InitrdReads, *, extra_bytes: int = 0, long_compare: bool = True) -> CpioData | None:
    """The first regular file whose name begins with the microcode's path.

    `extra_bytes` more than its length are searched (3.9); with `long_compare` names are compared eight bytes at a time
    (memcmp from 5.14 on).
    """
    at, left = 0, initrd.size + extra_bytes
    while left > CPIO_HEADER_BYTES:
        skipped = initrd.zeros(at, left)
        at, left = at + skipped, left - skipped
        if left <= CPIO_HEADER_BYTES:
            return None
        fields = _cpio_fields(initrd, at)
        if fields is None:
            return None
        name, left = at + CPIO_HEADER_BYTES, left - CPIO_HEADER_BYTES
        mode, file_bytes, name_bytes = fields[2], fields[7], fields[12]
        data = _aligned(initrd, name + name_bytes)
        following = _aligned(initrd, data + file_bytes)
        if following > name + left:
            return None
        regular = mode & TYPE_MASK == REGULAR
        if regular and name_bytes >= len(_PATH) and _same(initrd, name, long_compare):
            return _found(initrd, name, name_bytes, data, file_bytes)
        left -= following - name
        at = following
    return None


def _aligned(initrd: InitrdReads, offset: int) -> int:
    """PTR_ALIGN(…, 4), of the address and not of the offset."""
    return ((initrd.phys + offset + 3) & ~3) - initrd.phys


def _cpio_fields(initrd: InitrdReads, at: int) -> list[int] | None:
    """Magic and 13 fields; read a byte at a time up to the first that is no hexadecimal digit."""
    text = initrd.bytes_at(at, CPIO_HEADER_BYTES)
    for number, byte in enumerate(text):
        if byte not in b"0123456789abcdefABCDEF":
            initrd.ranges[-1] = (at, number + 1)
            return None
    fields = [int(text[:6], 16), *(int(text[i : i + 8], 16) for i in range(6, CPIO_HEADER_BYTES, 8))]
    return fields if fields[0] in (0x070701, 0x070702) else None


def _same(initrd: InitrdReads, name: int, long_compare: bool) -> bool:
    """memcmp: whole words up to the one that differs, then bytes."""
    found = initrd.bytes_at(name, len(_PATH))
    differs = next((i for i, byte in enumerate(_PATH) if found[i] != byte), None)
    if differs is None:
        return True
    whole = len(_PATH) // _LONG_BYTES * _LONG_BYTES
    read = differs // _LONG_BYTES * _LONG_BYTES + _LONG_BYTES if long_compare and differs < whole else differs + 1
    initrd.ranges[-1] = (name, read)
    return False


def _found(initrd: InitrdReads, name: int, name_bytes: int, data: int, file_bytes: int) -> CpioData:
    warning = ""
    if name_bytes - len(_PATH) >= MAX_CPIO_FILE_NAME:
        whole = initrd.bytes_at(name, name_bytes).split(b"\0")[0]
        warning = f"File {whole.decode('latin-1')} exceeding MAX_CPIO_FILE_NAME [{MAX_CPIO_FILE_NAME}]"
    # strscpy: words up to the one with a NUL, then bytes, at most 18.
    rest = name + len(_PATH)
    text = b""
    while len(text) + _LONG_BYTES <= MAX_CPIO_FILE_NAME and b"\0" not in text:
        text += initrd.bytes_at(rest + len(text), _LONG_BYTES)
    while len(text) < MAX_CPIO_FILE_NAME and b"\0" not in text:
        text += initrd.bytes_at(rest + len(text), 1)
    called = text.split(b"\0")[0][: MAX_CPIO_FILE_NAME - 1]
    return CpioData(data, file_bytes, called.decode("latin-1"), warning)


# --- the file's updates ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scanned:
    """An update that the sanity check let through, by what the loader reads of it. `offset` is the initrd's."""

    offset: int
    data_size: int
    total_size: int

    @property
    def end(self) -> int:
        """Offset just past it."""
        return self.offset + self.total_size


def next_update(initrd: InitrdReads, offset: int, left: int, *, table_size_bits: int = 64) -> Scanned | None:
    """One round of the loop of scan_microcode up to the sanity check: the update at `offset`, of which `left` bytes
    are in the file; None where the loop breaks off."""
    if left < HEADER_BYTES:
        return None
    data_size = initrd.word(offset + OFFSET_OF["data_size"])
    total_size = initrd.word(offset + OFFSET_OF["total_size"]) if data_size else DEFAULT_TOTAL_BYTES
    data_size = data_size or DEFAULT_DATA_BYTES
    if not total_size or total_size > left:
        return None
    update = Scanned(offset, data_size, total_size)
    return update if sane(initrd, update, table_size_bits) else None


# What microcode_sanity_check prints of a file that is loaded late; early it is silent.
BAD_SIZE = "Error: bad microcode data file size."
BAD_FORMAT = "Error: invalid/unknown microcode update format."
TABLE_CUT = "Error: truncated extended signature table."
TABLE_SIZE = "Error: extended signature table size mismatch."
TABLE_SUM = "Bad extended signature table checksum, aborting."
BAD_SUM = "Bad microcode data checksum, aborting."
ROW_SUM = "Bad extended signature checksum, aborting."


def sane(initrd: InitrdReads, update: Scanned, table_size_bits: int = 64) -> bool:
    """Whether microcode_sanity_check lets an update through."""
    return not objection(initrd, update, table_size_bits)


def objection(initrd: InitrdReads, update: Scanned, table_size_bits: int = 64) -> str:
    """microcode_sanity_check, with its reads in their order: what it objects to, empty if to nothing. The size that a
    table should have is computed from its count in `table_size_bits`: from 6.7 on in 32, so that a count which is too
    large by 2^30 passes, and rows behind the table are read until one has a wrong checksum."""
    offset = update.offset
    if update.data_size + HEADER_BYTES > update.total_size:
        return BAD_SIZE
    if initrd.word(offset + OFFSET_OF["loader_revision"]) != 1:
        return BAD_FORMAT
    if initrd.word(offset + OFFSET_OF["header_version"]) != 1:
        return BAD_FORMAT
    table = offset + HEADER_BYTES + update.data_size
    table_bytes = update.end - table
    count = 0
    if table_bytes:
        if table_bytes < TABLE_HEAD.size or (table_bytes - TABLE_HEAD.size) % TABLE_ROW.size:
            return TABLE_CUT
        count = initrd.word(table)
        if table_bytes != (TABLE_HEAD.size + count * TABLE_ROW.size) % (1 << table_size_bits):
            return TABLE_SIZE
        if initrd.sum_downwards(table, table_bytes):
            return TABLE_SUM
    if initrd.sum_downwards(offset, HEADER_BYTES + update.data_size):
        return BAD_SUM
    own = sum(initrd.word(offset + OFFSET_OF[name]) for name in ("signature", "platform_flags", "checksum"))
    wrong = any((own - sum(_row(initrd, table, row))) % (1 << 32) for row in range(count))
    return ROW_SUM if wrong else ""


def _row(initrd: InitrdReads, table: int, row: int) -> tuple[int, int, int]:
    at = table + TABLE_HEAD.size + row * TABLE_ROW.size
    signature, flags, checksum = TABLE_ROW.unpack(initrd.bytes_at(at, TABLE_ROW.size))
    return signature, flags, checksum


def scan_accesses(
    initrd_head: bytes | memoryview,
    initrd_size: int,
    *,
    phys_initrd: int = 0,
    extra_bytes: int = 0,
    long_compare: bool = True,
) -> list[Range]:
    """The initrd's byte ranges (offset, size) that load_ucode_bsp reads, in order, from the first look at byte 0 to
    the last checksum.

    A checksum's pass runs downwards: it is given as one range for each 2 MiB of physical memory, the last one first.
    Zeros that are skipped in steps of 4 are one range. What is read again of headers and rows when an update is
    chosen was read before, by that update's own checksum, and is left out; so is what WRMSR makes the processor read.
    The list is empty if there is no initrd. Call it only for a boot whose loader looks at all
    (`ucode_load.Loader.looks`).

    `initrd_head` is the initrd's beginning, at least as far as the search comes: the early archives and the first
    byte behind them that is not zero; the whole initrd always does. `phys_initrd` is its physical address.
    Raises UsageError if the search leaves the head.
    """
    initrd = InitrdReads(initrd_head, initrd_size, phys_initrd)
    if not initrd_size:
        return []
    found = find_cpio_data(initrd, extra_bytes=extra_bytes, long_compare=long_compare)
    if found is None:
        return list(initrd.ranges)
    at, end = found.offset, found.offset + found.size
    while at < end:
        update = next_update(initrd, at, end - at)
        if update is None:
            break
        at = update.end
    return list(initrd.ranges)
