"""What firmware and boot loaders print on a serial line: who spoke last, and whether it was a complaint.

Real lines of SeaBIOS 1.16, OVMF (edk2-stable202211), iPXE 1.0.0, PXELINUX 6.04 and GRUB 2.06.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Saying:
    """A line of somebody who speaks before the kernel does."""

    offset: int
    who: str
    words: str
    complaint: bool = False


# Who, whether it is a complaint, and the line. Terminal sequences are taken out beforehand.
_ROWS: tuple[tuple[str, bool, str], ...] = (
    ("iPXE", True, r"(?:Could not (?:select|boot|start)[^\r\n]*|[^\r\n]*\(https?://ipxe\.org/[0-9a-f]{8}\)[^\r\n]*)"),
    ("iPXE", True, r"No more network devices"),
    ("iPXE", False, r"iPXE initialising devices[^\r\n]*|iPXE [0-9][^\r\n]*|Configuring \(net\d [^\r\n]*"),
    ("PXELINUX", True, r"(?:Failed to load[^\r\n]*|Unable to locate configuration file[^\r\n]*)"),
    ("PXELINUX", False, r"PXELINUX \d[^\r\n]*|Loading http://[^\r\n]*"),
    ("GRUB", True, r"error: [^\r\n]*"),
    ("GRUB", False, r"GNU GRUB[^\r\n]*|Welcome to GRUB![^\r\n]*"),
    ("UEFI firmware", True, r"BdsDxe: failed to [^\r\n]*|BdsDxe: No bootable option[^\r\n]*|PXE-E\d+: [^\r\n]*"),
    ("UEFI firmware", False, r"BdsDxe: (?:loading|starting) [^\r\n]*|>>Start (?:PXE|HTTP Boot) over IPv[46][^\r\n]*"),
    ("BIOS firmware", True, r"Boot failed: [^\r\n]*|No bootable device[^\r\n]*"),
    ("BIOS firmware", False, r"SeaBIOS \([^\r\n]*|Booting from [^\r\n]*"),
)
_PATTERN = re.compile("|".join(f"(?P<r{n}>{pattern})" for n, (_, _, pattern) in enumerate(_ROWS)))
# ECMA-48 control sequences, as firmware draws its menus.
_TERMINAL = re.compile(rb"\x1b\[[0-9;?=]*[A-Za-z]")
# edk2 refuses an unsigned program so (MdeModulePkg, BmBootDescription; EFI_SECURITY_VIOLATION and EFI_ACCESS_DENIED).
_SECURE_BOOT = re.compile(r"(?:Access Denied|Security Violation)")
_WORDS_CHARACTERS = 160


def sayings(data: bytes) -> tuple[Saying, ...]:
    """All of them in `data`, in order; offsets are those of the bytes as they came."""
    # Sequences become as many zero bytes, so that offsets stay.
    text = _TERMINAL.sub(lambda found: b"\0" * len(found[0]), data).decode("latin-1")
    out = []
    for found in _PATTERN.finditer(text):
        who, complaint, _ = _ROWS[int((found.lastgroup or "r0")[1:])]
        words = re.sub(r"[^ -~]+", " ", found[0]).strip()[:_WORDS_CHARACTERS]
        out.append(Saying(found.start(), who, words, complaint))
    return tuple(out)


def refused_by_secure_boot(said: Saying) -> bool:
    """Whether firmware says that it starts nothing that is not signed."""
    return said.complaint and _SECURE_BOOT.search(said.words) is not None
