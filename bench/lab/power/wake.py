"""Wake-on-LAN to switch on, SSH to the machine itself to switch off."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from bench.hardware import Cuts, WakeSwitch
from bench.lab.power.device import Action, Device
from bench.lab.power.failure import Failure
from bench.lab.ssh import Ssh, SshError

# Three packets, since each may be lost; a machine that is on takes no notice of them.
PACKETS = 3


class WakeDevice(Device):
    """A `WakeSwitch`. It cannot say its state: a machine that hangs is as silent as one that is off.

    Component ``wake MAC``.
    """

    cuts = Cuts.CHASSIS

    def __init__(self, switch: WakeSwitch, *, answer_s: float) -> None:
        self._switch = switch
        self._answer_s = answer_s
        self.component = f"wake {switch.mac}"

    def act(self, action: Action) -> Mapping[str, str]:
        """Send the magic packet, or have the running system switch itself off."""
        match action:
            case Action.ON:
                return self._wake()
            case Action.OFF:
                return self._switch_off()
            case Action.RESET:
                raise self.fail(Failure.REFUSES, "cannot reset")

    def _wake(self) -> Mapping[str, str]:
        where = (self._switch.broadcast, self._switch.port)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                for _ in range(PACKETS):
                    sender.sendto(magic_packet(self._switch.mac), where)
        except OSError as error:
            raise self.fail(Failure.UNREACHABLE, f"{where[0]}: {error}", str(error)) from error
        return {"said": f"{PACKETS} packets sent to {where[0]} port {where[1]}"}

    def _switch_off(self) -> Mapping[str, str]:
        switch = self._switch
        try:
            with Ssh(switch.ssh, timeout_s=self._answer_s) as machine:
                try:
                    done = machine.run(switch.off, timeout_s=self._answer_s)
                except SshError as error:
                    # The connection breaks when the machine goes down before it has said goodbye.
                    if error.trouble != "unreachable":
                        raise
                    return {"said": f"`{switch.off}`: the connection broke"}
        except SshError as error:
            hint = "a machine that hangs has to be cut off from the mains: key power.ac"
            raise self.fail(Failure(error.trouble), f"{error}; {hint}", error.witness) from error
        if done.status:
            words = f"`{switch.off}` ends with {done.status}"
            raise self.fail(Failure.REFUSES, words, words)
        return {"said": f"`{switch.off}` ended with 0"}


def magic_packet(mac: str) -> bytes:
    """Six bytes 0xff, then the address 16 times (AMD, Magic Packet Technology, publication 20213)."""
    return b"\xff" * 6 + 16 * bytes.fromhex(mac.replace(":", ""))
