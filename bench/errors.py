"""The four ways in which an operation can fail, told apart by whose fault it was.

A kernel fault and a damaged serial line are data, not exceptions.
"""

from __future__ import annotations


class BenchError(Exception):
    """Root of the errors that the command line turns into one clear sentence."""

    exit_code = 3


class UsageError(BenchError):
    """Our call or configuration is wrong: never retried. The text names file and key, or the option."""

    exit_code = 2


class LabError(BenchError):
    """Port, power or network failed: `component` names what broke, `witness` what was seen."""

    exit_code = 3

    def __init__(self, message: str, *, component: str = "lab", witness: str = "") -> None:
        super().__init__(message)
        self.component = component
        self.witness = witness


class BootError(LabError):
    """The machine was powered but its marker never came; the capture so far is kept."""


class FormatError(BenchError):
    """A file is malformed; `offset` is the byte (binary) or line (text) at which that was seen."""

    exit_code = 2

    def __init__(self, message: str, *, source: str = "", offset: int | None = None) -> None:
        super().__init__(message)
        self.source = source
        self.offset = offset

    def __str__(self) -> str:
        where = self.source
        if self.offset is not None:
            where += f":{self.offset:#x}" if where else f"offset {self.offset:#x}"
        return f"{where}: {super().__str__()}" if where else super().__str__()
