"""A machine's power over the devices that switch it: retries, reading back, the shortest off time, the last resort."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from bench.errors import UsageError
from bench.hardware import Cuts, PowerSpec
from bench.lab.power import Power, PowerState
from bench.lab.power.device import Action, Device
from bench.lab.power.failure import Failure, PowerError, retried

# How often a state is read back while it has not come about yet.
READ_EVERY_S = 0.25
# A state that comes about within so many times the time allowed came late; one that does not was a lie.
LATE_FACTOR = 2.0


class SwitchedPower(Power):
    """Power of a machine of metal: `device` for on and off, `ac` (if there is one) for the mains.

    Every call ends: see `PowerSpec` for the limits. Raises PowerError.
    """

    def __init__(
        self,
        device: Device,
        spec: PowerSpec,
        *,
        ac: Device | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.device = device
        self.ac = ac
        self._spec = spec
        self._pause = pause
        self._off_at: float | None = None
        """When it went off under our eyes; None: not known."""

    @property
    def readable(self) -> bool:
        """Whether the state can be read back; if not, the serial line has to bear witness."""
        return self.device.readable

    def on(self) -> Mapping[str, str]:
        """Mains first, where they are switched, then the machine, after its shortest off time."""
        witness: dict[str, str] = {}
        if self.ac is not None:
            witness |= {f"mains {name}": value for name, value in self._told(self.ac, Action.ON).items()}
            self._await_device()
        if self.device.presses and not self.readable:
            self._ensure_off_before_a_press()
        self._wait_minimum_off()
        witness |= self._told(self.device, Action.ON)
        self._off_at = None
        return witness

    def off(self) -> Mapping[str, str]:
        """Off; by the mains if the machine's own switch fails and the mains are switched."""
        try:
            witness = self._told(self.device, Action.OFF)
        except PowerError as error:
            if self.ac is None:
                raise
            witness = {"own switch": str(error)}
            witness |= {f"mains {name}": value for name, value in self._told(self.ac, Action.OFF).items()}
        self._off_at = time.monotonic()
        return witness

    def cold_cycle(self) -> Mapping[str, str]:
        """Take the mains away, standby power included, and bring the machine up again.

        Raises UsageError where nothing cuts the mains.
        """
        mains = self.ac or (self.device if self.device.cuts is Cuts.AC else None)
        if mains is None:
            raise UsageError(f"{self.device.component} leaves standby power on, and the machine has no power.ac")
        witness = {f"off {name}": value for name, value in self._told(mains, Action.OFF).items()}
        self._off_at = time.monotonic()
        self._wait_minimum_off()
        return witness | dict(self.on())

    def reset(self) -> Mapping[str, str]:
        """Pulse the reset line. Power is not seen to change, so nothing is read back."""
        if not self.device.resets:
            raise UsageError(f"{self.device.component} has no reset; off and on is `cycle`")
        said, failures = retried(partial(self.device.act, Action.RESET), pause=self._pause)
        return {"switch": self.device.component, **said, **_tries(failures)}

    def state(self) -> PowerState:
        """What the device says; UNKNOWN if it cannot."""
        return retried(self.device.read, pause=self._pause)[0]

    def processor(self) -> Mapping[str, str]:
        """Nobody can look at the processor; whether the machine has power is what can be said, in one attempt."""
        if not self.readable:
            return {"power": "not read back: this switch cannot tell"}
        try:
            return {"power": f"read back {self.device.read()}"}
        except PowerError as error:
            return {"power": f"cannot be read back: {error}"}

    def _told(self, device: Device, action: Action) -> dict[str, str]:
        """`action` done and read back, with retries; the witness of it."""
        begun = time.monotonic()

        def attempt() -> dict[str, str]:
            return {**device.act(action), "state": self._confirm(device, action)}

        blind_press = action is Action.ON and device.presses and not device.readable
        witness, failures = (attempt(), ()) if blind_press else retried(attempt, pause=self._pause)
        took = f"{time.monotonic() - begun:.2f} s"
        return {"switch": device.component, **witness, "took": took, **_tries(failures)}

    def _confirm(self, device: Device, action: Action) -> str:
        """Read back until the state is the one that was asked for; in words. Raises PowerError LATE or LIES."""
        if not device.readable:
            return "not read back: this switch cannot tell"
        wanted = PowerState(action)
        begun = time.monotonic()
        allowed_s = self._spec.settle_s
        while (state := device.read()) is not wanted:
            waited_s = time.monotonic() - begun
            if waited_s > LATE_FACTOR * allowed_s:
                words = f"took the order {action} and still says {state} after {waited_s:.1f} s"
                raise device.fail(Failure.LIES, words, words)
            time.sleep(READ_EVERY_S)
        waited_s = time.monotonic() - begun
        if waited_s > allowed_s:
            words = f"was {action} after {waited_s:.1f} s, {allowed_s:g} s are allowed"
            raise device.fail(Failure.LATE, f"{words} (key settle_s)", words)
        return f"read back {wanted}"

    def _await_device(self) -> None:
        """A BMC whose mains have just come back takes a while."""
        deadline = time.monotonic() + self._spec.bmc_start_s
        while True:
            try:
                self.device.read()
                return
            except PowerError as error:
                patient = error.failure in (Failure.UNREACHABLE, Failure.HANGS, Failure.BUSY)
                if not patient or time.monotonic() > deadline:
                    raise
            self._pause(1.0)

    def _ensure_off_before_a_press(self) -> None:
        """A press of the button switches a running machine off, or asks its system to: have it off first."""
        if self._off_at is None:
            self.off()

    def _wait_minimum_off(self) -> None:
        if self._off_at is None:
            # Nobody saw it go off: it is on, or off since nobody knows when.
            if self.readable and self.device.read() is PowerState.ON:
                return
            self._off_at = time.monotonic()
        left_s = self._off_at + self._spec.minimum_off_s - time.monotonic()
        if left_s > 0:
            self._pause(left_s)


def _tries(failures: tuple[Failure, ...]) -> dict[str, str]:
    return {"after": ", ".join(failures)} if failures else {}
