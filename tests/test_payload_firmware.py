"""The payload's way out of UEFI, in a firmware of the test's own: odd memory maps, and one that does not let go."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SUPERVISOR = HERE.parent / "firmware-images" / "payloads" / "early_pf" / "supervisor"
SOURCES = ("efi_main.c", "efi_leave.c", "efi_memory.c", "efi_initrd.c", "main.c", "memory.c", "uart.c")
# Out of the way of the maps below; what the process is given by the kernel lies above 1 GiB.
PROGRAM_AT = 0x30000000
PAGE, MIB, GIB = 4096, 1 << 20, 1 << 30
NEEDED_BYTES = 0x2D000
SPECIFIC_PURPOSE = 0x40000
# UEFI specification 2.10, table 7.10, and what Linux makes of each.
TYPES = {0: 2, 1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2, 7: 1, 8: 5, 9: 3, 10: 4, 11: 2, 12: 2, 13: 2, 14: 7, 15: 2, 77: 2}
RAM, SOFT_RESERVED = 1, 0xEFFFFFFF
E820_MAX = 128
CONVENTIONAL = 7


@dataclass(frozen=True)
class Descriptor:
    """A row of a firmware's memory map."""

    type: int
    start: int
    pages: int
    attributes: int = 0xF

    @property
    def end(self) -> int:
        return self.start + self.pages * PAGE

    @property
    def e820(self) -> int:
        made = TYPES[self.type]
        return SOFT_RESERVED if made == RAM and self.attributes & SPECIFIC_PURPOSE else made


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("firmware") / "firmware"
    flags = ["-std=gnu11", "-O1", "-fno-strict-aliasing", "-ffunction-sections", "-fdata-sections", "-no-pie"]
    link = ["-Wl,--gc-sections", f"-Wl,-Ttext-segment={PROGRAM_AT:#x}", "-Wl,-z,noexecstack"]
    sources = [HERE / "fake_firmware.c", *(SUPERVISOR / name for name in SOURCES)]
    command = ["gcc", *flags, "-include", HERE / "fake_firmware.h", *link, "-o", program, *sources]
    subprocess.run([str(word) for word in command], check=True)
    return program


def started(firmware: Path, memory: list[Descriptor], *, failures: int = 0) -> str:
    """What is said, with the firmware's memory map in that order."""
    rows = "".join(f"{d.type:x} {d.start:x} {d.pages:x} {d.attributes:x}\n" for d in memory)
    run = subprocess.run(
        [firmware, str(failures)], input=rows, capture_output=True, text=True, check=False, timeout=60, errors="replace"
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


def e820(said: str) -> list[tuple[int, int, int]]:
    """Start, bytes and type of each range."""
    rows = re.findall(r"^e820 (\w+) (\w+) (\w+)$", said, re.MULTILINE)
    return [(int(start, 16), int(size, 16), int(kind, 16)) for start, size, kind in rows]


def refusal(said: str) -> str:
    found = re.search(r" refuse [^\r\n]*WHY'([^*\r\n]*)\*", said)
    return unquote(found[1]) if found else ""


def expected(memory: list[Descriptor]) -> list[tuple[int, int, int]]:
    """Page by page what each is; then the borders."""
    made: list[tuple[int, int, int]] = []
    for d in sorted(memory, key=lambda d: d.start):
        if made and made[-1][0] + made[-1][1] == d.start and made[-1][2] == d.e820:
            made[-1] = (made[-1][0], made[-1][1] + d.pages * PAGE, d.e820)
        elif d.pages:
            made.append((d.start, d.pages * PAGE, d.e820))
    return made


@st.composite
def memories(draw: st.DrawFn) -> list[Descriptor]:
    """A map with 64 MiB of RAM at 1 MiB and anything behind it, apart or not, in any order."""
    rows = [Descriptor(CONVENTIONAL, MIB, 64 * MIB // PAGE)]
    for _ in range(draw(st.integers(0, 60))):
        gap = draw(st.sampled_from([0, 0, 0, 1, 300])) * PAGE
        kind, pages = draw(st.sampled_from(sorted(TYPES))), draw(st.integers(1, 5))
        attributes = draw(st.sampled_from([0xF, 0xF, 0xF, SPECIFIC_PURPOSE | 0xF]))
        rows.append(Descriptor(kind, rows[-1].end + gap, pages, attributes))
    return draw(st.permutations(rows))


@settings(max_examples=60, deadline=None)
@given(memory=memories())
def test_memory_map_becomes_e820(firmware: Path, memory: list[Descriptor]) -> None:
    said = started(firmware, memory)
    assert e820(said) == expected(memory)
    assert f"left to {MIB:x} of {NEEDED_BYTES:x}\ninitrd the script\nline quiet\n" in said


def test_beyond_128_ranges_only_ram_is_told(firmware: Path) -> None:
    rows = [Descriptor(CONVENTIONAL, MIB, 256)]
    for n in range(127):
        rows += [Descriptor(0, rows[-1].end, 1), Descriptor(CONVENTIONAL, rows[-1].end + PAGE, 1 + n % 3)]
    told = e820(started(firmware, rows))
    assert told == [row for row in expected(rows) if row[2] == RAM]
    assert len(told) == E820_MAX
    rows += [Descriptor(0, rows[-1].end, 1), Descriptor(CONVENTIONAL, rows[-1].end + PAGE, 1)]
    said = started(firmware, rows)
    assert refusal(said) == "UEFI: the memory map has more than 128 ranges of RAM"
    assert "exit 8000000000000001" in said


def test_map_that_cannot_be_sorted_is_refused(firmware: Path) -> None:
    rows = [Descriptor(CONVENTIONAL, MIB + 2 * n * PAGE, 1) for n in range(1025)]
    assert refusal(started(firmware, rows)) == "UEFI: the memory map has more ranges than this program can sort"


@pytest.mark.parametrize(
    ("memory", "place"),
    [
        ([Descriptor(CONVENTIONAL, 0, 64 * 256)], MIB),
        ([Descriptor(0, 0, 257), Descriptor(CONVENTIONAL, MIB + PAGE, 2560)], MIB + PAGE),
        ([Descriptor(CONVENTIONAL, MIB, 44), Descriptor(CONVENTIONAL, 2 * MIB, 45)], 2 * MIB),
        # Boot services' memory is RAM by then, and each window needs the 2 MiB at 16 MiB.
        ([Descriptor(4, 16 * MIB - 44 * PAGE, 1024)], 18 * MIB),
        ([Descriptor(3, 16 * MIB - 45 * PAGE, 1024)], 16 * MIB - 45 * PAGE),
        ([Descriptor(CONVENTIONAL, 4 * GIB - 45 * PAGE, 100)], 4 * GIB - 45 * PAGE),
        # This program itself.
        ([Descriptor(CONVENTIONAL, PROGRAM_AT, 2560)], None),
    ],
)
def test_program_goes_to_the_lowest_free_ram(firmware: Path, memory: list[Descriptor], place: int | None) -> None:
    found = re.search(r"left to (\w+)", started(firmware, memory))
    assert found
    if place is not None:
        assert int(found[1], 16) == place
    else:
        assert PROGRAM_AT + NEEDED_BYTES < int(found[1], 16) < PROGRAM_AT + 10 * MIB


@pytest.mark.parametrize(
    "memory",
    [
        [Descriptor(CONVENTIONAL, MIB, 44)],
        [Descriptor(CONVENTIONAL, 0, 256)],
        [Descriptor(CONVENTIONAL, 16 * MIB, 512)],
        [Descriptor(CONVENTIONAL, 4 * GIB - 44 * PAGE, 5000)],
        [Descriptor(11, MIB, 5000)],
        [Descriptor(CONVENTIONAL, MIB, 5000, SPECIFIC_PURPOSE)],
    ],
    ids=["too small", "low", "only the windows' place", "above 4 GiB", "not RAM", "a device's"],
)
def test_no_place_for_the_program_is_refused(firmware: Path, memory: list[Descriptor]) -> None:
    said = started(firmware, memory)
    assert refusal(said) == "UEFI: no free RAM for the program itself: bytes 0x2d000 between 1 MiB and 4 GiB"
    assert "exit 8000000000000001" in said


def test_firmware_without_a_memory_map_is_refused(firmware: Path) -> None:
    assert refusal(started(firmware, [])) == "UEFI: the firmware does not say how long its memory map is"


def test_stale_key_is_asked_for_again(firmware: Path) -> None:
    """The firmware dies of a key that is not that of its latest map, and of an allocation after the first try."""
    said = started(firmware, [Descriptor(CONVENTIONAL, MIB, 1024)], failures=7)
    assert said.count("fails\n") == 7
    assert "left to 100000" in said and not refusal(said)


def test_firmware_that_never_lets_go_is_reported_and_asked_nothing_more(firmware: Path) -> None:
    said = started(firmware, [Descriptor(CONVENTIONAL, MIB, 1024)], failures=1000)
    assert said.count("fails\n") == 8
    assert refusal(said) == "UEFI: the firmware does not let go: ExitBootServices failed again and again"
    assert said.endswith("halts\n") and " done" in said
