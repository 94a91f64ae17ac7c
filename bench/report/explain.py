"""The story of one window's first divergence, as text for a mail to kernel developers."""

from __future__ import annotations

from collections.abc import Iterator

from bench.describe import FIELD_WORDS, event_words, value_words, where_words
from bench.judge import Judgement, WindowVerdict
from bench.records import EVENT_FIELDS, BootFacts, Event, Verdict

_EVENTS_BEFORE = 4


def explain(judgement: Judgement, *, windows: frozenset[int] = frozenset(), limit: int = 3) -> Iterator[str]:
    """Lines of text: the first `limit` windows that did not pass, or the windows named."""
    kind = {True: "virtual: not silicon", False: "silicon", None: "machine not known"}[judgement.virtual]
    machine = f"{judgement.machine or 'unknown machine'} ({judgement.model or 'model not recorded'})"
    yield f"{machine}, {judgement.image or 'unknown image'}: {judgement.verdict} ({kind})"
    bad = [w for w in judgement.windows if w.verdict is not Verdict.PASS]
    chosen = [w for w in judgement.windows if w.number in windows] if windows else bad[:limit]
    for window in chosen:
        yield ""
        yield from _window(window)
    if not chosen:
        total = sum(w.comparison.faults_predicted for w in judgement.windows if w.comparison)
        yield f"Every event of {len(judgement.windows)} windows equals its prediction ({total} faults)."
    elif not windows and len(bad) > limit:
        yield ""
        yield f"{len(bad) - limit} more windows did not pass; --all shows them."


def _window(verdict: WindowVerdict) -> Iterator[str]:
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
        yield f"  Why the model says so: {finding.why}"
    if finding.witness:
        yield "  Witness: " + ", ".join(f"{k} {v}" for k, v in finding.witness.items())


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
    step = (divergence.observed or divergence.predicted or Event(kind=seen[0].kind)).step
    yield f"  Event {divergence.event}, {where_words(verdict.window, step)}:"
    yield f"    {'':28s}  {'model':44s}  machine"
    for name, model, machine in _rows(divergence.predicted, divergence.observed):
        mark = "*" if model != machine and "-" not in (model, machine) else " "
        yield f"  {mark} {name:28s}  {model:44s}  {machine}"


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
