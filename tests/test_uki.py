"""Unified kernel images: what is appended where, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import FormatError, UsageError
from bench.images.payload_pe import PayloadLayout, pe_headers
from bench.uki import append_sections, build_uki, read_pe

LAYOUT = PayloadLayout(setup_bytes=0x2000, data_at=0x3000, body_bytes=0x3200, memory_bytes=0x5123, entry=0x2C0)
# A program of the same form as a stub: sections, and a table of symbols behind them.
PROGRAM = pe_headers(LAYOUT).ljust(LAYOUT.setup_bytes + LAYOUT.body_bytes, b"\xcc")
STUB = PROGRAM[: 0x40 + 12] + struct.pack("<II", len(PROGRAM), 3) + PROGRAM[0x40 + 20 :] + b"symbols"
COFF, OPTIONAL = 0x40, 0x58


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    # The header's rest is free in a stub: here it would be the next header's.
    path = tmp_path / "stub.efi"
    path.write_bytes(STUB)
    return path


def sections(data: bytes) -> dict[str, bytes]:
    """Contents by name, as they are in memory."""
    rows = read_pe(data, "image").sections
    return {row.name: data[row.file_at : row.file_at + min(row.memory_bytes, row.file_bytes)] for row in rows}


def test_sections_hold_kernel_initrd_and_command_line(stub: Path) -> None:
    image = build_uki(PROGRAM, b"script\n", "quiet", stub=stub)
    found = sections(image)
    assert list(found) == [".setup", ".text", ".data", ".cmdline", ".linux", ".initrd"]
    assert (found[".linux"], found[".initrd"], found[".cmdline"]) == (PROGRAM, b"script\n", b"quiet")
    assert b"symbols" not in image


def test_without_initrd_there_is_no_section_for_it(stub: Path) -> None:
    assert ".initrd" not in sections(build_uki(PROGRAM, b"", "quiet", stub=stub))


def test_equal_input_gives_equal_bytes(stub: Path) -> None:
    assert build_uki(PROGRAM, b"one", "quiet", stub=stub) == build_uki(PROGRAM, b"one", "quiet", stub=stub)
    assert build_uki(PROGRAM, b"one", "quiet", stub=stub) != build_uki(PROGRAM, b"two", "quiet", stub=stub)


@given(sizes=st.lists(st.integers(1, 0x5000), min_size=1, max_size=5))
def test_appended_sections_are_aligned_apart_and_within(sizes: list[int]) -> None:
    contents = {f".s{n}": bytes([n + 1]) * size for n, size in enumerate(sizes)}
    data = append_sections(STUB, contents, "stub")
    image = read_pe(data, "image")  # refuses what overlaps or reaches beyond file or image
    old, added = image.sections[:3], image.sections[3:]
    assert [(row.name, row.memory_bytes) for row in added] == [(name, len(c)) for name, c in contents.items()]
    assert old == read_pe(STUB, "stub").sections
    assert all(row.address % 0x1000 == 0 and row.address >= 0x8000 for row in added), "behind the stub's own memory"
    assert all(row.file_at % 0x200 == 0 == row.file_bytes % 0x200 for row in added)
    assert added[-1].file_at + added[-1].file_bytes == len(data)
    assert 0 <= image.image_bytes - added[-1].address - sizes[-1] < 0x1000
    assert {name: sections(data)[name] for name in contents} == contents


def test_missing_stub_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="install systemd-boot-efi"):
        build_uki(PROGRAM, b"", "quiet", stub=tmp_path / "none.efi")


def test_kernel_without_a_stub_of_its_own_is_refused(stub: Path) -> None:
    with pytest.raises(FormatError, match=r"the kernel.*no program for UEFI"):
        build_uki(b"\x7fELF".ljust(4096, b"\0"), b"", "quiet", stub=stub)


@pytest.mark.parametrize("line", ["caf\xe9", "two\nlines", "zero\0"])
def test_command_line_that_firmware_could_not_show_is_refused(stub: Path, line: str) -> None:
    with pytest.raises(UsageError, match="printable ASCII"):
        build_uki(PROGRAM, b"", line, stub=stub)


def test_stub_that_cannot_be_appended_to_is_refused(stub: Path) -> None:
    taken = append_sections(STUB, {".linux": b"x"}, "stub")
    signed = bytearray(STUB)
    struct.pack_into("<II", signed, OPTIONAL + 144, 0x5000, 0x100)
    full = bytearray(STUB)
    struct.pack_into("<I", full, OPTIONAL + 60, 0x1C0)
    cases = {"has a section .linux already": taken, "is signed": bytes(signed), "no room for": bytes(full)}
    for words, data in cases.items():
        stub.write_bytes(data)
        with pytest.raises(FormatError, match=words):
            build_uki(PROGRAM, b"script", "quiet", stub=stub)
