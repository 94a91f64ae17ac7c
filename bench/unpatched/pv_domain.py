"""The border of the early handler: a kernel in a Xen PV domain, where it is called and serves nothing.

Xen makes the first page tables itself, so CR3 is never early_top_pgt: the handler declines every fault, and only the
exception table can help. The kernel runs in ring 3. Of the page faults in QEMU's log, Xen answers some by itself (it
emulates writes to page tables); one that it hands on to the kernel is followed by a #GP in do_early_exception(), which
reads CR2 by an instruction that ring 3 may not execute.

Predicted: the ROM probe of setup_arch() (probe_roms(), arch/x86/kernel/probe_roms.c), whose addresses the domain does
not map. Each of its reads faults, also within 2 MiB in which another has faulted before: a handler that served one of
them would have mapped the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from bench.errors import UsageError
from bench.linux import LinuxFacts, Offer
from bench.parse.early_window import Entry, read_entries
from bench.records import BootFacts, Finding, LoadFinal, Stimulus, Touch, Verdict
from bench.sim.variants import EARLY_DYNAMIC_PAGE_TABLES, row_of_window
from bench.unpatched.compare import compare
from bench.unpatched.verdict import COMPONENT, UnpatchedVerdict
from bench.wire import START_KERNEL_MAP, Access, Phase
from bench.x86.fault import GENERAL_PROTECTION, PAGE_FAULT
from bench.x86.paging import MASK_64

# CS of the kernel's 64-bit code in ring 3: FLAT_RING3_CS64 of Xen's public headers.
RING_3_CS = 0xE033
_DO_EARLY_EXCEPTION_BYTES = 0x100
# probe_roms(): where it looks for a signature when it finds none: video BIOS, extension ROM, adapters.
_STEP = 0x800
_VIDEO, _EXTENSION, _ADAPTERS, _SYSTEM = 0xC0000, 0xE0000, 0xC8000, 0xF0000


def probed_roms() -> tuple[int, ...]:
    """Physical addresses of the ROM probe, in order, where no ROM answers."""
    return (*range(_VIDEO, _ADAPTERS, _STEP), _EXTENSION, *range(_ADAPTERS, _SYSTEM, _STEP))


def handed_on(kernel: LinuxFacts, log: bytes) -> Iterator[Entry]:
    """The page faults that the kernel's early handler was called for.

    Raises UsageError if the image has no do_early_exception (before 5.10).
    """
    if "do_early_exception" not in kernel.symbols:
        raise UsageError("the kernel has no do_early_exception: it is older than 5.10")
    start = kernel.symbols["do_early_exception"]
    entries = (e for e in read_entries(log, cs=RING_3_CS) if e.ip >= START_KERNEL_MAP and e.exception)
    for fault, after in pairwise(entries):
        reads_cr2 = after.vector == GENERAL_PROTECTION and start <= after.ip < start + _DO_EARLY_EXCEPTION_BYTES
        if fault.vector == PAGE_FAULT and reads_cr2:
            yield fault


def judge_pv_domain(kernel: LinuxFacts, offer: Offer, variant: str, log: bytes) -> UnpatchedVerdict:
    """Hold the early faults of an unpatched kernel as PV dom0 against the prediction that none of them is served."""
    faults = list(handed_on(kernel, log))
    if not faults:
        what = "no page fault was handed on to the kernel's early handler"
        return UnpatchedVerdict(Verdict.MISS, Finding(COMPONENT, what, window=0))
    return compare(_stimulus(kernel, offer, variant, faults[0]), faults, complete=True)


def _stimulus(kernel: LinuxFacts, offer: Offer, variant: str, first: Entry) -> Stimulus:
    at = {name: address - START_KERNEL_MAP for name, address in kernel.symbols.items()}
    page_offset = row_of_window(variant, 4).page_offset
    # Pseudo-physical addresses, which is all that the domain knows; the model needs none of them once CR3 is Xen's.
    facts = BootFacts(
        window=0,
        variant=variant,
        mend=0,
        pool=EARLY_DYNAMIC_PAGE_TABLES,
        levels=4,
        signature=offer.signature,
        nx=offer.nx,
        la57=False,
        maxphyaddr=offer.maxphyaddr,
        hypervisor=0,
        efer=first.efer,
        cr2=0,
        cr3=first.cr3,
        cr4=first.cr4,
        phys_base=0,
        page_offset=page_offset,
        phys_text=at["_text"],
        phys_end=at["_end"],
        phys_top=at["early_top_pgt"],
        phys_dynamic=at["early_dynamic_pgts"],
        phys_kernel=at["level3_kernel_pgt"],
    )
    probe = (
        Touch(int(Phase.SETUP), Access.READ, page_offset + rom & MASK_64, 2, fixup=True, about="probe_roms()")
        for rom in probed_roms()
    )
    return Stimulus(facts, (LoadFinal(int(Phase.COPY), first.cr3, 0), *probe))
