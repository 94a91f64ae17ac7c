"""What every way of starting something once has in common.

The order is the same for all, and it is what makes a lab that dies at any step harmless: files, then the entry, both on
disk, and last, in one command with the machine's own restart, the variable that makes the next boot take it. The
default is never written. The boot loader clears the variable before it starts anything; that it does is proved first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import LabError
from bench.lab.flash.system import System
from bench.lab.ssh import Finished, Ssh
from bench.lab.text import escape

COMMAND_S = 60.0
PREFIX = "bench-"
"""How the names of our entries begin; nothing else is ever removed."""
WORD = "bench.oneshot="
PATH = "PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin\n"
"""In front of commands: root's login shell may not look where the tools are."""


@dataclass(frozen=True)
class Entry:
    """Something to start once. Paths are the machine's, absolute."""

    token: str
    """What tells it from all others: hexadecimal digits."""
    kernel: str
    initrd: str
    """Empty: none."""
    command_line: str

    @property
    def name(self) -> str:
        """What the boot loader calls it."""
        return PREFIX + self.token


@dataclass(frozen=True)
class Arming:
    """How a one-shot is set, in shell commands: `shown` prints `expected` if it is what is set."""

    setting: str
    """Sets it, and has it on disk."""
    shown: str
    expected: str
    clearing: str
    """Takes it back, and has that on disk."""


@dataclass(frozen=True)
class Addition:
    """How an entry gets onto the machine: a shell command with its input. Nothing starts the entry yet."""

    command: str
    stdin: bytes
    arming: Arming
    """What makes the next boot take it."""


@dataclass(frozen=True)
class Left:
    """What of the bench's a machine has from before."""

    pending: str
    """What the next boot will take instead of the default; empty: the default."""
    entries: bool
    """Whether there are entries of ours."""

    @property
    def something(self) -> bool:
        """Whether there is anything to be withdrawn."""
        return self.entries or self.pending.startswith(PREFIX)


class OneShot(ABC):
    """A way to start an entry at the next boot and at no other. Raises LabError."""

    name: str
    questions: str
    """Shell that asks for what `left` and `adding` go by, behind the system's own questions; it sets $f to the folder
    of the images, or to nothing."""

    @abstractmethod
    def objections(self, system: System) -> list[str]:
        """What on this machine is in the way of it; empty: it may work, and the proof will tell."""

    @abstractmethod
    def image_objections(self, kernel: bytes) -> list[str]:
        """What of an image is in the way of it."""

    @abstractmethod
    def folder(self, system: System) -> tuple[str, int]:
        """Where images go, and how many bytes are free there."""

    @abstractmethod
    def left(self, answers: Mapping[str, str]) -> Left:
        """What there is from before, by the answers to `questions`."""

    @abstractmethod
    def adding(self, system: System, answers: Mapping[str, str], entry: Entry) -> Addition:
        """What writes the entry, and has it on disk."""

    @abstractmethod
    def twin(self, ssh: Ssh, system: System, answers: Mapping[str, str], token: str) -> tuple[Entry, Addition]:
        """An entry that starts what the default starts, told apart by `ran`, and what writes it."""

    @abstractmethod
    def pending(self, ssh: Ssh, system: System) -> str:
        """The name of what the next boot will take instead of the default; empty: the default."""

    @abstractmethod
    def ran(self, ssh: Ssh, system: System, entry: Entry) -> bool:
        """Whether the system that answers was started by the twin `entry`."""

    @abstractmethod
    def withdraw(self, ssh: Ssh, system: System) -> list[str]:
        """Remove our entries and, if it is ours, what the next boot would take; what was removed, in words."""


def ask(ssh: Ssh, command: str, *, stdin: bytes = b"", timeout_s: float = COMMAND_S) -> Finished:
    """Run `command` with the tools' folders in its path."""
    return ssh.run(PATH + command, timeout_s=timeout_s, stdin=stdin)


def done(ssh: Ssh, command: str, *, what: str, stdin: bytes = b"", timeout_s: float = COMMAND_S) -> bytes:
    """Output of a command that has to succeed. Raises LabError: `what` is what was wanted of it."""
    finished = ask(ssh, command, stdin=stdin, timeout_s=timeout_s)
    if finished.status:
        words = escape(finished.complaints[-200:].strip()) or f"exit code {finished.status}"
        raise LabError(f"{ssh.component}: {what}: {words}", component=ssh.component, witness=words)
    return finished.output


def add(ssh: Ssh, addition: Addition, first: str = "true", then: str = "") -> bytes:
    """Write an entry, behind the command `first`; what `then` printed. Raises LabError."""
    command = f"{first} && {addition.command} || exit 1\n{then}"
    return done(ssh, command, what="write the entry", stdin=addition.stdin)


def said(ssh: Ssh, command: str) -> str:
    """What a command that may fail printed, as one safe line."""
    return " ".join(escape(ask(ssh, command).output).replace("\\x0a", " ").split())


def is_program_of_uefi(kernel: bytes) -> bool:
    """Whether UEFI can start it: MZ, and PE where that says (PE/COFF, 2.1 and 3.4)."""
    if kernel[:2] != b"MZ" or len(kernel) < 0x40:
        return False
    at = int.from_bytes(kernel[0x3C:0x40], "little")
    return kernel[at : at + 4] == b"PE\0\0"
