"""What a kernel touches of the direct map in its window, known from its sources and from facts of the boot.

The window opens at the reset in x86_64_start_kernel() and closes when the early gate of vector 14 is replaced. Sources:
arch/x86/kernel/head64.c (copy_bootdata), arch/x86/mm/ioremap.c (early_ioremap_init), arch/x86/kernel/ebda.c
(reserve_bios_regions), arch/x86/include/asm/bios_ebda.h, arch/x86/kernel/probe_roms.c and setup.c of 6.1, 6.12 and 7.3.
Pages that the kernel takes for its final tables are announced by `touch` records and are not listed here.

Left out by name: SME (copies the boot data through mappings of its own) and KASAN (has top entries of its own).
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.records import BootData, BootFacts, Touch
from bench.sim.ucode_scan import scan_accesses
from bench.wire import Access, Phase
from bench.x86.paging import MASK_64

BOOT_PARAMS_BYTES = 4096
COMMAND_LINE_BYTES = 2048
_ENTRY_BYTES = 8
_TOP_ENTRY = 511 * _ENTRY_BYTES
# reserve_bios_regions(): the BIOS data area's memory size, then the EBDA's segment.
_BDA_RAM_SIZE = 0x413
_BDA_EBDA_SEGMENT = 0x40E
# probe_roms(): first address at which a video ROM's signature is looked for.
_VIDEO_ROM = 0xC0000
NO_UPDATES = "dis_ucode_ldr"


def copied(facts: BootFacts, boot: BootData | None, page_offset: int) -> Iterator[Touch]:
    """copy_bootdata(): boot_params, then the command line; without the `boot` record only what `begin` knows."""
    phase = int(Phase.COPY)
    real_mode_data = boot.real_mode_data if boot else facts.real_mode_data
    if real_mode_data:
        yield _read(phase, page_offset + real_mode_data, BOOT_PARAMS_BYTES, "copy_bootdata(): boot_params")
    if boot and boot.command_line_at:
        at = page_offset + boot.command_line_at
        yield _read(phase, at, COMMAND_LINE_BYTES, "copy_bootdata(): the command line")


def loads_microcode(facts: BootFacts, boot: BootData) -> bool:
    """Whether load_ucode_bsp() looks for a file at all: not under a hypervisor, not if told not to."""
    return not facts.hypervisor_bit and NO_UPDATES not in boot.command_line.split() and boot.initrd_bytes > 0


def microcode_scan(facts: BootFacts, boot: BootData, initrd_head: bytes, page_offset: int) -> Iterator[Touch]:
    """load_ucode_bsp(): the initrd's cpio headers and names, and every byte of a file of updates.

    Nothing if the initrd's head is not known: its faults can then only be replayed.
    """
    if not loads_microcode(facts, boot) or not initrd_head:
        return
    for offset, size in scan_accesses(initrd_head, boot.initrd_bytes, phys_initrd=boot.initrd):
        about = f"load_ucode_bsp(): {size} bytes of the initrd from {offset:#x}"
        yield _read(int(Phase.UCODE), page_offset + boot.initrd + offset, size, about)


def set_up(facts: BootFacts, page_offset: int) -> Iterator[Touch]:
    """setup_arch() up to kernel_randomize_memory()."""
    phase = int(Phase.SETUP)
    walk = "early_ioremap_init(): "
    yield _read(phase, page_offset + facts.phys_top + _TOP_ENTRY, _ENTRY_BYTES, f"{walk}early_top_pgt[511]")
    if facts.levels == 5:
        yield _read(phase, page_offset + facts.phys_kernel + _TOP_ENTRY, _ENTRY_BYTES, f"{walk}level4_kernel_pgt[511]")
    yield _read(phase, page_offset + facts.phys_level3 + _TOP_ENTRY, _ENTRY_BYTES, f"{walk}level3_kernel_pgt[511]")
    fixmap = page_offset + facts.phys_fixmap & MASK_64
    yield Touch(phase, Access.WRITE, fixmap, _ENTRY_BYTES, about=f"{walk}the fixmap's entry")
    yield _read(phase, page_offset + _BDA_RAM_SIZE, 2, "reserve_bios_regions(): the BIOS data area")
    yield _read(phase, page_offset + _BDA_EBDA_SEGMENT, 2, "reserve_bios_regions(): the EBDA's segment")
    yield Touch(phase, Access.READ, page_offset + _VIDEO_ROM & MASK_64, 2, fixup=True, about="probe_roms()")


def _read(phase: int, va: int, size: int, about: str) -> Touch:
    return Touch(phase, Access.READ, va & MASK_64, size, about=about)
