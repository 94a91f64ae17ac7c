"""Where a kernel reads and writes registers for its microcode: found in its code, by its symbols."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.images.msr_sites import find_msr_sites, site_names

BASE = 0xFFFFFFFF81000000
RDMSR, WRMSR, NOP = b"\x0f\x32", b"\x0f\x30", b"\x90"


def kernel(folder: Path, functions: list[tuple[str, bytes]]) -> Path:
    """A vmlinux with these functions, one behind the other, and its System.map."""
    code, symbols = b"", []
    for name, body in functions:
        symbols.append(f"{BASE + len(code):016x} t {name}")
        code += body.ljust(-(-len(body) // 16) * 16, NOP)
    symbols.append(f"{BASE + len(code):016x} T _etext")
    header = bytearray(64)
    struct.pack_into("<Q", header, 0x20, 64)
    struct.pack_into("<HH", header, 0x36, 56, 1)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 120, BASE, 0, len(code), len(code), 0)
    (folder / "vmlinux").write_bytes(bytes(header) + segment + code)
    (folder / "System.map").write_text("\n".join(symbols) + "\n")
    return folder


def test_sites_are_those_of_the_microcode_functions_in_order_of_their_addresses(tmp_path: Path) -> None:
    folder = kernel(
        tmp_path,
        [
            ("native_sched", RDMSR),
            ("apply_microcode_early.isra.0", NOP + WRMSR + NOP + RDMSR),
            ("__apply_microcode_amd", WRMSR),
            ("intel_get_platform_id", RDMSR),
        ],
    )
    sites = find_msr_sites(folder)
    assert [(s.address - BASE, s.write) for s in sites] == [(17, True), (20, False), (48, False)]
    assert site_names(folder, sites) == {"apply_microcode_early.isra.0": 2, "intel_get_platform_id": 1}


def test_a_site_that_was_inlined_elsewhere_is_found_by_the_registers_number(tmp_path: Path) -> None:
    load = b"\xb9\x79\x00\x00\x00"
    folder = kernel(
        tmp_path,
        [
            ("somewhere_else", load + NOP * 7 + WRMSR),
            ("too_far", load + NOP * 40 + WRMSR),
            ("next_function", WRMSR),
            ("get_patch_level", b"\xb9\x8b\x00\x00\x00" + RDMSR),
        ],
    )
    assert [s.address - BASE for s in find_msr_sites(folder)] == [12]


def test_one_function_for_all_reads_is_a_site_and_many_copies_of_it_are_none(tmp_path: Path) -> None:
    writes = ("load_ucode_bsp", WRMSR)
    one = find_msr_sites(kernel(tmp_path, [writes, ("native_read_msr", RDMSR)]))
    many = find_msr_sites(kernel(tmp_path, [writes, ("native_read_msr", RDMSR), ("native_read_msr", RDMSR)]))
    assert (len(one), len(many)) == (2, 1)


def test_a_kernel_without_the_loader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no code that writes microcode"):
        find_msr_sites(kernel(tmp_path, [("start_kernel", WRMSR), ("early_init_intel", RDMSR)]))
