"""The trace's two ends agree: the committed C header writes what `bench.wire` reads, and damage is told from truth.

What is left to chance, in the wire's own terms. CRC-32 finds every flipped bit and every burst of up to 32 bits in
the text it covers. Any other damage that still has a line's form (bytes lost, doubled or spliced) passes with a chance
of 1 in 2^32 a line. The nonce enters through its own CRC-32: a line of another boot passes exactly when the two
nonces have the same CRC-32, which for two random nonces is again 1 in 2^32.
"""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bench.wire import COMMAND_LINE_SHOWN_BYTES, KINDS, Kind, Line, c_header, crc, decode, encode

HEADER = Path(__file__).resolve().parent.parent / "firmware-images" / "payloads" / "include" / "bench_wire.h"
TOP = 2**64 - 1
NONCE = 0x0123456789ABCDEF

nonces = st.integers(0, TOP)
sequence_numbers = st.integers(0, 2**32 - 1)
# What can be read back: a zero number and an empty text are left out, and text is UTF-8.
numbers = st.integers(1, TOP) | st.integers(0, 63).map(lambda bit: 1 << bit)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@st.composite
def records(draw: st.DrawFn) -> tuple[str, dict[str, int | str]]:
    """A kind, and values for any of its fields."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    fields = draw(st.sets(st.sampled_from(KINDS[kind].fields)))
    return kind, {field.name: draw(texts if field.text else numbers) for field in sorted(fields, key=lambda f: f.name)}


def text_of(line: bytes) -> bytes:
    """What `decode` takes: from the sentinel to the CRC's last digit."""
    assert line.endswith(b"\r\n")
    return line[:-2]


# --- the C header ----------------------------------------------------------------------------------------------------

# (name in Python, value) of every field of a kind; texts hold what has to be quoted.
Sample = dict[str, int | str]


def samples(kind: Kind) -> list[Sample]:
    every: Sample = {
        field.name: f'a "b" 100%* @\\{number}é\x7f' if field.text else (number + 1) * 0x0F1E2D3C4B5A6978 & TOP
        for number, field in enumerate(kind.fields)
    }
    extremes: Sample = {f.name: "~" if f.text else (1 if n % 2 else TOP) for n, f in enumerate(kind.fields)}
    nothing: Sample = {f.name: "" if f.text else 0 for f in kind.fields}
    return [every, extremes, nothing]


def c_string(text: str) -> str:
    """A C literal of the UTF-8 bytes, octal escapes throughout."""
    return '"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"'


def c_program(nonce: int) -> str:
    """A program that writes every sample with the header's own names."""
    body = []
    for kind in KINDS.values():
        name = f"BENCH_{kind.name.upper()}"
        for sample in samples(kind):
            body.append(f"bench_wire_open(&w, {name});")
            for field in kind.fields:
                wire_name, value = f"{name}_{field.name.upper()}", sample[field.name]
                if isinstance(value, str):
                    body.append(f"bench_wire_text(&w, {wire_name}, {c_string(value)}, BENCH_WIRE_COMMAND_LINE_SHOWN);")
                else:
                    body.append(f"bench_wire_field(&w, {wire_name}, {value:#x}ULL);")
            body.append("bench_wire_close(&w);")
    lines = "\n\t".join(body)
    return (
        f"#include <stdio.h>\n#define BENCH_WIRE_PUT(c) putchar(c)\n#include <bench_wire.h>\n"
        f"int main(void)\n{{\n\tstruct bench_wire w = {{ {nonce:#x}ULL, 0, 0 }};\n\n\t{lines}\n\treturn 0;\n}}\n"
    )


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines that the compiled header prints, CR LF still on them."""
    folder = tmp_path_factory.mktemp("wire")
    source, program = folder / "samples.c", folder / "samples"
    source.write_text(c_program(NONCE))
    strict = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *strict, "-I", HEADER.parent, "-o", program, source], check=True)
    return subprocess.run([program], check=True, capture_output=True).stdout.splitlines(keepends=True)


def test_the_committed_header_is_what_wire_prints() -> None:
    assert HEADER.read_text() == c_header(), "run: python -m bench.wire > firmware-images/payloads/include/bench_wire.h"


@pytest.mark.slow
def test_what_the_header_prints_reads_back_to_the_same_fields(printed: list[bytes]) -> None:
    expected = [(kind.name, sample) for kind in KINDS.values() for sample in samples(kind)]
    assert len(printed) == len(expected)
    for seq, (raw, (kind, sample)) in enumerate(zip(printed, expected, strict=True)):
        present = {name: value for name, value in sample.items() if value}
        assert decode(text_of(raw), nonce=NONCE) == Line(seq, kind, present)


@pytest.mark.slow
def test_c_and_python_write_the_same_bytes(printed: list[bytes]) -> None:
    expected = [(kind.name, sample) for kind in KINDS.values() for sample in samples(kind)]
    assert printed == [encode(seq, kind, sample, nonce=NONCE) for seq, (kind, sample) in enumerate(expected)]


def test_no_two_fields_of_a_kind_share_a_name() -> None:
    for kind in KINDS.values():
        assert (
            len({field.wire for field in kind.fields}) == len({field.name for field in kind.fields}) == len(kind.fields)
        )


def test_the_longest_command_line_fits_a_line_that_a_terminal_survives() -> None:
    line = encode(2**32 - 1, "boot", {"command_line": "%" * COMMAND_LINE_SHOWN_BYTES}, nonce=0)
    assert len(line) < 1024


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(sequence_numbers, records(), nonces)
def test_decode_undoes_encode(seq: int, record: tuple[str, dict[str, int | str]], nonce: int) -> None:
    kind, fields = record
    raw = encode(seq, kind, fields, nonce=nonce)
    assert decode(text_of(raw), nonce=nonce) == Line(seq, kind, fields)


@pytest.mark.slow
@given(sequence_numbers, records(), nonces)
def test_a_line_is_printable_ascii(seq: int, record: tuple[str, dict[str, int | str]], nonce: int) -> None:
    text = text_of(encode(seq, *record, nonce=nonce))
    assert all(0x20 <= byte <= 0x7E for byte in text)
    assert text.count(b"@") == 1 and text.count(b"*") == 1


@pytest.mark.slow
@given(sequence_numbers, records(), nonces)
def test_one_flipped_bit_is_never_another_record(
    seq: int, record: tuple[str, dict[str, int | str]], nonce: int
) -> None:
    text = text_of(encode(seq, *record, nonce=nonce))
    for bit in range(8 * len(text)):
        damaged = bytearray(text)
        damaged[bit // 8] ^= 1 << bit % 8
        assert isinstance(decode(bytes(damaged), nonce=nonce), str)


@pytest.mark.slow
@given(sequence_numbers, records(), nonces, st.data(), st.binary(min_size=4, max_size=4))
def test_a_burst_of_32_bits_in_the_text_always_changes_the_crc(
    seq: int, record: tuple[str, dict[str, int | str]], nonce: int, data: st.DataObject, noise: bytes
) -> None:
    assume(any(noise))
    text = encode(seq, *record, nonce=nonce).split(b"*")[0]
    at = data.draw(st.integers(0, len(text) - 4))
    damaged = text[:at] + bytes(a ^ b for a, b in zip(text[at : at + 4], noise, strict=True)) + text[at + 4 :]
    assert crc(damaged, nonce) != crc(text, nonce)


@pytest.mark.slow
@given(sequence_numbers, records(), nonces)
def test_a_byte_lost_or_doubled_is_never_another_record(
    seq: int, record: tuple[str, dict[str, int | str]], nonce: int
) -> None:
    text = text_of(encode(seq, *record, nonce=nonce))
    for at in range(len(text)):
        assert isinstance(decode(text[:at] + text[at + 1 :], nonce=nonce), str)
        assert isinstance(decode(text[:at] + text[at : at + 1] + text[at:], nonce=nonce), str)


@pytest.mark.slow
@given(sequence_numbers, records(), sequence_numbers, records(), nonces, st.data())
def test_two_lines_spliced_are_never_a_third(
    seq: int,
    record: tuple[str, dict[str, int | str]],
    other_seq: int,
    other: tuple[str, dict[str, int | str]],
    nonce: int,
    data: st.DataObject,
) -> None:
    one, two = text_of(encode(seq, *record, nonce=nonce)), text_of(encode(other_seq, *other, nonce=nonce))
    spliced = one[: data.draw(st.integers(1, len(one)))] + two[data.draw(st.integers(1, len(two))) :]
    assume(spliced not in (one, two))
    assert isinstance(decode(spliced, nonce=nonce), str)


@pytest.mark.slow
@given(sequence_numbers, records(), nonces, nonces)
@example(1, ("done", {"windows": 1}), 0, 1)
def test_a_line_of_another_nonce_is_refused(
    seq: int, record: tuple[str, dict[str, int | str]], nonce: int, other: int
) -> None:
    assume(zlib.crc32(nonce.to_bytes(8, "little")) != zlib.crc32(other.to_bytes(8, "little")))
    text = text_of(encode(seq, *record, nonce=nonce))
    assert decode(text, nonce=other) == "CRC does not fit"


# --- each way of not being a line has its sentence -------------------------------------------------------------------


def sealed(text: bytes) -> bytes:
    """`text` with a CRC that fits."""
    return text + b"*%08x" % crc(text, NONCE)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (sealed(b"@00 done"), "not of the trace's form"),
        (sealed(b"@1 done WN0"), "not of the trace's form"),
        (sealed(b"@1 done WN01"), "not of the trace's form"),
        (sealed(b"@1 done WNA"), "not of the trace's form"),
        (sealed(b"@1  done"), "not of the trace's form"),
        (sealed(b"@1 done WN10000000000000000"), "not of the trace's form"),
        (sealed(b"@1 done") + b"0", "not of the trace's form"),
        (b"@1 done*00000000", "CRC does not fit"),
        (sealed(b"@1 hello"), "unknown kind 'hello'"),
        (sealed(b"@1 done ZZ1"), "unexpected field 'ZZ' in 'done'"),
        (sealed(b"@1 done WN1 WN1"), "unexpected field 'WN' in 'done'"),
        (sealed(b"@1 done WN'1"), "field 'WN' of 'done' is of the wrong type"),
        (sealed(b"@1 boot CL1"), "field 'CL' of 'boot' is of the wrong type"),
    ],
)
def test_what_is_not_a_line_is_told_why(text: bytes, why: str) -> None:
    assert decode(text, nonce=NONCE) == why
