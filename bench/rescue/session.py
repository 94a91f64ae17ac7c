"""The rescue system on a machine: offered over the network once, started, connected to.

A boot that does not come to SSH ends in an error that names the first step that is missing: those of the network boot
(`bench.loading`), then those that the system itself tells of on the serial line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BootError, LabError, UsageError
from bench.hardware import SshAccess
from bench.images.small_system import BuiltSystem
from bench.lab import metal
from bench.lab.capture import CaptureWriter
from bench.lab.flash.reach import SYSTEM_S
from bench.lab.flash.refusals import NO_EARLY_LOADER
from bench.lab.load import Load
from bench.lab.net.loader import NetLoader
from bench.lab.net.place import Place
from bench.lab.power.switched import SwitchedPower
from bench.lab.ssh import Ssh, SshError, Way
from bench.lab.text import escape
from bench.loading import first_missing
from bench.parse.capture_file import read_captures
from bench.records import Finding, LabEventKind, Machine
from bench.rescue.kept import forget
from bench.rescue.keys import BootKeys, make_keys

USER, PORT = "root", 22
CONNECT_S = 10.0
# Nobody there says nothing at all.
REACH_S = 2.0
EVERY_S = 1.0
# What the system says of itself, in the order of coming → who has not done it if it is missing, and in which words.
SPOKEN: tuple[tuple[str, bytes, str, str], ...] = (
    ("kernel", rb"Linux version ", "kernel", "all was fetched, and no kernel speaks on the serial line"),
    ("system", rb"rescue: system ", "kernel", "the kernel speaks, and the rescue system does not begin"),
    ("card", rb"rescue: card ", "network driver", "the rescue system has no driver for the card that it came by"),
    ("address", rb"rescue: address ", "DHCP", "the rescue system was given no address"),
    ("SSH", rb"rescue: SSH listens ", "rescue system", "its SSH server does not start"),
)
_ADDRESS = re.compile(rb"rescue: address ([0-9.]{7,15})/")
_SYSTEM = re.compile(rb"rescue: system \S+, boot ([0-9a-f-]{36})")
_NO = re.compile(rb"rescue: no (card|address) [^\r\n]*")


@dataclass(frozen=True)
class Rescued:
    """A machine that runs the rescue system."""

    ssh: Ssh
    address: str
    access: SshAccess
    place: Place
    keys: BootKeys
    boot_id: str
    """As its kernel says it over SSH."""
    heard: bool
    """Whether the serial line said the same boot id: it is this machine's."""
    times: Mapping[str, float]
    """Step → seconds since power-on."""


def require_rescuable(machine: Machine) -> None:
    """Raise UsageError, with what to do about it, for a machine that cannot be offered a boot over the network."""
    wiring = machine.wiring
    if machine.virtual is not None and machine.virtual.host is None:
        raise UsageError(f"{machine.name}: a virtual machine without a network card: it has nothing to be rescued")
    if wiring.boot_network is None:
        raise UsageError(
            f"{machine.name}: the rescue system comes over the network: boot_methods needs 'pxe', and lab.toml a table "
            "[boot_network] (bench/lab/net/README.md)"
        )


def command_line(machine: Machine, server: str) -> str:
    """The rescue system's: its console, the card that it was started by, and who has to learn its address."""
    # The last console is init's; on the first a person at the machine reads along.
    words = [
        "console=tty0",
        f"console=ttyS0,{machine.serial_baud}",
        "panic=10",
        NO_EARLY_LOADER,
        f"bench.mac={machine.wiring.mac}",
    ]
    return " ".join([*words, f"bench.server={server}"])


@contextmanager
def rescued(
    machine: Machine,
    system: BuiltSystem,
    power: SwitchedPower,
    capture: CaptureWriter,
    *,
    loader: NetLoader | None = None,
    keep: bool = False,
    told: Callable[[str], None] = lambda _: None,
) -> Iterator[Rescued]:
    """Boot `system` on `machine`, which has to be ours, and log in; at the end it is off, unless `keep` and all went
    well. `loader`: one whose servers run already. `told` is given each step in words.

    Raises UsageError, LabError; BootError (component and witness of the first missing step) if SSH does not answer.
    """
    require_rescuable(machine)
    network = machine.wiring.boot_network
    assert network is not None
    ours = network.address.partition("/")[0]
    forget(machine.name)
    keys = make_keys(machine.name)
    initrd = system.initrd.read_bytes()
    load = Load(system.kernel, initrd + bytes(-len(initrd) % 4) + keys.archive, command_line(machine, ours))
    loader = loader or NetLoader()
    try:
        with metal.loaded(machine, load, power, loader, capture) as switch:
            capture.await_first()
            steps = _Steps(capture, told)
            capture.event(LabEventKind.POWER_ON, switch.on(), at=steps.begin)
            told("power is on")
            found = _answers(machine, loader.place, keys, capture, steps)
            try:
                yield found
            finally:
                found.ssh.close()
    except BaseException:
        keep = False
        raise
    finally:
        if not keep:
            capture.event(LabEventKind.POWER_OFF, power.off())


def _answers(
    machine: Machine,
    place: Place,
    keys: BootKeys,
    capture: CaptureWriter,
    steps: _Steps,
) -> Rescued:
    """The system, when it answers. Raises BootError, or SshError for another host key than this boot's."""
    allowed_s = metal.post_s(machine) + SYSTEM_S
    way = Way(lambda host, port, _: place.connect(host, port, timeout_s=REACH_S), keys.private_key)
    last: LabError | None = None
    # An init that found no card or got no address has no more to come: what is missing is known.
    while steps.gone_s < allowed_s and not _NO.search(steps.said):
        steps.look()
        for address in _addresses(machine, place, steps.said):
            access = SshAccess(address, USER, keys.host_key, PORT)
            try:
                ssh = Ssh(access, timeout_s=CONNECT_S, way=way)
            except LabError as error:
                if isinstance(error, SshError) and error.trouble == "refuses":
                    raise _somebody_else(capture.folder, error) from error
                last = error
                continue
            steps.came("SSH answers")
            with ExitStack() as closing:
                closing.enter_context(ssh)
                boot_id = escape(ssh.run("cat /proc/sys/kernel/random/boot_id", timeout_s=CONNECT_S).output.strip())
                steps.look()
                said = _SYSTEM.search(steps.said)
                heard = said is not None and said[1].decode() == boot_id
                witness = {"step": "rescue system", "address": address, "boot id": boot_id}
                capture.event(LabEventKind.LOADING, witness)
                closing.pop_all()
            return Rescued(ssh, address, access, place, keys, boot_id, heard, steps.times)
        time.sleep(EVERY_S)
    finding = missing(capture.folder, str(last) if last else "")
    raise BootError(
        f"{machine.name}: the rescue system does not answer SSH {steps.gone_s:.0f} s after power-on: {finding.summary}",
        component=finding.component,
        witness="; ".join(f"{name}: {text}" for name, text in finding.witness.items()),
    )


def _somebody_else(folder: Path, error: SshError) -> SshError:
    """What is to be said of another host key; often it is the machine's own system that came up."""
    _, network = _since_power_on(folder)
    why = f"; the rescue system has not come up: {network.summary}" if network else ""
    return SshError(f"{error}{why}", error.trouble, component=error.component, witness=error.witness)


def _addresses(machine: Machine, place: Place, said: bytes) -> Iterator[str]:
    """Where it may answer: at the address of its entry, where it says itself, where its card answers."""
    own = [machine.wiring.ip] if machine.wiring.ip else []
    told = [found[1].decode() for found in _ADDRESS.finditer(said)]
    yield from dict.fromkeys([*own, *told[-1:], *place.addresses_of(machine.wiring.mac)])


class _Steps:
    """What the serial line has told of since power-on, which is now."""

    def __init__(self, capture: CaptureWriter, told: Callable[[str], None]) -> None:
        self._capture, self._told = capture, told
        self.begin = capture.mark(LabEventKind.POWER_ON)
        self.times: dict[str, float] = {}

    @property
    def gone_s(self) -> float:
        """Seconds since power-on."""
        return self._capture.elapsed_s - self.begin.at_s

    @property
    def said(self) -> bytes:
        """What the machine said since."""
        return self._capture.read(self.begin.offset)

    def came(self, name: str, after_s: float | None = None) -> None:
        """Note a step, the first time."""
        if name not in self.times:
            self.times[name] = round(self.gone_s if after_s is None else after_s, 1)
            self._told(f"{name} after {self.times[name]} s")

    def look(self) -> None:
        """Note what is on the serial line now."""
        if self._capture.first is not None:
            self.came("first serial byte", self._capture.first.at_s - self.begin.at_s)
        data = self.said
        for name, words, _, _ in SPOKEN:
            if name not in self.times and words in data:
                self.came(name)


def missing(folder: Path, last: str) -> Finding:
    """The first step of a boot of the rescue system that is missing, from its capture; `last` is what SSH said."""
    data, network = _since_power_on(folder)
    if network is not None:
        return network
    witness = {"SSH": last} if last else {}
    for name, words, component, what in SPOKEN:
        if words in data:
            witness["last step"] = name
            continue
        if (found := _NO.search(data)) and found[1].decode() == name:
            witness["it says"] = escape(found[0])
        if name == "kernel" and not data:
            return Finding("serial line", "all was fetched, and not one byte came", witness=witness)
        return Finding(component, what, witness=witness)
    return Finding("boot network", "the rescue system is up, and cannot be reached from here", witness=witness)


def _since_power_on(folder: Path) -> tuple[bytes, Finding | None]:
    """What the machine said, and the first step of the network boot that is missing; None: all was fetched, or what the
    rescue system itself says shows that."""
    (capture,) = read_captures(folder)
    start = max((event.offset for event in capture.events if event.kind is LabEventKind.POWER_ON), default=0)
    data = capture.data[start:]
    came = {event.witness.get("step", "") for event in capture.events if event.kind is LabEventKind.LOADING}
    fetched = "spent" in came or any(words in data for _, words, _, _ in SPOKEN[1:])
    return data, None if fetched else first_missing(capture)


__all__ = ["SPOKEN", "Rescued", "command_line", "missing", "require_rescuable", "rescued"]
