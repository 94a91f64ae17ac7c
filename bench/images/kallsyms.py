"""A kernel's own symbol table (kallsyms), read out of its ELF file: what a distribution's kernel is left with.

scripts/kallsyms.c lays it out in one of two orders::

    up to 6.3    offsets  relative_base  num_syms  names  markers  [seqs_of_names]  token_table  token_index
    from 6.4 on  num_syms  names  markers  token_table  token_index  offsets  relative_base  seqs_of_names

(``seqs_of_names``, three bytes a symbol, came with 6.2 and with stable releases of 6.1.) ``token_table`` is found by
its contents, 256 strings in which each digit stands for itself, and proved by ``token_index``, which has the offset of
each of them. ``markers`` has the offset of every 256th name, and ends where the next table begins; ``num_syms`` stands
where walking that many names meets every marker and ends at ``markers``. So nothing is taken for a table that two
others do not agree with. Kernels with absolute addresses (CONFIG_KALLSYMS_BASE_RELATIVE=n) are refused.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.errors import FormatError
from bench.wire import START_KERNEL_MAP

_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_TOKENS = 256
_NAMES_A_MARKER = 256
_LONGEST_NAME_BYTES = 1024
_ALIGNMENT = 8
_MOST_SYMBOLS = 2_000_000


@dataclass(frozen=True)
class Symbol:
    """One symbol: its link-time address (a per-cpu variable's offset, up to 6.14), ``nm``'s letter, and its name."""

    address: int
    letter: str
    name: str


def read_kallsyms(elf: bytes, source: str) -> list[Symbol]:
    """All symbols, by address. Raises FormatError if there is no table, or one in an order that is not known."""
    image = _Image(elf, source)
    try:
        return _read(image)
    except (IndexError, struct.error) as error:
        raise image.error(f"its tables reach behind the file's end ({error})") from error


def _read(image: _Image) -> list[Symbol]:
    table, tokens = _find_tokens(image)
    names_at, count = _find_names(image, table)
    index_end = _up(table + sum(len(token) + 1 for token in tokens)) + 2 * _TOKENS
    addresses = _find_addresses(image, names_at - _ALIGNMENT, index_end, count)
    symbols = []
    at = names_at
    for number in range(count):
        length, start = _length(image.data, at)
        text = b"".join(tokens[token] for token in image.data[start : start + length]).decode("latin-1")
        if not text:
            raise image.error("a symbol without a name", at)
        symbols.append(Symbol(addresses[number], text[0], text[1:]))
        at = start + length
    return symbols


@dataclass(frozen=True)
class _Image:
    """The file, and what errors call it."""

    data: bytes
    source: str

    def u32(self, at: int) -> int:
        """The 32-bit number at `at`; -1 outside of the file."""
        return int(struct.unpack_from("<I", self.data, at)[0]) if 0 <= at <= len(self.data) - 4 else -1

    def error(self, what: str, at: int | None = None) -> FormatError:
        return FormatError(f"kallsyms: {what}", source=self.source, offset=at)


def _up(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT


def _find_tokens(image: _Image) -> tuple[int, list[bytes]]:
    """Where token_table begins, and its 256 strings."""
    at = image.data.find(_DIGITS)
    while at >= 0:
        start = at
        for _ in range(ord("0")):
            # Back over one string: its end, then what stands before the next zero byte.
            start = image.data.rfind(b"\0", max(0, start - 1 - _LONGEST_NAME_BYTES), start - 1) + 1
        # The padding before the table has zero bytes as well, but the table is aligned.
        for begin in (start, *(start + n for n in range(1, _ALIGNMENT))):
            tokens = image.data[begin : begin + 64 * _TOKENS].split(b"\0", _TOKENS)[:_TOKENS]
            if begin % _ALIGNMENT == 0 and len(tokens) == _TOKENS and _indexed(image, begin, tokens):
                return begin, tokens
        at = image.data.find(_DIGITS, at + 1)
    raise image.error("no token table: CONFIG_KALLSYMS=n, or an order that is not known")


def _indexed(image: _Image, table: int, tokens: list[bytes]) -> bool:
    """Whether token_index stands behind the table, with the offset of each string."""
    offsets = array("H")
    at = 0
    for token in tokens:
        offsets.append(at & 0xFFFF)
        at += len(token) + 1
    return image.data[_up(table + at) :].startswith(struct.pack(f"<{_TOKENS}H", *offsets)) if at < 1 << 16 else False


def _find_names(image: _Image, table: int) -> tuple[int, int]:
    """Where names begins, and how many there are."""
    for markers_at, groups in _markers(image, table):
        markers = struct.unpack_from(f"<{groups}I", image.data, markers_at)
        highest = markers_at - markers[-1]
        for at in range(highest & -_ALIGNMENT, highest - _NAMES_A_MARKER * _LONGEST_NAME_BYTES, -_ALIGNMENT):
            count = image.u32(at - _ALIGNMENT)
            if -(-count // _NAMES_A_MARKER) == groups and _walks(image, at, count, markers_at, markers):
                return at, count
    raise image.error("no list of names with its markers before the token table: an order that is not known", table)


def _markers(image: _Image, table: int) -> Iterator[tuple[int, int]]:
    """Where markers may begin, and how many there would be: it rises from 0, and ends at `table` or at three bytes a
    symbol before it."""
    for at in range(table - _ALIGNMENT, max(0, table - _MOST_SYMBOLS * 4), -_ALIGNMENT):
        if image.u32(at) != 0 or not 2 * _NAMES_A_MARKER <= image.u32(at + 4) < image.u32(at + 8):
            continue
        gap = table - at
        alone = {gap // 4, gap // 4 - 1}
        about = gap * _NAMES_A_MARKER // (4 + 3 * _NAMES_A_MARKER)
        beside = {-(-n // _NAMES_A_MARKER) for n in range(max(1, about - 16), about + 16)}
        for groups in sorted(alone | beside):
            if groups > 2 and all(image.u32(at + 4 * n) < image.u32(at + 4 * n + 4) for n in range(groups - 1)):
                yield at, groups


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The length of a name and where its tokens begin: 7 bits a byte, two bytes at most (6.1 and newer)."""
    low = data[at]
    return (low, at + 1) if low < 0x80 else ((low & 0x7F) | data[at + 1] << 7, at + 2)


def _walks(image: _Image, names: int, count: int, end: int, markers: Sequence[int]) -> bool:
    at = names
    for number in range(count):
        if number % _NAMES_A_MARKER == 0 and at - names != markers[number // _NAMES_A_MARKER]:
            return False
        length, at = _length(image.data, at)
        at += length
        if at > end:
            return False
    return _up(at) == end


def _find_addresses(image: _Image, num_syms_at: int, index_end: int, count: int) -> list[int]:
    """The address of each symbol, from offsets and relative_base before or behind the other tables."""
    room = _up(4 * count)
    for offsets_at, base_at in (
        (num_syms_at - _ALIGNMENT - room, num_syms_at - _ALIGNMENT),
        (_up(index_end), _up(index_end) + room),
    ):
        base = image.u32(base_at) | image.u32(base_at + 4) << 32
        if not START_KERNEL_MAP <= base < 1 << 64:
            continue
        offsets = struct.unpack_from(f"<{count}i", image.data, offsets_at)
        # Up to 6.14 a positive one is absolute (per-cpu variables), and addresses are negative ones, less one.
        per_cpu = sum(offset < 0 for offset in offsets) * 2 > count
        found = [(o if o >= 0 else base - 1 - o) if per_cpu else base + (o & 0xFFFFFFFF) for o in offsets]
        if found == sorted(found):
            return found
    raise image.error("no table of offsets before or behind the names: an order that is not known", num_syms_at)


def render_system_map(symbols: list[Symbol]) -> str:
    """The symbols as ``System.map`` has them."""
    return "".join(f"{symbol.address:016x} {symbol.letter} {symbol.name}\n" for symbol in symbols)
