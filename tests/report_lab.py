"""A folder of results to make reports of: committed captures, a hostile one, and a part of a lab's history."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.judge import judge
from bench.parse.capture_file import read_captures
from bench.records import Capture, ScenarioResult
from bench.report.baselines import bless
from bench.store import RunRecord, Store
from tests.lab_history import make_history

CAPTURES = Path(__file__).parent / "captures"
NOW = datetime(2026, 11, 24, 19, 0, tzinfo=UTC)
# What a machine must never get into a page or a terminal as anything but text.
HOSTILE = (
    b"<script>document.title='owned'</script><img src=x onerror=alert(1)>\r\n"
    b"\x1b[2J\x1b]0;owned\x07\x9b31m red \x00\x00 NUL \xff\xfe\xc3\x28 broken\r\n"
    b"{{ 7 * 7 }} {% raw %} &lt;b&gt; </code></li></ol><h1>out</h1> \xe2\x80\xae reversed\r\n"
    b"@0 begin W1 <script>alert(2)</script>*00000000\r\n"
    b"@1 pf I1\x1b[31m*deadbeef\r\n" + b"A<i>" * 262144 + b"\r\n"
    b"PANIC: early exception 0e rip 10:ffffffff81d1e014 error 0 cr2 <script>\r\n"
)
HOSTILE_TEXT = "<script>alert('x')</script>\x1b[31m\u202e"


def lay_capture(folder: Path, capture: Capture) -> None:
    """A boot folder as the lab writes it."""
    boot = folder / "boot-1"
    boot.mkdir(parents=True)
    (boot / "serial.bin").write_bytes(capture.data)
    (boot / "script.txt").write_bytes(capture.script)
    meta = {
        "schema": 1,
        "machine": capture.machine,
        "model": capture.model,
        "image": capture.image,
        "virtual": capture.virtual,
        "nonce": f"{capture.nonce or 0:x}",
        "quirks": list(capture.quirks),
        "scenarios": {str(k): v for k, v in capture.scenarios.items()},
    }
    (boot / "capture.json").write_text(json.dumps(meta))
    rows = [{"kind": e.kind, "at_s": e.at_s, "offset": e.offset, "witness": dict(e.witness)} for e in capture.events]
    (boot / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def record_of(results: Path, name: str, started: datetime, change: Callable[[Capture], Capture]) -> RunRecord:
    """A run of a committed capture, judged; `change` edits the capture first."""
    (capture,) = read_captures(CAPTURES / f"{name}.capture")
    capture = change(capture)
    folder = results / "captures" / f"{started:%Y-%m-%d}" / f"{started:%H%M%S}-{capture.machine or 'none'}"
    lay_capture(folder, capture)
    judgement = judge([capture])
    return RunRecord(
        started=started,
        machine=capture.machine,
        model=capture.model,
        signature=0x306C3,
        image=capture.image,
        image_sha256="ab" * 32,
        virtual=True,
        verdict=judgement.verdict,
        seconds=3.5,
        capture=str(folder),
        scenarios=judgement.scenarios,
        details={"release": "3.9", "note": HOSTILE_TEXT},
    )


def same(capture: Capture) -> Capture:
    return capture


def make_results(folder: Path, *, nights: int = 24) -> Path:
    """A store with baselines, a red cell with its capture, a green one, a hostile one, and lab trouble."""
    history = make_history(3, nights=nights, models=4)
    with Store(folder / "bench.sqlite") as store:
        store.save_runs(history.runs[: history.blessed])
        good = record_of(folder, "skylake-server-v3.9", NOW - timedelta(days=1), same)
        bad = record_of(folder, "haswell-v3.9-hidden-bug", NOW, same)
        passed = tuple(replace(s, verdict=good.verdict, findings=()) for s in bad.scenarios)
        before = {"started": NOW - timedelta(days=2), "image_sha256": "cd" * 32, "capture": ""}
        green = replace(bad, verdict=good.verdict, scenarios=passed, **before)  # type: ignore[arg-type]
        store.save_runs([green, good])
        bless(folder / "baselines", store.runs(), now=NOW)
        store.save_runs(history.runs[history.blessed :])
        hostile = record_of(
            folder,
            "haswell-v3.9-hidden-bug",
            NOW + timedelta(minutes=1),
            lambda c: replace(c, data=HOSTILE + c.data[:9000] + HOSTILE, machine="hostile"),
        )
        odd = ScenarioResult(HOSTILE_TEXT, bad.verdict, findings=(
            replace(next(f for s in bad.scenarios for f in s.findings), summary=HOSTILE_TEXT, component=HOSTILE_TEXT,
                    why=HOSTILE_TEXT, expected=HOSTILE_TEXT, witness={HOSTILE_TEXT: HOSTILE_TEXT}),
        ))  # fmt: skip
        store.save_runs([
            bad,
            hostile,
            replace(hostile, image=HOSTILE_TEXT, scenarios=(odd,), capture="", started=NOW + timedelta(minutes=2)),
        ])  # fmt: skip
    return folder
