"""What the early loader reads of an initrd before it chooses: ranges, their order, and where the search ends."""

from __future__ import annotations

import pytest

from bench.errors import UsageError
from bench.sim.ucode_scan import InitrdReads, find_cpio_data, scan_accesses
from bench.x86.early_cpio import DIRECTORY, REGULAR, UCODE_PATH, build, header
from tests.microcode_files import update

MIB = 1 << 20
REGION = 2 * MIB


def test_without_an_initrd_nothing_is_read() -> None:
    assert scan_accesses(b"", 0) == []


def test_a_compressed_initrd_ends_the_search_at_its_first_byte() -> None:
    assert scan_accesses(b"\x1f\x8b" + bytes(5000), 5002) == [(0, 1)]


def test_leading_zeros_are_read_through_up_to_the_last_whole_header() -> None:
    assert scan_accesses(bytes(5000), 5000) == [(0, 4889)]


def test_headers_names_and_files_are_read_only_where_they_lie() -> None:
    other = b"kernel/x86/microcode/AuthenticAMD.bin\0"
    image = header(b"kernel\0", DIRECTORY | 0o755, 0) + header(other, REGULAR, 4 * MIB) + bytes(4 * MIB)
    second = len(header(b"kernel\0", 0, 0))
    # Names of folders are not looked at; a file's name up to the word that differs; its data not at all.
    assert scan_accesses(image, len(image)) == [(0, 110), (second, 110), (second + 110, 24)]


def test_an_update_is_summed_from_its_end_a_region_of_2_mib_at_a_time() -> None:
    image = build({UCODE_PATH: update(total_size=4 * MIB)})
    found = find_cpio_data(InitrdReads(image, len(image)))
    assert found is not None
    at, end = found.offset, found.offset + 4 * MIB
    tail = scan_accesses(image, len(image))[-13:]
    # Of each region the last word is read first: it is the one that faults.
    assert tail[:10] == [
        (at + 28, 4), (at + 32, 4), (at + 20, 4), (at, 4),
        (end - 4, 4), (2 * REGION, end - 2 * REGION), (2 * REGION - 4, 4), (REGION, REGION),
        (REGION - 4, 4), (at, REGION - at),
    ]  # fmt: skip


def test_regions_are_those_of_physical_memory() -> None:
    image = build({UCODE_PATH: update(total_size=2 * MIB)})
    low = scan_accesses(image, len(image), phys_initrd=0x7FF0_0000)
    assert [r for r in low if r[1] > 4096] == [(MIB, MIB + 0x210), (0x210, MIB - 0x210)]


def test_a_prefix_of_the_name_is_enough_and_the_first_one_wins() -> None:
    trap = build({UCODE_PATH + ".old": b"first", UCODE_PATH: b"second!"})
    found = find_cpio_data(InitrdReads(trap, len(trap)))
    assert found is not None
    assert (found.size, found.name) == (5, ".old")


def test_a_long_rest_of_a_name_is_warned_of() -> None:
    image = build({UCODE_PATH + "." * 18: b"data"})
    found = find_cpio_data(InitrdReads(image, len(image)))
    assert found is not None
    assert found.warning == f"File {UCODE_PATH}{'.' * 18} exceeding MAX_CPIO_FILE_NAME [18]"


def test_archives_behind_one_another_are_searched_as_one() -> None:
    first = build({"kernel/x86/microcode/AuthenticAMD.bin": b"theirs"})
    image = first + build({UCODE_PATH: b"ours"})
    found = find_cpio_data(InitrdReads(image, len(image)))
    assert found is not None
    assert image[found.offset :][:4] == b"ours"


def test_alignment_is_of_addresses_so_a_shifted_image_is_not_found() -> None:
    image = build({UCODE_PATH: b"data"})
    assert find_cpio_data(InitrdReads(image, len(image), phys=2)) is None


def test_a_search_that_leaves_the_given_head_is_refused() -> None:
    image = build({UCODE_PATH: update(total_size=4096)})
    with pytest.raises(UsageError, match="only the first 0x400 are here"):
        scan_accesses(image[:1024], len(image))
