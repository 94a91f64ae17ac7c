"""A fingerprint groups equal findings: what differs, not at which address or in which run."""

from __future__ import annotations

import hashlib
import re

from bench.records import Finding, ScenarioResult, Verdict

# Components of findings that are no verdict on a kernel.
NOT_THE_KERNEL = frozenset(
    {"serial line", "power", "port", "machine", "payload", "script", "bench", "boot", "capture", "trace", "QEMU", "lab"}
)
_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9]+\b")


def fingerprint(finding: Finding) -> str:
    """Eight hexadecimal digits; the same for findings that differ in addresses, counts, windows and steps alone."""
    words = _NUMBER.sub("#", finding.summary)
    return hashlib.sha256(f"{finding.component}\n{finding.field_name}\n{words}".encode()).hexdigest()[:8]


def telling(scenario: ScenarioResult) -> Finding | None:
    """The finding that stands for the scenario: of a failure the first that is the kernel's own."""
    if scenario.verdict is Verdict.FAIL:
        for finding in scenario.findings:
            if finding.component not in NOT_THE_KERNEL:
                return finding
    return scenario.findings[0] if scenario.findings else None


def fingerprint_of(scenario: ScenarioResult) -> str:
    """That of its telling finding; empty if it has none."""
    finding = telling(scenario)
    return fingerprint(finding) if finding else ""
