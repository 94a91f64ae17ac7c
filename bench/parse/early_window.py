"""The window of the early #PF handler in QEMU's log of exceptions (``-d int``), without a word from the kernel.

QEMU writes the registers of each exception and interrupt (see `exception_log`). The window opens with the first
exception that a 64-bit kernel takes at its high addresses; CR3 then is early_top_pgt, and it closes where CR3 is
another one. IDT is the virtual address of idt_table, so the log gives both the physical and the virtual place of the
image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bench.parse.exception_log import KERNEL_CS
from bench.wire import FAULT_CAP, START_KERNEL_MAP

_HEADER = re.compile(
    rb"^ *\d+: v=(?P<vector>[0-9a-f]{2}) e=(?P<error>[0-9a-f]+) i=(?P<software>[01]) cpl=(?P<cpl>[03]) "
    rb"IP=(?P<cs>[0-9a-f]{4}):(?P<ip>[0-9a-f]{16}) .*\nRAX=",
    re.MULTILINE,
)
_ANY_HEADER = re.compile(rb"^ *\d+: v=[0-9a-f]{2} e=", re.MULTILINE)
_REGISTERS = re.compile(
    rb"^IDT= +(?P<idt>[0-9a-f]{16}) [0-9a-f]{8}\nCR0=[0-9a-f]+ CR2=(?P<cr2>[0-9a-f]{16}) CR3=(?P<cr3>[0-9a-f]{16}) "
    rb"CR4=(?P<cr4>[0-9a-f]{8,16})\n(?:.*\n){0,4}?EFER=(?P<efer>[0-9a-f]{16})$",
    re.MULTILINE,
)
_RAISED = b"check_exception"
# An exception while a double fault (8) is being delivered: the processor shuts down.
_TRIPLE_FAULT = re.compile(rb"^check_exception old: 0x8 new 0x[0-9a-f]+$", re.MULTILINE)
_FLAGS_OF_CR3 = 0xFFF
# No kernel takes nearly as many in its window; a livelock logs as many a millisecond.
MOST_FAULTS = 2000


@dataclass(frozen=True)
class Entry:
    """One exception or interrupt, with the registers as it was delivered."""

    vector: int
    error: int
    ip: int
    cr2: int
    cr3: int
    cr4: int
    efer: int
    idt: int
    ring: int
    """The privilege level that it was raised at: 0, or 3."""
    exception: bool
    """False for an interrupt and INT n."""
    span: tuple[int, int]
    """Bytes of the log."""


@dataclass(frozen=True)
class EarlyWindow:
    """What happened while CR3 was early_top_pgt."""

    faults: tuple[Entry, ...]
    """Its exceptions, in order."""
    phys_top: int
    """Physical address of early_top_pgt."""
    closed_by: Entry | None
    """The first entry with another CR3; None if the log ends before there is one."""
    triple_fault: bool
    """QEMU saw a triple fault before the window closed."""
    endless: bool = False
    """There are more faults than any kernel takes: what follows was not read."""


def read_entries(log: bytes, *, cs: int = KERNEL_CS) -> Iterator[Entry]:
    """Exceptions and interrupts in 64-bit mode with the kernel's code segment, in order.

    A kernel in a Xen PV domain has another one, in ring 3. A record that is cut off or whose registers cannot be read
    is left out.
    """
    for header in _HEADER.finditer(log):
        if int(header["cs"], 16) != cs or int(header["cpl"]) != cs & 3:
            continue
        registers = _REGISTERS.search(log, header.end())
        after = _ANY_HEADER.search(log, header.end())
        if registers is None or (after and after.start() < registers.start()):
            continue
        number = {name: int(value, 16) for name, value in registers.groupdict().items()}
        before = log[log.rfind(b"\n", 0, max(0, header.start() - 1)) + 1 : header.start()]
        yield Entry(
            vector=int(header["vector"], 16),
            error=int(header["error"], 16),
            ip=int(header["ip"], 16),
            cr2=number["cr2"],
            cr3=number["cr3"] & ~_FLAGS_OF_CR3,
            cr4=number["cr4"],
            efer=number["efer"],
            idt=number["idt"],
            ring=int(header["cpl"]),
            exception=before.startswith(_RAISED),
            span=(header.start(), registers.end()),
        )


def read_early_window(log: bytes) -> EarlyWindow | None:
    """The window in a log; None if the kernel took no exception while its early tables were in use.

    Reading stops at MOST_FAULTS, and where one instruction faults FAULT_CAP times in a row; the window then seems open.
    """
    faults: list[Entry] = []
    closed_by = None
    in_a_row = 0
    for entry in read_entries(log):
        if entry.ip < START_KERNEL_MAP:
            # The decompressor has #PF handlers of its own; it runs where it was loaded.
            continue
        if faults and entry.cr3 != faults[0].cr3:
            closed_by = entry
            break
        if entry.exception:
            in_a_row = in_a_row + 1 if faults and _again(faults[-1], entry) else 1
            faults.append(entry)
        if len(faults) == MOST_FAULTS or in_a_row == FAULT_CAP:
            break
    if not faults:
        return None
    endless = len(faults) == MOST_FAULTS or in_a_row == FAULT_CAP
    end = closed_by.span[0] if closed_by else faults[-1].span[1] if endless else len(log)
    triple = bool(_TRIPLE_FAULT.search(log, faults[0].span[0], end))
    return EarlyWindow(tuple(faults), faults[0].cr3, closed_by, triple, endless)


def _again(before: Entry, entry: Entry) -> bool:
    return (before.ip, before.cr2, before.vector) == (entry.ip, entry.cr2, entry.vector)


def has_triple_fault(log: bytes) -> bool:
    """Whether the processor shut down because it could not even deliver a double fault, at any time of the boot."""
    return bool(_TRIPLE_FAULT.search(log))


def telling_part(log: bytes) -> bytes:
    """As much of a log as tells of the window and of a triple fault: a capture is packed with no more than that."""
    window = read_early_window(log)
    if window is None or (window.closed_by is None and not window.endless):
        return log
    rest = (window.closed_by or window.faults[-1]).span[1]
    triple = _TRIPLE_FAULT.search(log, rest)
    if triple is None:
        return log[: rest + 1]
    # From the begin of the record that it stands before.
    return log[: rest + 1] + log[triple.start() :]
