"""A lab's history: nights of runs on many machines, with regressions, flakes and lab failures planted in it.

The history says what it planted, so that a test can hold the comparison to exactly that. Run as a program it fills a
store to look at:

    python -m tests.lab_history results/bench.sqlite
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.records import Finding, ScenarioResult, Verdict, worst
from bench.report.history import Check
from bench.store import MicrocodeRow, RunRecord, Store, Transition

MODELS = (
    ("06-2a-07", 0x206A7), ("06-3a-09", 0x306A9), ("06-3c-03", 0x306C3), ("06-3d-04", 0x306D4), ("06-4e-03", 0x406E3),
    ("06-55-04", 0x50654), ("06-5e-03", 0x506E3), ("06-6a-06", 0x606A6), ("06-8f-08", 0x806F8), ("06-97-02", 0x90672),
    ("06-9e-0a", 0x906EA), ("06-ba-02", 0xB06A2),
)  # fmt: skip
IMAGES = ("linux-6.1/traced", "linux-6.12/traced", "linux-next/traced", "early-pf/v3.9")
SCENARIOS = ("boot", "copy-bootdata", "final-tables", "ping-pong", "pool-edge", "rejected", "straddle", "sweep")
NIGHTS = 45
BLESSED_AFTER = 20
START = datetime(2026, 9, 1, 22, 0, tzinfo=UTC)
_LAB = (
    (Verdict.MISS, "serial line", "bytes came, but half of the lines are damaged"),
    (Verdict.MISS, "port", "the serial port closed"),
    (Verdict.MISS, "power", "the outlet says on, the machine draws no current"),
    (Verdict.ERROR, "payload", "the payload refused a step"),
)


@dataclass
class Planted:
    """What the comparison with the baseline has to find: no more and no less."""

    regressions: set[Check] = field(default_factory=set)
    fixed: set[Check] = field(default_factory=set)
    unstable: set[Check] = field(default_factory=set)
    still_failing: set[Check] = field(default_factory=set)
    new_failures: set[Check] = field(default_factory=set)
    new_passes: set[Check] = field(default_factory=set)
    disappeared: set[Check] = field(default_factory=set)
    taken_back: set[Check] = field(default_factory=set)
    """Broke and was repaired since the baseline: no news."""
    since: dict[Check, int] = field(default_factory=dict)
    """Night in which a regression was planted."""


@dataclass
class History:
    """Runs, the oldest first; those up to `blessed` are the baseline's."""

    seed: int
    runs: list[RunRecord]
    blessed: int
    planted: Planted


def make_history(seed: int, *, nights: int = NIGHTS, models: int = len(MODELS)) -> History:
    """The same history for the same seed: up to 12 models, one of them with two machines, 4 images a night."""
    rng = random.Random(seed)
    machines = [(f"m{model.replace('-', '')}", model, signature) for model, signature in MODELS[:models]]
    machines.append((machines[0][0] + "b", *machines[0][1:]))
    planted = _plant(rng, [Check(m[0], image, s) for m in machines for image in IMAGES for s in SCENARIOS], nights)
    runs: list[RunRecord] = []
    blessed = 0
    for night in range(nights):
        if night == BLESSED_AFTER:
            blessed = len(runs)
        for number, (machine, model, signature) in enumerate(machines):
            for place, image in enumerate(IMAGES):
                minutes = 4 * (number * len(IMAGES) + place)
                started = START + timedelta(days=night, minutes=minutes, seconds=rng.randrange(60))
                results = _results(rng, planted, machine, image, night, nights)
                runs.append(_record(rng, machine, model, signature, image, night, started, results))
    return History(seed, runs, blessed, planted)


def _plant(rng: random.Random, tests: Sequence[Check], nights: int) -> Planted:
    picked = rng.sample(tests, 70)
    planted = Planted(
        regressions=set(picked[:9]),
        fixed=set(picked[9:15]),
        unstable=set(picked[15:24]),
        still_failing=set(picked[24:32]),
        new_failures=set(picked[32:37]),
        new_passes=set(picked[37:43]),
        disappeared=set(picked[43:46]),
        taken_back=set(picked[46:52]),
    )
    for test in sorted(planted.regressions):
        planted.since[test] = rng.randrange(BLESSED_AFTER, nights - 2)
    return planted


def _results(
    rng: random.Random, planted: Planted, machine: str, image: str, night: int, nights: int
) -> list[ScenarioResult]:
    # Now and then the lab fails as a whole: nothing can be said. Never in the last two nights of all.
    if rng.random() < 0.04:
        verdict, component, summary = rng.choice(_LAB)
        finding = Finding(component, summary, witness={"after": f"{rng.uniform(1, 30):.1f} s"})
        return [ScenarioResult(s, verdict, findings=(finding,), reason=summary) for s in SCENARIOS]
    found = []
    for scenario in SCENARIOS:
        test = Check(machine, image, scenario)
        after = night >= BLESSED_AFTER
        if test in planted.new_failures | planted.new_passes and not after:
            continue
        if test in planted.disappeared and after:
            continue
        if _fails(rng, planted, test, night, nights):
            finding = _finding(rng, "pud" if test in planted.regressions else "pgd")
            found.append(ScenarioResult(scenario, Verdict.FAIL, 6, 40, 0, 0, 3, (finding,), finding.summary))
        else:
            found.append(ScenarioResult(scenario, Verdict.PASS, 6, 96, 0, rng.randrange(4), 12))
    return found


def _fails(rng: random.Random, planted: Planted, test: Check, night: int, nights: int) -> bool:
    if test in planted.unstable:
        # Every other night is sure, so that ten of them show both; the rest is chance.
        return rng.random() < 0.5 if night % 4 > 1 else bool(night % 4)
    if test in planted.taken_back:
        return BLESSED_AFTER + 6 <= night < nights - 8
    return (
        test in planted.still_failing | planted.new_failures
        or (test in planted.fixed and night < BLESSED_AFTER + 8)
        or night >= planted.since.get(test, nights)
    )


def _finding(rng: random.Random, name: str) -> Finding:
    entry, other = 0x1000063 | rng.randrange(64) << 12, 0x2000063 | rng.randrange(64) << 12
    va = 0xFFFF888000000000 + (rng.randrange(1 << 34) & ~7)
    summary = (
        f"{name} entry is 0x{other:016x}, the model has 0x{entry:016x}, in step 3 (read of 8 bytes at 0x{va:016x})"
    )
    where = {"window": rng.randrange(6), "event": 2 * rng.randrange(1, 9) + 1, "step": 3}
    why = "took 0, 1 of the pool, mapped 2 MiB (__early_make_pgtable, v3.9)"
    return Finding("handler", summary, **where, field_name=name, expected=entry, observed=other, why=why)  # type: ignore[arg-type]


def _record(
    rng: random.Random,
    machine: str,
    model: str,
    signature: int,
    image: str,
    night: int,
    started: datetime,
    results: list[ScenarioResult],
) -> RunRecord:
    before, offered = 0x20 + signature % 7, 0x2F + signature % 7
    silent = results[0].verdict in (Verdict.MISS, Verdict.ERROR)
    outcome = Transition.NOT_OBSERVABLE if silent else rng.choice([Transition.UPDATED] * 9 + [Transition.REFUSED])
    after = {Transition.UPDATED: offered, Transition.REFUSED: before}.get(outcome)
    return RunRecord(
        started=started,
        machine=machine,
        model=model,
        signature=signature,
        image=image,
        image_sha256=f"{night:04x}{IMAGES.index(image):04x}" * 8,
        virtual=False,
        verdict=worst([r.verdict for r in results]),
        seconds=round(rng.uniform(20, 90), 2),
        capture=f"results/captures/{started:%Y-%m-%d}/{started:%H%M%S}-{machine}",
        scenarios=tuple(results),
        details={"release": image.split("/")[0].removeprefix("linux-"), "commit": f"{night:02x}{'5a17c0de' * 4}"[:12]},
        microcode=(MicrocodeRow(1, 0, 0x2, before, offered, after, outcome),),
    )


def main() -> None:
    """Fill the store that is named on the command line."""
    history = make_history(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    with Store(Path(sys.argv[1])) as store:
        store.save_runs(history.runs)
    print(f"{len(history.runs)} runs, seed {history.seed}, regressions: {sorted(history.planted.regressions)}")


if __name__ == "__main__":
    main()
