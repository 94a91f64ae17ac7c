"""The ways in which a power switch fails, each with a name of its own, and what is done about each: one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from bench.errors import LabError

T = TypeVar("T")


class Failure(StrEnum):
    """What a switch did instead of switching."""

    UNREACHABLE = "unreachable"
    """No connection: refused, no route, no answer to the first packet."""
    BUSY = "busy"
    """It answered that it cannot do it just now."""
    REFUSES = "refuses"
    """It answered no: wrong user or password, unknown outlet, a command that it does not know."""
    HANGS = "hangs"
    """It took the command and never answered."""
    LATE = "late"
    """It did it, but later than allowed."""
    LIES = "lies"
    """It said yes, and the state read back says no."""
    GARBLED = "garbled"
    """Its answer makes no sense."""


@dataclass(frozen=True)
class Retry:
    """How often a command is sent again, and how long is waited before."""

    times: int
    pause_s: float


# Refusals are never repeated: a BMC locks an account out after a few wrong passwords. A late device has done it.
RETRIES: Mapping[Failure, Retry] = {
    Failure.UNREACHABLE: Retry(2, 2.0),
    Failure.BUSY: Retry(3, 2.0),
    Failure.REFUSES: Retry(0, 0.0),
    Failure.HANGS: Retry(1, 1.0),
    Failure.LATE: Retry(0, 0.0),
    Failure.LIES: Retry(1, 1.0),
    Failure.GARBLED: Retry(1, 1.0),
}


class PowerError(LabError):
    """A switch failed: `failure` says how, `component` which, `witness` what was seen."""

    def __init__(self, message: str, failure: Failure, *, component: str, witness: str = "") -> None:
        super().__init__(message, component=component, witness=witness)
        self.failure = failure


def retried(
    work: Callable[[], T],
    *,
    table: Mapping[Failure, Retry] = RETRIES,
    pause: Callable[[float], object] = time.sleep,
) -> tuple[T, tuple[Failure, ...]]:
    """Do `work` as often as `table` allows; its result, and the failures on the way to it.

    Each kind of failure is counted by itself. Raises the last PowerError, whose text then says how often it was tried.
    """
    failures: list[Failure] = []
    while True:
        try:
            return work(), tuple(failures)
        except PowerError as error:
            failures.append(error.failure)
            retry = table[error.failure]
            if failures.count(error.failure) > retry.times:
                if len(failures) == 1:
                    raise
                raise PowerError(
                    f"{error} (tried {len(failures)} times: {', '.join(failures)})",
                    error.failure,
                    component=error.component,
                    witness=error.witness,
                ) from error
            pause(retry.pause_s)
