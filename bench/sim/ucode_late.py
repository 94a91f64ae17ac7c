"""Which update a late load takes: /lib/firmware/intel-ucode/FF-MM-SS is walked, and each kernel has its own way.

To be read beside request_microcode_fw and what it calls (generic_load_microcode, parse_microcode_blobs) in
arch/x86/kernel/cpu/microcode/intel.c. Read: 6.1.192, 6.12.117, 7.3.4. What happens with the update: `ucode_system`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from bench.errors import UsageError
from bench.sim.ucode_choose import jumps, platform_flags, suits
from bench.sim.ucode_loaders import Loader
from bench.sim.ucode_scan import BAD_FORMAT, InitrdReads, Scanned, objection
from bench.x86.microcode import (
    DEFAULT_DATA_BYTES,
    DEFAULT_TOTAL_BYTES,
    HEADER_BYTES,
    OFFSET_OF,
    Update,
    read_update_loosely,
)
from bench.x86.microcode_processor import ProcessorRules

PREFIX = "microcode: "
_CUT_HEADER = "error! Truncated or inaccessible header in microcode data file"
_TOTAL_TOO_SMALL = "error! Bad data in microcode data file (totalsize too small)"
_CUT_FILE = "error! Bad data in microcode data file (truncated file?)"
GNR98 = PREFIX + "Erratum GNR98: skipping revision 0x{:x}."


class LateRules(Enum):
    """Ways of loading late."""

    ALWAYS_UNSAFE = auto()
    """4.16 to 6.6, as 6.1.20 and newer have it: no look at the oldest running revision; taints whatever comes of it."""
    MINIMUM_REVISION = auto()
    """6.7 and newer: an update whose header says from which running revision on it may be loaded late is safe, and
    taints nothing; one that is not safe is taken with words of warning, or passed over if that is asked for."""


# Generations of `ucode_loaders` whose late loading was read.
_RULES = {
    "v6.1": LateRules.ALWAYS_UNSAFE,
    "v6.7": LateRules.MINIMUM_REVISION,
    "v6.12": LateRules.MINIMUM_REVISION,
    "v7.3": LateRules.MINIMUM_REVISION,
}


def late_rules(loader: Loader) -> LateRules:
    """How a generation loads late. Raises UsageError for one that is not modelled."""
    if loader.name not in _RULES:
        raise UsageError(f"late loading of the loader {loader.name} is not modelled; it is of {', '.join(_RULES)}")
    return _RULES[loader.name]


def asks_for_minimum(loader: Loader, command_line: str) -> bool:
    """Whether the command line says that an update which is not safe is passed over (6.7 and newer).

    CONFIG_MICROCODE_LATE_FORCE_MINREV says the same, and none of the bench's kernels has it.
    """
    if late_rules(loader) is LateRules.ALWAYS_UNSAFE:
        return False
    words = command_line.split()
    if "microcode=dis_ucode_ldr" in loader.switches:
        given = [w.removeprefix("microcode=") for w in words if w.startswith("microcode=")]
        return bool(given) and "force_minrev" in given[-1].split(",")
    # Before 7.0 a parameter of the driver. (Kconfig's help has it as microcode.minrev, which no code reads.)
    return any(
        word in ("microcode.force_minrev", *(f"microcode.force_minrev={yes}" for yes in "1yY")) for word in words
    )


class Walk(Enum):
    """How a walk over the file ended."""

    NONE = auto()
    """Nothing newer for this processor, or no file."""
    BAD = auto()
    CHOSEN = auto()


@dataclass(frozen=True)
class LateChoice:
    """What came of the file. `lines` are the kernel's words."""

    end: Walk
    lines: tuple[str, ...]
    update: bytes = b""
    safe: bool = False
    """The running revision is one from which the update may be loaded late."""


@dataclass(frozen=True)
class Running:
    """What the kernel goes by: the first processor's revision as the driver has it, and as /proc/cpuinfo shows it."""

    known: int
    shown: int


def choose_late(
    loader: Loader, rules: ProcessorRules, file: bytes | None, running: Running, *, minimum_forced: bool = False
) -> LateChoice:
    """The update that a late load takes out of `file` (None: there is none)."""
    if not file:
        return LateChoice(Walk.NONE, ())  # an empty file is none for the firmware loader
    minimum = late_rules(loader) is LateRules.MINIMUM_REVISION
    reads = InitrdReads(file, len(file))
    lines: list[str] = []
    best, safe, best_revision = b"", False, running.known
    at, why_not = 0, ""
    while at < len(file):
        scanned, left, why_not = _next(loader, reads, at)
        if why_not:
            break
        assert scanned is not None
        content = file[at : scanned.end]
        update = read_update_loosely(content)
        assert update is not None, "the sanity check let it through"
        at = scanned.end
        if update.revision <= best_revision or not suits(loader, update, rules.signature, platform_flags(rules)):
            continue
        if loader.erratum_gnr98 and jumps(rules, running.known, update.revision):
            lines.append(GNR98.format(update.revision))
            continue
        is_safe = minimum and _is_safe(update, running.shown, lines)
        if minimum_forced and not is_safe:
            continue
        best, safe, best_revision = content, is_safe, update.revision
    if why_not:
        lines.append(PREFIX + why_not)
        # Up to 6.6 only what is left of the file tells: a bad update that is the last one spoils nothing.
        if minimum or left:
            return LateChoice(Walk.BAD, tuple(lines))
    return LateChoice(Walk.CHOSEN if best else Walk.NONE, tuple(lines), best, safe)


def _next(loader: Loader, reads: InitrdReads, at: int) -> tuple[Scanned | None, int, str]:
    """The update at `at`; how many bytes are left behind what was read of it; and why it is bad, if it is."""
    left = reads.size - at
    if left < HEADER_BYTES:
        return None, left, _CUT_HEADER
    data_size = reads.word(at + OFFSET_OF["data_size"])
    total_size = reads.word(at + OFFSET_OF["total_size"]) if data_size else DEFAULT_TOTAL_BYTES
    if total_size < HEADER_BYTES:
        return None, left - HEADER_BYTES, _TOTAL_TOO_SMALL
    if total_size > left:
        return None, left - HEADER_BYTES, _CUT_FILE
    scanned = Scanned(at, data_size or DEFAULT_DATA_BYTES, total_size)
    why_not = objection(reads, scanned, loader.table_size_bits)
    if why_not == BAD_FORMAT and late_rules(loader) is LateRules.MINIMUM_REVISION:
        version = reads.word(at + OFFSET_OF["header_version"])
        why_not += f" Header type {version - (1 << 32) if version >> 31 else version}"
    return scanned, left - total_size, why_not


def _is_safe(update: Update, shown: int, lines: list[str]) -> bool:
    """ucode_validate_minrev()."""
    if not update.minimum_revision:
        lines.append(PREFIX + "Unsafe microcode update: Microcode header does not specify a required min version")
        return False
    if shown < update.minimum_revision:
        lines.append(PREFIX + f"Unsafe microcode update: Current revision 0x{shown:x} too old")
        lines.append(
            PREFIX + f"Current should be at 0x{update.minimum_revision:x} or higher. Use early loading instead"
        )
        return False
    return True
