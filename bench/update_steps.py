"""Updates that the payload offered its processor, held against the rules that the processor keeps.

The payload's `ucode` record has the revision before and after. What it should be follows from the script, which holds
the updates, and from who plays the processor: rules of the inventory, QEMU (which takes none), or silicon by the
manual.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench import script as scripts
from bench.parse.trace import TraceLog
from bench.records import BootFacts, Capture, Finding, UpdatePoint, Verdict, Window
from bench.updates import NOTHING, SEARCH_FIELDS, Search, Transition, UpdateOffer
from bench.x86.microcode import HEADER_BYTES, read_update_loosely
from bench.x86.microcode_processor import Act, ProcessorRules, answer

COMPONENT = "processor"


@dataclass(frozen=True)
class UpdateStepsVerdict:
    """Of one window with such steps."""

    verdict: Verdict
    finding: Finding | None
    transitions: tuple[Transition, ...]


def judge_update_steps(
    capture: Capture,
    log: TraceLog,
    windows: Mapping[int, Window],
    asked: Mapping[int, Sequence[scripts.Step]],
    *,
    boot: int,
) -> dict[int, UpdateStepsVerdict]:
    """Verdicts by window's number, of the windows of one boot of the payload that offered updates, in their order: a
    processor keeps from window to window what it has taken."""
    offer, found = capture.updates, dict[int, UpdateStepsVerdict]()
    first = next(iter(windows.values()), None)
    if offer is None or first is None or first.stimulus.facts.is_linux:
        return found
    rules = _rules(offer, first.stimulus.facts)
    # What may run when a window opens: more than one revision behind a window of which records are lost.
    running = [rules.bios_revision]
    for number in sorted(asked):
        steps, window = asked[number], windows.get(number)
        if not any(step.op == "ucode" for step in steps):
            continue
        if window is None or window.observation.damage:
            running = list(dict.fromkeys(after for start in running for after in _states(rules, steps, start)))
            continue
        seen = [s for s in log.searches if s.span and window.span[0] <= s.span[0] < window.span[1]]
        start = next((each for each in running if seen and seen[0].before == each), running[0])
        announced = [s for s in window.stimulus.steps[: window.announced] if isinstance(s, UpdatePoint)]
        due = list(_due(rules, steps, start))[: len(announced)]
        found[number] = _judge(window, rules, due, seen, boot)
        running = [due[-1].after] if due else running
    return found


def _states(rules: ProcessorRules, steps: Sequence[scripts.Step], start: int) -> Iterator[int]:
    """All that may run when a window was left at any of its steps."""
    yield start
    for due in _due(rules, steps, start):
        yield due.after


def _rules(offer: UpdateOffer, facts: BootFacts) -> ProcessorRules:
    if offer.rules is not None:
        return offer.rules
    acts = ((0, Act.REFUSE),) if offer.takes == NOTHING else ()
    return ProcessorRules(facts.signature, facts.platform_id, facts.revision, acts=acts)


def _due(rules: ProcessorRules, steps: Sequence[scripts.Step], running: int) -> Iterator[Search]:
    """What each update comes to, as its record says it."""
    for step, place in zip((s for s in steps if s.op == "ucode"), scripts.places(steps), strict=True):
        header = read_update_loosely(step.update)
        assert header is not None, "the script's own update has a header"
        after = running
        if rules.act(0) is None:
            after = answer(rules, step.update, running, data_address=place + HEADER_BYTES).revision
        yield Search(0, running, place, header.signature, header.platform_flags, header.revision, after)
        running = after


def _judge(
    window: Window, rules: ProcessorRules, due: Sequence[Search], seen: Sequence[Search], boot: int
) -> UpdateStepsVerdict:
    facts = window.stimulus.facts
    for fact, says, is_ in (
        ("platform_id", rules.platform_id, facts.platform_id), ("signature", rules.signature, facts.signature),
    ):  # fmt: skip
        if says != is_:
            summary = f"the processor says that its {fact} is {is_:#x}, and it is {says:#x}"
            finding = Finding(COMPONENT, summary, window.number, field_name=fact, expected=says, observed=is_)
            return UpdateStepsVerdict(Verdict.FAIL, finding, ())
    transitions = tuple(
        Transition(boot, 0, rules.platform_flags, s.before, s.revision, s.after, _outcome(rules, s)) for s in seen
    )
    for number, (want, got) in enumerate(zip(due, seen, strict=False), start=1):
        plain = replace(got, seq=None, span=None)
        if plain != want:
            name = next(n for n in SEARCH_FIELDS if getattr(want, n) != getattr(plain, n))
            expected, observed = getattr(want, name), getattr(plain, name)
            component = COMPONENT if name in ("before", "after") else "payload"
            summary = f"update {number} of the window: {name} is {observed:#x}, and should be {expected:#x}"
            finding = Finding(component, summary, window.number, field_name=name, expected=expected, observed=observed)
            verdict = Verdict.FAIL if component == COMPONENT else Verdict.ERROR
            return UpdateStepsVerdict(verdict, finding, transitions)
    return UpdateStepsVerdict(Verdict.PASS, None, transitions)


def _outcome(rules: ProcessorRules, search: Search) -> str:
    return "updated" if search.after == search.revision and rules.act(0) is None else "refused"
