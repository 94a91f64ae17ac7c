"""The payload on virtual processors: what each window says, decoded here and not by the bench's own parser."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import time
import zlib
from pathlib import Path

import pytest

from bench.images import build_payload
from bench.script import Flag, ScriptWindow, Step, render
from bench.wire import Access

pytestmark = [pytest.mark.lab, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
NONCE = 0xFEDCBA9876543210
DIRECT_4, DIRECT_5 = 0xFFFF880000000000, 0xFF11000000000000
MIB, GIB = 1 << 20, 1 << 30
NX = 1 << 63
SEED, V3_9, LA57 = 0, 1, 2
BASE = {SEED: DIRECT_4, V3_9: DIRECT_4, LA57: DIRECT_5}
VARIANTS = (SEED, V3_9, LA57)
DONE, PANIC, HALT, LIVELOCK, SPIN, REFUSED = range(6)
WIDE_CPU = "max,phys-bits=46"

Record = dict[str, int | str]
"""Fields by their wire names, ``kind`` and ``seq``; an absent number is 0 by `number`."""


def number(record: Record, name: str) -> int:
    value = record.get(name, 0)
    assert isinstance(value, int)
    return value


def decode(line: bytes) -> Record | None:
    """A trace line by the wire's prose: CRC over nonce and text, fields of capitals and hexadecimal."""
    text, star, crc = line[line.find(b"@") :].partition(b"*")
    if not text.startswith(b"@") or not star:
        return None
    sums = [zlib.crc32(nonce.to_bytes(8, "little") + text) for nonce in (0, NONCE)]
    assert int(crc, 16) in sums, line
    words = text.decode().split(" ")
    record: Record = {"seq": int(words[0][1:], 16), "kind": words[1]}
    for word in words[2:]:
        name = word.rstrip("0123456789abcdef") if "'" not in word else word[: word.index("'")]
        value = word[len(name) :]
        record[name] = value[1:] if value.startswith("'") else int(value, 16)
    return record


class Boot:
    """One power-on: the bytes, the records in order, and the records of each window by its number."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        decoded = [decode(line) for line in data.split(b"\r\n")]
        self.records = [record for record in decoded if record is not None]
        assert [record["seq"] for record in self.records] == list(range(len(self.records)))
        self.windows: dict[int, list[Record]] = {}
        window: list[Record] = []
        for record in self.records:
            if record["kind"] == "begin":
                window = self.windows[number(record, "WIN")] = []
            window.append(record)

    def kinds(self, window: int) -> str:
        return " ".join(str(record["kind"]) for record in self.windows[window] if record["kind"] != "done")

    def of(self, window: int, kind: str) -> list[Record]:
        return [record for record in self.windows[window] if record["kind"] == kind]

    def end(self, window: int) -> Record:
        return self.of(window, "end")[0]


def boot_bytes(
    tmp_path: Path, script: bytes, *, cpu: str = WIDE_CPU, memory: str = "2G", kernel: Path | None = None,
    compiler: str = "gcc", command_line: str = "quiet", extra: tuple[str, ...] = ("-serial", "stdio"),
) -> bytes:  # fmt: skip
    """What QEMU's serial port said up to `done` or to the machine's end."""
    initrd = tmp_path / "script.txt"
    initrd.write_bytes(script)
    kernel = kernel or build_payload(ROOT, compiler=compiler).kernel
    command = [
        "qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot", "-cpu", cpu,
        "-m", memory, "-kernel", str(kernel), "-initrd", str(initrd), "-append", command_line, *extra,
    ]  # fmt: skip
    data = b""
    deadline = time.monotonic() + 60
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdout is not None
        try:
            while time.monotonic() < deadline:
                if not select.select([qemu.stdout], [], [], 0.5)[0]:
                    continue
                chunk = os.read(qemu.stdout.fileno(), 65536)
                data += chunk
                last = data.rfind(b" done")
                if not chunk or (last >= 0 and b"\r\n" in data[last:]):
                    return data
        finally:
            qemu.kill()
    raise AssertionError(f"neither done nor the machine's end: {data[-200:]!r}")


def boot(tmp_path: Path, *windows: ScriptWindow, **options: object) -> Boot:
    return Boot(boot_bytes(tmp_path, render(windows, nonce=NONCE), **options))  # type: ignore[arg-type]


def window(number: int, variant: int, *steps: Step, **options: int) -> ScriptWindow:
    defaults: dict[str, int] = {"pool": 64, "place": 16 * MIB, "levels": 5 if variant == LA57 else 4}
    return ScriptWindow(number=number, variant=variant, steps=steps, **(defaults | options))  # type: ignore[arg-type]


def read(va: int, size: int = 8, *, fixup: bool = False) -> Step:
    return Step("access", Access.READ, va, size, fixup=fixup)


def reads(variant: int, *physical: int) -> tuple[Step, ...]:
    return tuple(read(BASE[variant] + pa) for pa in physical)


def fetch(va: int, *, fixup: bool = False) -> Step:
    return Step("access", Access.FETCH, va, 1, fixup=fixup)


DIGEST, DUMP, FINAL = Step("digest"), Step("dump"), Step("final")
LEVELS = {SEED: "GUM", V3_9: "GUM", LA57: "GDUM"}


def shape(variant: int, step: Record) -> dict[str, int]:
    return {name: number(step, name) for name in LEVELS[variant]}


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
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


# What each bug needs to be seen: variants, options of the window, and physical addresses to read.
_TINY = {"pool": 4}
_ROUND = (0, GIB, 2 * GIB, 3 * GIB, 0, GIB)
BUGS: list[tuple[int, tuple[int, ...], dict[str, int], tuple[int, ...]]] = [
    (3, (V3_9, LA57), {"place": 8 * MIB}, (0,)),
    (13, VARIANTS, _TINY, _ROUND),
    (15, VARIANTS, _TINY, _ROUND),
    (16, (V3_9, LA57), {}, tuple(n * GIB for n in range(66))),
    (16, (SEED,), {}, (*(n * GIB for n in range(62)), 512 * GIB)),
    (18, VARIANTS, _TINY, _ROUND),
    (19, VARIANTS, {}, (MIB,)),
    (22, VARIANTS, {}, (0, GIB, 2 * GIB)),
    (24, (V3_9, LA57), {}, (0, 2 * MIB)),
]


def behaviour(result: Boot, window_number: int) -> list[Record]:
    """Without what differs between any two windows: number, sequence, and CR2 before the first fault."""
    return [
        {name: value for name, value in record.items() if name not in {"seq", "WIN", "CRB"}}
        for record in result.windows[window_number]
        if record["kind"] != "done"
    ]


@pytest.mark.parametrize(("bug", "variants", "options", "physical"), BUGS)
def test_bug_changes_what_is_seen_and_is_not_named(
    tmp_path: Path, bug: int, variants: tuple[int, ...], options: dict[str, int], physical: tuple[int, ...]
) -> None:
    windows = []
    for n, variant in enumerate(variants):
        steps = (*reads(variant, *physical), DIGEST)
        windows.append(window(2 * n, variant, *steps, flags=Flag.BEYOND_RAM, **options))
        windows.append(window(2 * n + 1, variant, *steps, flags=Flag.BEYOND_RAM, bug=bug, **options))
    result = boot(tmp_path, *windows)
    for n in range(len(variants)):
        good, bad = behaviour(result, 2 * n), behaviour(result, 2 * n + 1)
        assert good[:2] == bad[:2], "begin and boot tell nothing"
        assert good != bad


def test_bug_1_is_a_livelock_on_a_processor_without_nx(tmp_path: Path) -> None:
    """QEMU reports the reserved bit without the present bit: 8, where silicon says 9."""
    windows = [window(bug, V3_9, *reads(V3_9, 0), bug=bug) for bug in (0, 1)]
    result = boot(tmp_path, *windows, cpu="Haswell,phys-bits=46,-nx")
    assert [number(result.end(n), "OUT") for n in (0, 1)] == [DONE, LIVELOCK]
    assert {number(r, "C") for r in result.of(1, "pf")[1:]} <= {8, 9}


def test_bug_12_goes_on_in_dead_tables(tmp_path: Path) -> None:
    steps = (*reads(V3_9, 0), FINAL, *reads(V3_9, GIB))
    result = boot(tmp_path, *(window(bug, V3_9, *steps, bug=bug) for bug in (0, 12)))
    assert [number(result.end(n), "OUT") for n in (0, 12)] == [PANIC, LIVELOCK]


@pytest.mark.parametrize("variant", VARIANTS)
def test_bug_14_resets_the_machine_at_the_first_reset(tmp_path: Path, variant: int) -> None:
    result = boot(tmp_path, window(0, variant, *reads(variant, 0), bug=14))
    assert [record["kind"] for record in result.records] == ["begin"]


def test_bug_20_has_no_panic_where_one_belongs(tmp_path: Path) -> None:
    result = boot(tmp_path, *(window(bug, V3_9, read(0x1000), bug=bug) for bug in (0, 20)))
    assert [number(result.end(n), "OUT") for n in (0, 20)] == [PANIC, LIVELOCK]


def test_bug_22_halts_in_silence_at_the_third_fault(tmp_path: Path) -> None:
    result = boot(tmp_path, window(0, V3_9, *reads(V3_9, 0, GIB, 2 * GIB), bug=22, flags=Flag.BEYOND_RAM))
    assert result.kinds(0) == "begin boot touch pf x touch pf x touch pf end"
    assert [number(r, "J") for r in result.of(0, "x")] == [1, 2]
    assert number(result.end(0), "OUT") == HALT


REFUSED_WINDOWS: list[tuple[str, ScriptWindow]] = [
    ("this%20payload%20does%20not%20have%20that%20variant", window(7, 3)),
    ("that%20many%20paging%20levels", window(7, V3_9, levels=5)),
    ("no%20five-level%20paging", window(7, LA57)),
    ("not%202%20MiB%20aligned", window(7, V3_9, place=17 * MIB)),
    ("not%20free%20RAM", window(7, V3_9, place=64 * GIB)),
    ("between%201%20MiB", window(7, V3_9, place=0)),
    ("between%201%20and%2064", window(7, V3_9, pool=65)),
    ("unknown%20bug", window(7, V3_9, bug=2)),
    ("mistake%20to%20mend", window(7, V3_9, mend=8)),
]


def test_window_that_cannot_be_is_refused_by_name_and_the_next_one_runs(tmp_path: Path) -> None:
    windows = [refused for _, refused in REFUSED_WINDOWS]
    result = boot(tmp_path, *windows, window(8, V3_9, *reads(V3_9, 0)), cpu="Haswell,phys-bits=46")
    refusals = [record for record in result.records if record["kind"] == "refuse"]
    for (words, _), refusal in zip(REFUSED_WINDOWS, refusals, strict=True):
        assert str(refusal["WHY"]).startswith("window%207:%20") and words in str(refusal["WHY"])
    ends = [number(record, "OUT") for record in result.records if record["kind"] == "end"]
    assert ends == [REFUSED] * len(windows) + [DONE]


def test_access_that_could_do_harm_is_refused_at_its_step(tmp_path: Path) -> None:
    harmful = [
        (read(DIRECT_4 + 64 * GIB), "not%20RAM"),
        (read(DIRECT_4 + 2 * GIB - 4), "not%20RAM"),
        (Step("access", Access.WRITE, DIRECT_4 + MIB, 4), "hit%20the%20payload"),
        (Step("access", Access.WRITE, DIRECT_4 + 16 * MIB - 1, 2), "hit%20the%20payload"),
        (Step("access", Access.MOVE, DIRECT_4, 8, va_to=DIRECT_4 + 2 * GIB - 130 * 1024), "hit%20the%20payload"),
        (Step("access", Access.WRITE, 0xFFFFFFFF81001000, 8), "hit%20the%20payload"),
        (fetch(DIRECT_4 + 17 * MIB), "hit%20the%20payload"),
    ]
    windows = [window(n, V3_9, *reads(V3_9, 0), step) for n, (step, _) in enumerate(harmful)]
    result = boot(tmp_path, *windows, cpu="Haswell,phys-bits=46")
    for n, (_, words) in enumerate(harmful):
        assert result.kinds(n) == "begin boot touch pf x refuse end", harmful[n]
        refusal = result.of(n, "refuse")[0]
        assert number(refusal, "O") == 1 and words in str(refusal["WHY"])
        assert number(result.end(n), "OUT") == REFUSED


def with_crc(*lines: str) -> bytes:
    text = "".join(f"{line}\n" for line in lines).encode()
    return text + b"end %x\n" % zlib.crc32(text)


GOOD_WINDOW = "win 0 1 0 40 1000000 4 0 0"
BAD_SCRIPTS = [
    (b"hello\n", 1, "not a script"),
    (b"bench-script 1 5 0\nend 1\n", 2, "the CRC does not fit"),
    (with_crc("bench-script 2 5 0"), 1, "unknown version"),
    (with_crc("bench-script 1 5 0")[:-1], 2, "the line has no end"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "r 12"), 3, "a field is missing"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "q"), 3, "neither a window nor a step"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "r 0 3"), 3, "size is not"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "r F 8"), 3, "not a lower-case hexadecimal"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "r  0 8"), 3, "1 to 16 digits"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, "d 1"), 3, "more on the line"),
    (with_crc("bench-script 1 5 1", "r 0 8", GOOD_WINDOW), 2, "before the first window"),
    (with_crc("bench-script 1 5 2", GOOD_WINDOW), 3, "number of windows"),
    (with_crc("bench-script 1 5 1", GOOD_WINDOW, *["d"] * 8193), 8195, "more steps"),
]


@pytest.mark.parametrize(("script", "line", "words"), BAD_SCRIPTS, ids=[words for _, _, words in BAD_SCRIPTS])
def test_malformed_script_is_refused_with_line_and_reason_and_nothing_is_done(
    tmp_path: Path, script: bytes, line: int, words: str
) -> None:
    data = boot_bytes(tmp_path, script, cpu="Haswell")
    assert b" begin " not in data
    refusal = data[data.index(b" refuse ") :].split(b"*")[0].decode()
    assert f"'script%20line%20{line:x}:%20" in refusal and words.replace(" ", "%20") in refusal


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
