"""One switch that can be told and, perhaps, asked: what the modules of this folder bring, each in a few lines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum

from bench.hardware import Cuts
from bench.lab.power import PowerState
from bench.lab.power.failure import Failure, PowerError


class Action(StrEnum):
    """What a switch can be told."""

    ON = "on"
    OFF = "off"
    RESET = "reset"


class Device(ABC):
    """One attempt a call, bounded by the device's own time limit; PowerError says how it failed."""

    component: str
    """Names it in errors and witnesses, such as ``IPMI 10.0.0.7``."""
    cuts: Cuts
    readable = False
    """Whether `read` can tell on from off."""
    resets = False
    """Whether it knows a reset beside on and off."""
    presses = False
    """Whether its on is a press of the front button: only for a machine that is off, and not to be repeated blindly."""

    @abstractmethod
    def act(self, action: Action) -> Mapping[str, str]:
        """Do it; returns what the device said."""

    def read(self) -> PowerState:
        """The state as the device has it; UNKNOWN from one that cannot tell."""
        return PowerState.UNKNOWN

    def fail(self, failure: Failure, message: str, witness: str = "") -> PowerError:
        """A failure of this device, with its name before the message."""
        return PowerError(f"{self.component}: {message}", failure, component=self.component, witness=witness)
