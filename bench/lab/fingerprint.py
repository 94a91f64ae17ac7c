"""What a machine's own system says of it over SSH: clock, room on disk, and the firmware's fingerprint.

Plain files and tools that every Linux has; what cannot be read is left out, and said so by its absence.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import LabError
from bench.lab.discover_questions import KERNEL_LOG
from bench.lab.ssh import Ssh
from bench.lab.text import escape

# Every part prints its own name first. The command line holds no secret and changes nothing.
_QUESTIONS = (
    """\
echo @time; date +%s
echo @room; df -Pk /boot 2>/dev/null || df -Pk /
echo @kernel; uname -r
echo @bios vendor; cat /sys/class/dmi/id/bios_vendor
echo @bios version; cat /sys/class/dmi/id/bios_version
echo @bios date; cat /sys/class/dmi/id/bios_date
echo @board; cat /sys/class/dmi/id/board_name
echo @secure boot; od -An -tu1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
echo @memory map; for f in /sys/firmware/memmap/*; do cat $f/start $f/end $f/type; done | paste - - - | sort
echo @processor; grep -m1 ^vendor_id /proc/cpuinfo
echo @microcode; grep -m1 ^microcode /proc/cpuinfo
echo @command line; cat /proc/cmdline
echo @boot; cat /proc/sys/kernel/random/boot_id
echo @kernel log"""
    + KERNEL_LOG
    + "echo @end\n"
)
_PARTS = ("bios vendor", "bios version", "bios date", "board", "secure boot", "memory map")
ANSWER_S = 30.0


@dataclass(frozen=True)
class SystemFacts:
    """What was read."""

    clock_off_s: float
    """The machine's clock minus ours, to the second."""
    free_bytes: int
    """In /boot."""
    kernel: str
    boot_id: str
    fingerprint: Mapping[str, str]
    """Firmware facts by name, those that could be read; `bench.bios_microcode` adds the revision that it loaded."""
    command_line: str = ""
    """With which the system was started; empty if it could not be read."""
    vendor: str = ""
    """The processor's, as CPUID says it."""
    microcode: int | None = None
    """The revision that runs, whoever loaded it; None: not shown."""
    kernel_log: bytes = b""
    """Its lines about microcode, and its first one if that is still there."""


def read_system(ssh: Ssh) -> SystemFacts:
    """Ask the running system. Raises LabError if it does not answer, or not as Linux does."""
    before = time.time()
    done = ssh.run(_QUESTIONS, timeout_s=ANSWER_S)
    answers = split_answers(done.output)
    if "end" not in answers or not answers["time"].isdigit():
        said = escape(done.output[-200:])
        raise LabError(f"{ssh.component}: its system does not answer as Linux: {said}", component=ssh.component)
    clock = (before + time.time()) / 2
    return SystemFacts(
        clock_off_s=round(int(answers["time"]) + 0.5 - clock, 1),
        free_bytes=_free_bytes(answers["room"]),
        kernel=answers["kernel"],
        boot_id=answers["boot"],
        fingerprint=_fingerprint(answers),
        command_line=answers.get("command line", ""),
        vendor=_value(answers.get("processor", "")),
        microcode=_revision(_value(answers.get("microcode", ""))),
        kernel_log=answers.get("kernel log", "").encode(),
    )


def split_answers(output: bytes) -> dict[str, str]:
    """Part → its lines, escaped: of a program that prints ``@part`` in front of each."""
    answers: dict[str, str] = {}
    for part in re.split(rb"^@", output, flags=re.MULTILINE)[1:]:
        name, _, text = part.partition(b"\n")
        answers[escape(name)] = "\n".join(escape(line.strip()) for line in text.strip().splitlines())
    return answers


def _free_bytes(table: str) -> int:
    """Fourth column of df's last line, in KiB (POSIX, df -P)."""
    words = table.splitlines()[-1].split() if table else []
    return int(words[3]) << 10 if len(words) > 3 and words[3].isdigit() else 0


def _fingerprint(answers: Mapping[str, str]) -> dict[str, str]:
    found = {name: answers[name] for name in _PARTS if answers.get(name)}
    if "secure boot" in found:
        # Four bytes of attributes, then the value (UEFI 2.10, 3.3 and 8.2.2; efivarfs puts the attributes first).
        found["secure boot"] = "on" if found["secure boot"].split()[-1] == "1" else "off"
    if "memory map" in found:
        lines = found["memory map"].count("\n") + 1
        digest = hashlib.sha256(found["memory map"].encode()).hexdigest()[:16]
        found["memory map"] = f"{lines} ranges, {digest}"
    return found


def _value(line: str) -> str:
    """What a line of /proc/cpuinfo says."""
    return line.rpartition(":")[2].strip()


def _revision(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"0x[0-9a-f]{1,8}", text) else None
