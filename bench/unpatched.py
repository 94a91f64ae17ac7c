"""A kernel without a trace, held against the reference by what QEMU's log of exceptions alone shows.

Predicted from image, machine and loader: boot_params, the command line, the initrd, the tables that
early_ioremap_init() walks, the BIOS data area. Read off the log, because nothing else tells: where the kernel put
itself (CR3, IDT) and what the processor was set to (CR4, EFER). **Replayed**, never called predicted: pages that the
kernel takes for its final tables, the direct map's base once the kernel has moved it, and under UEFI what its stub
chose; only a fault that can be such a thing is replayed, all others have to be predicted. The log does not show what
the handler made of a fault: entries and counters are not compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.describe import describe_divergence
from bench.errors import UsageError
from bench.linux import (
    QEMU_COMMAND_LINE,
    QEMU_REAL_MODE,
    Unpatched,
    in_memory,
    qemu_initrd,
)
from bench.parse.early_window import EarlyWindow, Entry, read_early_window
from bench.reconcile import reconcile
from bench.records import (
    BootData,
    BootFacts,
    Comparison,
    Event,
    EventKind,
    Finding,
    LoadFinal,
    Observation,
    PhaseStep,
    Prediction,
    Step,
    Stimulus,
    Touch,
    Verdict,
    Window,
)
from bench.sim.predict import predict
from bench.sim.variants import EARLY_DYNAMIC_PAGE_TABLES, row_of_window
from bench.wire import START_KERNEL_MAP, Access, Phase
from bench.x86.fault import PAGE_FAULT, PageFault
from bench.x86.paging import MASK_64, PMD_SIZE, PUD_SIZE

_CR4_LA57 = 1 << 12
_PAGE = 0x1000
# early_ioremap_init() writes the PMD entry for the boot-time mappings at 0xffffffffff200000.
_FIXMAP_ENTRY = 505 * 8
_TCG = frozenset({"qemu-tcg-rsvd-without-p"})
_RAMDISK = re.compile(rb"RAMDISK: \[mem 0x([0-9a-f]+)-0x[0-9a-f]+\]")
COMPONENT = "exception log"


@dataclass(frozen=True)
class UnpatchedVerdict:
    """What came of one boot of a kernel without a trace."""

    verdict: Verdict
    """PASS, FAIL, MISS (the log ends too early) or ERROR (the log is of something else than was said)."""
    finding: Finding | None = None
    window: Window | None = None
    prediction: Prediction | None = None
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()
    """What was replayed, and why; exceptions that are not page faults."""


def judge_unpatched(boot: Unpatched, log: bytes, serial: bytes, *, initrd: bytes, variant: str) -> UnpatchedVerdict:
    """Hold the faults in `log` against the prediction for `boot`.

    `serial` is what the kernel printed, `initrd` what it was offered (up to the end of its uncompressed part is
    enough), `variant` the handler's name in `wire.VARIANTS`.
    """
    seen = read_early_window(log)
    if seen is None:
        what = "no exception of a kernel at its high addresses is in the log"
        return UnpatchedVerdict(Verdict.MISS, Finding(COMPONENT, what))
    try:
        place = _placed(boot, seen)
        stimulus, notes = _stimulus(boot, seen, place, serial, initrd, variant)
        prediction = predict(stimulus, quirks=_TCG)
    except UsageError as error:
        return UnpatchedVerdict(
            Verdict.ERROR, Finding(COMPONENT, f"it does not fit the image that was booted: {error}")
        )
    faults = tuple(e for e in prediction.events if e.kind is EventKind.ENTER)
    prediction = replace(prediction, events=faults)
    window = Window(0, (seen.faults[0].span[0], seen.faults[-1].span[1]), stimulus, _observed(seen))
    comparison = reconcile({0: window}, {0: prediction})[0]
    verdict, finding = _verdict(seen, window, prediction, comparison)
    return UnpatchedVerdict(verdict, finding, window, prediction, comparison, notes)


@dataclass(frozen=True)
class _Place:
    """Where the image lies."""

    symbols: Mapping[str, int]
    phys_text: int
    slide: int
    """KASLR's, of virtual addresses."""

    @property
    def phys_base(self) -> int:
        return self.phys_text - (self.symbols["_text"] + self.slide - START_KERNEL_MAP) & MASK_64

    def phys(self, name: str) -> int:
        """Physical address of a symbol."""
        return self.symbols[name] - self.symbols["_text"] + self.phys_text


def _placed(boot: Unpatched, seen: EarlyWindow) -> _Place:
    """Read off CR3 and IDT. Raises UsageError if they cannot be those of this image in this boot."""
    symbols = boot.kernel.symbols
    text = seen.phys_top - (symbols["early_top_pgt"] - symbols["_text"])
    slide = seen.faults[0].idt - symbols["idt_table"] & MASK_64
    if text < 0 or text % PMD_SIZE or slide % PMD_SIZE or slide >= PUD_SIZE:
        idt = seen.faults[0].idt
        raise UsageError(f"CR3 {seen.phys_top:#x} and IDT {idt:#x} put _text at {text:#x}, moved by {slide:#x}")
    fixed = "nokaslr" in boot.offer.command_line.split()
    if fixed and slide:
        raise UsageError(f"with nokaslr, the image is moved by {slide:#x}")
    if fixed and boot.offer.firmware == "bios" and text != boot.kernel.pref_address:
        raise UsageError(f"with nokaslr, _text is at physical {text:#x}, not at {boot.kernel.pref_address:#x}")
    return _Place(symbols, text, slide)


def _facts(boot: Unpatched, seen: EarlyWindow, place: _Place, variant: str) -> BootFacts:
    first, offer = seen.faults[0], boot.offer
    levels = 5 if first.cr4 & _CR4_LA57 else 4
    lower = "level4_kernel_pgt" if levels == 5 else "level3_kernel_pgt"
    if lower not in place.symbols:
        raise UsageError(f"it has no {lower}, and CR4 is {first.cr4:#x}")
    real_mode = 0
    if offer.firmware == "bios" and boot.kernel.boot_params_offset is not None:
        real_mode = QEMU_REAL_MODE + boot.kernel.boot_params_offset
    return BootFacts(
        window=0,
        variant=variant,
        mend=0,
        pool=EARLY_DYNAMIC_PAGE_TABLES,
        levels=levels,
        signature=offer.signature,
        nx=offer.nx,
        la57=levels == 5,
        maxphyaddr=offer.maxphyaddr,
        hypervisor=0,
        hypervisor_bit=offer.hypervisor_bit,
        efer=first.efer,
        cr2=0,
        cr3=seen.phys_top,
        cr4=first.cr4,
        phys_base=place.phys_base,
        page_offset=row_of_window(variant, levels).page_offset,
        phys_text=place.phys_text,
        phys_end=place.phys("_end"),
        phys_top=seen.phys_top,
        phys_dynamic=place.phys("early_dynamic_pgts"),
        phys_kernel=place.phys(lower),
        phys_level3=place.phys("level3_kernel_pgt"),
        phys_fixmap=place.phys("level2_fixmap_pgt") + _FIXMAP_ENTRY,
        real_mode_data=real_mode,
    )


@dataclass
class _Replays:
    """Touches that are read off the faults, by the phase that they belong to, and why each is taken for one."""

    copy: list[Touch] = field(default_factory=list)
    mapping: list[Touch] = field(default_factory=list)
    page_offset: int = 0
    """The direct map's base after kernel_randomize_memory(), 0 where it was not moved."""
    notes: list[str] = field(default_factory=list)


def _stimulus(
    boot: Unpatched, seen: EarlyWindow, place: _Place, serial: bytes, initrd: bytes, variant: str
) -> tuple[Stimulus, tuple[str, ...]]:
    facts = _facts(boot, seen, place, variant)
    offer, uefi = boot.offer, boot.offer.firmware == "uefi"
    replays = _replays(boot, seen, place, facts)
    said = _RAMDISK.search(serial)
    at = int(said[1], 16) if uefi and said else qemu_initrd(offer, boot.kernel.initrd_limit)
    data = BootData(
        initrd=at if offer.initrd_bytes else 0,
        initrd_bytes=offer.initrd_bytes,
        real_mode_data=facts.real_mode_data,
        command_line_at=0 if uefi else QEMU_COMMAND_LINE,
        command_line=offer.command_line,
    )
    steps: list[Step] = [*replays.copy, data]
    if "load_ucode_bsp" in place.symbols:
        steps.append(PhaseStep(int(Phase.UCODE)))
    steps.append(PhaseStep(int(Phase.SETUP)))
    steps += [PhaseStep(int(Phase.MAPPING), page_offset=replays.page_offset), *replays.mapping]
    if seen.closed_by is not None:
        steps.append(LoadFinal(int(Phase.FINAL), seen.closed_by.cr3, 0))
    return Stimulus(facts, tuple(steps), initrd_head=initrd), tuple(replays.notes)


def _replays(boot: Unpatched, seen: EarlyWindow, place: _Place, facts: BootFacts) -> _Replays:
    """Which faults can only be replayed: as few as can be, each for a reason."""
    found = _Replays()
    copying = range(place.symbols["copy_bootdata"] + place.slide, place.symbols["copy_bootdata"] + place.slide + _PAGE)
    moved = "nokaslr" not in boot.offer.command_line.split()
    for entry in seen.faults:
        if entry.vector != PAGE_FAULT:
            found.notes.append(f"vector {entry.vector:#x} at 0x{entry.ip:016x}, error {entry.error:#x}: no page fault")
        elif not facts.real_mode_data and entry.ip in copying:
            found.copy.append(_replayed(Phase.COPY, entry, "copy_bootdata(): what the EFI stub left"))
            found.notes.append(f"0x{entry.cr2:016x}: where the loader left its data is not known from outside")
        elif entry.error == PageFault.W and entry.cr2 % _PAGE == 0:
            _table_page(found, boot, place, facts, entry, moved)
    return found


def _table_page(found: _Replays, boot: Unpatched, place: _Place, facts: BootFacts, entry: Entry, moved: bool) -> None:
    """A whole page is being cleared: it is taken for a final table if the kernel can have taken it for one."""
    brk = range(place.phys("__brk_base"), facts.phys_end)
    if moved and not found.page_offset:
        # The base moves in steps of 1 GiB, and the first page comes from the brk.
        base = next(
            (entry.cr2 - pa for pa in range(brk.start, brk.stop, _PAGE) if not (entry.cr2 - pa) % PUD_SIZE), None
        )
        if base is None or base < facts.page_offset:
            return
        if base != facts.page_offset:
            found.notes.append(
                f"PAGE_OFFSET 0x{base:016x} after kernel_randomize_memory(): read off a fault in the brk"
            )
        found.page_offset = base
    phys = entry.cr2 - (found.page_offset or facts.page_offset)
    if phys in brk:
        source = "from the brk"
    elif in_memory(phys, boot.offer.memory_bytes):
        source = "from memblock"
    else:
        return
    found.mapping.append(_replayed(Phase.MAPPING, entry, f"init_mem_mapping(): a table {source}"))
    found.notes.append(f"0x{entry.cr2:016x}: which page becomes a final table ({source}) is not known from outside")


def _replayed(phase: Phase, entry: Entry, about: str) -> Touch:
    access = Access.WRITE if entry.error & PageFault.W else Access.READ
    return Touch(int(phase), access, entry.cr2, 1, replayed=True, about=about)


def _observed(seen: EarlyWindow) -> Observation:
    """The page faults as events. The window is complete if the log shows that it closed."""
    events = tuple(
        Event(
            EventKind.ENTER,
            vector=e.vector,
            error=e.error,
            cr2=e.cr2,
            ip=e.ip - START_KERNEL_MAP & MASK_64,
            seq=number,
            span=e.span,
        )
        for number, e in enumerate(seen.faults)
        if e.vector == PAGE_FAULT
    )
    return Observation(events, complete=seen.closed_by is not None)


def _verdict(
    seen: EarlyWindow, window: Window, prediction: Prediction, comparison: Comparison
) -> tuple[Verdict, Finding | None]:
    divergence = comparison.divergence
    if divergence is not None:
        finding = describe_divergence(window, divergence)
        if divergence.observed and (span := divergence.observed.span):
            finding = replace(finding, witness={**finding.witness, "bytes of the log": f"{span[0]}-{span[1]}"})
        return Verdict.FAIL, finding
    due = len(prediction.events) - len(window.observation.events)
    if seen.triple_fault:
        what = f"the machine triple-faulted after {len(window.observation.events)} early faults that agree"
        return Verdict.FAIL, Finding("handler", what, window=0, witness={"QEMU": "Triple fault"})
    if seen.closed_by is None:
        what = (
            f"the log ends inside the window, {due} predicted faults before its end"
            if due
            else ("the log ends before the kernel has left its early tables")
        )
        return Verdict.MISS, Finding(COMPONENT, what, window=0)
    return Verdict.PASS, None


def fault_rows(verdict: UnpatchedVerdict) -> Sequence[tuple[Event | None, Event | None]]:
    """Predicted and observed fault side by side, for a table."""
    predicted = verdict.prediction.events if verdict.prediction else ()
    observed = verdict.window.observation.events if verdict.window else ()
    length = max(len(predicted), len(observed))
    return [
        (predicted[n] if n < len(predicted) else None, observed[n] if n < len(observed) else None)
        for n in range(length)
    ]
