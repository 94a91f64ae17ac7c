"""Entries and error codes taken apart, bit by bit, with the manuals' names.

Source: SDM Vol. 3A, "Paging", tables of the entries' formats with 4-level and 5-level paging, and "Page-Fault
Exceptions".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.x86.fault import PageFault

ENTRY_FIELDS = ("pgd", "p4d", "pud", "pmd", "entry")
WIDTH = 64


@dataclass(frozen=True)
class BitField:
    """Bits `low` to `high` of a value, both included."""

    high: int
    low: int
    name: str
    about: str = ""

    def of(self, value: int) -> int:
        """The field's number in `value`."""
        return value >> self.low & (1 << self.high - self.low + 1) - 1

    @property
    def place(self) -> str:
        """``63`` or ``51:12``."""
        return str(self.low) if self.high == self.low else f"{self.high}:{self.low}"


def _bit(number: int, name: str, about: str) -> BitField:
    return BitField(number, number, name, about)


_LOW = (
    _bit(0, "P", "present"),
    _bit(1, "RW", "writable"),
    _bit(2, "US", "user"),
    _bit(3, "PWT", "write-through"),
    _bit(4, "PCD", "cache disabled"),
    _bit(5, "A", "accessed"),
)
_HIGH = (
    BitField(58, 52, "software", "ignored by the processor"),
    BitField(62, 59, "key", "protection key, ignored unless CR4.PKE"),
    _bit(63, "NX", "execute-disable; reserved while EFER.NXE is clear"),
)
TABLE_ENTRY: tuple[BitField, ...] = (
    *_LOW,
    _bit(6, "D", "ignored in a pointer to a table"),
    _bit(7, "PS", "0: points to a table"),
    BitField(11, 8, "ignored", "ignored in a pointer to a table"),
    BitField(51, 12, "address", "physical address of the next table"),
    *_HIGH,
)
LEAF_2M: tuple[BitField, ...] = (
    *_LOW,
    _bit(6, "D", "dirty"),
    _bit(7, "PS", "1: a 2 MiB page"),
    _bit(8, "G", "global: kept over a load of CR3"),
    BitField(11, 9, "software", "ignored by the processor"),
    _bit(12, "PAT", "memory type"),
    BitField(20, 13, "reserved", "must be 0: the page lies at a multiple of 2 MiB"),
    BitField(51, 21, "address", "physical address of the page"),
    *_HIGH,
)
ERROR_CODE: tuple[BitField, ...] = (
    _bit(0, "P", "1: protection or a reserved bit; 0: an entry was not present"),
    _bit(1, "W", "write"),
    _bit(2, "U", "user mode"),
    _bit(3, "RSVD", "a present entry had a reserved bit set"),
    _bit(4, "ID", "instruction fetch"),
    _bit(5, "PK", "protection key"),
    _bit(6, "SS", "shadow stack"),
    _bit(7, "HLAT", "walk from HLATP"),
    _bit(15, "SGX", "access rule of SGX"),
)


def layout(name: str, value: int) -> tuple[BitField, ...]:
    """The fields of a value; empty if it is a plain number. `name` is one of `records.EVENT_FIELDS`."""
    if name in ENTRY_FIELDS:
        return LEAF_2M if name in ("pmd", "entry") and value >> 7 & 1 else TABLE_ENTRY
    return ERROR_CODE if name == "error" else ()


@dataclass(frozen=True)
class BitRow:
    """One field of a value on both sides."""

    field: BitField
    model: str
    machine: str

    @property
    def differs(self) -> bool:
        """Whether the two sides have different numbers."""
        return self.model != self.machine


def beside(name: str, model: int, machine: int, *, free: int = 0) -> list[BitRow]:
    """Both sides of a value, field by field, the highest bit first; fields that both have zero are left out.

    Bits of `free` are the processor's choice: they are shown as ``free``.
    """
    rows = []
    for field in sorted(layout(name, model | machine), key=lambda f: -f.low):
        a, b = field.of(model), field.of(machine)
        if not a and not b:
            continue
        if field.of(free):
            rows.append(BitRow(field, "free", "free"))
            continue
        rows.append(BitRow(field, _number(field, a), _number(field, b)))
    return rows


def bits_of(value: int) -> list[int]:
    """The 64 bits, bit 63 first."""
    return [value >> n & 1 for n in reversed(range(WIDTH))]


def _number(field: BitField, value: int) -> str:
    if field.name == "address":
        return f"0x{value << field.low:x}"
    return str(value) if field.high == field.low else f"0x{value:x}"


def error_words(error: int) -> str:
    """``P W`` for 3; ``-`` for 0."""
    return " ".join(b.name or "" for b in PageFault if error & b) or "-"


def decoded(fields: Mapping[str, int | None]) -> Iterator[tuple[str, str]]:
    """(name, ``51:12 address 0x1056000, 6 D, 5 A, 1 RW, 0 P``) of every entry and error code among `fields`."""
    for name, value in fields.items():
        if value is None or not (rows := beside(name, value, value)):
            continue
        words = (f"{r.field.place} {r.field.name}" + ("" if r.model == "1" else f" {r.model}") for r in rows)
        yield name, ", ".join(words)
