"""A machine's known-good system, brought to answer over SSH, and switched off so that its disk is whole."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack

from bench.errors import LabError, UsageError
from bench.hardware import SshAccess
from bench.lab.flash.oneshot import ask
from bench.lab.power import Power, PowerState
from bench.lab.ssh import COMPONENT, Ssh, SshError, greets, port_open
from bench.lab.text import escape
from bench.records import Machine

# A system that runs answers at once; one that was just switched on is not waited for, but started anew.
RUNNING_S = 10.0
# From the boot loader to a system that takes logins.
SYSTEM_S = 180.0
EVERY_S = 0.5
GREETING_S = 2.0
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
                ssh = connected(access)
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


def come_back(machine: Machine, power: Power, boot_id: str, *, wait_s: float) -> Ssh:
    """A connection to its system after a restart: to another one than that of `boot_id`.

    A machine that does not come back is switched off and started, once more as often as it takes. Raises LabError.
    """
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        try:
            with ExitStack() as closing:
                ssh = closing.enter_context(connected(access_of(machine)))
                if read_boot_id(ssh) not in ("", boot_id):
                    closing.pop_all()
                    return ssh
        except SshError as error:
            if error.trouble == "refuses":
                power.off()
                raise
        time.sleep(EVERY_S)
    power.off()
    return reach(machine, power, wait_s=wait_s)[0]


def read_boot_id(ssh: Ssh) -> str:
    """What tells a boot of a system from all others."""
    return escape(ssh.run("cat /proc/sys/kernel/random/boot_id", timeout_s=RUNNING_S).output.strip())


def connected(access: SshAccess) -> Ssh:
    """A connection, as soon as there can be one."""
    if not greets(access.host, access.port, timeout_s=GREETING_S):
        component = f"{COMPONENT} {access.host}"
        words = f"port {access.port}: no SSH server says its name within {GREETING_S:g} s"
        raise SshError(f"{component}: {words}", "unreachable", component=component, witness=words)
    return Ssh(access, timeout_s=RUNNING_S)


def switch_off(machine: Machine, ssh: Ssh, power: Power) -> Mapping[str, str]:
    """Have the system switch itself off; how it went off. Raises LabError if it does not."""
    begun = time.monotonic()
    finished = ask(ssh, "sync; { sleep 0.1 || sleep 1; poweroff; } >/dev/null 2>&1 </dev/null &")
    if finished.status:
        seen = escape((finished.output or finished.complaints)[-200:]) or "nothing"
        raise LabError(f"{machine.name}: cannot be switched off: {seen}", component="machine", witness=seen)
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
