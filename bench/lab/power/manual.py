"""A person at the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.errors import UsageError
from bench.hardware import ManualSwitch
from bench.lab.power.device import Action, Device
from bench.lab.power.failure import Failure

Ask = Callable[[str], bool | None]
"""Shows a request and returns True (done), False (will not be done) or None (nobody answered in time)."""

WORDS: Mapping[Action, str] = {
    Action.ON: "switch it on",
    Action.OFF: "switch it off",
    Action.RESET: "press its reset button",
}


class ManualDevice(Device):
    """A `ManualSwitch`. Component ``person at MACHINE``."""

    resets = True

    def __init__(self, switch: ManualSwitch, machine: str, ask: Ask | None) -> None:
        if ask is None:
            raise UsageError(f"{machine}: its power is a person's work: run this where somebody can be asked")
        self._ask = ask
        self._machine = machine
        self.cuts = switch.cuts
        self.component = f"person at {machine}"

    def act(self, action: Action) -> Mapping[str, str]:
        """Ask for it."""
        request = f"{self._machine}: please {WORDS[action]}"
        match self._ask(request):
            case True:
                return {"said": "done"}
            case False:
                raise self.fail(Failure.REFUSES, f"would not {WORDS[action]}", "said no")
            case None:
                raise self.fail(Failure.HANGS, f"was asked to {WORDS[action]} and did not answer", "no answer")
