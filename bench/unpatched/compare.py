"""The faults of a log of exceptions beside those that the model makes of a stimulus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.describe import describe_divergence
from bench.parse.early_window import Entry
from bench.reconcile import reconcile
from bench.records import Event, EventKind, Finding, Observation, Prediction, Stimulus, Verdict, Window
from bench.sim.predict import predict
from bench.unpatched.verdict import COMPONENT, UnpatchedVerdict
from bench.wire import START_KERNEL_MAP
from bench.x86.fault import PAGE_FAULT, PageFault
from bench.x86.paging import MASK_64

_TCG = frozenset({"qemu-tcg-rsvd-without-p"})


def compare(
    stimulus: Stimulus,
    seen: Sequence[Entry],
    *,
    complete: bool,
    triple_fault: bool = False,
    notes: tuple[str, ...] = (),
) -> UnpatchedVerdict:
    """Predict from `stimulus` and compare the page faults among `seen`, none of which is empty.

    `complete`: the log shows the window's end. What the log cannot show, entries and counters after each fault, is left
    out. Raises UsageError for a stimulus that cannot be.
    """
    whole = predict(stimulus, quirks=_TCG)
    prediction = replace(whole, events=tuple(e for e in whole.events if e.kind is EventKind.ENTER))
    observation = Observation(tuple(_event(n, e) for n, e in enumerate(seen) if e.vector == PAGE_FAULT), complete)
    window = Window(0, (seen[0].span[0], seen[-1].span[1]), stimulus, observation)
    comparison = reconcile({0: window}, {0: prediction})[0]
    verdict, finding = Verdict.PASS, None
    if divergence := comparison.divergence:
        verdict, finding = Verdict.FAIL, describe_divergence(window, divergence)
        if divergence.observed and (span := divergence.observed.span):
            finding = replace(finding, witness={**finding.witness, "bytes of the log": f"{span[0]}-{span[1]}"})
    elif triple_fault:
        what = f"the machine triple-faulted after {len(observation.events)} early faults that agree"
        verdict, finding = Verdict.FAIL, Finding("handler", what, window=0)
    elif not complete:
        verdict, finding = Verdict.MISS, _cut_short(prediction, observation)
    return UnpatchedVerdict(verdict, finding, window, prediction, comparison, notes)


def _cut_short(prediction: Prediction, observation: Observation) -> Finding:
    due = len(prediction.events) - len(observation.events)
    rest = f"{due} predicted faults before its end" if due else "before the kernel has left its early tables"
    return Finding(COMPONENT, f"the log ends inside the window, {rest}", window=0)


def _event(number: int, entry: Entry) -> Event:
    """A logged fault as an event, without the user bit of a PV kernel's, which runs in ring 3."""
    return Event(
        EventKind.ENTER,
        vector=entry.vector,
        error=entry.error & ~int(PageFault.U) if entry.ring else entry.error,
        cr2=entry.cr2,
        ip=entry.ip - START_KERNEL_MAP & MASK_64,
        seq=number,
        span=entry.span,
    )
