"""What a kernel says of Intel microcode, from 2.4 on: one row for each text.

Texts are those of arch/x86/kernel/microcode*.c and arch/x86/kernel/cpu/microcode/ of the releases named; borders
between long-term releases are approximate. `from` is the revision before, `to` the one that runs, or was wanted,
afterwards.

AMD's and Hygon's own lines (patch_level, family) are no rows. Texts of the common part, which AMD's processors print
too, are left out where the log shows that the processor is one of theirs (`Row.common`). Xen prints texts of the same
form, behind ``(XEN)``; they are the hypervisor's and not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import NamedTuple

from bench.parse.kernel_form import Form, Reading, State, compile_form, is_certain, read_form
from bench.parse.kernel_text import Log, Text, before

_P = "microcode: "
_DATED = "revision {to:x}, date = {date:iso}"


class Row(NamedTuple):
    """One text."""

    event: str
    form: str
    releases: str
    common: bool = False
    """Printed for every vendor's processors."""


ROWS = (
    Row("driver_banner", "IA-32 Microcode Update Driver: v{:v}{:rest}", "2.4 … 2.6.27"),
    Row("driver_banner", _P + "Microcode Update Driver: v{:v}{:rest}", "2.6.28 … 6.6", True),
    Row("driver_removed", "IA-32 Microcode Update Driver v{:v} unregistered", "2.4 … 2.6.27"),
    Row("updated_early", "CPU{cpu:d} microcode updated early to " + _DATED, "3.9 … 4.3"),
    Row("updated_early", _P + "CPU{cpu:d} microcode updated early to " + _DATED, "4.4 … 4.9"),
    Row("updated_early", _P + "microcode updated early to " + _DATED, "4.10 … 6.2"),
    Row("updated_early", _P + "updated early: {from:x} -> {to:x}, date = {date:iso}", "6.3 … 6.6.80"),
    Row("current_revision", _P + "Current revision: {to:x8}", "6.7 …, 6.6.81 …", True),
    Row("updated_early_from", _P + "Updated early from: {from:x8}", "6.7 …, 6.6.81 …", True),
    Row("signature", _P + "CPU{cpu:d} sig={sig:x}, pf={pf:x}, revision={to:x}", "2.6.28 … 4.8"),
    Row("signature", _P + "sig={sig:x}, pf={pf:x}, revision={to:x}", "4.9 … 6.2"),
    Row("already_current", _P + "CPU{cpu:d} already at revision {:x} (current={to:x})", "2.6.5 … 2.6.9"),
    Row("late_updated", _P + "CPU{cpu:d} updated from revision {from:x} to {to:x}, date = {date:bcd}", "2.4 … 2.6.26"),
    Row(
        "late_updated", _P + "CPU{cpu:d} updated from revision {from:x} to {to:x}, date = {date:iso}", "2.6.27 … 2.6.28"
    ),
    Row("late_updated", _P + "CPU{cpu:d} updated to " + _DATED, "2.6.29 … 4.8"),
    Row("late_updated", _P + "updated to " + _DATED, "4.9 … 6.6"),
    Row("late_updated", _P + "Updated to " + _DATED, "6.7"),
    Row("late_failed", _P + "CPU{cpu:d} update from revision {from:x} to {to:x} failed", "2.4 … 2.6.28"),
    Row("late_failed", _P + "CPU{cpu:d} update to revision {to:x} failed", "2.6.29 … 6.6"),
    Row(
        "late_attempted",
        _P + "Attempting late microcode loading - it is dangerous and taints the kernel.",
        "5.15 … 6.6",
        True,
    ),
    Row("late_unchecked", _P + "Late microcode loading without minimal revision check.", "6.7 …", True),
    Row("early_advised", _P + "You should switch to early loading, if possible.", "5.15 …", True),
    Row(
        "early_advised",
        _P + "Please consider either early loading through initrd/built-in or a potential BIOS update.",
        "4.14 …",
    ),
    Row("reload_completed", _P + "Reload completed, microcode revision: {from:x} -> {to:x}", "5.16 … 6.2", True),
    Row("reload_completed", _P + "Reload completed, microcode revision: {to:x}", "4.17 … 5.15", True),
    Row(
        "reload_succeeded", _P + "Reload succeeded, microcode revision: {from:x} -> {to:x}", "6.3 … 6.6, 6.1.20 …", True
    ),
    Row("reload_failed", _P + "Reload failed, current microcode revision: {to:x}", "6.3 … 6.6, 6.1.20 …", True),
    Row("load_counted", _P + "load: updated on {:d} primary CPUs with {:d} siblings", "6.7 …", True),
    Row("late_updated", _P + "revision: {from:x} -> {to:x}", "6.7 …", True),
    Row("load_incomplete", _P + "load incomplete. {:d} CPUs timed out or failed", "6.7 …", True),
    Row("load_incomplete", _P + "load: {:d} CPUs timed out", "6.7 …", True),
    Row("load_incomplete", _P + "update failed: {:d} CPUs failed {:d} CPUs timed out", "6.7 …", True),
    Row("load_incomplete", _P + "{:d} offline siblings did not respond.", "6.7 …", True),
    Row("load_incomplete", _P + "Timeout while waiting for CPUs rendezvous, remaining: {:d}", "4.16 … 6.6", True),
    Row("load_incomplete", _P + "Error reloading microcode on CPU {cpu:d}", "4.16 … 6.6", True),
    Row("load_aborted", _P + "CPU {cpu:d} not online, loading aborted", "6.7 …", True),
    Row("load_aborted", _P + "Not all CPUs online, aborting microcode update.", "4.16 … 6.6", True),
    Row(
        "min_revision_missing",
        _P + "Unsafe microcode update: Microcode header does not specify a required min version",
        "6.7 …",
    ),
    Row("min_revision_unmet", _P + "Unsafe microcode update: Current revision {from:x} too old", "6.7 …"),
    Row("min_revision_needed", _P + "Current should be at {to:x} or higher. Use early loading instead", "6.7 …"),
    Row("staging_enabled", _P + "Enabled staging feature.", "7.x"),
    Row("staged", _P + "Staging of patch revision {to:x} succeeded.", "7.x"),
    Row("staging_failed", _P + "Error: staging failed ({:w}) for CPU{cpu:d} at package {:w}.", "7.x"),
    Row("staging_failed", _P + "Microcode image 32-bit misaligned ({:x}), staging failed.", "7.x"),
    Row("erratum", _P + "Erratum BDF90: late loading with revision < 0x0b000021 ({from:x}) disabled.", "4.15 … 6.x"),
    Row("erratum", _P + "Erratum BDX90: late loading with revision < 0x0b000021 ({from:x}) disabled.", "7.x"),
    Row("erratum", _P + "Erratum GNR98: skipping revision {to:x}.", "7.x"),
    Row("file_refused", _P + "Error: bad microcode data file size.", "4.10 …"),
    Row("file_refused", _P + "Error: invalid/unknown microcode update format.", "4.10 … 6.1"),
    Row("file_refused", _P + "Error: invalid/unknown microcode update format. Header type {:d}", "6.2 …"),
    Row("file_refused", _P + "Error: truncated extended signature table.", "4.10 …"),
    Row("file_refused", _P + "Error: extended signature table size mismatch.", "4.10 …"),
    Row("file_refused", _P + "Bad extended signature table checksum, aborting.", "4.10 …"),
    Row("file_refused", _P + "Bad microcode data checksum, aborting.", "4.10 …"),
    Row("file_refused", _P + "Bad extended signature checksum, aborting.", "4.10 …"),
    Row("file_refused", _P + "error! Truncated header in microcode data file", "4.19"),
    Row("file_refused", _P + "error! Truncated or inaccessible header in microcode data file", "6.1 …"),
    Row("file_refused", _P + "error! Bad data in microcode data file", "2.6.28 …"),
    Row("file_refused", _P + "error! Bad data in microcode data file (totalsize too small)", "6.1 …"),
    Row("file_refused", _P + "error! Bad data in microcode data file (truncated file?)", "6.1 …"),
    Row("file_refused", "error! Bad data size in microcode data file", "3.9 … 4.9"),
    Row("file_refused", "error! Unknown microcode update format", "3.9 … 4.9"),
    Row("file_refused", "error! Small exttable size in microcode data file", "3.9 … 4.9"),
    Row("file_refused", "error! Bad exttable size in microcode data file", "3.9 … 4.9"),
)
EVENTS = tuple(dict.fromkeys(row.event for row in ROWS))
_FORMS = tuple((row, compile_form(row.form)) for row in ROWS)
_BEGINNINGS = (_P, "CPU", "IA-32 Microcode", "error! ")
"""Each form begins with one of them."""

# A broken line without numbers is joined to the next only if as much of the text stands on the first.
_TELLING_CHARACTERS = 24

_AMD = re.compile(
    rb"patch_level=|CPU0: (?:AMD|Hygon) |vendor_id\s*: (?:AuthenticAMD|HygonGenuine)|x86/amd: |microcode_amd"
    rb"|x86/pm: family 0x1[0-9a-f] cpu|AMD PMU driver"
)
_INTEL = re.compile(rb"CPU0: Intel|Intel PMU driver|vendor_id\s*: GenuineIntel|sig=0x[0-9a-f]+, pf=0x")


@dataclass(frozen=True)
class Microcode:
    """One statement. What the text has not, or not with certainty, is None."""

    event: str
    line: int
    """From 1."""
    span: tuple[int, int]
    cpu: int | None = None
    before: int | None = None
    """Revision; ``from`` in JSON."""
    after: int | None = None
    """Revision; ``to`` in JSON."""
    date: str | None = None
    """ISO 8601; None if the printed one is no day of any calendar."""
    sig: int | None = None
    """CPUID signature."""
    pf: int | None = None
    """Platform flags."""


class MicrocodeReader:
    """Reads lines of one log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    @cached_property
    def _amd(self) -> bool:
        return bool(_AMD.search(self._log.data)) and not _INTEL.search(self._log.data)

    def read(self, line: int) -> Microcode | None:
        """The statement on this line, or None if there is none that can be trusted."""
        text = self._log.clean(line)
        at = len(before(text.text))
        if not text.text.startswith(_BEGINNINGS, at):
            return None
        found = self._whole(text, at) or self._wrapped(text, at) or self._cut(text, at)
        if found is None or (found[0].common and self._amd):
            return None
        row, text, reading = found
        return _statement(row, self._log.number(line), text.span(at, reading.stop), reading.values)

    def _whole(self, text: Text, at: int) -> tuple[Row, Text, Reading] | None:
        readings = [(row, parts, read_form(parts, text.text, at)) for row, parts in _FORMS]
        for row, parts, reading in sorted(readings, key=lambda each: len(each[2].wrong)):
            if reading.state is not State.WHOLE or _is_doubtful_rest(reading) or reading.says_nothing:
                continue
            if reading.wrong and self._wrapped(text, at):
                return None
            if reading.open and (reading.rest or self._log.may_go_on(text)):
                if self._wrapped(text, at):
                    return None
                reading.values.pop(reading.open, None)
            elif reading.rest:
                _drop_last(reading, parts)
            if self._log.may_go_on(text) and not _keep_common(row, reading, readings):
                return None
            return row, text, reading
        return None

    def _wrapped(self, text: Text, at: int) -> tuple[Row, Text, Reading] | None:
        for row, parts in _FORMS:
            alone = read_form(parts, text.text, at)
            if not alone.literals and not (alone.state is State.CUT and len(text.text) - at > _TELLING_CHARACTERS):
                continue
            for whole, breaks in self._log.joined(text):
                reading = read_form(parts, whole.text, at)
                sure = not (reading.open and self._log.may_go_on(whole)) and is_certain(reading, whole.text, breaks)
                if reading.state is State.WHOLE and not reading.rest and not reading.wrong and sure:
                    return row, whole, reading
        return None

    def _cut(self, text: Text, at: int) -> tuple[Row, Text, Reading] | None:
        """The line ends inside the statement: taken if what is there belongs to one event only."""
        fits, events = [], set()
        for row, parts in _FORMS:
            reading = read_form(parts, text.text, at)
            if reading.state is not State.CUT or reading.says_nothing:
                continue
            events.add(row.event)
            # The text before the first number that matters, so that "microcode: CPU0" or "microcode: " say nothing.
            needed = 2 if parts[0] == _P or (len(parts) > 1 and getattr(parts[1], "name", "") == "cpu") else 1
            if reading.literals >= needed and len(parts) > 1:
                fits.append((row, text, reading))
        return fits[0] if fits and len(events) == 1 else None


def _keep_common(row: Row, reading: Reading, readings: list[tuple[Row, Form, Reading]]) -> bool:
    """Where a longer text begins with the same words: keep what both say; False if they are different events."""
    for other, _, longer in readings:
        if longer.state is State.CUT and not longer.says_nothing:
            reading.values = {k: v for k, v in reading.values.items() if longer.values.get(k) == v}
            if other.event != row.event:
                return False
    return True


def _is_doubtful_rest(reading: Reading) -> bool:
    """Letters go on where the statement ends: some other statement."""
    return bool(reading.rest) and (reading.rest[0].isalnum() or reading.rest[0] in "-(,\"'`")


def _drop_last(reading: Reading, parts: Form) -> None:
    """Other text runs into the statement: its last number may have lost digits, unless its length is fixed."""
    name, kind = getattr(parts[-1], "name", ""), getattr(parts[-1], "kind", "")
    if name and kind not in ("iso", "bcd", "x8"):
        reading.values.pop(name, None)


def _statement(row: Row, line: int, span: tuple[int, int], values: dict[str, str]) -> Microcode:
    def number(name: str) -> int | None:
        return int(values[name], 16) if name in values else None

    return Microcode(
        event=row.event,
        line=line,
        span=span,
        cpu=int(values["cpu"]) if "cpu" in values else None,
        before=number("from"),
        after=number("to"),
        date=_iso(values.get("date")),
        sig=number("sig"),
        pf=number("pf"),
    )


def _iso(text: str | None) -> str | None:
    """The header keeps MMDDYYYY as BCD digits, and old drivers print just them."""
    if text is None:
        return None
    if len(text) == 8:
        text = f"{text[4:]}-{text[:2]}-{text[2:4]}"
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return None
