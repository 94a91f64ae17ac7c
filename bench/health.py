"""Whether a machine of metal can be relied on: its checks, and the state in which two failures put it.

A machine is online until two examinations in a row have failed; then it is offline with the reason, and an examination
that passes brings it back. Drift of its firmware is a failure until somebody accepts it. How long its start takes is
learnt, for whoever has to wait for it (`Health.as_learnt`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Column, Float, Integer, MetaData, String, Table

from bench.bios_microcode import FACT, firmware_of
from bench.errors import LabError, UsageError
from bench.hardware import Netboot, OwnSystem
from bench.lab import metal
from bench.lab.capture import CaptureWriter
from bench.lab.fingerprint import SystemFacts, read_system
from bench.lab.flash.plan import look
from bench.lab.flash.refusals import NO_EARLY_LOADER, fallback_objection
from bench.lab.net import fall_through
from bench.lab.net.place import Place
from bench.lab.power import PowerState
from bench.lab.power.failure import PowerError
from bench.lab.power.switched import SwitchedPower
from bench.lab.ssh import Ssh
from bench.records import LabEventKind, Machine
from bench.rescue.examined import Booting, examined
from bench.store import Store

# So many examinations in a row have to fail before a machine is offline.
FAILURES_TO_OFFLINE = 2
CLOCK_S = 60.0
FREE_BYTES = 256 << 20
SSH_EVERY_S = 2.0
FALL_THROUGH = "network, then disk"
# The running revision, which the system may have loaded: in fingerprints of benches before, compared no more.
_FORMER_FACT = "microcode"

_metadata = MetaData()
_states = Table(
    "health",
    _metadata,
    Column("machine", String, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("offline_since", Float),
    Column("reason", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("examined", Float, nullable=False),
)
# A table of its own: older stores have the other one as it is.
_times = Table(
    "health_times",
    _metadata,
    Column("machine", String, primary_key=True),
    Column("first_byte_s", Float),
    Column("ssh_s", Float),
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `ok` is None where it could not be: `found` says why."""

    name: str
    ok: bool | None
    found: str


@dataclass(frozen=True)
class Condition:
    """How it stands with a machine."""

    machine: str
    failures: int = 0
    """Examinations that failed in a row."""
    offline_since: float | None = None
    """Seconds since 1970; None: it is online."""
    reason: str = ""
    fingerprint: Mapping[str, str] | None = None
    """The firmware's, as last accepted; None: never read."""
    time_to_first_byte_s: float | None = None
    time_to_ssh_s: float | None = None
    """From power-on, as last seen; that to SSH is an upper bound of the time to POST. None: never seen."""

    @property
    def why_offline(self) -> str:
        """Since when, why and the way back, in words; empty if it is online."""
        if self.offline_since is None:
            return ""
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.offline_since))
        return f"offline since {since}: {self.reason}; when that is mended: bench health {self.machine}"


@dataclass(frozen=True)
class Examination:
    """What came of one."""

    checks: tuple[Check, ...]
    condition: Condition
    time_to_first_byte_s: float | None = None
    time_to_ssh_s: float | None = None
    time_to_disk_s: float | None = None
    """From power-on or restart, over a network where nobody offers anything, to its own system's SSH."""

    @property
    def ok(self) -> bool:
        """Whether nothing has failed."""
        return all(check.ok is not False for check in self.checks)


class Health:
    """The conditions in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        with store.reading() as connection:
            made = set(sa.inspect(connection).get_table_names())
        if not made >= _metadata.tables.keys():
            with store.writing() as connection:
                _metadata.create_all(connection)

    def condition(self, machine: str) -> Condition:
        """How it stands with `machine`; online if it was never examined."""
        with self._store.reading() as connection:
            row = connection.execute(sa.select(_states).where(_states.c.machine == machine)).mappings().first()
            times = connection.execute(sa.select(_times).where(_times.c.machine == machine)).mappings().first()
        if row is None:
            return Condition(machine)
        fingerprint = json.loads(row["fingerprint"]) if row["fingerprint"] else None
        seen = (times["first_byte_s"], times["ssh_s"]) if times is not None else (None, None)
        return Condition(machine, row["failures"], row["offline_since"], row["reason"], fingerprint, *seen)

    def as_learnt(self, machine: Machine) -> Machine:
        """`machine` with what its examinations have measured: whoever waits for it then waits long enough."""
        learnt = self.condition(machine.name).time_to_ssh_s
        return replace(machine, wiring=replace(machine.wiring, learnt_post_s=learnt))

    def require_online(self, machine: str) -> None:
        """Raise LabError (component ``machine``) if it is offline, with the reason and the way back."""
        now = self.condition(machine)
        if now.why_offline:
            raise LabError(f"{machine}: {now.why_offline}", component="machine", witness=now.reason)

    def note(
        self,
        machine: str,
        failed: list[str],
        fingerprint: Mapping[str, str] | None,
        *,
        first_byte_s: float | None = None,
        ssh_s: float | None = None,
    ) -> Condition:
        """Keep the outcome of an examination; `failed` is empty if it passed, what was not seen stays as it was."""
        before = self.condition(machine)
        failures = before.failures + 1 if failed else 0
        offline = failures >= FAILURES_TO_OFFLINE
        since = (before.offline_since or time.time()) if offline else None
        kept = fingerprint if fingerprint is not None else before.fingerprint
        byte_s = first_byte_s if first_byte_s is not None else before.time_to_first_byte_s
        ssh_s = ssh_s if ssh_s is not None else before.time_to_ssh_s
        after = Condition(machine, failures, since, "; ".join(failed), kept, byte_s, ssh_s)
        row = {"machine": machine, "failures": failures, "offline_since": since, "reason": after.reason,
               "fingerprint": json.dumps(dict(kept)) if kept is not None else "", "examined": time.time()}  # fmt: skip
        with self._store.writing() as connection:
            connection.execute(sa.delete(_states).where(_states.c.machine == machine))
            connection.execute(sa.insert(_states).values(**row))
            connection.execute(sa.delete(_times).where(_times.c.machine == machine))
            connection.execute(sa.insert(_times).values(machine=machine, first_byte_s=byte_s, ssh_s=ssh_s))
        return after


def examine(
    machine: Machine,
    health: Health,
    folder: Path,
    *,
    power: SwitchedPower,
    accept_drift: bool = False,
    visit: Callable[[Ssh], Iterable[Check]] = lambda _: (),
    told: Callable[[Check], None] = lambda _: None,
    rescue: Booting | None = None,
    place: Place | None = None,
) -> Examination:
    """Switch `machine` off and on, listen, log in, look around, switch it off; captured into `folder`.

    `visit` is given its known-good system, if that answers. `rescue` boots a system over the network in place of its
    own. `place`: its boot network, if that is not an interface of this computer. The machine must be ours
    (`bench.leases`). Raises UsageError for a virtual machine; trouble is a failed check.
    """
    if machine.virtual is not None:
        raise UsageError(f"{machine.name}: a virtual machine is made anew for each run: nothing to examine")
    if rescue is None and machine.wiring.known_good is OwnSystem.RESCUE:
        raise UsageError(f"{machine.name}: known_good: 'rescue': it is examined by that system, and none was given")
    checks: list[Check] = []

    def check(name: str, ok: bool | None, found: str) -> bool:
        checks.append(Check(name, ok, found))
        told(checks[-1])
        return ok is not False

    times: dict[str, float] = {}
    facts: SystemFacts | None = None
    try:
        with _captured(machine, folder) as capture:
            check("serial port", True, f"{machine.serial_url} opens")
            try:
                _switched_off(power, check)
                if rescue is not None:
                    facts = examined(rescue, power, capture, check, times)
                else:
                    with _network(machine, place, check) as asks:
                        facts = _known_good(machine, power, capture, check, times, visit)
                    if facts is not None and fall_through.goes_by_network(machine):
                        _falls_through(machine, power, asks, place, check, times)
                    elif asks is not None and asks.after_s is not None and machine.wiring.ssh is not None:
                        words = f"asked the network after {asks.after_s} s, where nobody offered anything"
                        check(FALL_THROUGH, False, f"{words}, and its disk's system was not seen to come up")
            finally:
                left = power.off()
                check("left off", True, left["state"] if "state" in left else left.get("own switch", "off"))
    except LabError as error:
        check(error.component, False, str(error))
    if facts is not None and machine.allow_updates:
        objection = fallback_objection(facts.command_line)
        check(
            "known-good system loads no microcode",
            not objection,
            objection or f"{NO_EARLY_LOADER} is on its command line",
        )
    known = health.condition(machine.name).fingerprint
    own = rescue is None
    new = _judge_system(facts, known, accept_drift, check, own=own) if facts is not None else None
    failed = [f"{one.name}: {one.found}" for one in checks if one.ok is False]
    byte_s, ssh_s = times.get("first byte"), times.get("ssh")
    condition = health.note(machine.name, failed, new, first_byte_s=byte_s, ssh_s=ssh_s)
    return Examination(tuple(checks), condition, byte_s, ssh_s, times.get("disk"))


@contextmanager
def _captured(machine: Machine, folder: Path) -> Iterator[CaptureWriter]:
    info = {"machine": machine.name, "model": machine.model, "image": "known-good", "virtual": False}
    with CaptureWriter(
        folder, url=machine.serial_url, baud=machine.serial_baud, info=info, reconnect_s=metal.RECONNECT_S
    ) as capture:
        yield capture


_Check = Callable[[str, bool | None, str], bool]


def _switched_off(power: SwitchedPower, check: _Check) -> None:
    power.off()
    if not power.readable:
        check("power read back", None, "this switch cannot tell")
        return
    state = power.state()
    check("power read back", state is PowerState.OFF, f"says {state} after off")


def _known_good(
    machine: Machine,
    power: SwitchedPower,
    capture: CaptureWriter,
    check: _Check,
    times: dict[str, float],
    visit: Callable[[Ssh], Iterable[Check]],
) -> SystemFacts | None:
    """Boot what the machine boots by itself; what its system says, if it can be asked."""
    capture.await_first()
    begun, at_s = time.monotonic(), capture.elapsed_s
    capture.event(LabEventKind.POWER_ON, power.on())
    allowed_s = metal.system_s(machine)
    if fall_through.goes_by_network(machine) and machine.wiring.netboot is not Netboot.BOOTNEXT:
        allowed_s += fall_through.LONGEST_S
    if power.readable:
        state = power.state()
        check("power read back", state is PowerState.ON, f"says {state} after on")
    access = machine.wiring.ssh
    facts = None
    if access is not None:
        last: LabError | None = None
        while facts is None and time.monotonic() - begun < allowed_s:
            try:
                with Ssh(access, timeout_s=min(15.0, allowed_s)) as ssh:
                    times["ssh"] = round(time.monotonic() - begun, 1)
                    facts = read_system(ssh)
                    for one in (*visit(ssh), *_one_shots(machine, ssh)):
                        check(one.name, one.ok, one.found)
            except LabError as error:
                last = error
                if getattr(error, "trouble", "") == "refuses":
                    break
                time.sleep(SSH_EVERY_S)
        said = f"{facts.kernel} after {times['ssh']} s" if facts else f"not within {allowed_s:g} s: {last}"
        check("known-good system", facts is not None, said)
    else:
        check("known-good system", None, "no [ssh] in the inventory")
        while capture.first is None and time.monotonic() - begun < allowed_s:
            capture.wait_change(capture.size, timeout_s=0.5)
    if capture.first is not None:
        times["first byte"] = round(capture.first.at_s - at_s, 1)
        check("serial line", True, f"first byte after {times['first byte']} s, {capture.size} bytes")
    else:
        check("serial line", False, f"no byte in {time.monotonic() - begun:.0f} s of a boot")
    return facts


@contextmanager
def _network(machine: Machine, place: Place | None, check: _Check) -> Iterator[fall_through.Asking | None]:
    """While it is started: who listens whether its card asks the network; None where that is not to be seen now."""
    if not fall_through.goes_by_network(machine) or machine.wiring.netboot is Netboot.BOOTNEXT:
        yield None
        return
    with ExitStack() as stack:
        listener = None
        try:
            listener = stack.enter_context(fall_through.asking(machine, place))
        except PowerError as error:
            check(FALL_THROUGH, False, f"its BMC does not select the network: {error}")
        except LabError as error:
            check(FALL_THROUGH, None, f"not seen: {error}")
        yield listener


def _falls_through(
    machine: Machine,
    power: SwitchedPower,
    listener: fall_through.Asking | None,
    place: Place | None,
    check: _Check,
    times: dict[str, float],
) -> None:
    """With the bench's servers off, a boot that asks the network has to end at the machine's disk."""
    if machine.wiring.netboot is Netboot.BOOTNEXT:
        found = fall_through.by_bootnext(machine, power, wait_s=metal.system_s(machine), place=place)
    elif listener is None:
        return
    else:
        found = fall_through.FallThrough(listener.after_s, times["ssh"])
    if found.asked_s is None:
        who = machine.wiring.netboot.value
        check(FALL_THROUGH, False, f"its disk's system came up, and its card asked nobody: netboot = {who!r} is not so")
        return
    times["disk"] = found.disk_s
    used = f", BootNext {found.one_shot}" if found.one_shot else ""
    words = f"asked the network after {found.asked_s} s, where nobody offered anything; its disk's system after"
    check(FALL_THROUGH, found.one_shot in ("", "consumed"), f"{words} {found.disk_s} s{used}")


def _one_shots(machine: Machine, ssh: Ssh) -> Iterator[Check]:
    """Nothing may be set for the next boot; and whether the loader is known to forget a one-shot."""
    for state, pending in look(machine, ssh):
        reasons = f": {'; '.join(state.reasons)}" if state.reasons else ""
        if pending:
            yield Check(f"one-shot by {state.method}", False, f"{pending} is still set: bench recover {machine.name}")
        elif state.state == "not proved yet":
            yield Check(f"one-shot by {state.method}", None, f"not proved yet: bench flash prove {machine.name}")
        else:
            yield Check(f"one-shot by {state.method}", state.state == "proved" or None, state.state + reasons)


def _judge_system(
    facts: SystemFacts, known: Mapping[str, str] | None, accept_drift: bool, check: _Check, *, own: bool
) -> Mapping[str, str] | None:
    """Look at what the system said; the fingerprint to keep, or None for the one that is kept."""
    check("clock", abs(facts.clock_off_s) <= CLOCK_S, f"{facts.clock_off_s:+.0f} s from ours, {CLOCK_S:g} are allowed")
    free, needed = facts.free_bytes >> 20, FREE_BYTES >> 20
    if own:
        check("room in /boot", facts.free_bytes >= FREE_BYTES, f"{free} MiB free, {needed} are needed")
    else:
        check("room in /boot", None, "it has no system of its own")
    now = firmware_of(facts)
    drift = differences(known, now) if known is not None else []
    if not drift:
        unseen = "" if FACT in now else f"; {FACT}: not to be seen"
        check("firmware", True, ("as before" if known is not None else f"{len(now)} facts noted") + unseen)
        before = {name: text for name, text in (known or {}).items() if name != _FORMER_FACT}
        return before | now
    check("firmware", accept_drift, ("accepted: " if accept_drift else "has changed: ") + "; ".join(drift))
    return now if accept_drift else None


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Each fact that is not as it was, in words. The BIOS's microcode revision is compared if both have it."""
    names = [*before, *(name for name in now if name not in before)]
    names = [name for name in names if name not in (FACT, _FORMER_FACT) or (name in before and name in now)]
    return [
        f"{name} was {before.get(name, 'not there')!r}, is {now.get(name, 'not there')!r}"
        for name in names
        if before.get(name) != now.get(name)
    ]
