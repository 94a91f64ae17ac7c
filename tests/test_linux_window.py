"""What a kernel touches in its window, by its sources and the facts of the boot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.initrd import early_cpio, script_in, user_cpio
from bench.records import BootData, Touch
from bench.sim import linux_window
from bench.wire import Access, Phase
from tests.sim_boot import facts as boot_facts

PO = 0xFFFF_8880_0000_0000
FACTS = replace(
    boot_facts("v6.1"),
    phys_level3=0x180B000,
    phys_kernel=0x180B000,
    phys_fixmap=0x180DFD0,
    real_mode_data=0x13BD0,
    hypervisor_bit=False,
)
BOOT = BootData(
    initrd=0x1FEDF000, initrd_bytes=0x200, real_mode_data=0x13BD0, command_line_at=0x20000, command_line="nokaslr"
)


def places(touches: list[Touch]) -> list[tuple[int, int]]:
    return [(t.va - PO, t.size) for t in touches]


def test_boot_params_then_the_command_line_are_copied() -> None:
    assert places(list(linux_window.copied(FACTS, BOOT, PO))) == [(0x13BD0, 4096), (0x20000, 2048)]


def test_without_the_boot_record_only_boot_params_are_known() -> None:
    assert places(list(linux_window.copied(FACTS, None, PO))) == [(0x13BD0, 4096)]


def test_without_a_command_line_none_is_copied() -> None:
    assert places(list(linux_window.copied(FACTS, replace(BOOT, command_line_at=0), PO))) == [(0x13BD0, 4096)]


@pytest.mark.parametrize(
    ("facts", "boot", "looks"),
    [
        (FACTS, BOOT, True),
        (replace(FACTS, hypervisor_bit=True), BOOT, False),
        (FACTS, replace(BOOT, command_line="nokaslr dis_ucode_ldr"), False),
        (FACTS, replace(BOOT, command_line="nokaslr dis_ucode_ldrx"), True),
        (FACTS, replace(BOOT, initrd_bytes=0), False),
    ],
)
def test_when_the_microcode_loader_looks_at_the_initrd(facts: object, boot: BootData, looks: bool) -> None:
    assert linux_window.loads_microcode(facts, boot) is looks  # type: ignore[arg-type]


def test_the_scan_reads_headers_and_names_of_the_cpio() -> None:
    head = early_cpio()
    scan = list(linux_window.microcode_scan(FACTS, replace(BOOT, initrd_bytes=len(head)), head, PO))
    assert scan and all(t.access is Access.READ and t.step == Phase.UCODE for t in scan)
    assert min(t.va for t in scan) == PO + BOOT.initrd
    assert max(t.va + t.size for t in scan) <= PO + BOOT.initrd + len(head)


def test_four_levels_of_early_ioremap_and_five() -> None:
    four = list(linux_window.set_up(FACTS, PO))
    top, level3, fixmap, *bios = places(four)
    assert top == (FACTS.phys_top + 4088, 8) and level3 == (0x180B000 + 4088, 8) and fixmap == (0x180DFD0, 8)
    assert bios[:2] == [(0x413, 2), (0x40E, 2)]
    assert four[2].access is Access.WRITE
    five = list(linux_window.set_up(replace(FACTS, levels=5, phys_kernel=0x180A000), PO))
    assert places(five)[1] == (0x180A000 + 4088, 8) and len(five) == len(four) + 1


def test_an_initrd_gives_its_script_back() -> None:
    assert script_in(early_cpio(b"bench-script 1\n")) == b"bench-script 1\n"
    assert script_in(early_cpio()) == b"" and script_in(b"") == b"" and script_in(b"bench-script 1\n") == b""
    assert len(early_cpio(b"x")) % 4 == 0


def test_what_init_needs_is_the_same_bytes_every_time() -> None:
    files = {"init": b"program", "kexec/kernel": b"k"}
    assert user_cpio(files) == user_cpio(files)
