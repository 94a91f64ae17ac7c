"""KCIDB's JSON, version 5.3: checkouts, builds, tests, and an issue for each fingerprint with its incidents.

Its rules: an origin is ``[a-z0-9_]+``, ids begin with it, nothing is null, no text has NULs, what has no place of its
own goes into ``misc``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from bench.describe import printable
from bench.errors import UsageError
from bench.records import Finding, ScenarioResult, Verdict
from bench.report.export import story
from bench.report.fingerprint import fingerprint, telling
from bench.report.history import LAB_TROUBLE
from bench.report.rows import finding_row
from bench.store import StoredRun

MAJOR, MINOR = 5, 3
_ORIGIN = re.compile(r"[a-z0-9_]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOT_IN_PATHS = re.compile(r"[^A-Za-z0-9_-]+")
_EXCERPT_CHARACTERS = 16384
# Of one scenario; the others are much like them.
_FINDINGS = 10


def kcidb(runs: Iterable[StoredRun], *, origin: str) -> dict[str, Any]:
    """The document. Raises UsageError for an origin that KCIDB does not take."""
    if not _ORIGIN.fullmatch(origin):
        raise UsageError(f"--origin {origin!r}: KCIDB takes lower-case letters, digits and _ alone")
    checkouts: dict[str, dict[str, Any]] = {}
    builds: dict[str, dict[str, Any]] = {}
    issues: dict[str, dict[str, Any]] = {}
    tests: list[dict[str, Any]] = []
    incidents: list[dict[str, Any]] = []
    for run in runs:
        checkout, build = _source(run, origin)
        checkouts.setdefault(checkout["id"], checkout)
        builds.setdefault(build["id"], build)
        for scenario in run.record.scenarios:
            test = _test(run, scenario, build["id"], origin)
            tests.append(test)
            finding = telling(scenario)
            if finding and scenario.verdict in (Verdict.FAIL, *LAB_TROUBLE):
                issue = _issue(scenario, finding, origin)
                issues.setdefault(issue["id"], issue)
                incidents.append(_incident(test, issue, origin))
    document: dict[str, Any] = {"version": {"major": MAJOR, "minor": MINOR}}
    parts = {"checkouts": checkouts.values(), "builds": builds.values(), "tests": tests, "issues": issues.values()}
    document |= {name: list(rows) for name, rows in parts.items() if rows}
    return document | ({"incidents": incidents} if incidents else {})


def _source(run: StoredRun, origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
    record = run.record
    details = {printable(k): printable(v) for k, v in record.details.items()}
    commit = details.get("commit", "")
    checkout = {
        "id": f"{origin}:{commit or printable(record.image)}",
        "origin": origin,
        "comment": printable(" ".join(p for p in (record.image, details.get("release", "")) if p)),
        "valid": True,
        **({"git_commit_hash": commit} if _COMMIT.fullmatch(commit) else {}),
    }
    build = {
        "id": f"{origin}:{printable(record.image_sha256)}",
        "origin": origin,
        "checkout_id": checkout["id"],
        "architecture": "x86_64",
        "comment": printable(record.image),
        "status": "PASS",
        "misc": {"image_sha256": printable(record.image_sha256), **details},
    }
    return checkout, build


def _test(run: StoredRun, scenario: ScenarioResult, build: str, origin: str) -> dict[str, Any]:
    record = run.record
    excerpt = "\n".join(story(scenario))[:_EXCERPT_CHARACTERS]
    kind = "virtual: not silicon" if record.virtual else "silicon"
    name = printable(f"{record.machine}-{scenario.scenario}")
    return {
        "id": f"{origin}:{run.id}-{record.started:%Y%m%dT%H%M%S}-{name}",
        "origin": origin,
        "build_id": build,
        "environment": {
            "comment": printable(f"{record.machine} ({record.model}, {kind})"),
            "misc": {
                "machine": printable(record.machine),
                "model": printable(record.model),
                "signature": f"0x{record.signature:08x}",
                "virtual": record.virtual,
            },
        },
        "path": f"bench.{_path(record.image)}.{_path(scenario.scenario)}",
        "comment": printable(scenario.scenario),
        "status": str(scenario.verdict),
        "start_time": record.started.isoformat(),
        **({"log_excerpt": excerpt} if excerpt else {}),
        "misc": {
            "windows": scenario.windows,
            "faults_predicted": scenario.predicted,
            "faults_replayed": scenario.replayed,
            "resets": scenario.resets,
            "digests": scenario.digests,
            "run_seconds": record.seconds,
            "findings": [_without_nulls(finding_row(f)) for f in scenario.findings[:_FINDINGS]],
        },
    }


def _issue(scenario: ScenarioResult, finding: Finding, origin: str) -> dict[str, Any]:
    mark = fingerprint(finding)
    return {
        "id": f"{origin}:{mark}",
        "version": 1,
        "origin": origin,
        "comment": printable(f"{finding.component}: {finding.summary}"),
        "culprit": {
            "code": scenario.verdict is Verdict.FAIL,
            "tool": scenario.verdict is Verdict.ERROR,
            "harness": scenario.verdict is Verdict.MISS,
        },
        "misc": {"fingerprint": mark, "field": printable(finding.field_name)},
    }


def _incident(test: dict[str, Any], issue: dict[str, Any], origin: str) -> dict[str, Any]:
    return {
        "id": f"{origin}:{issue['misc']['fingerprint']}-{test['id'].partition(':')[2]}",
        "origin": origin,
        "issue_id": issue["id"],
        "issue_version": 1,
        "test_id": test["id"],
        "present": True,
    }


def _path(text: str) -> str:
    return _NOT_IN_PATHS.sub("_", text).strip("_") or "unnamed"


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """And with nothing but printable text."""
    return {k: _plain(v) for k, v in row.items() if v is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {printable(str(k)): _plain(v) for k, v in value.items()}
    return printable(value) if isinstance(value, str) else value
