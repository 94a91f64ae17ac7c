"""What a kernel's boot says of microcode, held against the prediction: the trace's `ucode` records, the kernel's own
lines and /proc/cpuinfo, each on its own, so that a finding can say who disagrees.

A record has a CRC and is believed. The two others are text: where two readings of one differ, or there is only one, a
difference may be the serial line's, and is a MISS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bench.errors import UsageError
from bench.parse.microcode_said import INIT, console_lines, cpuinfo_readings, logged_lines
from bench.parse.trace import TraceLog
from bench.records import BootData, BootFacts, Capture, Finding, LabEvent, LabEventKind, Verdict, Window
from bench.sim.ucode_load import EarlyLoad, End, LoadOffer, predict_early
from bench.sim.ucode_loaders import loader_of
from bench.updates import NOTHING, SEARCH_FIELDS, SILICON, Search, Transition, UpdateOffer
from bench.wire import Outcome
from bench.x86.microcode_processor import Act, ProcessorRules

COMPONENT = "microcode loader"
TRACE, LINES, CPUINFO = "the trace", "the kernel's own lines", "/proc/cpuinfo"
_ENDS: Mapping[End, LabEventKind] = {End.HANG: LabEventKind.SILENCE, End.RESET: LabEventKind.RESET}
_Reading = TypeVar("_Reading")


@dataclass(frozen=True)
class Voice:
    """What one of the three says. `differs` is empty if it agrees; `doubt` says why it cannot be believed."""

    name: str
    differs: str = ""
    doubt: str = ""
    field_name: str = ""
    expected: int | str | None = None
    observed: int | str | None = None


@dataclass(frozen=True)
class EarlyLoadVerdict:
    """The verdict on the microcode of one kernel's boot."""

    verdict: Verdict
    finding: Finding | None
    runs: tuple[int, ...]
    """Revision that each core should run at the end."""
    voices: tuple[Voice, ...]
    transitions: tuple[Transition, ...]
    dies: bool = False
    """The boot ended as predicted: in a processor's write."""


def judge_early_load(
    capture: Capture, log: TraceLog, window: Window, end: LabEvent | None, *, boot: int, running: tuple[int, ...] = ()
) -> EarlyLoadVerdict | None:
    """The verdict; None for a capture that does not say what the loader was offered, or a window that ends before it,
    as one does that ends in a panic or in faults without end.

    `running`: what each core ran when the kernel was started, if that was not the machine's start. ERROR where the
    model does not reach.
    """
    offer, facts = capture.updates, window.stimulus.facts
    data = next((step for step in window.stimulus.steps if isinstance(step, BootData)), None)
    if offer is None or data is None or (data.initrd_bytes and not capture.script):
        return None
    if window.observation.outcome not in (None, Outcome.DONE):
        return None
    processors = offer.processors or 1 + max((search.processor for search in log.searches), default=0)
    rules = _rules(offer, facts, processors)
    try:
        loader = loader_of(offer.release)
        predicted = predict_early(
            loader, rules,
            LoadOffer(capture.script, data.initrd_bytes, data.initrd, data.command_line, facts.hypervisor_bit,
                      processors, running),
        )  # fmt: skip
    except UsageError as error:
        summary = f"the microcode that was offered cannot be judged: {error}"
        return EarlyLoadVerdict(Verdict.ERROR, Finding("bench", summary, window=window.number), (), (), ())
    case = _Case(capture, log, end, offer, rules, predicted)
    voices = tuple(case.voices())
    verdict, finding = _conclude(window, predicted, voices)
    return EarlyLoadVerdict(
        verdict, finding, predicted.runs[:: rules.siblings], voices, tuple(case.transitions(boot)),
        dies=case.dies(processor=0),
    )  # fmt: skip


def _rules(offer: UpdateOffer, facts: BootFacts, processors: int) -> ProcessorRules:
    """How the processors play. `begin` is written before the bench can play registers: of played ones it has QEMU's."""
    if offer.rules is not None:
        return offer.rules
    acts = tuple((number, Act.REFUSE) for number in range(processors)) if offer.takes == NOTHING else ()
    return ProcessorRules(facts.signature, facts.platform_id, facts.revision, acts=acts)


@dataclass
class _Case:
    """One boot: what was predicted, and where what it says of that is found."""

    capture: Capture
    log: TraceLog
    end: LabEvent | None
    offer: UpdateOffer
    rules: ProcessorRules
    predicted: EarlyLoad
    seen: dict[int, list[Search]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for search in self.log.searches:
            self.seen.setdefault(search.processor, []).append(search)

    def dies(self, *, processor: int | None = None) -> bool:
        """Whether the boot ends in a processor's write, as predicted."""
        kind = _ENDS.get(self.predicted.end)
        ended = self.end is not None and self.end.kind is kind
        return kind is not None and ended and processor in (None, self.predicted.at)

    def voices(self) -> Iterator[Voice]:
        """Each that there is."""
        yield self._trace()
        if INIT not in self.capture.data or self.predicted.end is not End.BOOTS:
            return
        logged = logged_lines(self.capture.data)
        said = [console_lines(self.capture.data), *([] if logged is None else [logged])]
        yield _of_readings(LINES, self.predicted.lines, said, _lines)
        tasks = self.offer.tasks
        shown = cpuinfo_readings(self.capture.data)
        if "cpuinfo" in tasks and "suspend" not in tasks[: tasks.index("cpuinfo")]:
            yield _of_readings(CPUINFO, self._shown(tasks), shown, _revisions)

    def _shown(self, tasks: Sequence[str]) -> dict[int, int]:
        """What the first /proc/cpuinfo should say."""
        shown = {number: revision for number, revision in enumerate(self.predicted.shown) if revision is not None}
        if "hotplug" in tasks[: tasks.index("cpuinfo")]:
            shown |= {search.processor: search.after for search in self.predicted.later}
        return shown

    def _trace(self) -> Voice:
        expected: dict[int, list[Search]] = {}
        rounds = [*self.predicted.searches, *(self.predicted.later * self.offer.tasks.count("hotplug"))]
        for search in rounds:
            expected.setdefault(search.processor, []).append(search)
        for processor in sorted(expected | self.seen):
            due, came = expected.get(processor, []), self.seen.get(processor, [])
            for number, search in enumerate(came):
                voice = self._compare(search, due[number] if number < len(due) else None)
                if voice is not None:
                    return voice
            if len(came) < len(due) and (processor == 0 or self.offer.tasks):
                return self._missing(due[len(came)])
        return Voice(TRACE)

    def _compare(self, seen: Search, due: Search | None) -> Voice | None:
        where = f"processor {seen.processor}"
        if due is None:
            if "suspend" in self.offer.tasks:
                return None
            what = f"{where} looks for an update, which is not predicted" + self._why_not()
            return Voice(TRACE, what, field_name="search", expected="none", observed=_search(seen))
        free = self._may_have_shared(seen, due)
        for name in SEARCH_FIELDS:
            want, got = getattr(due, name), getattr(seen, name)
            if want != got and not (name == "before" and free):
                what = f"{where}: {_FIELDS[name]} is {_value(name, got)}, predicted {_value(name, want)}"
                return Voice(TRACE, what, field_name=name, expected=want, observed=got)
        return None

    def _why_not(self) -> str:
        return f": {self.predicted.looked}" if self.predicted.looked else ""

    def _may_have_shared(self, seen: Search, due: Search) -> bool:
        """Of silicon it is not known which processors share a core, and so an update."""
        return self.offer.takes == SILICON and seen.processor > 0 and seen.before in (due.before, due.revision)

    def _missing(self, due: Search) -> Voice:
        """A record that did not come: because the kernel did not do it, or because nobody heard it?"""
        what = f"no record of processor {due.processor}, predicted: {_search(due)}"
        if self.log.gaps or self.log.damage():
            return Voice(TRACE, doubt=f"{what}; records are missing on the serial line")
        if self.log.done or (self.end is not None and self.end.kind in _TELLING and "processor" in self.end.witness):
            return Voice(TRACE, what, field_name="missing", expected=_search(due), observed="nothing")
        return Voice(TRACE, doubt=f"{what}; the boot ended before")

    def transitions(self, boot: int) -> Iterator[Transition]:
        """What came of each attempt to load an update."""
        flags, came = self.rules.platform_flags, set()
        for search in self.log.searches:
            if search.chosen and search.before < search.revision:
                came.add(search.processor)
                taken = search.after == search.revision
                outcome = "forbidden" if self.offer.takes == NOTHING else ("updated" if taken else "refused")
                yield Transition(boot, search.processor, flags, search.before, search.revision, search.after, outcome)
        for write in self.predicted.writes:
            if write.processor in came or (write.processor and not self.offer.tasks):
                continue
            outcome = "not observable"
            if self.end is not None and write.processor == self.predicted.at:
                ends = {LabEventKind.RESET: "reboot loop", LabEventKind.SILENCE: "silent hang"}
                outcome = ends.get(self.end.kind, outcome)
            yield Transition(boot, write.processor, flags, write.before, write.revision, None, outcome)


_TELLING = (LabEventKind.RESET, LabEventKind.SILENCE)
_FIELDS = {
    "processor": "its number", "before": "the revision before", "offset": "the chosen update's offset in the file",
    "signature": "the chosen update's signature", "flags": "the chosen update's platform flags",
    "revision": "the chosen update's revision", "after": "the revision after",
}  # fmt: skip


def _of_readings(name: str, expected: _Reading, readings: Sequence[_Reading], show: Callable[[_Reading], str]) -> Voice:
    if expected in readings:
        return Voice(name)
    want, got = show(expected), show(readings[0]) if readings else "nothing"
    what = f"{got}, predicted {want}"
    if len(readings) > 1 and all(reading == readings[0] for reading in readings):
        return Voice(name, what, field_name=name, expected=want, observed=got)
    why = "said but once" if len(readings) < 2 else f"another time {show(readings[1])}"
    return Voice(name, doubt=f"{what} ({why}: that may be the serial line)")


def _conclude(window: Window, predicted: EarlyLoad, voices: Sequence[Voice]) -> tuple[Verdict, Finding | None]:
    differing = [voice for voice in voices if voice.differs]
    doubtful = [voice for voice in voices if voice.doubt]
    agree = [voice.name for voice in voices if not voice.differs and not voice.doubt]
    witness = {voice.name: voice.differs or voice.doubt or "agrees" for voice in voices}
    if differing:
        first = differing[0]
        who = " and ".join(voice.name for voice in differing)
        others = f"; {' and '.join(agree)} agree{'s' * (len(agree) == 1)} with it" if agree else ""
        verb = "differ" if len(differing) > 1 or first.name == LINES else "differs"
        summary = f"microcode: {who} {verb} from the prediction: {first.differs}{others}"
        why = predicted.looked or "; ".join(write.why_not for write in predicted.writes if write.why_not)
        return Verdict.FAIL, Finding(
            COMPONENT, summary, window=window.number, field_name=first.field_name, expected=first.expected,
            observed=first.observed, why=why, witness=witness,
        )  # fmt: skip
    if doubtful:
        summary = f"microcode: {doubtful[0].name}: {doubtful[0].doubt}"
        return Verdict.MISS, Finding("serial line", summary, window=window.number, witness=witness)
    return Verdict.PASS, None


def _value(name: str, value: int) -> str:
    return f"{value:#010x}" if name in ("before", "after", "revision", "signature") else f"{value:#x}"


def _search(search: Search) -> str:
    if not search.chosen:
        return f"{search.before:#010x} runs, no update chosen"
    return f"{search.before:#010x} -> {search.after:#010x} by revision {search.revision:#010x} at {search.offset:#x}"


def _lines(lines: Sequence[str]) -> str:
    return "; ".join(lines) or "nothing"


def _revisions(shown: Mapping[int, int]) -> str:
    return ", ".join(f"processor {number} {revision:#x}" for number, revision in shown.items()) or "no processor"
