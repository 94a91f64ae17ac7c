"""QEMU's own log of exceptions (``-d int``): a witness that our code had no part in.

QEMU 7.2 (target/i386/tcg) writes, for every exception or interrupt that a processor takes::

    check_exception old: 0xffffffff new 0xe
         7: v=0e e=0002 i=0 cpl=0 IP=0010:ffffffff8100015b pc=ffffffff8100015b SP=0018:… CR2=ffff888000000000
    RAX=… RBX=…                                  (EAX=… outside of 64-bit mode)
    …
    CR0=80010011 CR2=ffff888000000000 CR3=0000000001a09000 CR4=000000a0

The ``check_exception`` line comes with exceptions only, not with interrupts (NMI, timer) or INT n.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KERNEL_CS = 0x10


@dataclass(frozen=True)
class LoggedException:
    """One exception: what the processor pushed, and CR2 and CR3 as it was delivered."""

    vector: int
    error: int
    cs: int
    ip: int
    cr2: int
    cr3: int


_HEADER = re.compile(
    rb"^ *\d+: v=(?P<vector>[0-9a-f]{2}) e=(?P<error>[0-9a-f]+) i=(?P<software>[01]) cpl=0 "
    rb"IP=(?P<cs>[0-9a-f]{4}):(?P<ip>[0-9a-f]{16}) .*\n(?P<dump>RAX)=",
    re.MULTILINE,
)
_CONTROL = re.compile(rb"^CR0=[0-9a-f]+ CR2=(?P<cr2>[0-9a-f]{16}) CR3=(?P<cr3>[0-9a-f]{16})", re.MULTILINE)
# INT3 raises the exception #BP although the log calls it software.
_BREAKPOINT = 3


def read_exceptions(log: bytes) -> list[LoggedException]:
    """The exceptions taken in 64-bit mode at CPL 0 with code segment 0x10, in order.

    That is how the payload and a kernel run; firmware and the 16- and 32-bit code before them have other
    segments or no 64-bit mode. A record that the log's end cuts off is left out.
    """
    found = []
    for header in _HEADER.finditer(log):
        number = {name: int(value, 16) for name, value in header.groupdict().items() if name != "dump"}
        line_before = log[log.rfind(b"\n", 0, max(0, header.start() - 1)) + 1 : header.start()]
        raised = line_before.startswith(b"check_exception") or (number["software"] and number["vector"] == _BREAKPOINT)
        control = _CONTROL.search(log, header.end())
        following = _HEADER.search(log, header.end(), control.start()) if control else None
        if not raised or number["cs"] != KERNEL_CS or control is None or following:
            continue
        found.append(
            LoggedException(
                vector=number["vector"],
                error=number["error"],
                cs=number["cs"],
                ip=number["ip"],
                cr2=int(control["cr2"], 16),
                cr3=int(control["cr3"], 16),
            )
        )
    return found
