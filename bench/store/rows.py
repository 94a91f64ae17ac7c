"""Records ↔ rows of the store's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from bench.records import Finding, ScenarioResult, Verdict


class Transition(StrEnum):
    """What came of a boot that offered a processor an update."""

    UPDATED = "updated"
    REFUSED = "refused"
    """The processor came up with the revision that it had."""
    SILENT_HANG = "silent hang"
    REBOOT_LOOP = "reboot loop"
    NOT_OBSERVABLE = "not observable"
    """The kernel said nothing from which the revision could be told."""
    FORBIDDEN = "forbidden"
    """The inventory does not allow updates, or QEMU's processor has none."""


@dataclass(frozen=True)
class MicrocodeRow:
    """One processor of one boot. Revisions are 32-bit; None where nobody could tell."""

    boot: int
    processor: int
    flags: int
    """Platform flags, ``1 << platform id``."""
    before: int
    offered: int | None
    after: int | None
    outcome: Transition


@dataclass(frozen=True)
class RunRecord:
    """One run: one machine, one image, its scenarios with their findings."""

    started: datetime
    """With its time zone."""
    machine: str
    model: str
    signature: int
    image: str
    image_sha256: str
    virtual: bool
    verdict: Verdict
    seconds: float
    capture: str
    """Folder of the run's captures."""
    scenarios: tuple[ScenarioResult, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    """Printable facts of image and machine: ``release``, ``patches``, ``config``, ``revision`` …, shown as they are."""
    microcode: tuple[MicrocodeRow, ...] = ()


@dataclass(frozen=True)
class StoredRun:
    """A run as it lies in the store."""

    id: int
    record: RunRecord
    manifest: str = ""
    """SHA-256 of the manifest of its captures; empty if they were never sealed."""
    pruned: datetime | None = None
    """When its captures were removed."""


def run_row(record: RunRecord, manifest: str) -> dict[str, object]:
    """A run without what belongs to other tables. Raises ValueError for a time without zone."""
    if record.started.tzinfo is None:
        raise ValueError("RunRecord.started has no time zone")
    return {
        "started": record.started.astimezone(UTC).isoformat(),
        "machine": record.machine,
        "model": record.model,
        "signature": f"{record.signature:#010x}",
        "image": record.image,
        "image_sha256": record.image_sha256,
        "virtual": record.virtual,
        "verdict": record.verdict.value,
        "seconds": record.seconds,
        "capture": record.capture,
        "manifest": manifest,
        "details": json.dumps(dict(record.details), sort_keys=True),
    }


def rows_of(run: int, record: RunRecord) -> tuple[list[dict[str, object]], ...]:
    """The run's rows of scenarios, findings and microcode."""
    scenarios: list[dict[str, object]] = [
        {"run": run, "position": i, "scenario": s.scenario, "verdict": s.verdict.value, "windows": s.windows,
         "predicted": s.predicted, "replayed": s.replayed, "resets": s.resets, "digests": s.digests,
         "reason": s.reason}
        for i, s in enumerate(record.scenarios)
    ]  # fmt: skip
    findings: list[dict[str, object]] = [
        {"run": run, "scenario": i, "position": j, **_finding_row(f)}
        for i, s in enumerate(record.scenarios)
        for j, f in enumerate(s.findings)
    ]
    microcode: list[dict[str, object]] = [
        {"run": run, "position": i, "boot": m.boot, "processor": m.processor, "flags": f"{m.flags:#x}",
         "before": f"{m.before:#010x}", "offered": _hex(m.offered), "after": _hex(m.after),
         "outcome": m.outcome.value}
        for i, m in enumerate(record.microcode)
    ]  # fmt: skip
    return scenarios, findings, microcode


def stored_run(
    row: sa.RowMapping,
    scenarios: Sequence[sa.RowMapping],
    findings: Mapping[int, Sequence[sa.RowMapping]],
    microcode: Sequence[sa.RowMapping],
) -> StoredRun:
    """A run from its rows; `findings` by their scenario's position."""
    record = RunRecord(
        started=datetime.fromisoformat(row["started"]),
        machine=row["machine"],
        model=row["model"],
        signature=int(row["signature"], 16),
        image=row["image"],
        image_sha256=row["image_sha256"],
        virtual=row["virtual"],
        verdict=Verdict(row["verdict"]),
        seconds=row["seconds"],
        capture=row["capture"],
        scenarios=tuple(
            ScenarioResult(
                scenario=s["scenario"],
                verdict=Verdict(s["verdict"]),
                windows=s["windows"],
                predicted=s["predicted"],
                replayed=s["replayed"],
                resets=s["resets"],
                digests=s["digests"],
                findings=tuple(_finding(f) for f in findings.get(s["position"], ())),
                reason=s["reason"],
            )
            for s in scenarios
        ),
        details=json.loads(row["details"]),
        microcode=tuple(
            MicrocodeRow(
                boot=m["boot"],
                processor=m["processor"],
                flags=int(m["flags"], 16),
                before=int(m["before"], 16),
                offered=_number(m["offered"]),
                after=_number(m["after"]),
                outcome=Transition(m["outcome"]),
            )
            for m in microcode
        ),
    )
    pruned = datetime.fromisoformat(row["pruned"]) if row["pruned"] else None
    return StoredRun(row["id"], record, row["manifest"], pruned)


def _finding_row(finding: Finding) -> dict[str, object]:
    return {
        "component": finding.component,
        "summary": finding.summary,
        "window": finding.window,
        "event": finding.event,
        "step": finding.step,
        "field": finding.field_name,
        "expected": _to_text(finding.expected),
        "observed": _to_text(finding.observed),
        "why": finding.why,
        "witness": json.dumps(dict(finding.witness), sort_keys=True),
    }


def _finding(row: sa.RowMapping) -> Finding:
    return Finding(
        component=row["component"],
        summary=row["summary"],
        window=row["window"],
        event=row["event"],
        step=row["step"],
        field_name=row["field"],
        expected=_from_text(row["expected"]),
        observed=_from_text(row["observed"]),
        why=row["why"],
        witness=json.loads(row["witness"]),
    )


def _to_text(value: int | str | None) -> str | None:
    """A number as hexadecimal text, a text as a JSON string, so that the two stay apart."""
    if value is None:
        return None
    return f"{value:#x}" if isinstance(value, int) else json.dumps(value)


def _from_text(text: str | None) -> int | str | None:
    if text is None:
        return None
    return str(json.loads(text)) if text.startswith('"') else int(text, 16)


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#010x}"


def _number(text: Any) -> int | None:
    return None if text is None else int(text, 16)
