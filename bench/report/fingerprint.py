"""A fingerprint groups equal findings: what differs, not at which address or in which run."""

from __future__ import annotations

import hashlib
import re

from bench.records import Finding, ScenarioResult

_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9]+\b")


def fingerprint(finding: Finding) -> str:
    """Eight hexadecimal digits; the same for findings that differ in addresses, counts, windows and steps alone."""
    words = _NUMBER.sub("#", finding.summary)
    return hashlib.sha256(f"{finding.component}\n{finding.field_name}\n{words}".encode()).hexdigest()[:8]


def fingerprint_of(scenario: ScenarioResult) -> str:
    """That of its first finding; empty if it has none."""
    return fingerprint(scenario.findings[0]) if scenario.findings else ""
