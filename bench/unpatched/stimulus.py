"""What a kernel without a trace was offered: from image, machine and loader, and what only its log can tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.errors import UsageError
from bench.linux import QEMU_COMMAND_LINE, QEMU_REAL_MODE, Offer, Unpatched, in_memory, qemu_initrd
from bench.parse.early_window import EarlyWindow, Entry
from bench.records import BootData, BootFacts, LoadFinal, PhaseStep, Step, Stimulus, Touch
from bench.sim.variants import EARLY_DYNAMIC_PAGE_TABLES, row_of_window
from bench.wire import START_KERNEL_MAP, Access, Phase
from bench.x86.fault import PAGE_FAULT, PageFault
from bench.x86.paging import MASK_64, PMD_SIZE, PUD_SIZE

_CR4_LA57 = 1 << 12
_PAGE = 0x1000
# More than copy_bootdata() has: 85 in Debian's 6.1.
_COPY_BOOTDATA_BYTES = 0x100
# early_ioremap_init() writes the PMD entry for the boot-time mappings at 0xffffffffff200000.
_FIXMAP_ENTRY = 505 * 8
_RAMDISK = re.compile(rb"RAMDISK: \[mem 0x([0-9a-f]+)-0x[0-9a-f]+\]")


@dataclass(frozen=True)
class Place:
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


def placed(boot: Unpatched, seen: EarlyWindow) -> Place:
    """Read off CR3 and IDT. Raises UsageError if they cannot be those of this image in this boot."""
    symbols = boot.kernel.symbols
    text = seen.phys_top - (symbols["early_top_pgt"] - symbols["_text"])
    slide = seen.faults[0].idt - symbols["idt_table"] & MASK_64
    if text < 0 or text % PMD_SIZE or slide % PMD_SIZE or slide >= PUD_SIZE:
        idt = seen.faults[0].idt
        raise UsageError(f"CR3 {seen.phys_top:#x} and IDT {idt:#x} put _text at {text:#x}, moved by {slide:#x}")
    fixed = not _moves(boot.offer)
    if fixed and slide:
        raise UsageError(f"with nokaslr, the image is moved by {slide:#x}")
    if fixed and boot.offer.entry != "uefi" and text != boot.kernel.pref_address:
        raise UsageError(f"with nokaslr, _text is at physical {text:#x}, not at {boot.kernel.pref_address:#x}")
    return Place(symbols, text, slide)


def _moves(offer: Offer) -> bool:
    """Whether KASLR moves the image: the decompressor does that, and an ELF file that is entered as it is has none."""
    return "nokaslr" not in offer.command_line.split() and offer.entry != "pvh"


def facts_of(boot: Unpatched, seen: EarlyWindow, place: Place) -> BootFacts:
    first, offer, variant = seen.faults[0], boot.offer, boot.variant
    levels = 5 if first.cr4 & _CR4_LA57 else 4
    lower = "level4_kernel_pgt" if levels == 5 else "level3_kernel_pgt"
    if lower not in place.symbols:
        raise UsageError(f"it has no {lower}, and CR4 is {first.cr4:#x}")
    real_mode = 0
    if offer.entry == "bios" and boot.kernel.boot_params_offset is not None:
        real_mode = QEMU_REAL_MODE + boot.kernel.boot_params_offset
    elif offer.entry == "pvh" and "pvh_bootparams" in place.symbols:
        real_mode = place.phys("pvh_bootparams")
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


def stimulus_of(
    boot: Unpatched, seen: EarlyWindow, place: Place, serial: bytes, initrd: bytes
) -> tuple[Stimulus, tuple[str, ...]]:
    facts = facts_of(boot, seen, place)
    offer, by_bios = boot.offer, boot.offer.entry == "bios"
    replays = _replays(boot, seen, place, facts)
    said = _RAMDISK.search(serial)
    # Only where the BIOS's loader is QEMU's own is its place known before the kernel says it.
    at = qemu_initrd(offer, boot.kernel.initrd_limit) if by_bios else int(said[1], 16) if said else 0
    data = BootData(
        initrd=at,
        initrd_bytes=offer.initrd_bytes if at else 0,
        real_mode_data=facts.real_mode_data,
        command_line_at=QEMU_COMMAND_LINE if by_bios else 0,
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


def _replays(boot: Unpatched, seen: EarlyWindow, place: Place, facts: BootFacts) -> _Replays:
    """Which faults can only be replayed: as few as can be, each for a reason."""
    found = _Replays()
    copy_bootdata = place.symbols["copy_bootdata"] + place.slide
    # Nothing else is touched before it has returned.
    still_copying = True
    # kernel_randomize_memory() asks what the decompressor has decided.
    moved = _moves(boot.offer)
    boot_params = facts.page_offset + facts.real_mode_data
    for entry in seen.faults:
        still_copying = still_copying and copy_bootdata <= entry.ip < copy_bootdata + _COPY_BOOTDATA_BYTES
        if entry.vector != PAGE_FAULT:
            found.notes.append(f"vector {entry.vector:#x} at 0x{entry.ip:016x}, error {entry.error:#x}: no page fault")
        elif still_copying and boot.offer.entry != "bios" and entry.cr2 != boot_params:
            found.copy.append(_replayed(Phase.COPY, entry, "copy_bootdata(): what the loader left"))
            found.notes.append(f"0x{entry.cr2:016x}: where the loader left its data is not known from outside")
        elif entry.error == PageFault.W and entry.cr2 % _PAGE == 0:
            _table_page(found, boot, place, facts, entry, moved)
    return found


def _table_page(found: _Replays, boot: Unpatched, place: Place, facts: BootFacts, entry: Entry, moved: bool) -> None:
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
