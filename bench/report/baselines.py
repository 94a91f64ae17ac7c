"""Baselines: what a test is known to say. One small file a machine under ``results/baselines/``, reviewed as code is.

```toml
machine = "haswell"
model = "06-3c-03"

[image."early-pf/v3.9"]
run = 31                  # the last run that was blessed
blessed = 2026-11-24T19:00:33+00:00

[image."early-pf/v3.9".scenario]
ping-pong = "PASS"
relocated = "FAIL 3fa91c02"       # fails, with this fingerprint
random-1 = "UNSTABLE 7 of 10"     # passed so often
```
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.errors import FormatError, UsageError
from bench.records import Verdict
from bench.report.history import Check, sample, series
from bench.store import StoredRun

UNSTABLE = "UNSTABLE"
_STATES = frozenset({"PASS", "FAIL", "DONE", "SKIP", UNSTABLE})


@dataclass(frozen=True)
class Known:
    """What the baseline says of one test."""

    state: str
    """PASS, FAIL, DONE, SKIP or UNSTABLE."""
    fingerprint: str = ""
    passed: int = 0
    judged: int = 0

    def __str__(self) -> str:
        if self.state == UNSTABLE:
            return f"{UNSTABLE} {self.passed} of {self.judged}"
        return f"{self.state} {self.fingerprint}".strip()


@dataclass(frozen=True)
class ImageBaseline:
    """The tests of one image on one machine."""

    run: int
    blessed: datetime
    scenarios: Mapping[str, Known]


@dataclass(frozen=True)
class MachineBaseline:
    """A baseline file."""

    machine: str
    model: str
    images: Mapping[str, ImageBaseline] = field(default_factory=dict)


def load_baselines(folder: Path) -> dict[str, MachineBaseline]:
    """Machine → its baseline. Raises FormatError that names the file and the key."""
    found = {}
    for path in sorted(folder.glob("*.toml")):
        baseline = _read(path)
        found[baseline.machine] = baseline
    return found


def known_tests(baselines: Mapping[str, MachineBaseline]) -> dict[Check, Known]:
    """All that the baselines say, by test."""
    return {
        Check(machine, image, scenario): known
        for machine, baseline in baselines.items()
        for image, tests in baseline.images.items()
        for scenario, known in tests.scenarios.items()
    }


def bless(
    folder: Path,
    runs: Sequence[StoredRun],
    *,
    now: datetime,
    keep_others: bool = True,
) -> list[Path]:
    """Make what `runs` say the baseline of their machines and images; the files that changed.

    What a baseline says of other images stays, unless `keep_others` is False. Of a test that was tried but that lab
    trouble kept silent, the baseline keeps what it said.
    """
    if not runs:
        raise UsageError("no run to bless: `bench results list` shows what is stored")
    old = load_baselines(folder) if folder.exists() else {}
    changed = []
    for machine in sorted({r.record.machine for r in runs}):
        of_machine = [r for r in runs if r.record.machine == machine]
        before = old.get(machine)
        images = dict(before.images) if before and keep_others else {}
        for image in sorted({r.record.image for r in of_machine}):
            of_image = [r for r in of_machine if r.record.image == image]
            tests = _tests(of_image, images.get(image))
            if tests and (image not in images or dict(images[image].scenarios) != tests):
                images[image] = ImageBaseline(max(r.id for r in of_image), now, tests)
        baseline = MachineBaseline(machine, of_machine[-1].record.model, images)
        path = folder / f"{machine}.toml"
        if images and baseline != before:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(_lines(baseline)) + "\n")
            changed.append(path)
    return changed


def _tests(runs: Sequence[StoredRun], before: ImageBaseline | None) -> dict[str, Known]:
    tests: dict[str, Known] = {}
    for test, one in series(runs).items():
        summed = sample(one.results)
        if summed is None:
            if before and test.scenario in before.scenarios:
                tests[test.scenario] = before.scenarios[test.scenario]
        elif summed.unstable:
            tests[test.scenario] = Known(UNSTABLE, passed=summed.passed, judged=summed.judged)
        else:
            latest = summed.latest
            tests[test.scenario] = Known(
                latest.verdict.value, latest.fingerprint if latest.verdict is Verdict.FAIL else ""
            )
    return tests


def _lines(baseline: MachineBaseline) -> Iterator[str]:
    yield "# Written by `bench results bless`; review it as code: it says what is no news."
    yield f"machine = {_text(baseline.machine)}"
    yield f"model = {_text(baseline.model)}"
    for image, tests in sorted(baseline.images.items()):
        yield ""
        yield f"[image.{_text(image)}]"
        yield f"run = {tests.run}"
        yield f"blessed = {tests.blessed.isoformat(timespec='seconds')}"
        yield ""
        yield f"[image.{_text(image)}.scenario]"
        for scenario, known in sorted(tests.scenarios.items()):
            yield f"{_key(scenario)} = {_text(str(known))}"


def _text(text: str) -> str:
    return json.dumps(text)


def _key(text: str) -> str:
    return text if text and all(c.isascii() and (c.isalnum() or c in "-_") for c in text) else _text(text)


def _read(path: Path) -> MachineBaseline:
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FormatError(f"not a baseline: {error}", source=str(path)) from error
    images = {}
    try:
        for image, each in table.get("image", {}).items():
            tests = {s: _known(path, image, s, text) for s, text in each["scenario"].items()}
            images[image] = ImageBaseline(int(each["run"]), each["blessed"], tests)
        return MachineBaseline(str(table["machine"]), str(table["model"]), images)
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"key {error} is missing or of the wrong kind", source=str(path)) from error


def _known(path: Path, image: str, scenario: str, text: Any) -> Known:
    words = str(text).split()
    match words:
        case ["UNSTABLE", passed, "of", judged] if passed.isdigit() and judged.isdigit():
            return Known(UNSTABLE, passed=int(passed), judged=int(judged))
        case [state] if state in _STATES - {UNSTABLE}:
            return Known(state)
        case ["FAIL", fingerprint]:
            return Known("FAIL", fingerprint)
    where = f"image.{image}.scenario.{scenario}"
    allowed = '"PASS", "FAIL FINGERPRINT", "DONE", "SKIP" or "UNSTABLE K of N"'
    raise FormatError(f"{where} is {text!r}; allowed: {allowed}", source=str(path))


def blessed_runs(baselines: Iterable[MachineBaseline]) -> frozenset[int]:
    """Runs that some baseline names: their captures are evidence."""
    return frozenset(tests.run for b in baselines for tests in b.images.values())
