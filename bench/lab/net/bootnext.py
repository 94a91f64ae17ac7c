"""BootNext as what selects the network: the machine's own system has its firmware start the card's entry once.

The entry is the firmware's own, found by the card's MAC in its device path. The order of booting (the disk first) is
not touched. No proof goes before it, as before a flash: firmware that did not forget BootNext would ask the network
again, where nothing is offered any more, and go on to the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from bench.errors import FormatError, LabError
from bench.lab.flash import boot_options, efivarfs
from bench.lab.flash.boot_options import option_name
from bench.lab.flash.guard import read_default, require_untouched
from bench.lab.flash.load_option import LoadOption, nodes
from bench.lab.flash.lookout import DOWN_S, Lookout
from bench.lab.flash.oneshot import done
from bench.lab.flash.reach import reach, switch_off
from bench.lab.flash.refusals import fallback_objection
from bench.lab.flash.refused import MethodRefused
from bench.lab.flash.restart import restart_into
from bench.lab.flash.system import System, read_system
from bench.lab.load import Note
from bench.lab.power import Power
from bench.records import OWN_SYSTEM_ANSWERS, Machine

METHOD = "pxe by BootNext"
DELAY_S = DOWN_S
# Nodes of a device path: UEFI 2.10, 10.3.4.
_MESSAGING, _MAC, _IPV4, _URI = 3, 11, 12, 24
_MAC_BYTES = 6


class NextBoot:
    """A machine whose own system runs, with the entry of its card found; nothing is set yet.

    `wait_s`: from power-on to a system that answers SSH. `http`: UEFI HTTP boot, else PXE. `updates`: what is booted
    offers microcode, which the system before it must not have loaded. Raises MethodRefused with the reasons, LabError;
    close it by `fall_back`.
    """

    def __init__(
        self, machine: Machine, power: Power, note: Note, *, wait_s: float, http: bool = False, updates: bool = False
    ) -> None:
        self._machine, self._power, self._note, self._wait_s = machine, power, note, wait_s
        self._lookout: Lookout | None = None
        self._ssh, how = reach(machine, power, wait_s=wait_s)
        try:
            if updates and "starts" not in how:
                # What its processor runs may have been loaded since power-on, and a restart may leave it there.
                switch_off(machine, self._ssh, power)
                self._ssh, how = reach(machine, power, wait_s=wait_s)
            note({"step": OWN_SYSTEM_ANSWERS, **how})
            system = read_system(self._ssh)
            self._boot_id, self._default = system.boot_id, read_default(self._ssh, system)
            self._number, self._option = self._entry(system, http, updates)
        except BaseException:
            self._ssh.close()
            raise
        self.witness = {
            "selected by": "bootnext", "entry": f"{option_name(self._number)} {self._option.description}",
            "boot id before": self._boot_id,
        }  # fmt: skip

    def _entry(self, system: System, http: bool, updates: bool) -> tuple[int, LoadOption]:
        objections = efivarfs.objections(system)
        if system.secure_boot:
            objections.append("Secure Boot is on: its firmware starts signed programs only, and ours are not")
        # A virtual machine forgets what it has taken.
        if updates and self._machine.virtual is None and (objection := fallback_objection(system.command_line)):
            objections.append(objection)
        if objections:
            raise MethodRefused(self._machine.name, METHOD, objections)
        options = boot_options.options(boot_options.ask_options(self._ssh))
        mac = self._machine.wiring.mac
        for number, option in sorted(options.items()):
            if is_network(option, mac, http=http):
                return number, option
        known = ", ".join(f"{option_name(number)} {each.description!r}" for number, each in sorted(options.items()))
        what = "HTTP boot" if http else "PXE"
        raise MethodRefused(
            self._machine.name, METHOD,
            [f"its firmware has no entry for {what} over IPv4 on the card {mac}; it has {known or 'none at all'}: "
             "switch the network stack on in the firmware's setup, with this card in it"],
        )  # fmt: skip

    def restart(self) -> Mapping[str, str]:
        """Set BootNext, read it back, and have the machine restart, in one command. Raises LabError."""
        with self._ssh:
            restart_into(self._machine.name, self._ssh, boot_options.arming(self._number))
        self._note({"step": "one-shot set", "method": METHOD, "entry": option_name(self._number)})
        self._lookout = Lookout(self._machine, self._boot_id, self._note)
        return {"start": "its own system restarts it"}

    def fall_back(self) -> Mapping[str, str]:
        """Its own system is started and asked: BootNext is used up or taken back, the default as it was; off then."""
        if self._lookout is not None:
            self._lookout.stop()
        self._ssh.close()
        ssh, how = reach(self._machine, self._power, wait_s=self._wait_s)
        try:
            pending = boot_options.next_number(boot_options.ask_options(ssh))
            if pending == self._number:
                done(ssh, efivarfs.removing(boot_options.NEXT), what="delete BootNext")
                if boot_options.next_number(boot_options.ask_options(ssh)) == self._number:
                    words = f"BootNext is still {option_name(self._number)} and cannot be taken back"
                    raise LabError(f"{self._machine.name}: {words}", component="boot loader", witness=words)
            system = read_system(ssh)
            require_untouched(self._machine.name, self._default, read_default(ssh, system))
            off = switch_off(self._machine, ssh, self._power)
        finally:
            ssh.close()
            self._power.off()
        was = "consumed" if pending is None else f"was still set: {option_name(pending)}"
        return {**how, "one-shot": was, "default": "untouched", "boot id": system.boot_id, **off}


def is_network(option: LoadOption, mac: str, *, http: bool) -> bool:
    """Whether a boot option starts from the card `mac` over IPv4: by HTTP boot, or else by PXE."""
    wanted = bytes.fromhex(mac.replace(":", ""))
    with suppress(FormatError):
        path = [node for node in nodes(option.paths) if node.kind == _MESSAGING]
        kinds = {node.subtype for node in path}
        card = any(node.subtype == _MAC and node.data[:_MAC_BYTES] == wanted for node in path)
        return card and _IPV4 in kinds and (_URI in kinds) is http
    return False
