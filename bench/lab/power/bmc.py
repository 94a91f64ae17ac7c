"""IPMI, Redfish and PDUDaemon: what `bmc_child` is told, and how its end is understood."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec

from bench.errors import UsageError
from bench.hardware import Cuts, IpmiSwitch, PduSwitch, RedfishSwitch
from bench.lab.power import PowerState, bmc_child
from bench.lab.power.device import Action, Device
from bench.lab.power.failure import Failure, PowerError
from bench.lab.secret import reveal
from bench.lab.text import escape

# An answer that comes within so many times the time allowed is late; one that does not is a device that hangs.
LATE_FACTOR = 2.0
_SAID_CHARACTERS = 300


class ChildDevice(Device):
    """A device that is spoken to by a child process, which is killed if it does not answer."""

    def __init__(self, component: str, *, answer_s: float) -> None:
        self.component = component
        self._answer_s = answer_s

    def _ask(self, request: Mapping[str, object]) -> Mapping[str, str]:
        """One order; what the device said, and its state if it was asked for."""
        limit_s = LATE_FACTOR * self._answer_s
        text = json.dumps({**request, "answer_s": limit_s})
        begun = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-I", bmc_child.__file__], input=text.encode(), capture_output=True, timeout=limit_s
            )
        except subprocess.TimeoutExpired:
            raise self._hangs(request) from None
        took_s = time.monotonic() - begun
        try:
            answer: dict[str, str] = json.loads(done.stdout)
        except ValueError:
            last = escape(done.stderr.rstrip().rpartition(b"\n")[2])[-_SAID_CHARACTERS:]
            raise self.fail(Failure.GARBLED, f"{request['do']}: its answer is not understood: {last}", last) from None
        said = escape(answer.get("said", "").encode()[:_SAID_CHARACTERS])
        if failure := answer.get("failure"):
            if failure == Failure.HANGS:
                raise self._hangs(request)
            raise self.fail(Failure(failure), f"{request['do']}: {failure}: {said}", said)
        if took_s > self._answer_s:
            words = f"answered after {took_s:.1f} s, {self._answer_s:g} s are allowed"
            raise self.fail(Failure.LATE, f"{request['do']}: {words} (key answer_s): {said}", words)
        return {**answer, "said": said}

    def _hangs(self, request: Mapping[str, object]) -> Exception:
        words = f"no answer within {LATE_FACTOR * self._answer_s:g} s"
        return self.fail(Failure.HANGS, f"{request['do']}: hangs: {words}", words)

    def read(self) -> PowerState:
        """Ask for the state."""
        return PowerState(self._ask(self._request("read"))["state"]) if self.readable else PowerState.UNKNOWN

    def act(self, action: Action) -> Mapping[str, str]:
        """Give the order."""
        return {"said": self._ask(self._request(action))["said"]}

    def _request(self, do: str) -> dict[str, object]:
        raise NotImplementedError


class BootingDevice(ChildDevice):
    """A BMC, which can also say from where its machine boots next."""

    def boot_next(self, *, network: bool, uefi: bool) -> Mapping[str, str]:
        """Have the machine's next boot, and only that one, be from the network, or as its firmware has it.

        Reads it back, and raises PowerError if the BMC took the order and nothing came of it.
        """
        wanted, do = ("network", "network next") if network else ("default", "default next")
        answer = self._ask(self._request(do) | {"uefi": uefi})
        if answer["next"] != wanted:
            words = f"took the order ({do}), and reads back {answer['next']}: {answer['said']}"
            raise self.fail(Failure.LIES, words, words)
        return {"next boot": f"{wanted}, read back from {self.component}", "said": answer["said"]}


def _need(library: str, component: str) -> None:
    if find_spec(library) is None:
        raise UsageError(f"{component}: the Python package {library} is not installed: pip install 'bench[rack]'")


class IpmiDevice(BootingDevice):
    """A BMC by IPMI 2.0 over LAN. Component ``IPMI HOST``. Raises UsageError without pyghmi."""

    cuts = Cuts.CHASSIS
    readable = True
    resets = True

    def __init__(self, switch: IpmiSwitch, *, answer_s: float) -> None:
        super().__init__(f"IPMI {switch.host}", answer_s=answer_s)
        _need("pyghmi", self.component)
        self._switch = switch

    def _request(self, do: str) -> dict[str, object]:
        switch = self._switch
        password = reveal(switch.password, whose=self.component)
        return {"protocol": "ipmi", "do": do, "host": switch.host, "port": switch.port, "user": switch.user,
                "password": password}  # fmt: skip


class RedfishDevice(BootingDevice):
    """A BMC by Redfish. Component ``Redfish URL``. Raises UsageError without sushy."""

    cuts = Cuts.CHASSIS
    readable = True
    resets = True

    def __init__(self, switch: RedfishSwitch, *, answer_s: float) -> None:
        super().__init__(f"Redfish {switch.url}", answer_s=answer_s)
        _need("sushy", self.component)
        self._switch = switch

    def _request(self, do: str) -> dict[str, object]:
        switch = self._switch
        password = reveal(switch.password, whose=self.component)
        return {"protocol": "redfish", "do": do, "url": switch.url, "user": switch.user, "password": password,
                "system": switch.system, "ca_file": switch.ca_file, "insecure": switch.insecure}  # fmt: skip


class PduDevice(ChildDevice):
    """Outlets by PDUDaemon, which cannot say their state. Component ``PDU NAME``."""

    cuts = Cuts.AC

    def __init__(self, switch: PduSwitch, *, answer_s: float) -> None:
        super().__init__(f"PDU {switch.pdu}", answer_s=answer_s)
        self._switch = switch

    def act(self, action: Action) -> Mapping[str, str]:
        """Every outlet, even if one fails; the first failure is then raised and says which outlets were done."""
        done: dict[str, str] = {}
        first: tuple[str, PowerError] | None = None
        for outlet in self._switch.outlets:
            request = {"protocol": "pdudaemon", "do": action, "url": self._switch.url, "pdu": self._switch.pdu,
                       "outlet": outlet}  # fmt: skip
            try:
                done[f"outlet {outlet}"] = self._ask(request)["said"]
            except PowerError as error:
                first = first or (outlet, error)
        if first is not None:
            outlet, failed = first
            rest = f"; {action} was accepted for {', '.join(done)}" if done else ""
            raise self.fail(failed.failure, f"outlet {outlet}: {failed}{rest}", failed.witness) from failed
        return done
