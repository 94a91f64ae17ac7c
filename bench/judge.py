"""Captures → verdicts: parse, simulate, reconcile. The same for a live run and for a replay years later.

Nothing but the captures goes in, so that the same captures give the same verdict byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench import script as scripts
from bench.describe import describe_divergence
from bench.early_load import EarlyLoadVerdict, judge_early_load
from bench.endings import absent_window, died, ending, known_good_instead, not_loaded, unfinished, unopened
from bench.errors import UsageError
from bench.obedience import asked_steps, exercised, obedience
from bench.parse.trace import TraceLog, parse_trace, replayed
from bench.reconcile import reconcile
from bench.records import (
    Capture,
    Comparison,
    DigestPoint,
    DumpPoint,
    Finding,
    LabEvent,
    LabEventKind,
    PhaseStep,
    Prediction,
    ScenarioResult,
    Step,
    Touch,
    UpdatePoint,
    Verdict,
    Window,
    worst,
)
from bench.sim.predict import predict
from bench.unpatched import UnpatchedVerdict, judge_unpatched
from bench.update_steps import judge_update_steps
from bench.updates import Transition
from bench.wire import Phase


@dataclass(frozen=True)
class WindowVerdict:
    """One window's verdict, with all that an explanation needs."""

    number: int
    scenario: str
    verdict: Verdict
    boot: int
    """Number of the boot in which it was judged, from 1."""
    finding: Finding | None = None
    window: Window | None = None
    prediction: Prediction | None = None
    comparison: Comparison | None = None
    early: EarlyLoadVerdict | None = None
    """What a kernel's boot says of microcode."""
    transitions: tuple[Transition, ...] = ()
    """What came of updates that the payload offered its processor."""


@dataclass(frozen=True)
class Judgement:
    """The verdict on one run: one machine, one image, one or more boots."""

    machine: str
    model: str
    image: str
    virtual: bool | None
    verdict: Verdict
    scenarios: tuple[ScenarioResult, ...]
    windows: tuple[WindowVerdict, ...]
    pending: tuple[int, ...]
    """Windows that were not reached because the machine died in an earlier one: worth another boot."""
    notes: tuple[str, ...] = ()
    """What the serial line did, apart from any verdict."""
    transitions: tuple[Transition, ...] = ()
    """What came of updates that processors were offered."""


def judge(captures: Sequence[Capture]) -> Judgement:
    """Judge the boots of one run, in order. A window that was run in several boots counts in the last one."""
    verdicts: dict[int, WindowVerdict] = {}
    pending: set[int] = set()
    notes: list[str] = []
    loads: list[EarlyLoadVerdict] = []
    last = 0
    for boot, capture in enumerate(captures, start=1):
        notes += [f"boot {boot}: {note}" for note in _troubles(capture)]
    for boot, capture, log in _parts(captures):
        if capture.unpatched is not None:
            found = judge_unpatched(capture)
            verdicts |= _without_trace(boot, capture, found)
            notes += [f"boot {boot}: {note}" for note in found.notes]
            continue
        running = loads[-1].runs if loads and boot == last else ()  # a kernel that another one has started
        judged, unreached = _judge_boot(boot, capture, log, running)
        verdicts |= judged
        loads += [window.early for window in judged.values() if window.early]
        last = boot
        pending = (pending | unreached) - judged.keys()
        notes += [f"boot {boot}, bytes {g.span[0]}-{g.span[1]}: {g.why}" for g in log.gaps]
        notes += [] if log.done else [f"boot {boot}: the script did not come to its end"]
        notes += [f"boot {boot}, bytes {s.span[0]}-{s.span[1]}: {s.mark}: {s.why}" for s in log.damage()]
    names = {n: name for c in captures for n, name in c.scenarios.items()}
    for number in sorted(pending):
        finding = Finding("machine", "not reached: the machine died in an earlier window", window=number)
        verdicts[number] = WindowVerdict(number, names.get(number, ""), Verdict.MISS, len(captures), finding)
    windows = tuple(verdicts[n] for n in sorted(verdicts))
    scenarios = _by_scenario(windows)
    first = captures[0] if captures else Capture("", b"")
    return Judgement(
        machine=first.machine,
        model=first.model,
        image=first.image,
        virtual=first.virtual,
        verdict=worst([s.verdict for s in scenarios]) if scenarios else Verdict.MISS,
        scenarios=scenarios,
        windows=windows,
        pending=tuple(sorted(pending)),
        notes=tuple(notes),
        transitions=(
            *(each for load in loads for each in load.transitions),
            *(each for window in windows for each in window.transitions),
        ),
    )


def _troubles(capture: Capture) -> Iterator[str]:
    """What the port went through: losses, and what the controller's UART received badly by its driver's count."""
    for event in capture.events:
        if event.kind is LabEventKind.PORT_LOST:
            yield f"the port was lost at byte {event.offset}: {event.witness.get('why', '')}"
        if event.kind is LabEventKind.UART:
            bad = ", ".join(f"{count} {name}" for name, count in event.witness.items() if count != "0")
            if bad:
                yield f"errors that the UART counted: {bad}"


def _of_the_port(finding: Finding | None, capture: Capture, span: tuple[int, int] | None = None) -> Finding | None:
    """`finding`, put down to the port where that was away in the window's `span` (None: at any time)."""
    if finding is None or finding.component != "serial line":
        return finding
    for lost, *later in (capture.events[n:] for n in range(len(capture.events))):
        if lost.kind is LabEventKind.PORT_LOST and (span is None or span[0] <= lost.offset <= span[1]):
            away = next((e.witness.get("away", "") for e in later if e.kind is LabEventKind.PORT_OPENED), "")
            witness = {**finding.witness, "port": f"lost at byte {lost.offset}: {lost.witness.get('why', '')}"}
            return replace(finding, component="port", witness=witness | ({"away": away} if away else {}))
    return finding


def _without_trace(boot: int, capture: Capture, found: UnpatchedVerdict) -> dict[int, WindowVerdict]:
    """The one window of a kernel that has no trace."""
    number = min(capture.scenarios, default=0)
    window = replace(found.window, number=number) if found.window else None
    finding = replace(found.finding, window=number) if found.finding else None
    name = capture.scenarios.get(number, f"window-{number}")
    return {
        number: WindowVerdict(number, name, found.verdict, boot, finding, window, found.prediction, found.comparison)
    }


def _parts(captures: Sequence[Capture]) -> Iterator[tuple[int, Capture, TraceLog]]:
    """Boots by number, capture and trace; one in which a kernel started another in its place (kexec) comes as two."""
    for boot, capture in enumerate(captures, start=1):
        log = parse_trace(capture.data, nonce=capture.nonce)
        at = log.restarted_at
        first, *others = sorted(capture.scenarios) or [0]
        last = log.windows[-1] if log.windows else None
        if at is None or not others or not (last and last.stimulus.facts.is_linux and last.observation.complete):
            yield boot, capture, log
            continue
        names, updates = capture.scenarios, capture.updates
        before = replace(capture, data=capture.data[:at], events=(), scenarios={first: names[first]})
        after = replace(
            capture, data=capture.data[at:], scenarios={number: names[number] for number in others},
            updates=replace(updates, tasks=()) if updates else None,
        )  # fmt: skip
        yield boot, before, replace(log, restarted_at=None, done=True, stretches=log.stretches[:-1])
        yield boot, after, parse_trace(after.data, nonce=capture.nonce)


def _judge_boot(
    boot: int, capture: Capture, log: TraceLog, running: tuple[int, ...]
) -> tuple[dict[int, WindowVerdict], set[int]]:
    """Verdicts on the windows of one boot, and the numbers of those that its early death left out."""
    asked = asked_steps(capture)
    offered = [_offered(window, capture) for window in log.windows]
    windows = {w.number: _with_rest(w, asked.get(w.number, ())) for w in offered}
    quirks = frozenset(capture.quirks) | _own_quirks(windows)
    predictions, out = _predict(boot, capture, windows, quirks)
    windows = {n: w for n, w in windows.items() if n in predictions}
    comparisons = _settle(windows, predictions, quirks)
    end = ending(capture, log)
    offered_updates = judge_update_steps(capture, log, windows, asked, boot=boot)
    for number, window in windows.items():
        verdict, finding = _verdict(window, predictions[number], comparisons[number], end, asked, log)
        early = judge_early_load(capture, log, window, end, boot=boot, running=running)
        if early:
            verdict, finding = _with_early_load(verdict, finding, early, window, comparisons[number])
        elif (given := offered_updates.get(number)) and verdict is Verdict.PASS:
            verdict, finding = given.verdict, given.finding
        name = capture.scenarios.get(number, f"window-{number}")
        finding = _of_the_port(finding, capture, window.span)
        out[number] = WindowVerdict(
            number, name, verdict, boot, finding, window, predictions[number], comparisons[number], early,
            given.transitions if (given := offered_updates.get(number)) else (),
        )  # fmt: skip
    absent = capture.scenarios.keys() - out.keys()
    if absent and windows and died(end, log):
        return out, absent
    for number in sorted(absent):
        verdict, finding = (
            known_good_instead(number, capture)
            or unopened(number, end, capture)
            or not_loaded(number, end, capture, log)
            or absent_window(number, end, log)
        )
        finding = _of_the_port(finding, capture)
        out[number] = WindowVerdict(number, capture.scenarios[number], verdict, boot, finding)
    return out, set()


def _with_early_load(
    verdict: Verdict, finding: Finding | None, early: EarlyLoadVerdict, window: Window, comparison: Comparison
) -> tuple[Verdict, Finding | None]:
    """A window's verdict with that on microcode. A kernel that ends, as predicted, in a processor's write has ended
    well."""
    seen = window.observation
    if early.dies and not (comparison.divergence or seen.complete or seen.damage):
        return early.verdict, early.finding
    order = list(Verdict)
    return (early.verdict, early.finding) if order.index(early.verdict) < order.index(verdict) else (verdict, finding)


def _predict(
    boot: int, capture: Capture, windows: Mapping[int, Window], quirks: frozenset[str]
) -> tuple[dict[int, Prediction], dict[int, WindowVerdict]]:
    """Predictions, and the verdict on windows whose `begin` describes nothing that the model knows."""
    predictions: dict[int, Prediction] = {}
    impossible: dict[int, WindowVerdict] = {}
    for number, window in windows.items():
        try:
            predictions[number] = predict(window.stimulus, quirks=quirks)
        except UsageError as error:
            finding = Finding("trace", f"its begin record cannot be right: {error}", window=number)
            name = capture.scenarios.get(number, f"window-{number}")
            impossible[number] = WindowVerdict(number, name, Verdict.ERROR, boot, finding, window)
    return predictions, impossible


def _own_quirks(windows: Mapping[int, Window]) -> frozenset[str]:
    """Quirks that the machine's own words give away: QEMU's TCG names itself in CPUID leaf 0x40000000."""
    tcg = int.from_bytes(b"TCGT", "little")
    found = any(w.stimulus.facts.hypervisor == tcg for w in windows.values())
    return frozenset({"qemu-tcg-rsvd-without-p"} if found else ())


def _settle(
    windows: Mapping[int, Window], predictions: dict[int, Prediction], quirks: frozenset[str]
) -> dict[int, Comparison]:
    """Compare; where the processor is free and took another way than the default, follow it in `predictions`.

    The model offers its alternatives without seeing the observation; only which of them was taken is read off.
    """
    choices: dict[int, tuple[int, ...]] = dict.fromkeys(windows, ())
    comparisons = reconcile(windows, predictions)
    unsettled = [n for n in windows if comparisons[n].divergence]
    while unsettled:
        number = unsettled.pop()
        divergence = comparisons[number].divergence
        points = predictions[number].choices
        index = next((i for i, (event, _) in enumerate(points) if divergence and event == divergence.event), None)
        if divergence is None or index is None:
            continue
        taken = (choices[number] + (0,) * index)[:index]
        for alternative in range(1, points[index][1]):
            attempt = (*taken, alternative)
            prediction = predict(windows[number].stimulus, quirks=quirks, choices=attempt)
            comparison = reconcile({number: windows[number]}, {number: prediction})[number]
            if comparison.divergence is None or comparison.divergence.event > divergence.event:
                choices[number], predictions[number], comparisons[number] = attempt, prediction, comparison
                unsettled.append(number)
                break
    return comparisons


def _offered(window: Window, capture: Capture) -> Window:
    """A kernel's window with the initrd that it was offered; without one, faults of the scan can only be replayed."""
    stimulus = window.stimulus
    if not stimulus.facts.is_linux:
        return window
    # A kernel has one window and numbers it 0; the boot's place in its run is in the capture.
    number = min(capture.scenarios, default=window.number)
    steps = list(stimulus.steps)
    if not capture.script:
        for place, step in enumerate(stimulus.steps):
            if isinstance(step, PhaseStep) and step.step == Phase.UCODE:
                steps[place + 1 : place + 1] = replayed(window.observation.events, int(Phase.UCODE))
    return replace(window, number=number, stimulus=replace(stimulus, steps=tuple(steps), initrd_head=capture.script))


def _with_rest(window: Window, asked: Sequence[scripts.Step]) -> Window:
    """The window with the steps of the script that the machine did not live to announce.

    What the model does next must not depend on where the machine stopped. Steps up to the next loading of
    the final tables are added: where those lie is not known before the machine has said it.
    """
    if window.stimulus.facts.is_linux:
        return window
    known = len(window.stimulus.steps)
    rest: list[Step] = []
    for number, step in enumerate(asked[known:], start=known):
        match step.op:
            case "access":
                rest.append(Touch(number, step.access, step.va, step.size, step.va_to, step.fixup))
            case "digest":
                rest.append(DigestPoint(number))
            case "dump":
                rest.append(DumpPoint(number))
            case "ucode":
                rest.append(UpdatePoint(number))
            case _:
                break
    if not rest:
        return window
    return replace(window, announced=known, stimulus=replace(window.stimulus, steps=(*window.stimulus.steps, *rest)))


def _verdict(
    window: Window,
    prediction: Prediction,
    comparison: Comparison,
    end: LabEvent | None,
    asked: Mapping[int, tuple[scripts.Step, ...]],
    log: TraceLog,
) -> tuple[Verdict, Finding | None]:
    seen = window.observation
    number = window.number
    steps = window.stimulus.steps[: window.announced]
    for refusal in log.refusals:
        if refusal.window == number and window.span[0] <= refusal.span[0] <= window.span[1]:
            summary = f"the payload refused a step: {refusal.why}"
            return Verdict.ERROR, Finding("payload", summary, window=number, step=steps[-1].step if steps else None)
    if number in asked:
        complaint = (exercised if window.stimulus.facts.is_linux else obedience)(asked[number], window)
        if complaint:
            return Verdict.ERROR, Finding("payload", complaint, window=number)
    if comparison.divergence:
        return Verdict.FAIL, describe_divergence(window, comparison.divergence)
    if seen.damage:
        damage = seen.damage[0]
        witness = {"bytes": f"{damage.span[0]}-{damage.span[1]}"}
        return Verdict.MISS, Finding("serial line", damage.why, window=number, event=len(seen.events), witness=witness)
    if seen.complete:
        return Verdict.PASS, None
    return unfinished(window, prediction, end)


def _by_scenario(windows: Sequence[WindowVerdict]) -> tuple[ScenarioResult, ...]:
    groups: dict[str, list[WindowVerdict]] = {}
    for window in windows:
        groups.setdefault(window.scenario, []).append(window)
    return tuple(_scenario(name, group) for name, group in groups.items())


def _scenario(name: str, group: Sequence[WindowVerdict]) -> ScenarioResult:
    judged = [w for w in group if w.comparison and w.prediction]
    findings = tuple(w.finding for w in group if w.finding)
    return ScenarioResult(
        scenario=name,
        verdict=worst([w.verdict for w in group]),
        windows=len(group),
        predicted=sum(w.comparison.faults_predicted for w in judged if w.comparison),
        replayed=sum(w.comparison.faults_replayed for w in judged if w.comparison),
        resets=sum(w.prediction.resets for w in judged if w.prediction and w.verdict is Verdict.PASS),
        digests=sum(w.comparison.digests_equal for w in judged if w.comparison),
        findings=findings,
        reason=findings[0].summary if findings else "",
    )
