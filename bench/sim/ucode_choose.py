"""Which update of a file a loader chooses for a processor.

To be read beside scan_microcode of the releases that `ucode_loaders` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.sim.ucode_loaders import Choice, Loader
from bench.sim.ucode_scan import CpioData, InitrdReads, Scanned, next_update
from bench.x86.microcode import Update, read_update_loosely
from bench.x86.microcode_processor import ProcessorRules
from bench.x86.signature import processor as processor_of

_FAMILY_AND_MODEL = 0x0FFF0FF0
# Erratum GNR98 (Granite Rapids X, stepping 1): the revision that must not be jumped over.
_GNR98_SIGNATURE, _GNR98_FLAGS, _GNR98_REVISION = 0xA06D1, 0x95, 0x1000405


def fits(loader: Loader, signature: int, flags: int, own_signature: int, own_flags: int) -> bool:
    """Whether signature and flags of an update (or of one of its rows) are a processor's own."""
    if signature != own_signature:
        return False
    if loader.no_flags_match_any:
        return not flags or bool(flags & own_flags)
    return (not flags and not own_flags) or bool(flags & own_flags)


def suits(loader: Loader, update: Update, signature: int, flags: int) -> bool:
    """Whether the loader takes an update, by its header or its table, to be for a processor."""
    return any(fits(loader, own, mask, signature, flags) for own, mask in update.identities)


def _passes_filter(loader: Loader, update: Update, signature: int, flags: int) -> bool:
    """Which updates are looked at at all: up to 6.0 those of the processor's family and model."""
    if not loader.filter_by_model:
        return suits(loader, update, signature, flags)
    return any(not (own ^ signature) & _FAMILY_AND_MODEL for own, _ in update.identities)


def platform_flags(rules: ProcessorRules) -> int:
    """The flag that a loader makes of MSR 0x17; 0 for processors without a platform id."""
    which = processor_of(rules.signature)
    return rules.platform_flags if which.model >= 5 or which.family > 6 else 0


@dataclass
class UpdateFile:
    """The updates of GenuineIntel.bin as one pass over it meets them."""

    updates: list[tuple[int, Update]] = field(default_factory=list)
    """Offset in the initrd, and the update."""
    whole: bool = False
    """The pass came to the file's end: nothing was bad, cut or left over."""


def read_file(loader: Loader, initrd: InitrdReads, found: CpioData) -> UpdateFile:
    """One pass over it, up to the first update that is bad."""
    file, at, end = UpdateFile(), found.offset, found.offset + found.size
    while at < end:
        scanned = next_update(initrd, at, end - at, table_size_bits=loader.table_size_bits)
        if scanned is None:
            return file
        update = _update_at(initrd, scanned)
        file.updates.append((at, update))
        at = scanned.end
    file.whole = True
    return file


def _update_at(initrd: InitrdReads, scanned: Scanned) -> Update:
    update = read_update_loosely(initrd.head[scanned.offset : scanned.end])
    assert update is not None, "the sanity check let it through"
    return update


def choose(
    loader: Loader, file: UpdateFile, rules: ProcessorRules, running: int
) -> tuple[tuple[int, Update] | None, list[str]]:
    """The update that a processor running `running` would load, with its offset, and what the kernel says of it."""
    flags, said = platform_flags(rules), []
    if not file.whole:
        return None, []
    if loader.choice is Choice.FIRST_SAVED:
        return _newest(_saved(loader, file, rules.signature), loader, rules, running), []
    best: tuple[int, Update] | None = None
    for offset, update in file.updates:
        if not _passes_filter(loader, update, rules.signature, flags):
            continue
        if loader.erratum_gnr98 and jumps(rules, running, update.revision):
            said.append(f"microcode: Erratum GNR98: skipping revision 0x{update.revision:x}.")
            continue
        if best is None or loader.choice is Choice.NEWEST:
            above = best[1].revision if best else running
            if update.revision > above and suits(loader, update, rules.signature, flags):
                best = offset, update
        elif update.revision > best[1].revision and suits(loader, update, best[1].signature, best[1].platform_flags):
            best = offset, update
    return best, said[:1]


def _saved(loader: Loader, file: UpdateFile, signature: int) -> list[tuple[int, Update]]:
    """3.9's list. Rows of tables do not count in its filter: it looks for them far behind the update."""
    saved: list[tuple[int, Update]] = []
    for offset, update in file.updates:
        if (update.signature ^ signature) & _FAMILY_AND_MODEL:
            continue
        if not any(suits(loader, update, kept.signature, kept.platform_flags) for _, kept in saved):
            saved.append((offset, update))
    return saved


def _newest(
    updates: Sequence[tuple[int, Update]], loader: Loader, rules: ProcessorRules, running: int
) -> tuple[int, Update] | None:
    best: tuple[int, Update] | None = None
    for offset, update in updates:
        above = best[1].revision if best else running
        if update.revision > above and suits(loader, update, rules.signature, platform_flags(rules)):
            best = offset, update
    return best


def jumps(rules: ProcessorRules, running: int, revision: int) -> bool:
    """Whether erratum GNR98 is about a step from one revision to another."""
    return (
        rules.signature == _GNR98_SIGNATURE
        and bool(platform_flags(rules) & _GNR98_FLAGS)
        and running < _GNR98_REVISION < revision
    )
