"""What Linux and processors make of a file with updates, or of an early image: `bench microcode verify`.

An initrd begins on a page (boot loaders see to that), so an offset in the image is as aligned as its address.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.errors import FormatError
from bench.sim.ucode_scan import CpioData, InitrdReads, Scanned, find_cpio_data, next_update
from bench.x86.early_cpio import UCODE_PATH, looks_like_cpio
from bench.x86.microcode import HEADER_BYTES, all_broken_rules
from bench.x86.microcode_processor import ALIGN_BYTES
from bench.x86.microcode_set import Part, update_files


@dataclass(frozen=True)
class Verified:
    """What is wrong with a file, and what is worth knowing of it."""

    errors: tuple[FormatError, ...]
    notes: tuple[str, ...]
    linux_reads_it: bool
    """Linux takes it for updates, all of what it reads of it; processors may still refuse them."""


def verify(content: memoryview, source: str) -> Verified:
    """Hold a file against every rule of the format; an image against Linux's search and the processors' rule too."""
    parts: list[Part] = []
    errors: list[FormatError] = []
    try:
        # One at a time: what lies in front of an error is kept.
        for part in update_files(content, source):
            parts.append(part)
    except FormatError as error:
        errors.append(error)
    for part in parts:
        errors += all_broken_rules(part.content, source=part.name)
    if not parts or not looks_like_cpio(content):
        return Verified(tuple(errors), (), bool(parts) and _scan(parts[0].content)[1])
    found = find_cpio_data(InitrdReads(content, len(content), keep=1))
    if found is None:
        text = f"Linux does not find {parts[0].name}: a file has to end within the image, with its padding"
        return Verified((*errors, FormatError(text, source=source, offset=parts[0].offset)), (), False)
    updates, whole = _scan(content[found.offset : found.offset + found.size])
    errors += _misaligned(found, updates, source)
    return Verified(tuple(errors), tuple(_notes(found, parts)), whole)


def _scan(file: memoryview) -> tuple[list[Scanned], bool]:
    """The updates up to the first that Linux finds bad; whether there is none of those, nor anything behind the last.
    One that is bad makes it discard them all."""
    reads, at, updates = InitrdReads(file, len(file), keep=1), 0, list[Scanned]()
    while at < len(file) and (update := next_update(reads, at, len(file) - at)):
        updates.append(update)
        at = update.end
    return updates, 0 < at == len(file)


def _misaligned(found: CpioData, updates: Sequence[Scanned], source: str) -> Iterator[FormatError]:
    """Linux has the first processor read updates where they lie in the initrd, and looks at no alignment."""
    data = [found.offset + update.offset + HEADER_BYTES for update in updates]
    wrong = [at for at in data if at % ALIGN_BYTES]
    if wrong:
        text = (
            f"update data is not {ALIGN_BYTES}-byte aligned in the image ({wrong[0] % ALIGN_BYTES} bytes too far): "
            f"processors refuse it; so it is with {len(wrong)} of {len(data)} updates"
        )
        yield FormatError(text, source=source, offset=wrong[0])


def _notes(found: CpioData, parts: Sequence[Part]) -> Iterator[str]:
    """Linux takes the first file whose name begins as the one that it looks for, and no other."""
    for part in parts:
        name = part.name.partition("!")[2]
        if part.offset != found.offset:
            yield f"not read: {name} at {part.offset:#x}, which is not the first whose name begins with {UCODE_PATH}"
        elif found.name:
            said = f", and says: {found.warning}" if found.warning else ""
            yield f"read: {name} at {part.offset:#x}, since its name begins with {UCODE_PATH}: Linux asks no more{said}"
