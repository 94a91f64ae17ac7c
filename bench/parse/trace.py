"""Trace records → windows: what each was offered (`Stimulus`) and what the machine did (`Observation`).

A window is taken up to the first place where a record is missing or out of order; from there on
nothing in it is believed. The next `begin` opens a window that is judged on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.parse.lines import Mark, Stretch, stretches
from bench.records import (
    BootData,
    BootFacts,
    Damage,
    DigestPoint,
    DumpPoint,
    Event,
    EventKind,
    LoadFinal,
    Observation,
    PhaseStep,
    Step,
    Stimulus,
    Touch,
    UpdatePoint,
    Window,
)
from bench.updates import SEARCH_FIELDS, Search
from bench.wire import VARIANTS, WIRE_VERSION, Access, Feature, Line, Phase
from bench.x86.fault import PAGE_FAULT, PageFault


@dataclass(frozen=True)
class Refusal:
    """The payload would not do a window or a step, and said why."""

    window: int | None
    why: str
    span: tuple[int, int]


@dataclass(frozen=True)
class TraceLog:
    """All that one boot's capture says."""

    windows: tuple[Window, ...]
    refusals: tuple[Refusal, ...]
    stretches: tuple[Stretch, ...]
    done: bool
    """True if the script came to its end."""
    gaps: tuple[Damage, ...] = ()
    """Places where records are missing, inside windows and between them."""
    restarted_at: int | None = None
    """Byte at which numbering began anew: the machine restarted by itself; nothing after it was read."""
    searches: tuple[Search, ...] = ()
    """What processors' searches for microcode came to, in windows and behind them."""

    def damage(self) -> tuple[Stretch, ...]:
        """The stretches that are neither records nor foreign text."""
        return tuple(s for s in self.stretches if s.mark not in (Mark.RECORD, Mark.FOREIGN))


def parse_trace(data: bytes, *, nonce: int | None = None) -> TraceLog:
    """Read one boot's bytes. `nonce` None: the nonce of the first true `boot` record."""
    reader = _Reader()
    kept: list[Stretch] = []
    for stretch in stretches(data, nonce=nonce):
        kept.append(reader.take(stretch))
        if reader.restarted_at is not None:
            break
    reader.finish(data)
    return TraceLog(
        tuple(reader.windows), tuple(reader.refusals), tuple(kept), reader.done, tuple(reader.gaps),
        reader.restarted_at, tuple(reader.searches),
    )  # fmt: skip


@dataclass
class _Open:
    """A window that is being read."""

    facts: BootFacts
    start: int
    steps: list[Step] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    step: int | None = None
    complete: bool = False


class _Reader:
    """Takes stretches in order; keeps the sequence number and the open window."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.refusals: list[Refusal] = []
        self.gaps: list[Damage] = []
        self.searches: list[Search] = []
        self.done = False
        self.restarted_at: int | None = None
        self._open: _Open | None = None
        self._next_seq = 0
        self._texts: dict[int, Line] = {}
        self._last_damage = "nothing was read there"
        self._unresolved: Stretch | None = None
        self._end = 0

    def take(self, stretch: Stretch) -> Stretch:
        """Use one stretch; returns it with the mark that its place gives it."""
        line = stretch.line
        if line is None:
            if stretch.mark is not Mark.FOREIGN:
                self._last_damage = stretch.why
                self._unresolved = stretch
            return stretch
        if line.seq < self._next_seq:
            return self._out_of_order(stretch, line)
        if line.seq > self._next_seq:
            self._gap(stretch.span, line.seq)
        self._next_seq = line.seq + 1
        self._texts[line.seq] = line
        self._record(line, stretch.span)
        self._end = stretch.span[1]
        self._unresolved = None
        return stretch

    def _out_of_order(self, stretch: Stretch, line: Line) -> Stretch:
        # Only if record 0 was read before: if it was lost, this may be a late copy of it.
        if line.kind == "begin" and line.seq == 0 and self._texts.get(0, line) != line:
            self.restarted_at = stretch.span[0]
            return Stretch(stretch.span, Mark.MISPLACED, line, "numbering begins anew: the machine restarted")
        if self._texts.get(line.seq) == line:
            return Stretch(stretch.span, Mark.REPEATED, line, f"record {line.seq:#x} was there before")
        if line.kind == "ucode" and line.seq not in self._texts:
            self._texts[line.seq] = line
            self._search(line, stretch.span)
            return stretch
        why = f"record {line.seq:#x} came after {self._next_seq - 1:#x}"
        return Stretch(stretch.span, Mark.MISPLACED, line, why)

    def _gap(self, span: tuple[int, int], seq: int) -> None:
        count = seq - self._next_seq
        why = f"{count} record{'s' * (count > 1)} missing before record {seq:#x} ({self._last_damage})"
        gap = Damage((self._end, span[0]), why)
        self.gaps.append(gap)
        if self._open and not self._open.damage and not self._open.complete:
            self._open.damage.append(gap)

    def _record(self, line: Line, span: tuple[int, int]) -> None:
        if line.kind == "begin":
            self.close_window()
            facts = _facts(line)
            self._open = _Open(facts, span[0], step=int(Phase.COPY) if facts.is_linux else None)
            if line.number("wire") != WIRE_VERSION:
                why = f"wire version {line.number('wire')}, this bench reads {WIRE_VERSION}"
                self._open.damage.append(Damage(span, why))
        elif line.kind == "done":
            self.close_window()
            self.done = True
        elif line.kind == "refuse":
            number = self._open.facts.window if self._open else None
            self.refusals.append(Refusal(number, line.text("why"), span))
        elif line.kind == "ucode":
            self._search(line, span)
            if (w := self._open) and not (w.facts.is_linux or w.damage or w.complete):
                w.steps.append(UpdatePoint(len(w.steps)))  # each step before it is announced by one item
        elif self._open and not self._open.damage and not self._open.complete:
            _add(self._open, line, span)

    def _search(self, line: Line, span: tuple[int, int]) -> None:
        """In the order of their numbers: one that was lost may be written again later."""
        values = {name: line.number(name) for name in SEARCH_FIELDS}
        self.searches.append(Search(**values, seq=line.seq, span=span))
        self.searches.sort(key=lambda search: search.seq or 0)

    def finish(self, data: bytes) -> None:
        """The capture ends here. A last line without a line end was cut by the machine's death, not damaged."""
        last = self._unresolved
        cut_short = last is not None and last.span[1] == len(data)
        if last and not cut_short and self._open and not self._open.complete and not self._open.damage:
            self._open.damage.append(Damage(last.span, last.why))
        self.close_window()

    def close_window(self) -> None:
        """End the open window, if there is one."""
        if self._open:
            w = self._open
            steps = [*w.steps, *_replayed_copy(w)]
            observation = Observation(tuple(w.events), w.complete, tuple(w.damage))
            stimulus = Stimulus(w.facts, tuple(steps))
            self.windows.append(Window(w.facts.window, (w.start, self._end), stimulus, observation))
        self._open = None


def _facts(line: Line) -> BootFacts:
    number = line.number
    variant = number("variant")
    features = number("features")
    return BootFacts(
        window=number("window"),
        variant=VARIANTS[variant] if variant < len(VARIANTS) else f"unknown-{variant}",
        mend=number("mend"),
        pool=number("pool"),
        levels=number("levels"),
        signature=number("signature"),
        nx=bool(features >> Feature.NX & 1),
        la57=bool(features >> Feature.LA57 & 1),
        maxphyaddr=number("maxphyaddr"),
        hypervisor=number("hypervisor"),
        hypervisor_bit=bool(features >> Feature.HYPERVISOR & 1),
        efer=number("efer"),
        cr2=number("cr2"),
        cr3=number("cr3"),
        cr4=number("cr4"),
        phys_base=number("phys_base"),
        page_offset=number("page_offset"),
        phys_text=number("phys_text"),
        phys_end=number("phys_end"),
        phys_top=number("phys_top"),
        phys_dynamic=number("phys_dynamic"),
        phys_kernel=number("phys_kernel"),
        image=number("image"),
        platform_id=number("platform_id"),
        revision=number("revision"),
        phys_level3=number("phys_level3"),
        phys_fixmap=number("phys_fixmap"),
        real_mode_data=number("real_mode_data"),
    )


def _add(window: _Open, line: Line, span: tuple[int, int]) -> None:
    """One record that belongs to the open window."""
    number = line.number
    step = number("step")
    match line.kind:
        case "touch":
            window.step = step
            window.steps.append(
                Touch(
                    step=step,
                    access=Access(number("access") & 3),
                    va=number("va"),
                    size=number("size"),
                    va_to=number("va_to"),
                    fixup=bool(number("fixup")),
                    ip=number("ip") or None,
                )
            )
        case "boot":
            if window.facts.is_linux:
                window.steps.append(_boot_data(line))
        case "phase":
            phase = number("phase")
            window.step = phase
            window.steps.append(PhaseStep(phase, number("page_offset"), number("pool")))
        case "final":
            window.step = step
            window.steps.append(LoadFinal(step, number("phys_top"), number("span")))
        case "digest":
            window.steps.append(DigestPoint(step))
            window.events.append(_event(EventKind.DIGEST, step, line, span, ("crc", "next")))
        case "dump":
            if not (window.steps and window.steps[-1] == DumpPoint(step)):
                window.steps.append(DumpPoint(step))
            window.events.append(_event(EventKind.DUMP, step, line, span, _DUMP))
        case "pf" | "ex":
            vector = 14 if line.kind == "pf" else number("vector")
            window.events.append(_event(EventKind.ENTER, window.step, line, span, ("ip", "cr2", "error"), vector))
        case "end":
            window.complete = True
            window.events.append(_event(EventKind.END, None, line, span, _END))
        case _ if line.kind in _PLAIN:
            kind, names = _PLAIN[line.kind]
            window.events.append(_event(kind, window.step, line, span, names))


def replayed(events: Sequence[Event], phase: int) -> list[Touch]:
    """Touches made up from the page faults of one phase, where nothing else tells of its accesses.

    They show whether the handler does right by the faults that there are, not whether these are the right ones.
    """
    found: list[Touch] = []
    for event in events:
        if (
            event.kind is EventKind.ENTER
            and event.vector == PAGE_FAULT
            and event.step == phase
            and event.cr2 is not None
        ):
            access = Access.WRITE if (event.error or 0) & PageFault.W else Access.READ
            touch = Touch(phase, access, event.cr2, 1, replayed=True, about="replayed from the fault itself")
            if not found or found[-1].va != touch.va:
                found.append(touch)
    return found


def _replayed_copy(window: _Open) -> list[Touch]:
    """A kernel that dies, or whose line is damaged, before `boot`: where its command line lies was not said."""
    if not window.facts.is_linux or any(isinstance(step, BootData) for step in window.steps):
        return []
    start = window.facts.page_offset + window.facts.real_mode_data
    known = range(start, start + 4096) if window.facts.real_mode_data else range(0)
    return [touch for touch in replayed(window.events, int(Phase.COPY)) if touch.va not in known]


def _boot_data(line: Line) -> BootData:
    number = line.number
    return BootData(
        initrd=number("initrd"),
        initrd_bytes=number("initrd_bytes"),
        real_mode_data=number("real_mode_data"),
        command_line_at=number("command_line_at"),
        command_line=line.text("command_line"),
        pool=number("pool"),
    )


_DUMP = ("table", "index", "count", "entry", "stride")
_END = ("outcome", "faults", "exits", "next", "resets")
_PLAIN: dict[str, tuple[EventKind, tuple[str, ...]]] = {
    "x": (EventKind.EXIT, ("next", "resets", "flag", "pgd", "p4d", "pud", "pmd", "left")),
    "cap": (EventKind.CAP, ("faults", "next", "resets", "ip", "cr2", "error")),
    "spin": (EventKind.SPIN, ("ip", "next", "resets", "flag")),
    "fatal": (EventKind.FATAL, ("vector", "ip", "cr2", "error", "flag")),
}


def _event(
    kind: EventKind,
    step: int | None,
    line: Line,
    span: tuple[int, int],
    names: tuple[str, ...],
    vector: int | None = None,
) -> Event:
    values = {name: line.number(name) for name in names}
    if vector is not None:
        values["vector"] = vector
    return Event(kind=kind, step=step, seq=line.seq, span=span, **values)  # type: ignore[arg-type]
