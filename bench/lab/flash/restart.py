"""The one-shot set and the machine restarted into it by its own system, in one command that nobody can stop halfway.

Whoever gives the command may die at any moment. Before it has arrived nothing is set; once it has, the machine sets the
one-shot, reads it back and restarts, and the boot loader forgets it in that very boot. It is not switched off and on:
in between it would wait, with the one-shot set, for whoever switches it on next. A system that does not go down takes
the one-shot back.

GRUB replays no journal, and looks for image and entry where they lie on the disk in the end. A restart unmounts /boot;
for a power cut before that, everything is written there first (seen on ext4).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

from bench.errors import LabError
from bench.lab.flash.oneshot import PATH, Arming
from bench.lab.power import Incident, Power, PowerState
from bench.lab.ssh import Ssh
from bench.lab.text import escape

ANSWER_S = 60.0
# A system that is still there after so long will not go down; systemd waits 90 s for a service.
LATEST_S = 120.0
_SET = "bench: one-shot set"
# Until the restart has been asked for no signal is heeded, and a write to a connection that is gone may fail. From then
# on the system's own are: systemd waits 90 s for a process that does not heed them. The pause lets the answer out.
_SCRIPT = f"""
trap '' HUP INT TERM PIPE
sync
( setting ) >/dev/null
o=$(shown)
[ "$o" = "$expected" ] || {{ clearing >/dev/null; printf %s "$o"; exit 1; }}
echo '{_SET}'
exec >/dev/null 2>&1 </dev/null
{{
    sleep 0.1 || sleep 1
    restart & trap - HUP INT TERM; wait $!
    sleep $latest
    [ "$(shown)" != "$expected" ] || clearing
}} &
"""


def script(arming: Arming, *, restart: str = "reboot", latest_s: float = LATEST_S) -> str:
    """The shell command, in a session of its own; it prints what is set if that is not what was to be set."""
    head = [
        *(f"{name}() {{ {body}\n}}" for name, body in {
            "setting": arming.setting, "shown": arming.shown, "clearing": arming.clearing, "restart": restart,
        }.items()),
        f"expected={shlex.quote(arming.expected)} latest={latest_s:g}",
    ]  # fmt: skip
    whole = shlex.quote("\n".join(head) + _SCRIPT)
    return f"{PATH}$(command -v setsid) sh -c {whole}"


def restart_into(machine: str, ssh: Ssh, arming: Arming) -> None:
    """Set the one-shot and have the machine restart. Raises LabError if it reads back as another one: the system then
    stays up, with nothing set."""
    finished = ssh.run(script(arming), timeout_s=ANSWER_S)
    if _SET.encode() not in finished.output:
        seen = escape((finished.output or finished.complaints)[-200:].strip()) or "nothing"
        raise LabError(f"{machine}: the one-shot reads back as {seen}", component="boot loader", witness=seen)


class RestartPower(Power):
    """`power` of a machine that its own system restarts, by `restart`, where others are switched on."""

    def __init__(self, power: Power, restart: Callable[[], Mapping[str, str]]) -> None:
        self._power = power
        self._restart = restart

    def on(self) -> Mapping[str, str]:
        """Have the machine restart."""
        return self._restart()

    def off(self) -> Mapping[str, str]:
        """See Power."""
        return self._power.off()

    def state(self) -> PowerState:
        """See Power."""
        return self._power.state()

    def incident(self) -> Incident | None:
        """See Power."""
        return self._power.incident()

    def processor(self) -> Mapping[str, str]:
        """See Power."""
        return self._power.processor()
