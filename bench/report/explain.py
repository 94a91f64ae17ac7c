"""The story of one window's first divergence, as a page of text for a mail to kernel developers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from bench.describe import FIELD_WORDS, event_words, printable, value_words, where_words
from bench.judge import Judgement, WindowVerdict
from bench.records import EVENT_FIELDS, BootFacts, Capture, Event, EventKind, Verdict
from bench.report.bits import beside, layout
from bench.report.catalogue import likely

_EVENTS_BEFORE = 4
# Lines of the serial log before and behind the one that matters.
_LINES_AROUND = 2
_WIDTH = 100


def explain(
    judgement: Judgement,
    *,
    windows: frozenset[int] = frozenset(),
    limit: int = 3,
    captures: Sequence[Capture] = (),
    replay: str = "",
) -> Iterator[str]:
    """Lines of text: the first `limit` windows that did not pass, or the windows named.

    With the boots' `captures` it quotes the serial lines; with `replay`, a path, it says how to see it again.
    """
    kind = {True: "virtual: not silicon", False: "silicon", None: "machine not known"}[judgement.virtual]
    machine = f"{judgement.machine or 'unknown machine'} ({judgement.model or 'model not recorded'})"
    yield printable(f"{machine}, {judgement.image or 'unknown image'}: {judgement.verdict} ({kind})")
    bad = [w for w in judgement.windows if w.verdict is not Verdict.PASS]
    chosen = [w for w in judgement.windows if w.number in windows] if windows else bad[:limit]
    for window in chosen:
        yield ""
        for line in _window(window, captures):
            yield printable(line)
    if not chosen:
        total = sum(w.comparison.faults_predicted for w in judgement.windows if w.comparison)
        yield f"Every event of {len(judgement.windows)} windows equals its prediction ({total} faults)."
    elif not windows and len(bad) > limit:
        yield ""
        yield f"{len(bad) - limit} more windows did not pass; --all shows them."
    if replay and chosen:
        yield ""
        yield "To see it again, without the machine (the capture is all that it takes):"
        yield printable(f"  bench replay {replay}")
        yield printable(f"  bench explain --window {chosen[0].number} {replay}")


def _window(verdict: WindowVerdict, captures: Sequence[Capture]) -> Iterator[str]:
    yield f"Window {verdict.number} ({verdict.scenario}), boot {verdict.boot}: {verdict.verdict}"
    if verdict.window:
        yield "  " + facts_words(verdict.window.stimulus.facts)
    finding = verdict.finding
    if not finding:
        return
    yield f"  {finding.component}: {finding.summary}."
    if verdict.window and verdict.comparison and verdict.comparison.divergence:
        yield from _divergence(verdict)
    if finding.why:
        yield from _wrapped(f"Why the model says so: {finding.why}")
    if finding.witness:
        yield from _wrapped("Witness: " + ", ".join(f"{k} {v}" for k, v in finding.witness.items()))
    for known in likely(verdict):
        seen = f" {known.seen}" if known.seen else ""
        yield from _wrapped(f"It looks like: {known.name}. {known.about}{seen}")
    yield from _serial_lines(verdict, captures)


def _wrapped(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def facts_words(facts: BootFacts) -> str:
    """Handler, pool and load addresses on one line."""
    mended = [str(bit) for bit in range(32) if facts.mend >> bit & 1]
    return (
        f"{facts.variant}{' with ' + ', '.join(mended) + ' mended' if mended else ''}, pool of {facts.pool}, "
        f"{facts.levels} levels, MAXPHYADDR {facts.maxphyaddr}, {'NX' if facts.nx else 'no NX'}, "
        f"_text at 0x{facts.phys_text:x}, phys_base 0x{facts.phys_base:x}"
    )


def _divergence(verdict: WindowVerdict) -> Iterator[str]:
    assert verdict.window and verdict.comparison and verdict.comparison.divergence
    divergence = verdict.comparison.divergence
    seen = verdict.window.observation.events
    agree = "1 event agrees" if divergence.event == 1 else f"{divergence.event or 'No'} events agree"
    yield f"  {agree}{'; the last before the difference:' if divergence.event else '.'}"
    for number in range(max(0, divergence.event - _EVENTS_BEFORE), divergence.event):
        yield f"    {number:5d}  {event_words(seen[number])}"
    step = (divergence.observed or divergence.predicted or Event(kind=EventKind.END)).step
    yield f"  Event {divergence.event}, {where_words(verdict.window, step)}:"
    rows = [("", "model", "machine"), *_rows(divergence.predicted, divergence.observed)]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, model, machine in rows:
        mark = "*" if name and model != machine and "-" not in (model, machine) else " "
        yield f"  {mark} {name:{wide[0]}s}  {model:{wide[1]}s}  {machine}"
    yield from _bits(divergence.predicted, divergence.observed)


def _rows(predicted: Event | None, observed: Event | None) -> Iterator[tuple[str, str, str]]:
    yield "event", event_words(predicted).split(",")[0], event_words(observed).split(",")[0]
    for name in EVENT_FIELDS:
        model = getattr(predicted, name) if predicted else None
        machine = getattr(observed, name) if observed else None
        if model is None and machine is None:
            continue
        if not model and not machine and name != "next":
            continue
        yield (
            FIELD_WORDS[name],
            "-" if model is None else value_words(name, model),
            "-" if machine is None else value_words(name, machine),
        )


def _bits(predicted: Event | None, observed: Event | None) -> Iterator[str]:
    """Entries and error codes that differ, taken apart; what is equal on both sides stands without a mark."""
    if not predicted or not observed:
        return
    for name in EVENT_FIELDS:
        model, machine = getattr(predicted, name), getattr(observed, name)
        if model is None or machine is None or model == machine or not layout(name, machine):
            continue
        yield f"  {FIELD_WORDS[name]}, field by field:"
        for row in beside(name, model, machine, free=predicted.free.get(name, 0)):
            mark = "*" if row.differs else " "
            sides = f"{row.model:18s}  {row.machine:18s}"
            yield f"  {mark} {row.field.place:>5s}  {row.field.name:10s}  {sides}  {row.field.about}"


def _serial_lines(verdict: WindowVerdict, captures: Sequence[Capture]) -> Iterator[str]:
    """What the machine wrote there, with a line or two around it."""
    window = verdict.window
    if not window or not 0 < verdict.boot <= len(captures):
        return
    events = window.observation.events
    divergence = verdict.comparison.divergence if verdict.comparison else None
    at = divergence.event if divergence else len(events)
    event = events[at] if at < len(events) else events[-1] if events else None
    span = event.span if event and event.span else window.span
    data = captures[verdict.boot - 1].data
    lines = data.split(b"\n")
    number = data.count(b"\n", 0, span[0])
    yield f"  The serial line, from line {max(0, number - _LINES_AROUND) + 1} of boot {verdict.boot} on:"
    for place in range(max(0, number - _LINES_AROUND), min(len(lines), number + _LINES_AROUND + 1)):
        text = lines[place][:200].rstrip(b"\r").decode("ascii", "backslashreplace")
        yield f"  {'>' if place == number else ' '} {printable(text)}"
