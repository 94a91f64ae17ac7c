"""Intel microcode updates: the file format, the rules that a well-formed file keeps, and which update suits.

A file is a row of updates, each of them

    header (48 bytes) | update data | extended signature table (often absent)

all fields little-endian, 32 bits. Source: SDM Vol. 3A, "Microcode Update Facilities"; Linux
arch/x86/kernel/cpu/microcode/intel.c (6.1) for what a kernel checks. An update's data is encrypted: nobody but the
processor can tell whether it is genuine.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from bench.errors import FormatError
from bench.x86.signature import impossible

HEADER = struct.Struct("<12I")
HEADER_BYTES = HEADER.size
HEADER_VERSION = 1
HEADER_VERSION_SCAN = 2
"""Of an image for In-Field Scan, which has this header too and is no microcode."""
LOADER_REVISION = 1
DEFAULT_DATA_BYTES = 2000
"""What data size 0 means."""
DEFAULT_TOTAL_BYTES = 2048
TABLE_HEAD = struct.Struct("<5I")
TABLE_ROW = struct.Struct("<3I")
SIZE_STEP = 1024
"""Total sizes are multiples of it (SDM, table "Microcode Update Field Definitions"); Linux does not check that."""
MOST_ROWS = 1024
"""Of a table. Nobody says how many there may be, Intel's have up to ten: more are not worth their memory."""
YEARS = range(1995, 2100)
"""Years that an update can be of: updates began with the Pentium Pro."""
_HEADER_FIELDS = (
    "header_version", "revision", "date", "signature", "checksum", "loader_revision", "platform_flags", "data_size",
    "total_size", "metadata_size", "minimum_revision", "reserved",
)  # fmt: skip
OFFSET_OF = {name: 4 * number for number, name in enumerate(_HEADER_FIELDS)}
_SUM_CHUNK_BYTES = 1 << 20

Bytes = bytes | memoryview
_Identity = tuple[int, int, int]


@dataclass(frozen=True)
class ExtendedSignature:
    """A row of an extended signature table: one more processor that the update is for."""

    signature: int
    platform_flags: int
    checksum: int


@dataclass(frozen=True)
class Update:
    """One update. `data_size` and `total_size` are in bytes, with what 0 stands for filled in."""

    offset: int
    """Of its header in the file."""
    header_version: int
    revision: int
    date: int
    """As it stands there: BCD digits MMDDYYYY."""
    signature: int
    checksum: int
    loader_revision: int
    platform_flags: int
    data_size: int
    total_size: int
    metadata_size: int
    minimum_revision: int
    """The oldest running revision from which it may be loaded late; 0: not said."""
    reserved: int
    extended: tuple[ExtendedSignature, ...] = ()

    @property
    def end(self) -> int:
        """Offset just past it."""
        return self.offset + self.total_size

    @property
    def iso_date(self) -> str:
        """``2023-03-06``; the digits as they are if they are no date."""
        return f"{self.date & 0xFFFF:04x}-{self.date >> 24:02x}-{self.date >> 16 & 0xFF:02x}"

    @property
    def identities(self) -> tuple[tuple[int, int], ...]:
        """Signature and platform flags of all processors it is for: the header's own, then the table's."""
        return ((self.signature, self.platform_flags), *((e.signature, e.platform_flags) for e in self.extended))


def dword_sum(data: Bytes, start: int, size: int) -> int:
    """Sum modulo 2^32 of the little-endian words in `size` bytes from `start`; bytes behind the last whole word are
    left out, as in Linux. Takes memory of a megabyte at most."""
    total = 0
    end = start + (size & ~3)
    for at in range(start, end, _SUM_CHUNK_BYTES):
        words = array("I", bytes(data[at : min(at + _SUM_CHUNK_BYTES, end)]))
        if sys.byteorder == "big":
            words.byteswap()
        total += sum(words)
    return total & 0xFFFFFFFF


# --- rules -----------------------------------------------------------------------------------------------------------


def read_update(data: Bytes, offset: int = 0, *, source: str = "") -> Update:
    """The update that begins at `offset`. Raises FormatError, with the offset of the field, for the first rule that
    it breaks: the rules of `broken_rules`, in their order."""
    for error in broken_rules(data, offset, source=source):
        raise error
    return _unchecked(data, offset)


def read_updates(data: Bytes, *, source: str = "") -> Iterator[Update]:
    """The updates of a file in order. Raises FormatError for the first that is malformed, for what is behind the last
    one, and for an empty file."""
    if not len(data):
        raise FormatError("is empty: an update has a header of 48 bytes", source=source, offset=0)
    at, seen = 0, dict[_Identity, Update]()
    while at < len(data):
        update = read_update(data, at, source=source)
        if error := _contradiction(data, update, seen, source):
            raise error
        yield update
        at = update.end


def all_broken_rules(data: Bytes, *, source: str = "") -> Iterator[FormatError]:
    """Everything that is wrong with a file. What begins behind an update whose size cannot be believed is not read."""
    if not len(data):
        yield FormatError("is empty: an update has a header of 48 bytes", source=source, offset=0)
    at, seen = 0, dict[_Identity, Update]()
    while at < len(data):
        yield from broken_rules(data, at, source=source)
        if size_error(data, at, source=source):
            return
        update = _unchecked(data, at)
        if error := _contradiction(data, update, seen, source):
            yield error
        at = update.end


def _contradiction(data: Bytes, update: Update, seen: dict[_Identity, Update], source: str) -> FormatError | None:
    """What is wrong if the file has had another update for the same processors with the same revision."""
    first = seen.setdefault((update.signature, update.platform_flags, update.revision), update)
    if first is update or data[first.offset : first.end] == data[update.offset : update.end]:
        return None
    text = f"signature, flags and revision are those of the update at {first.offset:#x}, and the bytes are not"
    return _error(text, update, "revision", source)


def broken_rules(data: Bytes, offset: int, *, source: str = "") -> Iterator[FormatError]:
    """Every rule that the update at `offset` breaks, the most basic first. Rules of its table need its sizes, and
    checksums need its versions: what cannot be judged any more is left out."""
    error = size_error(data, offset, source=source)
    if error:
        yield error
        return
    update = _unchecked(data, offset)
    yield from _version_rules(update, source)
    if update.header_version != HEADER_VERSION:
        return
    yield from _size_rules(update, source)
    table = update.total_size - HEADER_BYTES - update.data_size
    table_error = table_size_error(data, update, source=source) if table else None
    if table_error:
        yield table_error
    elif table:
        yield from _table_rules(data, update, source)
    if total := dword_sum(data, offset, HEADER_BYTES + update.data_size):
        text = f"checksum of header and data is wrong: the sum of their words is {total:#010x}, not 0"
        yield _error(text, update, "checksum", source)
    yield from _field_rules(update, source)


def size_error(data: Bytes, offset: int, *, source: str = "") -> FormatError | None:
    """Why nobody can say where the update at `offset` ends, or None."""
    left = len(data) - offset
    if left < HEADER_BYTES:
        text = f"header is cut: {left} of {HEADER_BYTES} bytes"
        return FormatError(text, source=source, offset=offset)
    update = _header(data, offset)
    if update.total_size < HEADER_BYTES + update.data_size:
        text = (
            f"total size {update.total_size} is less than the header's {HEADER_BYTES} bytes and the data's "
            f"{update.data_size} together"
        )
        return _error(text, update, "total_size", source)
    if update.total_size > left:
        text = f"update is cut: its total size is {update.total_size} bytes, and {left} are left"
        return _error(text, update, "total_size", source)
    return None


def _error(text: str, update: Update, field: str, source: str) -> FormatError:
    return FormatError(text, source=source, offset=update.offset + OFFSET_OF[field])


def _version_rules(update: Update, source: str) -> Iterator[FormatError]:
    if update.header_version == HEADER_VERSION_SCAN:
        yield _error("header version is 2: an image for In-Field Scan, not microcode", update, "header_version", source)
    elif update.header_version != HEADER_VERSION:
        yield _error(f"header version is {update.header_version:#x}, not 1", update, "header_version", source)
    if update.loader_revision != LOADER_REVISION:
        yield _error(f"loader revision is {update.loader_revision:#x}, not 1", update, "loader_revision", source)


def _size_rules(update: Update, source: str) -> Iterator[FormatError]:
    if update.data_size % 4:
        yield _error(f"data size {update.data_size} is not a multiple of 4", update, "data_size", source)
    if update.total_size % SIZE_STEP:
        text = f"total size {update.total_size} is not a multiple of {SIZE_STEP}"
        yield _error(text, update, "total_size", source)


def table_size_error(data: Bytes, update: Update, *, source: str = "") -> FormatError | None:
    """Why the extended signature table's size cannot be right, or None."""
    at = update.offset + HEADER_BYTES + update.data_size
    size = update.end - at
    if size < TABLE_HEAD.size:
        text = f"extended signature table is cut: {size} bytes, and its head alone has {TABLE_HEAD.size}"
        return FormatError(text, source=source, offset=at)
    if (size - TABLE_HEAD.size) % TABLE_ROW.size:
        text = (
            f"extended signature table is cut: {size} bytes are not a head of {TABLE_HEAD.size} and whole rows of "
            f"{TABLE_ROW.size}"
        )
        return FormatError(text, source=source, offset=at)
    count = TABLE_HEAD.unpack_from(data, at)[0]
    if TABLE_HEAD.size + count * TABLE_ROW.size != size:
        text = (
            f"extended signature table has another size than its count says: {count} rows take "
            f"{TABLE_HEAD.size + count * TABLE_ROW.size} bytes, and it has {size}"
        )
        return FormatError(text, source=source, offset=at)
    return None


def _table_rules(data: Bytes, update: Update, source: str) -> Iterator[FormatError]:
    at = update.offset + HEADER_BYTES + update.data_size
    if total := dword_sum(data, at, update.end - at):
        text = f"checksum of the extended signature table is wrong: the sum of its words is {total:#010x}, not 0"
        yield FormatError(text, source=source, offset=at + 4)
    reserved = TABLE_HEAD.unpack_from(data, at)[2:]
    if any(reserved):
        yield FormatError("reserved words of the extended signature table are not 0", source=source, offset=at + 8)
    count = TABLE_HEAD.unpack_from(data, at)[0]
    if count > MOST_ROWS:
        text = f"extended signature table has {count} rows: more than {MOST_ROWS} are not read"
        yield FormatError(text, source=source, offset=at)
    own = update.signature + update.platform_flags + update.checksum
    for number, row in enumerate(update.extended):
        here = at + TABLE_HEAD.size + number * TABLE_ROW.size
        if (own - row.signature - row.platform_flags - row.checksum) & 0xFFFFFFFF:
            text = (
                f"checksum of extended signature {number} is wrong: signature, flags and checksum must have the same "
                "sum as the header's"
            )
            yield FormatError(text, source=source, offset=here + 8)
        if row.platform_flags > 0xFF:
            text = f"platform flags of extended signature {number} are {row.platform_flags:#x}: there are 8 platforms"
            yield FormatError(text, source=source, offset=here + 4)
        if why := impossible(row.signature):
            yield FormatError(f"extended signature {number} is none: {why}", source=source, offset=here)


def _field_rules(update: Update, source: str) -> Iterator[FormatError]:
    """What no kernel looks at, and what Intel's own files keep."""
    if not is_date(update.date):
        text = f"date {update.date:#010x} is not the BCD digits MMDDYYYY of a day"
        yield _error(text, update, "date", source)
    if not update.revision:
        yield _error("revision is 0, which means that no update is loaded", update, "revision", source)
    if why := impossible(update.signature):
        yield _error(f"signature is none: {why}", update, "signature", source)
    if update.platform_flags > 0xFF:
        text = f"platform flags are {update.platform_flags:#x}: there are 8 platforms"
        yield _error(text, update, "platform_flags", source)
    if update.metadata_size > update.data_size:
        text = f"metadata size {update.metadata_size} is more than the data's {update.data_size} bytes"
        yield _error(text, update, "metadata_size", source)
    if update.reserved:
        yield _error(f"reserved word is {update.reserved:#x}, not 0", update, "reserved", source)


def is_date(bcd: int) -> bool:
    """Whether MMDDYYYY in BCD digits names a day of `YEARS`."""
    digits = f"{bcd:08x}"
    if not digits.isdecimal():
        return False
    month, day, year = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    if not 1 <= month <= 12 or year not in YEARS:
        return False
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= day <= (31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def read_update_loosely(data: Bytes, offset: int = 0) -> Update | None:
    """The update at `offset`, held against no rule but that it has a header and a place to end."""
    return None if size_error(data, offset) else _unchecked(data, offset, most_rows=sys.maxsize)


def _header(data: Bytes, offset: int) -> Update:
    fields = dict(zip(_HEADER_FIELDS, HEADER.unpack_from(data, offset), strict=True))
    if not fields["data_size"]:
        # Only then: with a data size the total size counts as it stands, even 0.
        fields |= {"data_size": DEFAULT_DATA_BYTES, "total_size": DEFAULT_TOTAL_BYTES}
    return Update(offset=offset, **fields)


def _unchecked(data: Bytes, offset: int, *, most_rows: int = MOST_ROWS) -> Update:
    """The update at `offset`, where `size_error` found nothing; its table if that makes sense and is no longer."""
    update = _header(data, offset)
    if update.total_size == HEADER_BYTES + update.data_size or table_size_error(data, update):
        return update
    at = offset + HEADER_BYTES + update.data_size
    count = TABLE_HEAD.unpack_from(data, at)[0]
    if count > most_rows:
        return update
    rows = (TABLE_ROW.unpack_from(data, at + TABLE_HEAD.size + TABLE_ROW.size * i) for i in range(count))
    return Update(**vars(update) | {"extended": tuple(ExtendedSignature(*row) for row in rows)})


# --- which one suits -------------------------------------------------------------------------------------------------


def suits(update: Update, signature: int, platform_flags: int) -> bool:
    """Whether `update` is for a processor with this signature whose platform flags are `platform_flags` (one bit of a
    real processor). Flags of 0 on either side leave the platform out: iucode_tool's reading. The rules of kernels
    differ from one another: bench.sim.ucode_load has them."""
    return any(
        signature == own and (not platform_flags or not flags or bool(platform_flags & flags))
        for own, flags in update.identities
    )
