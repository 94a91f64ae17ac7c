"""Power of a machine: on, off, state; and what else the thing that powers it may know.

One small module per kind of switch. `Power` is what `lab.boot` sees of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bench.errors import UsageError


class PowerState(StrEnum):
    """What the switch says when asked."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"
    """It cannot tell: the witness is then the serial line, its silence and its first byte."""


class IncidentKind(StrEnum):
    """What a machine can do to its own power."""

    RESET = "reset"
    """It reset itself: a triple fault, the keyboard controller, port 0xcf9."""
    LOST = "lost"
    """It is gone, or switched itself off, although nobody asked for that."""
    STILL = "still"
    """None of its processors can ever go on: nothing more will come."""


@dataclass(frozen=True)
class Incident:
    """Something that happened while the power was on, with what was seen of it."""

    kind: IncidentKind
    witness: Mapping[str, str] = field(default_factory=dict)


class Power(ABC):
    """A power switch. Every call is bounded in time and raises LabError (with component and witness) on failure."""

    @abstractmethod
    def on(self) -> Mapping[str, str]:
        """Apply power. Returns the witness: what was read back."""

    @abstractmethod
    def off(self) -> Mapping[str, str]:
        """Remove power, whatever the state; harmless when repeated. Returns the witness."""

    @abstractmethod
    def state(self) -> PowerState:
        """Read the state back."""

    def reset(self) -> Mapping[str, str]:
        """Pulse the reset line: power stays, memory may. Raises UsageError where the switch has none."""
        raise UsageError("this power switch has no reset; off and on is `cycle`")

    def cycle(self) -> Mapping[str, str]:
        """Off, the shortest time that the machine has to be off, and on. Returns the witness of both."""
        off = {f"off {name}": value for name, value in self.off().items()}
        return off | dict(self.on())

    def incident(self) -> Incident | None:
        """The first thing that happened without being asked for; None where the switch cannot know."""
        return None

    def processor(self) -> Mapping[str, str]:
        """What the first processor is doing (registers, halted or not); empty where nobody can look."""
        return {}
