"""Boots the payload in QEMU and reads its trace back, by the wire's prose and not by the bench's own parser."""

from __future__ import annotations

import os
import select
import subprocess
import time
import zlib
from pathlib import Path
from typing import Any

from bench.images import build_payload
from bench.script import ScriptWindow, Step, render
from bench.wire import Access

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
    return until_done(command, deadline_s=60)


def until_done(command: list[str], *, deadline_s: float, times: int = 1) -> bytes:
    """What QEMU (`command`, its serial port on standard output) says up to so many `done`, or to its end."""
    data = b""
    deadline = time.monotonic() + deadline_s
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdout is not None
        try:
            while time.monotonic() < deadline:
                if not select.select([qemu.stdout], [], [], 0.5)[0]:
                    continue
                chunk = os.read(qemu.stdout.fileno(), 65536)
                data += chunk
                # A line that has come whole.
                if not chunk or data[: data.rfind(b"\r\n") + 1].count(b" done") >= times:
                    return data
        finally:
            qemu.kill()
    raise AssertionError(f"neither done nor the machine's end: {data[-200:]!r}")


def boot(tmp_path: Path, *windows: ScriptWindow, **options: Any) -> Boot:
    return Boot(boot_bytes(tmp_path, render(windows, nonce=NONCE), **options))


def window(number: int, variant: int, *steps: Step, **options: int) -> ScriptWindow:
    defaults: dict[str, Any] = {"pool": 64, "place": 16 * MIB, "levels": 5 if variant == LA57 else 4}
    return ScriptWindow(number=number, variant=variant, steps=steps, **(defaults | options))


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
