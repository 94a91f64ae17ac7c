"""What a run's page shows beyond the store: its captures, judged again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.describe import FIELD_WORDS, event_words, value_words, where_words
from bench.errors import BenchError
from bench.judge import Judgement, WindowVerdict, judge
from bench.parse.capture_file import pack, read_captures
from bench.parse.kernel import in_words, read_kernel_log
from bench.parse.kernel_microcode import Microcode
from bench.parse.trace import TraceLog, parse_trace
from bench.records import EVENT_FIELDS, Capture, Event, Verdict
from bench.report.bits import ENTRY_FIELDS, BitRow, beside, bits_of
from bench.report.catalogue import Known, likely
from bench.report.explain import facts_words
from bench.report.site import figures
from bench.report.site.pool import pool
from bench.report.site.serial import Line, lines

EVENTS_BEFORE = 4


@dataclass(frozen=True)
class FieldRow:
    """One field of the first divergent event, on both sides."""

    name: str
    model: str
    machine: str
    differs: bool
    free: str
    """Bits that the processor may set as it likes."""
    bits: tuple[BitRow, ...] = ()
    model_bits: tuple[int, ...] = ()
    machine_bits: tuple[int, ...] = ()


@dataclass(frozen=True)
class DivergencePart:
    """The first divergence, ready to be shown."""

    window: WindowVerdict
    facts: str
    step: str
    before: tuple[tuple[int, str], ...]
    model: str
    machine: str
    rows: tuple[FieldRow, ...]
    likely: tuple[Known, ...]
    line: int | None
    """Line of the serial log at which it is seen."""


@dataclass(frozen=True)
class Boot:
    """One boot of the run."""

    number: int
    capture: Capture
    lines: tuple[Line, ...]
    more_lines: int
    packed: bytes
    microcode: tuple[str, ...]


@dataclass(frozen=True)
class Details:
    """All of it; `trouble` is set and the rest is empty if the captures cannot be read."""

    judgement: Judgement | None = None
    boots: tuple[Boot, ...] = ()
    divergence: DivergencePart | None = None
    figures: tuple[figures.Figure, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    trouble: str = ""


def details(folder: Path) -> Details:
    """Read and judge the captures in `folder`."""
    try:
        captures = read_captures(folder)
        judgement = judge(captures)
    except (BenchError, OSError) as error:
        return Details(trouble=str(error))
    logs = [parse_trace(c.data, nonce=c.nonce) for c in captures]
    bad = next((w for w in judgement.windows if w.verdict is Verdict.FAIL), None)
    bad = bad or next((w for w in judgement.windows if w.verdict not in (Verdict.PASS, Verdict.SKIP)), None)
    boots = tuple(_boot(n, c, log, bad) for n, (c, log) in enumerate(zip(captures, logs, strict=True), start=1))
    windows = [w.window for w in judgement.windows if w.window]
    drawn = bad.window if bad and bad.window else max(windows, key=lambda w: len(w.observation.events), default=None)
    timeline = figures.boots(captures, [_chunks(c) for c in captures])
    charts = [timeline, pool(drawn) if drawn else None, figures.faults(windows)]
    return Details(
        judgement=judgement,
        boots=boots,
        divergence=_divergence(bad, boots) if bad else None,
        figures=tuple(f for f in charts if f),
        facts=tuple(_facts(judgement)),
    )


def _boot(number: int, capture: Capture, log: TraceLog, bad: WindowVerdict | None) -> Boot:
    notes = {}
    if bad and bad.boot == number and (span := _seen_at(bad)):
        notes[span[0]] = f"first divergence: {bad.finding.summary}" if bad.finding else "first divergence"
    shown = tuple(lines(capture.data, log, notes))
    total = capture.data.count(b"\n") + (not capture.data.endswith(b"\n") and bool(capture.data))
    said = tuple(in_words(t) for t in read_kernel_log(capture.data) if isinstance(t, Microcode))
    return Boot(
        number=number,
        capture=capture,
        lines=shown,
        more_lines=max(0, total - len(shown)),
        packed=pack(capture),
        microcode=said,
    )


def _chunks(capture: Capture) -> list[tuple[float, int]]:
    """(seconds, bytes so far) of a boot folder's `chunks.jsonl`; empty where there is none, or it is damaged."""
    path = capture.path / "chunks.jsonl" if capture.path else None
    if path is None or not path.is_file():
        return []
    found = []
    for text in path.read_bytes().splitlines():
        try:
            row = json.loads(text)
            found.append((float(row["at_s"]), int(row["offset"]) + int(row["bytes"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _seen_at(verdict: WindowVerdict) -> tuple[int, int] | None:
    """Bytes of the record in which the machine first differed, or of the last one that was right."""
    if not verdict.window:
        return None
    events = verdict.window.observation.events
    at = verdict.comparison.divergence.event if verdict.comparison and verdict.comparison.divergence else len(events)
    event = events[at] if at < len(events) else events[-1] if events else None
    return event.span if event and event.span else verdict.window.span


def _divergence(verdict: WindowVerdict, boots: Sequence[Boot]) -> DivergencePart:
    window, comparison = verdict.window, verdict.comparison
    divergence = comparison.divergence if comparison else None
    events = window.observation.events if window else ()
    at = divergence.event if divergence else len(events)
    rest = verdict.prediction.events[at:] if verdict.prediction else ()
    model = divergence.predicted if divergence else (rest[0] if rest else None)
    machine = divergence.observed if divergence else None
    step = next((e.step for e in (machine, model) if e is not None and e.step is not None), None)
    span = _seen_at(verdict)
    log = next((b for b in boots if b.number == verdict.boot), None)
    line = None
    if log and span:
        line = max((x.number for x in log.lines if x.offset <= span[0]), default=None)
    return DivergencePart(
        window=verdict,
        facts=facts_words(window.stimulus.facts) if window else "",
        step=where_words(window, step) if window else "",
        before=tuple((n, event_words(events[n])) for n in range(max(0, at - EVENTS_BEFORE), min(at, len(events)))),
        model=event_words(model),
        machine=event_words(machine),
        rows=tuple(field_rows(model, machine)),
        likely=tuple(likely(verdict)),
        line=line,
    )


def field_rows(model: Event | None, machine: Event | None) -> Iterator[FieldRow]:
    """Every field that either side gives, with the bits of entries and error codes."""
    for name in EVENT_FIELDS:
        a: int | None = getattr(model, name) if model else None
        b: int | None = getattr(machine, name) if machine else None
        if a is None and b is None:
            continue
        free = model.free.get(name, 0) if model else 0
        left, right = a if a is not None else b, b if b is not None else a
        assert left is not None and right is not None
        whole = name in ENTRY_FIELDS and a is not None and b is not None
        yield FieldRow(
            name=FIELD_WORDS[name],
            model="" if a is None else value_words(name, a),
            machine="" if b is None else value_words(name, b),
            differs=a is not None and b is not None and (left ^ right) & ~free != 0,
            free=f"0x{free:x}" if free else "",
            bits=tuple(beside(name, left, right, free=free)),
            model_bits=tuple(bits_of(left)) if whole else (),
            machine_bits=tuple(bits_of(right)) if whole else (),
        )


def _facts(judgement: Judgement) -> Iterator[tuple[str, str]]:
    """What the machine said of itself in its first window."""
    window = next((w.window for w in judgement.windows if w.window), None)
    if not window:
        return
    facts = window.stimulus.facts
    yield "signature, by CPUID", f"0x{facts.signature:08x}"
    yield "platform id", str(facts.platform_id)
    yield "microcode revision", f"0x{facts.revision:08x}"
    yield "MAXPHYADDR", str(facts.maxphyaddr)
    yield "NX", "yes" if facts.nx else "no"
    yield "LA57", "yes" if facts.la57 else "no"
    yield "EFER, CR4", f"0x{facts.efer:x}, 0x{facts.cr4:x}"
    yield "_text at", f"0x{facts.phys_text:016x}"
    if facts.hypervisor:
        yield "hypervisor", "".join(chr(c) for c in facts.hypervisor.to_bytes(8, "little").rstrip(b"\0"))
