"""Exception vectors and the page-fault error code.

Source: SDM Vol. 3A, "Exception and Interrupt Reference" (vectors; "Interrupt 14: Page-Fault Exception")
and "Error Code"; the error code's bits also in Vol. 3A, "Paging", section "Page-Fault Exceptions".
AMD's vectors: APM Vol. 2, "Vectors".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from functools import cache


class PageFault(IntFlag):
    """Bits of a page fault's error code."""

    P = 1 << 0
    """Every entry of the walk was present: a protection or reserved-bit fault. Clear: one was not."""
    W = 1 << 1
    """The access was a write."""
    U = 1 << 2
    """The access was made in user mode (CPL 3)."""
    RSVD = 1 << 3
    """A present entry had a reserved bit set."""
    ID = 1 << 4
    """The access was an instruction fetch; reported only with EFER.NXE or CR4.SMEP set."""
    PK = 1 << 5
    """A protection key forbade it."""
    SS = 1 << 6
    """The access was made to a shadow stack."""
    HLAT = 1 << 7
    """It came up during a walk from HLATP."""
    SGX = 1 << 15
    """It broke an access rule of SGX."""


# What a page fault can report while the kernel runs alone at CPL 0 on its early tables: no user access,
# no protection keys, no shadow stack. Any other number on the line is no page fault of this time.
LEGAL_AT_CPL0: dict[int, str] = {
    0: "read of a page that is not present (or a fetch, where EFER.NXE is clear)",
    int(PageFault.W): "write to a page that is not present",
    int(PageFault.ID): "instruction fetch from a page that is not present",
    int(PageFault.P | PageFault.W): "write to a read-only page",
    int(PageFault.P | PageFault.ID): "instruction fetch from a no-execute page",
    int(PageFault.P | PageFault.RSVD): "read through an entry with a reserved bit set",
    int(PageFault.P | PageFault.RSVD | PageFault.W): "write through an entry with a reserved bit set",
    int(PageFault.P | PageFault.RSVD | PageFault.ID): "instruction fetch through an entry with a reserved bit set",
}


@cache
def describe(error: int) -> str:
    """A page fault's error code in words: ``write, not present``."""
    access = "fetch" if error & PageFault.ID else "write" if error & PageFault.W else "read"
    if error & PageFault.RSVD:
        reason = "reserved bit set"
    elif error & PageFault.P:
        reason = "protection"
    else:
        reason = "not present"
    rest = [bit.name or "" for bit in PageFault if error & bit and bit not in _DESCRIBED]
    return ", ".join([access, reason, *rest])


_DESCRIBED = (PageFault.P, PageFault.W, PageFault.RSVD, PageFault.ID)


@dataclass(frozen=True)
class Vector:
    """One exception: its number, its mnemonic, whether the processor pushes an error code."""

    number: int
    mnemonic: str
    about: str
    pushes_error: bool = False


VECTORS: dict[int, Vector] = {
    vector.number: vector
    for vector in (
        Vector(0, "#DE", "divide error"),
        Vector(1, "#DB", "debug"),
        Vector(2, "NMI", "non-maskable interrupt"),
        Vector(3, "#BP", "breakpoint"),
        Vector(4, "#OF", "overflow"),
        Vector(5, "#BR", "bound range exceeded"),
        Vector(6, "#UD", "invalid opcode"),
        Vector(7, "#NM", "device not available"),
        Vector(8, "#DF", "double fault", True),
        Vector(10, "#TS", "invalid TSS", True),
        Vector(11, "#NP", "segment not present", True),
        Vector(12, "#SS", "stack-segment fault", True),
        Vector(13, "#GP", "general protection", True),
        Vector(14, "#PF", "page fault", True),
        Vector(16, "#MF", "x87 floating-point error"),
        Vector(17, "#AC", "alignment check", True),
        Vector(18, "#MC", "machine check"),
        Vector(19, "#XM", "SIMD floating-point error"),
        Vector(20, "#VE", "virtualization exception"),
        Vector(21, "#CP", "control protection", True),
        Vector(28, "#HV", "hypervisor injection (AMD)"),
        Vector(29, "#VC", "VMM communication (AMD)", True),
        Vector(30, "#SX", "security (AMD)", True),
    )
}

GENERAL_PROTECTION = 13
PAGE_FAULT = 14


def pushes_error(number: int) -> bool:
    """Whether the processor pushes an error code for this vector; the stub pushes a zero for the others."""
    vector = VECTORS.get(number)
    return vector is not None and vector.pushes_error
