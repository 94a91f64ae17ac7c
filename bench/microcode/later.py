"""What was done behind the kernel's start came to, held against the prediction.

init shows everything twice, as `observe` says of the early part: a reading that is as predicted is believed, and
readings that differ are a damaged line.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.lab.virtual_cpu import RECORD
from bench.microcode.observe import (
    Comparison,
    Difference,
    Observed,
    Write,
    as_seen,
    compare,
    end_of,
    observe,
    statements_of,
    understood_of,
    with_trace,
    writes_of,
)
from bench.microcode.story import Story, by_order_of_processors
from bench.parse.microcode_said import INIT, all_console_lines, cpuinfo_readings, logged_lines
from bench.records import Capture, Verdict
from bench.sim.ucode_load import EarlyLoad, End
from bench.x86.microcode_processor import Restart

AGAIN = "-again"
"""How the folder of a second boot ends, after the power was off."""
_AT = re.compile(rb"bench-init: at (\d+)\r?\n")
_FAILED = re.compile(rb"bench-init: failed (\d+): (?:put|move|suspend|kexec)\b")
_TAINTED = re.compile(rb"^(\d+)\r?$", re.MULTILINE)
_OUT_OF_SPEC = 1 << 2
"""TAINT_CPU_OUT_OF_SPEC."""
_SIDE_BY_SIDE = ("microcode: CPU", "microcode: Error reloading", "microcode: updated to")
_LATE_COMERS = re.compile(r"microcode: (?:Timeout while waiting|load: \d+ CPUs timed out|.* [1-9]\d* CPUs timed out)")


@dataclass(frozen=True)
class Looks:
    """What init has shown after one deed, each time that it did."""

    shown: tuple[dict[int, int], ...]
    tainted: tuple[bool, ...]
    errors: tuple[int, ...]
    """Errors that it was given after this look."""


def looks_of(data: bytes) -> dict[int, Looks]:
    """By the deed's number."""
    parts = _AT.split(data)
    shown: dict[int, list[dict[int, int]]] = defaultdict(list)
    tainted: dict[int, list[bool]] = defaultdict(list)
    errors: dict[int, list[int]] = defaultdict(list)
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        at = int(number)
        shown[at] += cpuinfo_readings(text)[:1]
        tainted[at] += [bool(int(digits) & _OUT_OF_SPEC) for digits in _TAINTED.findall(text)[:1]]
        errors[at] += [int(digits) for digits in _FAILED.findall(text)]
    return {at: Looks(tuple(shown[at]), tuple(tainted[at]), tuple(errors[at])) for at in shown}


def compare_story(story: Story, capture: Capture, record: Path) -> tuple[Observed, list[Difference], str]:
    """The first boot of a case that has deeds or a kexec: what was seen, every field that is not equal, and how the
    serial line or a processor's emulation is to blame, if it is."""
    looks, logged = looks_of(capture.data), logged_lines(capture.data)
    console = all_console_lines(capture.data)
    shown = tuple(reading for each in looks.values() for reading in each.shown)
    seen = Observed(
        (console,) if logged is None else (console, logged), shown, tuple(writes_of(record)), end_of(capture)
    )
    # Behind init's first word processors come up again, and a second kernel starts to count anew.
    seen = with_trace(seen, capture, capture.data.partition(INIT)[0])
    comparison = Comparison()
    hold = comparison.hold
    hold("end", str(story.end), [seen.end])
    if story.end is End.BOOTS:
        hold("lines", _ordered(story.lines), [_ordered(lines) for lines in seen.lines])
    else:
        # What is said last may be lost with the machine: from 6.13 on a thread of its own prints it.
        said = len(story.lines) - len(story.moments[-1].lines)
        hold("lines", story.lines[: max(said, len(console))], [console])
    _hold_looks(story, looks, comparison)
    hold("understood", statements_of(story.lines), [understood_of(story.lines)])
    due = as_seen(story.writes)
    if story.end is End.RESET:
        # Processors load side by side: whether another one was before the reset is not said.
        due = [write for write in due if write.after != write.revision or write in seen.writes]
    hold("writes", _by_processor(due), [_by_processor(seen.writes)])
    comparison.hold_trace(story.early.searches, seen)
    late = next((line for line in console if _LATE_COMERS.match(line)), None)
    if late and comparison.found:
        comparison.damage.append(f"processors that are emulated came too late: {late}")
    return seen, comparison.found, "; ".join(comparison.damage)


def due_in(story: Story, folder: Path) -> Story | EarlyLoad:
    """What of it the boot in this folder comes to: an early load, if it is the second one or has nothing behind it."""
    if story.how is Restart.POWER_CYCLE and folder.name.endswith(AGAIN):
        return story.again
    return story if story.moments or story.how else story.early


def hold_boot(story: Story, capture: Capture, folder: Path) -> tuple[Observed, list[Difference], str]:
    """One boot of a case, whichever of its two: as `compare_story`. The folder of a second one ends in `AGAIN`."""
    due = due_in(story, folder)
    if isinstance(due, Story):
        return compare_story(due, capture, folder / RECORD)
    seen = observe(capture, folder / RECORD)
    found, damage = compare(due, seen)
    return seen, found, damage


def verdict_of(seen: Observed, found: Sequence[Difference], damage: str) -> tuple[Verdict, str]:
    """Of a boot that was compared, and what is to blame where that is not the kernel."""
    if seen.end.startswith("ended by"):
        return Verdict.MISS, seen.end
    if damage:
        return Verdict.MISS, f"serial line: {damage}"
    return (Verdict.FAIL if found else Verdict.PASS), ""


def _ordered(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(by_order_of_processors(lines, _SIDE_BY_SIDE))


def _hold_looks(story: Story, looks: Mapping[int, Looks], comparison: Comparison) -> None:
    nothing = Looks((), (), ())
    starts = [{p: r for p, r in enumerate(part.shown) if r is not None} for part in story.parts]
    expected = [starts[0], *(dict(moment.shown) for moment in story.moments), *starts[1:]]
    if story.end is not End.BOOTS:
        expected.pop()
    for number, shown in enumerate(expected):
        came = looks.get(number, nothing).shown
        if len(came) == 1 and shown not in came:
            # init looks twice: words of the kernel's within its own have hidden the other look.
            comparison.damage.append(f"cpuinfo at {number}: shown but once")
        else:
            comparison.hold(f"cpuinfo at {number}", shown, came)
    for number, moment in enumerate(story.moments, start=1):
        if moment.end is not End.BOOTS:
            break
        before, after = looks.get(number - 1, nothing), looks.get(number, nothing)
        comparison.hold(f"error of {number}", moment.error, before.errors or (0,))
        if before.tainted:
            comparison.hold(f"taint at {number}", before.tainted[-1] or moment.taints, after.tainted)


def _by_processor(writes: Sequence[Write]) -> list[Write]:
    return sorted(writes, key=lambda write: write.processor)
