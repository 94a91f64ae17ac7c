"""What the tests of flashing share: a machine with a disk, images that fail, and controllers that are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import paramiko
import pytest

from bench.hosts import with_files
from bench.images import build_payload
from bench.inventory import load_inventory
from bench.lab import ssh
from bench.lab.capture import CaptureWriter
from bench.lab.flash import restart
from bench.lab.flash.guard import read_default
from bench.lab.flash.kexec import KexecLoader
from bench.lab.flash.loader import FlashLoader
from bench.lab.flash.oneshot import said
from bench.lab.flash.plan import METHODS
from bench.lab.flash.proof import Proofs
from bench.lab.flash.reach import SYSTEM_S, reach
from bench.lab.flash.system import read_system
from bench.lab.load import Load, Loader, Note
from bench.lab.metal import system_s
from bench.lab.power import Power, PowerState
from bench.lab.virtual_host import Plugged, plugged
from bench.records import Machine
from bench.script import render

ROOT = Path(__file__).resolve().parents[2]
MACHINES = load_inventory(ROOT)
# Machine and method, each method once and GRUB on both firmwares.
WAYS = (
    ("host-bios-grub", "grub"),
    ("host-uefi-grub", "grub"),
    ("host-uefi-grub", "bootnext"),
    ("host-systemd-boot", "systemd-boot"),
)
QUIET_S = 20.0


def by(name: str, *methods: str, disk: str = "") -> Machine:
    """A machine of the inventory, loaded by `methods`, with another kind of disk if that is named."""
    return methods_of(MACHINES[name], *methods, disk=disk)


def methods_of(machine: Machine, *methods: str, disk: str = "") -> Machine:
    """`machine`, loaded by `methods`, with another kind of disk if that is named."""
    spec = machine.virtual
    assert spec is not None and spec.host is not None
    host = replace(spec.host, boot_methods=methods, disk=disk or spec.host.disk)
    return replace(machine, virtual=replace(spec, host=host))


@dataclass
class Host:
    """A machine in its rack, with an open capture, and its default as it was at first."""

    there: Plugged
    capture: CaptureWriter
    method: str
    proofs: Proofs
    default: Mapping[str, str]

    @property
    def machine(self) -> Machine:
        return self.there.machine

    @property
    def wait_s(self) -> float:
        return system_s(self.machine)

    def loader(self) -> FlashLoader:
        return FlashLoader(METHODS[self.method], wait_s=self.wait_s, proofs=self.proofs)

    def run(self, command: str) -> str:
        """On its own system, which is started if it has to be."""
        line, _ = reach(self.machine, self.there.power, wait_s=self.wait_s)
        with line:
            return said(line, command)

    def is_as_it_was(self) -> str:
        """Its own system answers, nothing is set for the next boot, the default is untouched; its boot id."""
        line, _ = reach(self.machine, self.there.power, wait_s=self.wait_s)
        with line:
            system = read_system(line)
            assert "bench" not in system.command_line
            assert METHODS[self.method].pending(line, system) == ""
            assert read_default(line, system) == self.default
            return system.boot_id


@contextmanager
def host(machine: Machine, method: str, folder: Path, proofs: Proofs) -> Iterator[Host]:
    with (
        plugged(with_files(machine, ROOT), folder) as there,
        CaptureWriter(folder / "capture", url=there.machine.serial_url, info={"machine": machine.name}) as capture,
    ):
        one = Host(there, capture, method, proofs, {})
        line, _ = reach(there.machine, there.power, wait_s=one.wait_s)
        with line:
            one.default = read_default(line, read_system(line))
        yield one
        there.power.off()


def image(folder: Path, kind: str) -> Load:
    """The payload with nothing to do; or all its code replaced: by breakpoints, or by what ends in an endless loop."""
    kernel = build_payload(ROOT).kernel
    if kind != "good":
        content = kernel.read_bytes()
        # What loaders read of it stays: the setup header, and the headers of PE, which are in the first 4 KiB.
        code = len(content) - 0x1000
        wrong = b"\xcc" * code if kind == "broken" else b"\x90" * (code - 2) + b"\xeb\xfe"
        kernel = folder / kind
        kernel.write_bytes(content[:0x1000] + wrong)
    return Load(kernel, render((), nonce=1), "")


class _Far(Power):
    """Power that another process switches."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def _ask(self, what: str) -> Mapping[str, str]:
        self._line.send(("power", what))
        answer: Mapping[str, str] = self._line.recv()
        return answer

    def on(self) -> Mapping[str, str]:
        return self._ask("on")

    def off(self) -> Mapping[str, str]:
        return self._ask("off")

    def state(self) -> PowerState:
        return PowerState(self._ask("state")["state"])


HALF, SENT = "half of it sent", "the command that restarts sent"


def _controller(line: Connection, make: Callable[[], Loader], machine: Machine, load: Load) -> None:
    """Loads and starts, and waits at each step: besides those that are noted in the middle of sending an image, and
    where the last command is given and not answered yet."""

    def note(step: Mapping[str, str]) -> None:
        line.send(("step", step["step"]))
        line.recv()

    whole, command = ssh._send, paramiko.Channel.exec_command

    def in_halves(channel: paramiko.Channel, content: bytes, stall_s: float) -> None:
        whole(channel, content[: len(content) // 2], stall_s)
        note({"step": HALF})
        whole(channel, content[len(content) // 2 :], stall_s)

    def given(channel: paramiko.Channel, words: str) -> None:
        command(channel, words)
        if restart._SET in words:
            note({"step": SENT})

    ssh._send, paramiko.Channel.exec_command = in_halves, given
    loader = make()
    loader.load(machine, load, _Far(line), note)
    loader.starting(_Far(line)).on()
    signal.pause()


def loader_of(method: str, wait_s: float, proofs: Proofs) -> Loader:
    if method == KexecLoader.name:
        return KexecLoader(system_s=SYSTEM_S, wait_s=wait_s)
    return FlashLoader(METHODS[method], wait_s=wait_s, proofs=proofs)


def killed_at(
    one: Host, step: str, load: Load, proofs: Path, method: str = "", make: Callable[[], Loader] | None = None
) -> list[str]:
    """Have another process load and start, and kill it when it notes `step`; the steps that it came to.

    `make` is called there for the loader that is no `method`.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    make = make or partial(loader_of, method or one.method, one.wait_s, Proofs(proofs))
    arguments = (theirs, make, one.machine, load)
    child = context.Process(target=_controller, args=arguments, daemon=True)
    child.start()
    theirs.close()
    actions: dict[str, Callable[[], Mapping[str, str]]] = {
        "on": one.there.power.on,
        "off": one.there.power.off,
        "state": lambda: {"state": one.there.power.state().value},
    }
    seen: list[str] = []
    try:
        while not seen or seen[-1] != step:
            kind, what = ours.recv()
            if kind == "power":
                ours.send(actions[what]())
                continue
            seen.append(what)
            if what != step:
                ours.send(None)
    finally:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    return seen


def nothing(step: Mapping[str, str]) -> None:
    del step


def noting(steps: list[str]) -> Note:
    return lambda step: steps.append(step["step"])


def fresh(load: Load, folder: Path, tail: bytes) -> Load:
    """The same image with other bytes behind it, so that it is not there yet."""
    kernel = folder / "fresh"
    kernel.write_bytes(load.kernel.read_bytes() + tail * 16)
    return Load(kernel, load.initrd, load.command_line)


def cut_in_mid_upload(one: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes when half of an image has been sent."""
    whole = ssh._send

    def cut(channel: paramiko.Channel, content: bytes, stall_s: float) -> None:  # noqa: ARG001
        whole(channel, content[: len(content) // 2], 5)
        one.there.power.off()
        whole(channel, content, 5)

    monkeypatch.setattr(ssh, "_send", cut)


def flip_in_mid_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit of an image is another one on its way."""
    whole = ssh._send

    def flip(channel: paramiko.Channel, content: bytes, stall_s: float) -> None:
        whole(channel, content[:100] + bytes([content[100] ^ 1]) + content[101:], stall_s)

    monkeypatch.setattr(ssh, "_send", flip)
