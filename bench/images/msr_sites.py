"""Where a kernel reads and writes model-specific registers for its microcode loader, by its own symbols.

A site is any place in the functions named below whose bytes are those of RDMSR or WRMSR. Bytes in the middle of another
instruction may be among them: no processor ever stops there, so that they do no harm.
"""

from __future__ import annotations

import bisect
import itertools
import re
import struct
from collections import Counter
from pathlib import Path

from bench.errors import UsageError
from bench.records import MsrSite

_INSTRUCTIONS = {b"\x0f\x32": False, b"\x0f\x30": True}
# Loaders and whatever reads a revision or platform id, of 3.9 to 7.3, as compilers inline and split them; and what the
# driver of /dev/cpu/N/msr reads with.
_FUNCTIONS = re.compile(
    r"_?_?(?:"
    r".*microcode.*|.*ucode.*|.*collect_cpu_info.*|.*cpu_collect_info.*|early_init_intel.*|init_intel.*|"
    r"intel_get_platform_id.*|rdmsr_safe_regs|native_read_msr_safe_regs"
    r")"
)
_NOT = re.compile(r".*(?:_amd|amd_|hygon|patch_level).*")
# Where paravirtualisation leaves one function for every read of a register, it is a site too.
_SHARED_READ = "native_read_msr"
# mov ecx, imm32
_LOAD_ECX = (b"\xb9\x17\x00\x00\x00", b"\xb9\x79\x00\x00\x00", b"\xb9\x8b\x00\x00\x00")
_NEAR_BYTES = 32
_TEXT = frozenset("tTwW")
_LONGEST_FUNCTION_BYTES = 1 << 16


def find_msr_sites(folder: Path) -> tuple[MsrSite, ...]:
    """The sites of the kernel in `folder` (``vmlinux`` and ``System.map``), at link-time addresses.

    Raises UsageError if there are none: a kernel without the loader, or without symbols.
    """
    elf = (folder / "vmlinux").read_bytes()
    functions = _functions(folder / "System.map")
    shared = [f for f in functions if f[2] == _SHARED_READ]
    wanted = [f for f in functions if _FUNCTIONS.fullmatch(f[2]) and not _NOT.fullmatch(f[2])]
    wanted += shared if len(shared) == 1 else []
    found: dict[int, MsrSite] = {}
    segments = _segments(elf)
    for start, end, _ in wanted:
        found |= _sites_in(_code(elf, segments, start, end), start)
    for start, code in _everything(elf, segments):
        found |= _by_register(code, start, functions)
    if not any(site.write for site in found.values()):
        raise UsageError(f"{folder}: its kernel has no code that writes microcode, or no symbols to find it by")
    return tuple(found[address] for address in sorted(found))


def _functions(system_map: Path) -> list[tuple[int, int, str]]:
    """Begin, end and name of each function, in order."""
    rows = [line.split() for line in system_map.read_text(encoding="latin-1").splitlines()]
    symbols = sorted((int(row[0], 16), row[2]) for row in rows if len(row) == 3 and row[1] in _TEXT)
    starts = sorted({address for address, _ in symbols})
    end_of = dict(itertools.pairwise(starts))
    return [
        (address, min(end_of.get(address, address), address + _LONGEST_FUNCTION_BYTES), name)
        for address, name in symbols
        if not name.startswith((".L", "__pfx_"))
    ]


def _segments(elf: bytes) -> list[tuple[int, int, int]]:
    """Virtual address, offset and size of each loaded part of the file that is executable."""
    table, size, count = *struct.unpack_from("<Q", elf, 0x20), *struct.unpack_from("<HH", elf, 0x36)
    found = []
    for number in range(count):
        kind, flags, offset, va, _, file_bytes = struct.unpack_from("<IIQQQQ", elf, table + number * size)
        if kind == 1 and flags & 1 and va:
            found.append((va, offset, file_bytes))
    return found


def _code(elf: bytes, segments: list[tuple[int, int, int]], start: int, end: int) -> bytes:
    for va, offset, size in segments:
        if va <= start < va + size:
            return elf[offset + start - va : offset + min(end, va + size) - va]
    return b""


def _everything(elf: bytes, segments: list[tuple[int, int, int]]) -> list[tuple[int, bytes]]:
    return [(va, elf[offset : offset + size]) for va, offset, size in segments]


def _sites_in(code: bytes, start: int) -> dict[int, MsrSite]:
    found = {}
    for match in re.finditer(rb"\x0f[\x30\x32]", code):
        at = start + match.start()
        found[at] = MsrSite(at, _INSTRUCTIONS[match[0]], match[0])
    return found


def _by_register(code: bytes, start: int, functions: list[tuple[int, int, str]]) -> dict[int, MsrSite]:
    """Sites anywhere to which one of the registers' numbers has been loaded just before, within the function."""
    begins = [function[0] for function in functions]
    found: dict[int, MsrSite] = {}
    for load in _LOAD_ECX:
        at = code.find(load)
        while at >= 0:
            number = bisect.bisect_right(begins, start + at)
            name = functions[number - 1][2] if number else ""
            stop = functions[number][0] - start if number < len(functions) else len(code)
            if not _NOT.fullmatch(name):
                near = code[at : min(at + len(load) + _NEAR_BYTES, stop)]
                found |= _sites_in(near, start + at)
            at = code.find(load, at + 1)
    return found


def site_names(folder: Path, sites: tuple[MsrSite, ...]) -> Counter[str]:
    """How many sites each function has, for a look at what was found."""
    functions = _functions(folder / "System.map")
    begins = [function[0] for function in functions]
    return Counter(functions[bisect.bisect_right(begins, site.address) - 1][2] for site in sites)
