"""The trace: what a machine says on its serial line while the early #PF handler runs.

One definition, two readers. `c_header()` prints the C header that the bare-metal payload and the
kernel patch include; `decode()` reads a line back. The committed header is
`firmware-images/payloads/include/bench_wire.h`; `python -m bench.wire` prints a fresh one.

A line, all of it printable ASCII, ends with CR LF::

    @3f pf I1000123 Affff888013bd0000*9a3f21c4

``@`` sentinel; sequence number (counts every record since power-on, over all windows); kind; fields;
``*`` and the CRC. A field is an upper-case name followed by its value: a lower-case hexadecimal
number without leading zeros, or, for text fields, a percent-encoded string behind an apostrophe.
**A numeric field that is zero is left out.** The CRC is CRC-32 (the one of zlib and IEEE 802.3) over
the 8 bytes of the nonce (little-endian) followed by the line's text from ``@`` up to, not including,
``*``; always 8 digits. From `begin` until `boot` the nonce is zero, because nothing can be read yet;
`boot` and all that follows carry the run's nonce, so that a line of another boot is never taken for
one of this boot.

The typical page fault costs 99 bytes (44 for `pf`, 55 for `x`), 110 with five levels.
"""

from __future__ import annotations

import re
import sys
import zlib
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import unquote_to_bytes

WIRE_VERSION = 1
SENTINEL = "@"

# Instruction addresses are sent as offsets from the kernel map's base (modulo 2^64) to save digits.
START_KERNEL_MAP = 0xFFFFFFFF80000000
# Full enter/exit records for this many faults of one step; further ones are counted in silence …
FAULTS_SHOWN = 16
# … until this many faults of one step, which no instruction needs: the machine is in a livelock.
FAULT_CAP = 256
# Watchdog interrupts without a new record or step, after which the handler itself is in an endless loop.
SPIN_TICKS = 10
COMMAND_LINE_SHOWN_BYTES = 256


class Access(IntEnum):
    """What a `touch` is about to do (field Q)."""

    READ = 0
    WRITE = 1
    FETCH = 2
    MOVE = 3


class Phase(IntEnum):
    """Where a kernel stands in its window (field O of its records). The payload counts the steps of its script."""

    COPY = 0
    """From the reset on: boot_params and the command line are copied."""
    EXERCISE = 1
    """The exerciser touches what its script lists."""
    UCODE = 2
    """load_ucode_bsp()."""
    SETUP = 3
    """setup_arch() up to init_mem_mapping()."""
    MAPPING = 4
    """init_mem_mapping(): the final tables are made."""
    FINAL = 5
    """The final tables are in use, the early gate is still in place."""


class Outcome(IntEnum):
    """How a window ended (field OUT of `end`). A triple fault leaves no `end`."""

    DONE = 0
    PANIC = 1
    HALT = 2
    LIVELOCK = 3
    SPIN = 4
    REFUSED = 5


class Feature(IntEnum):
    """Bit numbers of field FEAT of `begin`: what CPUID says."""

    NX = 0
    LA57 = 1
    GBPAGES = 2
    HYPERVISOR = 3


@dataclass(frozen=True)
class Field:
    """One field of a record: its name on the wire, its name in Python, and what it means."""

    wire: str
    name: str
    about: str
    text: bool = False


@dataclass(frozen=True)
class Kind:
    """One kind of record, with its fields in the order in which they are written."""

    name: str
    about: str
    fields: tuple[Field, ...]


_IP = Field("I", "ip", "instruction address minus 0xffffffff80000000, modulo 2^64")
_CR2 = Field("A", "cr2", "CR2, the faulting linear address")
_ERROR = Field("C", "error", "error code")
_VECTOR = Field("V", "vector", "vector")
_NEXT = Field("N", "next", "next_early_pgt, read from memory")
_RESETS = Field("R", "resets", "early_pgt_resets, read from memory (0 where the variant has no such counter)")
_FLAG = Field("J", "flag", "early_recursion_flag, read from memory")
_STEP = Field("O", "step", "number of the step in its window, from 0; a kernel's are its phases, see Phase")

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "begin",
            "a window opens; before the handler's first reset",
            (
                Field("W", "wire", "wire version"),
                Field("ID", "image", "image id, 64 bits, a build-time constant"),
                Field("WIN", "window", "number of the window in the script"),
                Field("VAR", "variant", "handler variant, see VARIANTS"),
                Field("MEND", "mend", "mistakes of the seed that are mended: bit n is number n of the seed's list"),
                Field("POOL", "pool", "tables that the handler may use"),
                Field("LV", "levels", "paging levels, 4 or 5"),
                Field("SIG", "signature", "CPUID leaf 1 EAX"),
                Field("FEAT", "features", "CPUID features, bits of Feature"),
                Field("MPA", "maxphyaddr", "physical address bits"),
                Field("HV", "hypervisor", "CPUID leaf 0x40000000 EBX, 0 on bare metal"),
                Field("PID", "platform_id", "MSR 0x17 bits 52:50"),
                Field("REV", "revision", "microcode revision, MSR 0x8B EDX"),
                Field("EFER", "efer", "MSR EFER"),
                Field("CRC", "cr3", "CR3"),
                Field("CRD", "cr4", "CR4"),
                Field("CRB", "cr2", "CR2 before the first fault"),
                Field("PB", "phys_base", "phys_base, modulo 2^64"),
                Field("PO", "page_offset", "PAGE_OFFSET"),
                Field("PT", "phys_text", "physical address of _text"),
                Field("PE", "phys_end", "physical address of _end"),
                Field("TOP", "phys_top", "physical address of early_top_pgt (early_level4_pgt)"),
                Field("DYN", "phys_dynamic", "physical address of early_dynamic_pgts"),
                Field("LK", "phys_kernel", "physical address of the table that early_top_pgt[511] points to"),
                Field("LT", "phys_level3", "Linux: physical address of level3_kernel_pgt"),
                Field(
                    "FX", "phys_fixmap", "Linux: physical address of the fixmap entry that early_ioremap_init writes"
                ),
                Field("RM", "real_mode_data", "Linux: physical address of boot_params as the loader left it"),
            ),
        ),
        Kind(
            "boot",
            "the boot data has been copied",
            (
                Field("K", "nonce", "the run's nonce"),
                Field("RD", "initrd", "physical address of the initrd"),
                Field("RS", "initrd_bytes", "size of the initrd"),
                Field("RM", "real_mode_data", "Linux: physical address of boot_params as the loader left it"),
                Field("CP", "command_line_at", "Linux: physical address of the command line as the loader left it"),
                Field("POOL", "pool", "Linux: tables that the handler may use from here on"),
                Field("CL", "command_line", "kernel command line, its first 256 bytes", text=True),
            ),
        ),
        Kind(
            "touch",
            "an access is about to be made",
            (
                _STEP,
                Field("Q", "access", "kind of access, see Access"),
                Field("A", "va", "linear address (the source of a move)"),
                Field("B", "va_to", "linear address that a move writes to"),
                Field("L", "size", "bytes"),
                Field("X", "fixup", "1 if the exception table has an entry for it"),
                _IP,
                Field("PO", "page_offset", "PAGE_OFFSET, when it has changed since the last record that gave it"),
            ),
        ),
        Kind(
            "phase",
            "Linux: the window's next phase begins",
            (
                Field("O", "phase", "see Phase"),
                Field("PO", "page_offset", "PAGE_OFFSET, when it has changed since the last record that gave it"),
                Field("POOL", "pool", "tables that the handler may use, when it has changed"),
            ),
        ),
        Kind(
            "final",
            "the final tables are about to be loaded: the window's end",
            (
                _STEP,
                Field("TOP", "phys_top", "physical address of the final top table"),
                Field("S", "span", "bytes of the direct map that it covers, from 0, in 2 MiB leaves"),
            ),
        ),
        Kind("pf", "a page fault was raised (vector 14)", (_IP, _CR2, _ERROR)),
        Kind("ex", "another exception was raised", (_VECTOR, _IP, _CR2, _ERROR)),
        Kind(
            "x",
            "the exception was handled; entries found by walking from CR3",
            (
                _NEXT,
                _RESETS,
                _FLAG,
                Field("G", "pgd", "top-level entry"),
                Field("D", "p4d", "P4D entry, with five levels only"),
                Field("U", "pud", "PUD entry"),
                Field("M", "pmd", "PMD entry"),
                Field("T", "pte", "PTE entry"),
                Field("Y", "left", "level (5 to 1) at which the walk left the kernel image"),
                Field("PO", "page_offset", "PAGE_OFFSET, when it has changed since the last record that gave it"),
                Field("CRD", "cr4", "CR4, when it has changed since the last record that gave it"),
            ),
        ),
        Kind(
            "cap",
            "one step has raised FAULT_CAP faults: a livelock, ended by the tracer",
            (
                _STEP,
                Field("F", "faults", "faults raised by this step"),
                _NEXT,
                _RESETS,
                _IP,
                _CR2,
                _ERROR,
            ),
        ),
        Kind(
            "spin",
            "the watchdog interrupted code that makes no progress: an endless loop, ended by the tracer",
            (_STEP, _IP, _NEXT, _RESETS, _FLAG),
        ),
        Kind(
            "digest",
            "CRC-32 of the 512 top entries followed by the 64 x 512 entries of the pool, as they lie in memory",
            (_STEP, Field("H", "crc", "the CRC-32"), _NEXT),
        ),
        Kind(
            "dump",
            "a run of entries of one table that are equal or rise by one step; empty runs are left out",
            (
                _STEP,
                Field("TB", "table", "0 the top table, 1 + n table n of the pool"),
                Field("IX", "index", "index of the first entry"),
                Field("CNT", "count", "entries"),
                Field("E", "entry", "first entry"),
                Field("ST", "stride", "difference from one entry to the next"),
            ),
        ),
        Kind(
            "ucode",
            "a processor has looked for a microcode update",
            (
                Field("P", "processor", "number of the processor"),
                Field("FROM", "before", "revision before"),
                Field("OFF", "offset", "offset of the chosen update in the file"),
                Field("SIG", "signature", "its signature"),
                Field("FL", "flags", "its platform flags"),
                Field("REV", "revision", "its revision"),
                Field("TO", "after", "revision after"),
            ),
        ),
        Kind(
            "fatal",
            "the handler gave up; written before the kernel's own early_printk",
            (_VECTOR, _IP, _CR2, _ERROR, _FLAG, Field("CS", "cs", "code segment")),
        ),
        Kind(
            "refuse",
            "the payload will not do this step or window",
            (_STEP, Field("A", "address", "the address in question"), Field("WHY", "why", "reason", text=True)),
        ),
        Kind(
            "end",
            "a window closes",
            (
                Field("OUT", "outcome", "see Outcome"),
                Field("F", "faults", "exceptions entered"),
                Field("X", "exits", "exceptions left"),
                Field("TC", "touches", "touches made"),
                _NEXT,
                _RESETS,
            ),
        ),
        Kind("done", "the script has come to its end", (Field("WN", "windows", "windows run"),)),
    )
}

# Handler variants by their number on the wire; the simulator's table describes each.
VARIANTS: tuple[str, ...] = ("seed-2012", "v3.9", "la57", "v4.x", "v6.1", "v7.3")


@dataclass(frozen=True)
class Line:
    """A trace line that was read back: `fields` by their Python names; absent numbers are 0."""

    seq: int
    kind: str
    fields: dict[str, int | str]

    def number(self, name: str) -> int:
        """The numeric field `name`, 0 if the line does not have it."""
        value = self.fields.get(name, 0)
        assert isinstance(value, int)
        return value

    def text(self, name: str) -> str:
        """The text field `name`, empty if the line does not have it."""
        value = self.fields.get(name, "")
        assert isinstance(value, str)
        return value


def crc(text: bytes, nonce: int) -> int:
    """CRC-32 of a line's text (``@`` up to, not including, ``*``) with the nonce folded in."""
    return zlib.crc32(text, zlib.crc32(nonce.to_bytes(8, "little")))


def encode(seq: int, kind: str, fields: dict[str, int | str], *, nonce: int) -> bytes:
    """One line with CR LF, as the C code writes it. For tests, and to repair an edited capture."""
    parts = [f"{SENTINEL}{seq:x} {kind}"]
    for field in KINDS[kind].fields:
        value = fields.get(field.name, 0)
        if isinstance(value, str):
            if value:
                parts.append(f"{field.wire}'{_quote(value)}")
        elif value:
            parts.append(f"{field.wire}{value:x}")
    text = " ".join(parts).encode("ascii")
    return text + b"*%08x\r\n" % crc(text, nonce)


def _quote(value: str) -> str:
    return "".join(
        chr(byte) if 0x21 <= byte <= 0x7E and byte not in b"%*@" else f"%{byte:02x}"
        for byte in value.encode("utf-8", "surrogateescape")
    )


_LINE = re.compile(
    rb"@(0|[1-9a-f][0-9a-f]{0,7}) ([a-z]+)((?: [A-Z]+(?:[1-9a-f][0-9a-f]{0,15}|'[!-~]*))*)\*([0-9a-f]{8})"
)
_FIELD = re.compile(r" ([A-Z]+)(?:'([!-~]*)|([1-9a-f][0-9a-f]*))")


def decode(text: bytes, *, nonce: int) -> Line | str:
    """Read one line (from ``@`` to the last digit of the CRC).

    Returns the line, or a sentence that says why it is not one: its form, its CRC, an unknown kind or
    field. A line with a true CRC but an unknown kind or field comes from another wire version.
    """
    match = _LINE.fullmatch(text)
    if not match:
        return "not of the trace's form"
    if int(match[4], 16) != crc(text[: match.end(3)], nonce):
        return "CRC does not fit"
    kind = KINDS.get(match[2].decode())
    if kind is None:
        return f"unknown kind {match[2].decode()!r}"
    known = {field.wire: field for field in kind.fields}
    fields: dict[str, int | str] = {}
    for wire_name, quoted, digits in _FIELD.findall(match[3].decode()):
        field = known.get(wire_name)
        if field is None or field.name in fields:
            return f"unexpected field {wire_name!r} in {kind.name!r}"
        if field.text != (not digits):
            return f"field {wire_name!r} of {kind.name!r} is of the wrong type"
        fields[field.name] = int(digits, 16) if digits else unquote_to_bytes(quoted).decode("utf-8", "replace")
    return Line(seq=int(match[1], 16), kind=kind.name, fields=fields)


_HEADER_TOP = """\
/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The bench's trace, wire version {version}. Generated by `python -m bench.wire`; do not edit.
 *
 * Before including this, define
 *   BENCH_WIRE_PUT(c)  write one byte to the UART, with a bounded wait
 *   BENCH_WIRE_FN      storage class and attributes of the functions below
 *                      (default: static, unused allowed)
 * Nothing here allocates, faults, calls out or keeps state outside struct bench_wire.
 */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#ifndef BENCH_WIRE_FN
#define BENCH_WIRE_FN static __attribute__((unused))
#endif
"""

_HEADER_CODE = """
/* seq: number of the next record; nonce: folded into each CRC; crc: of the line being written, inverted. */
struct bench_wire {
	unsigned long long nonce;
	unsigned int seq;
	unsigned int crc;
};

/* Bit by bit: a table would be data that a mutant could overrun, and the UART is slower than this. */
BENCH_WIRE_FN unsigned int bench_wire_crc_step(unsigned int crc, unsigned char byte)
{
	int bit;

	crc ^= byte;
	for (bit = 0; bit < 8; bit++)
		crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
	return crc;
}

BENCH_WIRE_FN void bench_wire_char(struct bench_wire *w, char c)
{
	w->crc = bench_wire_crc_step(w->crc, (unsigned char)c);
	BENCH_WIRE_PUT(c);
}

BENCH_WIRE_FN void bench_wire_string(struct bench_wire *w, const char *s)
{
	while (*s)
		bench_wire_char(w, *s++);
}

/* Hexadecimal, lower case, no leading zeros. */
BENCH_WIRE_FN void bench_wire_hex(struct bench_wire *w, unsigned long long value)
{
	int shift = 60;

	while (shift > 0 && !(value >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4) {
		unsigned int digit = (unsigned int)(value >> shift) & 15u;

		bench_wire_char(w, (char)(digit < 10 ? '0' + digit : 'a' + digit - 10));
	}
}

/* Opens a record; its fields follow, then bench_wire_close(). */
BENCH_WIRE_FN void bench_wire_open(struct bench_wire *w, const char *kind)
{
	int i;

	w->crc = 0xffffffffu;
	for (i = 0; i < 64; i += 8)
		w->crc = bench_wire_crc_step(w->crc, (unsigned char)(w->nonce >> i));
	bench_wire_char(w, BENCH_WIRE_SENTINEL);
	bench_wire_hex(w, w->seq++);
	bench_wire_char(w, ' ');
	bench_wire_string(w, kind);
}

/* A numeric field; zero is left out. */
BENCH_WIRE_FN void bench_wire_field(struct bench_wire *w, const char *name, unsigned long long value)
{
	if (!value)
		return;
	bench_wire_char(w, ' ');
	bench_wire_string(w, name);
	bench_wire_hex(w, value);
}

/* A text field of at most max bytes of s, percent-encoded; an empty one is left out. */
BENCH_WIRE_FN void bench_wire_text(struct bench_wire *w, const char *name, const char *s, unsigned int max)
{
	if (!*s || !max)
		return;
	bench_wire_char(w, ' ');
	bench_wire_string(w, name);
	bench_wire_char(w, '\\'');
	for (; *s && max; s++, max--) {
		unsigned char c = (unsigned char)*s;

		if (c > 0x20 && c < 0x7f && c != '%' && c != '*' && c != BENCH_WIRE_SENTINEL) {
			bench_wire_char(w, (char)c);
		} else {
			bench_wire_char(w, '%');
			bench_wire_char(w, (char)((c >> 4) < 10 ? '0' + (c >> 4) : 'a' + (c >> 4) - 10));
			bench_wire_char(w, (char)((c & 15) < 10 ? '0' + (c & 15) : 'a' + (c & 15) - 10));
		}
	}
}

/* The CRC, always eight digits, and the line's end. */
BENCH_WIRE_FN void bench_wire_close(struct bench_wire *w)
{
	unsigned int crc = ~w->crc;
	int shift;

	BENCH_WIRE_PUT('*');
	for (shift = 28; shift >= 0; shift -= 4) {
		unsigned int digit = (crc >> shift) & 15u;

		BENCH_WIRE_PUT((char)(digit < 10 ? '0' + digit : 'a' + digit - 10));
	}
	BENCH_WIRE_PUT('\\r');
	BENCH_WIRE_PUT('\\n');
}

#endif
"""


def c_header() -> str:
    """The C header, whole."""
    out = [_HEADER_TOP.format(version=WIRE_VERSION)]
    for name, value in (
        ("VERSION", f"{WIRE_VERSION}"),
        ("SENTINEL", f"'{SENTINEL}'"),
        ("START_KERNEL_MAP", f"{START_KERNEL_MAP:#x}ULL"),
        ("FAULTS_SHOWN", f"{FAULTS_SHOWN}"),
        ("FAULT_CAP", f"{FAULT_CAP}"),
        ("SPIN_TICKS", f"{SPIN_TICKS}"),
        ("COMMAND_LINE_SHOWN", f"{COMMAND_LINE_SHOWN_BYTES}"),
    ):
        out.append(f"#define BENCH_WIRE_{name} {value}")
    for enum in (Access, Outcome, Feature, Phase):
        out.append(f"\n/* {(enum.__doc__ or '').strip().splitlines()[0]} */")
        out += [f"#define BENCH_{enum.__name__.upper()}_{member.name} {member.value}" for member in enum]
    out.append("\n/* Handler variants (VAR of begin). */")
    out += [
        f"#define BENCH_VARIANT_{re.sub('[^A-Z0-9]', '_', name.upper())} {number}"
        for number, name in enumerate(VARIANTS)
    ]
    for kind in KINDS.values():
        out.append(f"\n/* {kind.name}: {kind.about}. */")
        prefix = f"BENCH_{kind.name.upper()}"
        out.append(f'#define {prefix} "{kind.name}"')
        for field in kind.fields:
            out.append(f'#define {prefix}_{field.name.upper()} "{field.wire}" /* {field.about} */')
    return "\n".join(out) + "\n" + _HEADER_CODE


if __name__ == "__main__":
    sys.stdout.write(c_header())
