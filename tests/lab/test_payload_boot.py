"""The payload on virtual processors: what each window says."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from bench.images import build_payload
from bench.script import Flag, Step, render
from bench.wire import Access
from tests.lab.payload_machine import (
    BASE,
    DIGEST,
    DIRECT_4,
    DONE,
    DUMP,
    FINAL,
    GIB,
    LA57,
    LEVELS,
    LIVELOCK,
    MIB,
    NONCE,
    NX,
    PANIC,
    ROOT,
    SEED,
    SPIN,
    V3_9,
    VARIANTS,
    WIDE_CPU,
    Boot,
    boot,
    boot_bytes,
    fetch,
    number,
    read,
    reads,
    shape,
    window,
)

pytestmark = [pytest.mark.lab, pytest.mark.slow]


@pytest.mark.parametrize("compiler", ["gcc", pytest.param("clang", marks=pytest.mark.payloads)])
def test_first_touch_takes_one_table_a_level_and_the_leaf_is_of_the_variant_s_form(
    tmp_path: Path, compiler: str
) -> None:
    windows = [window(v, v, *reads(v, 3 * MIB, 3 * MIB + 8, GIB + 5 * MIB)) for v in VARIANTS]
    result = boot(tmp_path, *windows, compiler=compiler)
    for variant in VARIANTS:
        assert result.kinds(variant) == "begin boot touch pf x touch touch pf x end"
        pool = number(result.of(variant, "begin")[0], "DYN")
        pointers = [pool + 0x1000 * n + 0x63 for n in range(len(LEVELS[variant]) - 1)]
        # The seed's PMD table holds the whole GiB, its successors' one leaf: here both show the touched one.
        leaf = (2 * MIB) + 0xE3 + NX
        first, second = result.of(variant, "x")
        assert shape(variant, first) == dict(zip(LEVELS[variant], [*pointers, leaf], strict=True))
        assert number(first, "N") == len(pointers)
        assert number(second, "N") == len(pointers) + 1
        assert number(second, "M") == GIB + 4 * MIB + 0xE3 + NX
        assert number(first, "R") == (variant == SEED)
        assert number(first, "J") == 0
        assert result.end(variant) == {
            "seq": result.end(variant)["seq"], "kind": "end", "F": 2, "X": 2, "TC": 3, "N": len(pointers) + 1,
            **({"R": 1} if variant == SEED else {}),
        }  # fmt: skip
    assert number(result.records[-1], "WN") == 3


def test_begin_tells_processor_and_addresses(tmp_path: Path) -> None:
    windows = [window(0, V3_9), window(1, V3_9, place=8 * MIB), window(2, LA57), window(3, SEED, place=2 * MIB)]
    result = boot(tmp_path, *windows)
    begins = [result.of(n, "begin")[0] for n in range(4)]
    for begin, place in zip(begins, (16 * MIB, 8 * MIB, 16 * MIB, 2 * MIB), strict=True):
        assert number(begin, "PT") == place
        assert number(begin, "PB") == (place - 16 * MIB) % (1 << 64)
        assert place < number(begin, "TOP") < number(begin, "PE") <= place + 2 * MIB
        assert number(begin, "DYN") == number(begin, "TOP") + 4096
        assert number(begin, "CRC") == number(begin, "TOP")
        assert number(begin, "EFER") == 0xD00
        assert number(begin, "MPA") == 46
        assert number(begin, "ID") == build_payload(ROOT).image_id
    assert [number(begin, "CRD") for begin in begins] == [0xA0, 0xA0, 0x10A0, 0xA0]
    assert [number(begin, "LV") for begin in begins] == [4, 4, 5, 4]
    boots = [result.of(n, "boot")[0] for n in range(4)]
    assert {(number(b, "K"), b["CL"]) for b in boots} == {(NONCE, "quiet")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_digest_is_the_crc_of_what_the_dump_shows(tmp_path: Path, variant: int) -> None:
    """Sixty scattered GiB, so that the pool is used up and old content lies in the tables."""
    steps = reads(variant, *(n * 0x12345678901 % (1 << 46) for n in range(60)))
    flags = Flag.BEYOND_RAM
    result = boot(tmp_path, window(0, variant, *steps, DUMP, DIGEST, flags=flags), cpu=WIDE_CPU)
    tables = [[0] * 512 for _ in range(65)]
    for run in result.of(0, "dump"):
        for n in range(number(run, "CNT")):
            entry = (number(run, "E") + n * number(run, "ST")) % (1 << 64)
            tables[number(run, "TB")][number(run, "IX") + n] = entry
    raw = b"".join(struct.pack("<512Q", *table) for table in tables)
    assert number(result.of(0, "digest")[0], "H") == zlib.crc32(raw)


def test_rejected_address_ends_in_the_panic_text_of_its_time(tmp_path: Path) -> None:
    steps = read(0x1000)
    result = boot(tmp_path, *(window(v, v, steps) for v in VARIANTS))
    for variant in VARIANTS:
        assert result.kinds(variant) == "begin boot touch pf fatal end"
        fatal = result.of(variant, "fatal")[0]
        assert (number(fatal, "V"), number(fatal, "A"), number(fatal, "J"), number(fatal, "CS")) == (14, 0x1000, 1, 16)
        assert number(result.end(variant), "OUT") == PANIC
    ip = number(result.of(0, "fatal")[0], "I") + 0xFFFFFFFF80000000
    old = f"PANIC: early exception 0e rip 10:{ip:x} error 0 cr2 1000\r\n".encode()
    new = f"PANIC: early exception 0x0e IP 10:{ip:x} error 0 cr2 0x1000\r\n".encode()
    assert (result.data.count(old), result.data.count(new)) == (2, 1)


def test_non_canonical_address_raises_general_protection_and_leaves_cr2(tmp_path: Path) -> None:
    result = boot(tmp_path, window(0, V3_9, *reads(V3_9, 0x5000), read(1 << 47)))
    assert result.kinds(0) == "begin boot touch pf x touch ex fatal end"
    (exception,) = result.of(0, "ex")
    assert (number(exception, "V"), number(exception, "C"), number(exception, "A")) == (13, 0, DIRECT_4 + 0x5000)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fixup_goes_on_behind_the_access(tmp_path: Path, variant: int) -> None:
    steps = (
        read(0x1000, fixup=True),
        Step("access", Access.WRITE, 0x2000, 4, value=7, fixup=True),
        Step("access", Access.MOVE, BASE[variant], 2, va_to=0x3000, fixup=True),
        fetch(0x4000, fixup=True),
        read(1 << 62, fixup=True),
        *reads(variant, GIB),
    )
    result = boot(tmp_path, window(0, variant, *steps))
    assert number(result.end(0), "OUT") == DONE
    assert number(result.end(0), "F") == number(result.end(0), "X") == 7
    assert [number(r, "C") for r in result.of(0, "pf")] == [0, 2, 0, 2, 0x10, 0]
    assert [number(r, "A") for r in result.of(0, "pf")][2:4] == [BASE[variant], 0x3000], "reads, then writes"


def test_split_access_faults_once_a_page_and_the_second_time_at_its_first_byte(tmp_path: Path) -> None:
    border = DIRECT_4 + 64 * MIB
    result = boot(tmp_path, window(0, V3_9, read(border - 3)))
    assert [number(r, "A") for r in result.of(0, "pf")] == [border - 3, border]


def test_fetch_from_a_no_execute_leaf_is_a_livelock_and_runs_without_nx(tmp_path: Path) -> None:
    va = DIRECT_4 + 48 * MIB
    script = window(0, V3_9, Step("access", Access.WRITE, va, 1, value=0xC3), fetch(va))
    result = boot(tmp_path, script, window(1, V3_9, *reads(V3_9, 0)))
    assert number(result.end(0), "OUT") == LIVELOCK
    assert (number(result.end(0), "F"), number(result.end(0), "X")) == (257, 256)
    assert [number(r, "C") for r in result.of(0, "pf")] == [2] + [0x11] * 16
    (cap,) = result.of(0, "cap")
    assert (number(cap, "O"), number(cap, "F"), number(cap, "C"), number(cap, "A")) == (1, 256, 0x11, va)
    assert number(result.end(1), "OUT") == DONE, "the next window starts fresh"
    without = boot(tmp_path, script, cpu="Haswell,phys-bits=46,-nx")
    assert number(without.end(0), "OUT") == DONE
    assert number(without.of(0, "begin")[0], "EFER") == 0x500
    assert number(without.of(0, "x")[0], "M") == 48 * MIB + 0xE3


def test_handler_that_never_returns_is_interrupted(tmp_path: Path) -> None:
    """One table is not enough for a PUD and a PMD: mainline resets and tries again for ever."""
    result = boot(tmp_path, window(0, V3_9, *reads(V3_9, 0), pool=1), window(1, LA57, *reads(LA57, 0), pool=2))
    for number_, taken in ((0, 1), (1, 2)):
        assert result.kinds(number_) == "begin boot touch pf spin end"
        assert number(result.end(number_), "OUT") == SPIN
        assert number(result.of(number_, "spin")[0], "J") == 1
        assert number(result.of(number_, "spin")[0], "N") <= taken


def test_two_distant_pages_need_four_tables(tmp_path: Path) -> None:
    step = Step("access", Access.MOVE, DIRECT_4 + 32 * MIB, 8, va_to=DIRECT_4 + 512 * GIB)
    windows = [window(pool, SEED, step, pool=pool, flags=Flag.BEYOND_RAM) for pool in (3, 4)]
    result = boot(tmp_path, *windows)
    assert [number(result.end(pool), "OUT") for pool in (3, 4)] == [LIVELOCK, DONE]


def test_no_place_but_the_linked_one_works_without_phys_base(tmp_path: Path) -> None:
    options = [{"place": 16 * MIB}, {"place": 8 * MIB}, {"place": 8 * MIB, "mend": 1 << 3}]
    result = boot(tmp_path, *(window(n, SEED, *reads(SEED, 0), **options[n]) for n in range(3)))
    assert [number(result.end(n), "OUT") for n in range(3)] == [DONE, LIVELOCK, DONE]
    astray = result.of(1, "x")[0]
    assert number(astray, "G") > 16 * MIB and number(astray, "Y") == 3, "the walk leaves the image at the PUD table"


def test_place_above_4_gib_in_sparse_memory(tmp_path: Path) -> None:
    sparse = ("-object", "memory-backend-ram,id=m,size=600G,reserve=off")
    machine = ("-machine", "pc,memory-backend=m,smbios-entry-point-type=64", "-serial", "stdio")
    places = (9 * GIB, 530 * GIB + 2 * MIB, 512 * GIB - 2 * MIB)
    windows = [
        window(3 * v + n, v, *reads(v, GIB, 550 * GIB), place=place, mend=0 if v else 1 << 3)
        for v in VARIANTS
        for n, place in enumerate(places)
    ]
    result = boot(tmp_path, *windows, memory="600G", extra=(*sparse, *machine))
    assert [number(result.end(n), "OUT") for n in range(9)] == [DONE] * 9
    assert [number(result.of(n, "begin")[0], "PT") for n in range(9)] == list(places) * 3
    assert {number(result.end(n), "F") for n in range(9)} == {2}


def test_final_tables_map_the_first_gib_and_end_what_the_handler_can_do(tmp_path: Path) -> None:
    windows = [window(v, v, *reads(v, 0), FINAL, *reads(v, 2 * MIB, GIB)) for v in VARIANTS]
    result = boot(tmp_path, *windows)
    assert [number(result.end(v), "OUT") for v in VARIANTS] == [LIVELOCK, PANIC, PANIC]
    for variant in VARIANTS:
        (final,) = result.of(variant, "final")
        assert (number(final, "O"), number(final, "S")) == (1, GIB)
        assert number(result.of(variant, "begin")[0], "PT") < number(final, "TOP")
        assert len({number(r, "A") for r in result.of(variant, "pf")}) == 2


def test_other_port_by_command_line(tmp_path: Path) -> None:
    script = render((window(0, V3_9),), nonce=NONCE)
    extra = ("-serial", "null", "-serial", "stdio")
    result = Boot(boot_bytes(tmp_path, script, command_line="quiet bench.uart=0x2f8", extra=extra))
    assert result.kinds(0) == "begin boot end"


def test_protected_mode_part_runs_wherever_it_is_loaded(tmp_path: Path) -> None:
    """The same part 12 KiB higher: nothing in it may know its own address."""
    kernel = bytearray(build_payload(ROOT).kernel.read_bytes())
    split, shift = (kernel[0x1F1] + 1) * 512, 0x3000
    struct.pack_into("<I", kernel, 0x214, 0x100000 + shift)
    struct.pack_into("<I", kernel, 0x1F4, (len(kernel) - split + shift) // 16)
    moved = tmp_path / "moved.bin"
    moved.write_bytes(bytes(kernel[:split]) + bytes(shift) + bytes(kernel[split:]))
    windows = [window(v, v, *reads(v, 0)) for v in VARIANTS]
    result = boot(tmp_path, *windows, kernel=moved)
    assert [number(result.end(v), "OUT") for v in VARIANTS] == [DONE] * 3


def test_another_witness_sees_the_same_faults_in_the_windows_code_segment(tmp_path: Path) -> None:
    log = tmp_path / "exceptions.log"
    windows = [window(v, v, *reads(v, 0, GIB), read(0x1000)) for v in VARIANTS]
    result = boot(tmp_path, *windows, extra=("-serial", "stdio", "-d", "int", "-D", str(log)))
    # The firmware's own exceptions come first; ours are those with the windows' selector.
    lines = [line for line in log.read_text().splitlines() if " IP=0010:ffffffff81" in line]
    seen = [int(line.partition("CR2=")[2].split()[0], 16) for line in lines if " v=0e " in line]
    told = [number(record, "A") for record in result.records if record["kind"] == "pf"]
    assert len(told) == 9 and seen == told
