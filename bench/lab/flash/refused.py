"""A way to load a machine that its own state rules out: another way may still do."""

from __future__ import annotations

from bench.errors import LabError


class MethodRefused(LabError):
    """Nothing was changed; `reasons` say what is in the way, one sentence each."""

    def __init__(self, machine: str, method: str, reasons: list[str]) -> None:
        words = "; ".join(reasons)
        super().__init__(f"{machine}: {method}: {words}", component="boot loader", witness=words)
        self.method = method
        self.reasons = tuple(reasons)
