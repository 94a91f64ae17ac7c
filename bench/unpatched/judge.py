"""The verdict on one boot of a kernel without a trace."""

from __future__ import annotations

from dataclasses import replace

from bench.errors import UsageError
from bench.linux import Unpatched
from bench.outcome import BootOutcome, OutcomeClass, classify
from bench.parse.early_window import read_early_window
from bench.records import Capture, Finding, Verdict
from bench.unpatched.compare import compare
from bench.unpatched.stimulus import placed, stimulus_of
from bench.unpatched.verdict import COMPONENT, UnpatchedVerdict


def judge_unpatched(capture: Capture) -> UnpatchedVerdict:
    """Judge one boot of a kernel without a trace (`capture.unpatched`).

    With QEMU's log of exceptions its faults are held against the prediction: PASS or FAIL. From the serial line alone
    a boot that did not die early is DONE, a measurement only.
    """
    outcome = classify(capture)
    if capture.unpatched is None:
        raise UsageError(f"{capture.source}: does not say what its kernel was offered")
    if not capture.exceptions:
        return _by_serial(outcome)
    found = judge_log(capture.unpatched, capture.exceptions, capture.data, initrd=capture.script)
    if found.verdict in (Verdict.PASS, Verdict.MISS) and outcome.early_death:
        # All faults that the log has agree, and the kernel died all the same.
        death = Finding("kernel", outcome.sentence, window=0, witness=outcome.witness)
        return replace(found, verdict=Verdict.FAIL, finding=death, outcome=outcome)
    if found.finding and outcome.early_death:
        found = replace(found, finding=replace(found.finding, why=outcome.sentence))
    return replace(found, outcome=outcome)


def _by_serial(outcome: BootOutcome) -> UnpatchedVerdict:
    if outcome.early_death:
        death = Finding("kernel", outcome.sentence, window=0, witness=outcome.witness)
        return UnpatchedVerdict(Verdict.FAIL, death, outcome=outcome)
    if outcome.outcome in (OutcomeClass.LAB, OutcomeClass.UNTOLD):
        component = "serial line" if outcome.outcome is OutcomeClass.UNTOLD else "machine"
        lost = Finding(component, outcome.sentence, window=0, witness=outcome.witness)
        return UnpatchedVerdict(Verdict.MISS, lost, outcome=outcome)
    notes = ("no log of exceptions: what the early handler did is not known",)
    return UnpatchedVerdict(Verdict.DONE, notes=notes, outcome=outcome)


def judge_log(boot: Unpatched, log: bytes, serial: bytes, *, initrd: bytes) -> UnpatchedVerdict:
    """Hold the faults in `log` against the prediction for `boot`.

    `serial` is what the kernel printed, `initrd` what it was offered (up to the end of its uncompressed part is
    enough).
    """
    seen = read_early_window(log)
    if seen is None:
        what = "no exception of a kernel at its high addresses is in the log"
        return UnpatchedVerdict(Verdict.MISS, Finding(COMPONENT, what))
    try:
        stimulus, notes = stimulus_of(boot, seen, placed(boot, seen), serial, initrd)
        return compare(
            stimulus, seen.faults, complete=seen.closed_by is not None, triple_fault=seen.triple_fault, notes=notes
        )
    except UsageError as error:
        unfit = Finding(COMPONENT, f"it does not fit the image that was booted: {error}")
        return UnpatchedVerdict(Verdict.ERROR, unfit)
