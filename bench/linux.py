"""What is known of a kernel without a trace before it boots: from its image, its machine and its loader.

All of it is kept with a capture (`as_json`), so that the exception log can be judged years later without the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.errors import FormatError

# Symbols that the model cannot do without, and those that some configurations do not have.
SYMBOLS = (
    "_text", "_end", "__brk_base", "early_top_pgt", "early_dynamic_pgts", "level3_kernel_pgt", "level2_fixmap_pgt",
    "idt_table", "copy_bootdata",
)  # fmt: skip
OPTIONAL_SYMBOLS = ("level4_kernel_pgt", "load_ucode_bsp", "pvh_bootparams", "do_early_exception")


@dataclass(frozen=True)
class LinuxFacts:
    """One kernel image. Addresses are link-time virtual ones."""

    release: str
    """``6.1.192``"""
    symbols: Mapping[str, int]
    """All of SYMBOLS, and of OPTIONAL_SYMBOLS those that there are."""
    boot_params_offset: int | None
    """Of boot_params in the real-mode segment; None if the image does not show it."""
    pref_address: int
    """Physical address of ``_text`` where nothing moves it."""
    initrd_limit: int
    """The highest address below 4 GiB that an initrd may have."""


@dataclass(frozen=True)
class Offer:
    """What one boot's machine and loader offered the kernel. Sizes in bytes."""

    memory_bytes: int
    signature: int
    maxphyaddr: int
    nx: bool
    hypervisor_bit: bool
    """CPUID leaf 1 ECX bit 31."""
    entry: str
    """``bios``: QEMU's ``-kernel`` enters the kernel in real mode; ``uefi``: its EFI stub runs, and chooses places;
    ``pvh``: the ELF file itself is entered by its PVH note, where it is linked, as a guest of a hypervisor is;
    ``pv``: Xen made its page tables and entered it in ring 3."""
    command_line: str
    initrd_bytes: int


@dataclass(frozen=True)
class Unpatched:
    """A boot of a kernel that has no trace: all that a prediction of its early faults rests on."""

    kernel: LinuxFacts
    offer: Offer
    variant: str
    """The handler's name in `wire.VARIANTS`."""

    def as_json(self) -> dict[str, Any]:
        """For ``capture.json``, key ``unpatched``."""
        whole = asdict(self)
        whole["kernel"]["symbols"] = {name: f"{value:x}" for name, value in self.kernel.symbols.items()}
        return whole


def unpatched_from_json(whole: Any, source: str) -> Unpatched:
    """`as_json` read back. Raises FormatError naming `source`."""
    try:
        kernel = dict(whole["kernel"])
        kernel["symbols"] = {str(name): int(value, 16) for name, value in kernel["symbols"].items()}
        return Unpatched(LinuxFacts(**kernel), Offer(**whole["offer"]), str(whole["variant"]))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise FormatError(f"does not say what an unpatched kernel was offered: {error}", source=source) from error


# QEMU 7.2, hw/i386/x86.c (x86_load_linux) and hw/i386/pc_piix.c, machine `pc`: measured, see tests/lab.
QEMU_REAL_MODE = 0x10000
QEMU_COMMAND_LINE = 0x20000
_QEMU_ACPI_BYTES = 0x20000
_MOST_LOW_BYTES, _SPLIT_LOW_BYTES = 0xE0000000, 0xC0000000
_PAGE = 0x1000


def qemu_low_memory(memory_bytes: int) -> int:
    """How much of a `pc` machine's memory lies below 4 GiB; the rest begins there."""
    return memory_bytes if memory_bytes < _MOST_LOW_BYTES else _SPLIT_LOW_BYTES


def qemu_initrd(offer: Offer, initrd_limit: int) -> int:
    """Physical address at which QEMU's ``-kernel`` loader puts the initrd."""
    highest = min(initrd_limit, qemu_low_memory(offer.memory_bytes) - _QEMU_ACPI_BYTES - 1)
    return highest - offer.initrd_bytes & -_PAGE


def in_memory(phys: int, memory_bytes: int) -> bool:
    """Whether a `pc` machine has memory at that address."""
    low = qemu_low_memory(memory_bytes)
    return 0 <= phys < low or 1 << 32 <= phys < (1 << 32) + memory_bytes - low
