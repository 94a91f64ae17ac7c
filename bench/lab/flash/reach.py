"""A machine's known-good system, brought to answer over SSH, and switched off so that its disk is whole."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping

from bench.errors import LabError, UsageError
from bench.hardware import SshAccess
from bench.lab.flash.oneshot import Arming, ask
from bench.lab.power import Power, PowerState
from bench.lab.ssh import Ssh, SshError, port_open
from bench.lab.text import escape
from bench.records import Machine

# A system that runs answers at once; one that was just switched on is not waited for, but started anew.
RUNNING_S = 10.0
# From the boot loader to a system that takes logins.
SYSTEM_S = 180.0
EVERY_S = 0.5
# A system that writes what it has and unmounts.
SHUTDOWN_S = 120.0
# Where the switch cannot tell: from the last answer to power that may be cut.
UNSEEN_S = 20.0
STARTS = 2


def access_of(machine: Machine) -> SshAccess:
    """Its way in. Raises UsageError if it has none."""
    if machine.wiring.ssh is None:
        raise UsageError(f"{machine.name}: ssh: missing: images go onto the machine over SSH")
    return machine.wiring.ssh


def reach(machine: Machine, power: Power, *, wait_s: float) -> tuple[Ssh, Mapping[str, str]]:
    """A connection to its running system, which is started as often as it takes, and how it was come by.

    `wait_s` is what one start may take. Raises LabError; a host key that is not the pinned one ends it at once.
    """
    access = access_of(machine)
    begun = time.monotonic()
    state = power.state()
    last: SshError | None = None
    if state is not PowerState.OFF:
        try:
            return Ssh(access, timeout_s=RUNNING_S), {"system": "was running"}
        except SshError as error:
            if error.trouble == "refuses":
                raise
            last = error
        power.off()
    for start in range(1, STARTS + 1):
        power.on()
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            try:
                ssh = Ssh(access, timeout_s=RUNNING_S)
                took = f"{time.monotonic() - begun:.1f} s"
                return ssh, {"system": "was started", "starts": str(start), "start took": took}
            except SshError as error:
                if error.trouble == "refuses":
                    power.off()
                    raise
                last = error
            time.sleep(EVERY_S)
        power.off()
    words = f"its known-good system does not answer SSH {wait_s:g} s after power-on, {STARTS} times: {last}"
    raise LabError(f"{machine.name}: {words}", component="machine", witness=str(last))


def switch_off(machine: Machine, ssh: Ssh, power: Power, arming: Arming | None = None) -> Mapping[str, str]:
    """Have the system switch itself off, and set a one-shot just before; how it went off.

    One command for both: whoever is cut off in between has left the machine to finish it. Only a system that has
    unmounted its disks has everything where a boot loader, which replays no journal, finds it. Raises LabError if the
    one-shot reads back as another one (the system then stays on), or if the machine does not go off.
    """
    begun = time.monotonic()
    off = "sync; { sleep 1; poweroff; } >/dev/null 2>&1 </dev/null &"
    if arming is None:
        finished = ask(ssh, off)
    else:
        check = f'o=$({arming.command}); printf %s "$o"; [ "$o" = {shlex.quote(arming.expected)} ]'
        finished = ask(ssh, f"{check} && {{ {off} }}")
    if finished.status:
        seen = escape((finished.output or finished.complaints)[-200:]) or "nothing"
        words = f"the one-shot reads back as {seen}" if arming else f"cannot be switched off: {seen}"
        raise LabError(f"{machine.name}: {words}", component="boot loader" if arming else "machine", witness=seen)
    ssh.close()
    deadline = time.monotonic() + SHUTDOWN_S
    access = access_of(machine)
    while time.monotonic() < deadline:
        state = power.state()
        if state is PowerState.OFF:
            took = f"{time.monotonic() - begun:.1f} s"
            return {"off": "switched itself off", "off took": took}
        if state is PowerState.UNKNOWN and not port_open(access.host, access.port, timeout_s=2):
            time.sleep(UNSEEN_S)
            return {"off": f"does not answer any more since {UNSEEN_S:g} s"}
        time.sleep(0.1)
    words = f"did not switch itself off within {SHUTDOWN_S:g} s"
    raise LabError(f"{machine.name}: {words}", component="machine", witness=words)


def have_off(machine: Machine, power: Power) -> None:
    """Have the machine off, by its own system if that answers. Raises LabError."""
    if power.state() is PowerState.OFF:
        return
    try:
        with Ssh(access_of(machine), timeout_s=RUNNING_S) as ssh:
            switch_off(machine, ssh, power)
    except SshError as error:
        if error.trouble == "refuses":
            raise
    power.off()
