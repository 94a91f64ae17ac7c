"""What is new against the baselines, in eight words. MISS and ERROR are none of them: they are counted apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from bench.records import Verdict
from bench.report.baselines import UNSTABLE, Known
from bench.report.history import (
    RECENT,
    Check,
    Result,
    Sample,
    Series,
    is_demonstration,
    last_change,
    sample,
    series,
)
from bench.store import StoredRun


class Word(StrEnum):
    """What became of a test, the most urgent first."""

    REGRESSION = "regression"
    """Passed by the baseline, fails now."""
    NEW_FAILURE = "new failure"
    """Fails now, and no baseline knows that: the test is new, did not say anything before, or fails in another way."""
    STILL_FAILING = "still failing"
    """Failed by the baseline, and fails now in the same way."""
    UNSTABLE = "unstable"
    """Passes and fails without a change of the image, or did so when it was blessed."""
    DISAPPEARED = "disappeared"
    """In the baseline, but the machine's latest runs of the image do not try it, or skip it."""
    FIXED = "fixed"
    """Failed by the baseline, passes now."""
    NEW_PASS = "new pass"
    """Passes now, and no baseline knows it."""
    APPEARED = "appeared"
    """No baseline knows it, and it neither passes nor fails: a measurement, or skipped."""


@dataclass(frozen=True)
class Change:
    """One test beside its baseline; `word` is None where nothing is new, and where nothing is known."""

    test: Check
    word: Word | None
    known: Known | None
    sample: Sample | None
    trouble: int
    """Runs since the test's latest result in which the lab, not the kernel, kept it from giving another."""
    before: Result | None = None
    """The last result with the other verdict …"""
    since: Result | None = None
    """… and the first with the present one."""


def compare(runs: Iterable[StoredRun], known: Mapping[Check, Known], *, recent: int = RECENT) -> list[Change]:
    """Every test of the runs and of the baselines, changed or not, in order of machine, image and scenario.

    A test that the baseline knows but that nobody tried since has not disappeared: see `_looked`. Of a machine and
    image without any baseline only failures are news.
    """
    runs = [run for run in runs if not is_demonstration(run.record)]
    found = series(runs)
    looked = _looked(runs, known)
    blessed = {(test.machine, test.image) for test in known}
    changes = []
    for test in sorted({*found, *known}):
        one = found.get(test, Series())
        tried = max((r.run for r in (*one.results, *one.trouble)), default=0)
        gone = test in known and looked.get((test.machine, test.image), 0) > tried
        change = _change(test, known.get(test), one, gone, recent)
        if change.word in (Word.NEW_PASS, Word.APPEARED) and (test.machine, test.image) not in blessed:
            change = replace(change, word=None)
        changes.append(change)
    return changes


def _looked(runs: Iterable[StoredRun], known: Mapping[Check, Known]) -> dict[tuple[str, str], int]:
    """(machine, image) → the latest run that tried at least half of the tests that its baseline knows.

    A run of one scenario by hand says nothing of the others.
    """
    expected = Counter((test.machine, test.image) for test in known)
    looked: dict[tuple[str, str], int] = {}
    for run in runs:
        key = (run.record.machine, run.record.image)
        if 2 * len(run.record.scenarios) >= expected[key] > 0:
            looked[key] = max(looked.get(key, 0), run.id)
    return looked


def _change(test: Check, known: Known | None, one: Series, gone: bool, recent: int) -> Change:
    summed = sample(one.results, recent)
    latest = summed.latest.run if summed else 0
    trouble = sum(t.run > latest for t in one.trouble)
    before, since = last_change(one.results)
    word = None if summed is None else _word(known, summed)
    if gone and known and known.state != "SKIP":
        word = Word.DISAPPEARED
    return Change(test, word, known, summed, trouble, before, since)


def _word(known: Known | None, now: Sample) -> Word | None:
    state = known.state if known else None
    verdict = now.latest.verdict
    if now.unstable or (state == UNSTABLE and verdict in (Verdict.PASS, Verdict.FAIL)):
        return Word.UNSTABLE
    if verdict is Verdict.FAIL:
        if state == "PASS":
            return Word.REGRESSION
        if known and state == "FAIL" and (not known.fingerprint or known.fingerprint == now.latest.fingerprint):
            return Word.STILL_FAILING
        return Word.NEW_FAILURE
    if verdict is Verdict.PASS:
        return {"PASS": None, "FAIL": Word.FIXED}.get(state or "", Word.NEW_PASS)
    if known is None:
        return Word.APPEARED
    return Word.DISAPPEARED if state in ("PASS", "FAIL", UNSTABLE) and verdict is Verdict.SKIP else None


# What a nightly run ends with exit code 1 for.
BAD = frozenset({Word.REGRESSION, Word.NEW_FAILURE})


_PLURAL = {Word.REGRESSION: "regressions", Word.NEW_FAILURE: "new failures", Word.NEW_PASS: "new passes"}


def counted(changes: Iterable[Change]) -> str:
    """``9 regressions, 1 fixed``; empty if nothing is new."""
    counts = Counter(c.word for c in changes)
    words = ((counts[w], _PLURAL.get(w, str(w)) if counts[w] != 1 else str(w)) for w in Word if counts[w])
    return ", ".join(f"{n} {word}" for n, word in words)


def change_words(change: Change) -> str:
    """What is behind the word, on one line."""
    parts = []
    if change.sample:
        now = change.sample
        if now.unstable and now.judged:
            parts.append(f"passed {now.passed} of {now.judged}")
        if change.since and change.before:
            parts.append(f"since run {change.since.run}, last {change.before.verdict} in run {change.before.run}")
        if now.latest.verdict is not Verdict.PASS and now.latest.summary:
            parts.append(now.latest.summary)
    if change.known:
        parts.append(f"baseline {change.known}")
    if change.trouble:
        parts.append(f"{change.trouble} later run{'s' * (change.trouble != 1)} kept silent by the lab")
    return "; ".join(parts)
