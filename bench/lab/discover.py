"""What a machine says of itself over SSH, as far as its entry in the inventory needs it: read, nothing is changed.

Two questions: `discover_questions` asks for the hardware, `bench.lab.flash.system` for what starting something once
depends on. Modules cpuid and msr are loaded while the first one is asked, if the system has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import LabError, UsageError
from bench.lab.discover_boot import Methods, methods_of
from bench.lab.discover_dmi import installed_bytes
from bench.lab.discover_processor import Processor, read_processor
from bench.lab.discover_questions import ANSWER_S, QUESTIONS
from bench.lab.discover_wires import Card, SerialPort, read_cards, read_ports
from bench.lab.fingerprint import split_answers
from bench.lab.flash.system import BOOT, System, read_system
from bench.lab.ssh import Ssh
from bench.lab.text import escape

NAMES = ("system vendor", "product", "board vendor", "board", "bios vendor", "bios version", "bios date")


@dataclass(frozen=True)
class Discovery:
    """What was read. Texts are escaped: they are the machine's own."""

    host_name: str
    processor: Processor
    installed_bytes: int | None
    """Memory that firmware says is plugged in; None: it does not say."""
    ram: tuple[range, ...]
    """What the firmware's memory map calls RAM, in rising order; empty: it could not be read."""
    names: Mapping[str, str]
    """Of `NAMES`, those that could be read."""
    cards: tuple[Card, ...]
    reached_at: str
    """The machine's own address of this connection; empty: its SSH server does not say."""
    ports: tuple[SerialPort, ...]
    system: System
    methods: Methods
    kernel_log: bytes
    """The running kernel's lines about microcode, and the one that every log begins with if that is still there."""


def discover(ssh: Ssh, *, boot: str = BOOT) -> Discovery:
    """Ask the machine; `boot` is where its boot loader's files are. Raises LabError if it does not answer, or not as
    Linux on x86 does."""
    done = ssh.run(QUESTIONS, timeout_s=ANSWER_S)
    said = split_answers(done.output)
    if "end" not in said:
        raise _foreign(ssh, escape((done.output + done.complaints)[-200:]))
    try:
        return _read(said, read_system(ssh, boot=boot))
    except LookupError as error:
        raise _foreign(ssh, f"no answer to {error}") from error
    except (UsageError, ValueError) as error:
        raise _foreign(ssh, escape(str(error).encode())) from error


def _foreign(ssh: Ssh, words: str) -> LabError:
    return LabError(
        f"{ssh.component}: its system does not answer as Linux on x86: {words}", component=ssh.component, witness=words
    )


def _read(said: Mapping[str, str], system: System) -> Discovery:
    words = said["connection"].split()
    return Discovery(
        host_name=said["host name"],
        processor=read_processor(said),
        installed_bytes=installed_bytes(said["dmi table"]),
        ram=read_ram(said["memory map"]),
        names={name: " ".join(said[name].split()) for name in NAMES if said[name].strip()},
        cards=read_cards(said["cards"], said["addresses"]),
        reached_at=words[2] if len(words) == 4 else "",
        ports=read_ports(said["ports"]),
        system=system,
        methods=methods_of(system),
        kernel_log=said["kernel log"].encode(),
    )


def read_ram(text: str) -> tuple[range, ...]:
    """Lines ``start end type`` of /sys/firmware/memmap (`end` is the last byte) → ranges of RAM, neighbours joined."""
    found: list[range] = []
    lines = (line.split(None, 2) for line in text.splitlines())
    spans = sorted((int(w[0], 16), int(w[1], 16) + 1) for w in lines if len(w) == 3 and w[2] == "System RAM")
    for start, stop in spans:
        if found and start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(stop, found[-1].stop))
        else:
            found.append(range(start, stop))
    return tuple(found)
