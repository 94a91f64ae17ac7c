"""The payload's second face: what UEFI and its boot loaders read of the file, by our reader and by objdump."""

from __future__ import annotations

import re
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import FormatError
from bench.images import build_payload
from bench.images.bzimage import read_boot_header
from bench.images.payload_pe import ROOM_BYTES, PayloadLayout, pe_headers
from bench.uki import read_pe

ROOT = Path(__file__).parents[1]
COMPILERS = ("gcc", pytest.param("clang", marks=pytest.mark.payloads))
LAYOUT = PayloadLayout(setup_bytes=0x2000, data_at=0xB000, body_bytes=0xB200, memory_bytes=0x2D000, entry=0x2C0)


@pytest.fixture(scope="module", params=COMPILERS)
def kernel(request: pytest.FixtureRequest) -> Path:
    return build_payload(ROOT, compiler=request.param).kernel


def number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


@pytest.mark.slow
def test_sections_cover_the_file_and_the_memory_that_it_needs(kernel: Path) -> None:
    data = kernel.read_bytes()
    header = read_boot_header(data, "payload")
    image = read_pe(data, "payload")
    setup, text, written = image.sections
    assert [row.name for row in image.sections] == [".setup", ".text", ".data"]
    assert image.header_bytes == setup.file_at == 0x1000
    assert setup.file_at + setup.file_bytes == text.file_at == header.setup_bytes
    assert text.file_at + text.file_bytes == written.file_at
    assert written.file_at + written.file_bytes == len(data), "all of the file, and no more"
    assert image.image_bytes == header.setup_bytes + header.init_size, "BSS included"
    assert written.address + written.memory_bytes == image.image_bytes


@pytest.mark.slow
def test_a_copy_of_the_file_is_as_good_as_its_mapped_sections(kernel: Path) -> None:
    """Some loaders copy the file and jump: offsets are addresses, and nothing is to be relocated."""
    image = read_pe(kernel.read_bytes(), "payload")
    for row in image.sections:
        assert row.address == row.file_at
        assert row.address % image.section_alignment == 0 == row.file_bytes % image.file_alignment


@pytest.mark.slow
def test_entries_are_code_and_code_is_not_written(kernel: Path) -> None:
    data = kernel.read_bytes()
    setup_bytes = (data[0x1F1] + 1) * 512
    image = read_pe(data, "payload")
    entry, text = number(data, image.coff_at + 24 + 16, 4), image.sections[1]
    assert text.address <= entry < text.address + text.file_bytes
    assert data[entry : entry + 2] == b"\x56\x57", "push rsi, push rdi: the caller's in Microsoft's convention"
    handover = setup_bytes + number(data, 0x264, 4) + 0x200
    assert text.address <= handover < text.address + text.file_bytes
    assert number(data, 0x236, 2) & 8, "XLF_EFI_HANDOVER_64"
    flags = [number(data, image.table_at + 40 * n + 36, 4) >> 29 for n in range(3)]
    assert flags == [0b010, 0b011, 0b110], "read; read and execute; read and write"


@pytest.mark.slow
def test_boot_loaders_may_offer_the_initrd_by_load_file_2(kernel: Path) -> None:
    """systemd's stub and GRUB look for a major image version of at least 1."""
    data = kernel.read_bytes()
    assert number(data, read_pe(data, "payload").coff_at + 24 + 44, 2) >= 1


@pytest.mark.slow
def test_objdump_reads_the_same(kernel: Path) -> None:
    """The disassembler of binutils, which the build needs anyway, is not of our writing."""
    run = subprocess.run(["objdump", "-p", "-h", kernel], capture_output=True, text=True, check=True)
    assert "file format pei-x86-64" in run.stdout
    assert re.search(r"Subsystem\s+0000000a", run.stdout)
    rows = re.findall(r"^ +\d (\.\w+) +(\w+)  (\w+)  \w+  (\w+)", run.stdout, re.MULTILINE)
    image = read_pe(kernel.read_bytes(), "payload")
    assert [(name, int(at, 16), int(file_at, 16)) for name, _, at, file_at in rows] == [
        (row.name, row.address, row.file_at) for row in image.sections
    ]


def test_headers_end_before_linux_s_begin() -> None:
    headers = pe_headers(LAYOUT)
    assert len(headers) == ROOM_BYTES == 0x1F1
    assert headers[:2] == b"MZ" and headers[0x40:0x44] == b"PE\0\0"
    assert headers == pe_headers(LAYOUT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"setup_bytes": 0x2200}, "multiples of a page"),
        ({"data_at": 0xB010}, "multiples of a page"),
        ({"body_bytes": 0xB210}, "multiples of a page"),
        ({"entry": 0}, "not in their order"),
        ({"entry": 0xB000}, "not in their order"),
        ({"memory_bytes": 0xB000}, "not in their order"),
        ({"setup_bytes": 0x1000}, "not in their order"),
    ],
)
def test_layout_that_cannot_be_described_is_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        pe_headers(replace(LAYOUT, **change))


def test_what_is_no_program_for_uefi_is_refused_with_the_reason() -> None:
    good = pe_headers(LAYOUT).ljust(LAYOUT.setup_bytes + LAYOUT.body_bytes, b"\0")
    assert [row.name for row in read_pe(good, "good").sections] == [".setup", ".text", ".data"]

    def broken(offset: int, value: bytes) -> bytes:
        return good[:offset] + value + good[offset + len(value) :]

    table = read_pe(good, "good").table_at
    cases = {
        "no MZ": broken(0, b"ZM"),
        "no PE signature": broken(0x3C, struct.pack("<I", 0xFFFF_0000)),
        "not a power of two": broken(0x40 + 24 + 32, struct.pack("<I", 0x1800)),
        "no UEFI application": broken(0x40 + 24 + 68, b"\x03"),
        "headers are cut off": good[: table + 50],
        "not within the file": good[:-0x200],
        "overlaps": broken(table + 40 + 12, struct.pack("<I", 0x1800)),
        "beyond the image": broken(table + 80 + 8, struct.pack("<I", 0x30000)),
    }
    for words, data in cases.items():
        with pytest.raises(FormatError, match=words):
            read_pe(data, "broken")
