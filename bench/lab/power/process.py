"""A virtual machine with a disk, switched as an outlet switches one of metal: its process is its mains.

It may reset as often as it likes, and switch itself off: then the process ends, and the state is off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.hardware import Cuts
from bench.lab.power import PowerState
from bench.lab.power.device import Action, Device
from bench.lab.power.qemu import QemuPower

# A guest's reset starts it again, its power-off ends QEMU; only the first start waits for the monitor.
HOST_OPTIONS = ("-S",)


class ProcessDevice(Device):
    """The process of `command`, run in `folder`. Every on is a new process."""

    component = "QEMU"
    cuts = Cuts.AC
    readable = True

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command, self._folder = command, folder
        self._power: QemuPower | None = None

    @property
    def pid(self) -> int | None:
        """QEMU's process id while it runs."""
        return self._power.pid if self._power is not None else None

    def act(self, action: Action) -> Mapping[str, str]:
        """Start the process unless it runs, or end it. Raises LabError with QEMU's words."""
        if action is Action.ON:
            if self.read() is PowerState.ON:
                return {"said": "was on"}
            self.close()
            self._power = QemuPower(self._command, self._folder, at_reset=HOST_OPTIONS)
            return dict(self._power.on())
        return dict(self.close())

    def read(self) -> PowerState:
        """ON while the process exists."""
        return PowerState.OFF if self.pid is None else PowerState.ON

    def close(self) -> Mapping[str, str]:
        """End the process if there is one."""
        power, self._power = self._power, None
        return power.off() if power is not None else {"said": "was off"}
