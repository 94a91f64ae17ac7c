"""Bytes → records: what is true is found wherever it stands, what is not is marked, nothing is lost."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bench import wire
from bench.parse.lines import Mark, learn_nonce, stretches

NONCE = 0xABCDEF
LINES = [
    wire.encode(0, "begin", {"wire": 1, "pool": 64}, nonce=0),
    wire.encode(1, "boot", {"nonce": NONCE, "command_line": "console=ttyS0 a%b*c@d"}, nonce=NONCE),
    wire.encode(2, "pf", {"ip": 0x1000123, "cr2": 0xFFFF888000000000}, nonce=NONCE),
    wire.encode(3, "x", {"next": 2, "pgd": 0x1A05063}, nonce=NONCE),
]
TRUE = b"".join(LINES)


def marks(data: bytes, nonce: int | None = NONCE) -> list[Mark]:
    return [s.mark for s in stretches(data, nonce=nonce)]


def test_every_line_is_a_record_with_its_span() -> None:
    for stretch, text in zip(stretches(TRUE, nonce=NONCE), LINES, strict=True):
        assert stretch.mark is Mark.RECORD
        assert TRUE[slice(*stretch.span)] == text.rstrip(b"\r\n")


def test_text_around_records_is_foreign_and_kept() -> None:
    data = b"\x1b[2JSeaBIOS\r\n" + LINES[0] + b"early console " + LINES[2] + b"more\n"
    found = list(stretches(data, nonce=NONCE))
    assert [s.mark for s in found] == [Mark.FOREIGN, Mark.RECORD, Mark.FOREIGN, Mark.RECORD, Mark.FOREIGN]
    assert data[slice(*found[2].span)] == b"early console "


def test_records_that_ran_together_are_both_found() -> None:
    assert marks(LINES[2].rstrip() + LINES[3]) == [Mark.RECORD, Mark.RECORD]


def test_a_cut_line_a_changed_line_and_a_spliced_line_say_so() -> None:
    def why(data: bytes) -> str:
        (stretch,) = [s for s in stretches(data, nonce=NONCE) if s.mark is not Mark.RECORD]
        assert stretch.mark is Mark.DAMAGED
        return stretch.why

    assert why(LINES[2][:30] + b"\r\n") == "cut: the CRC is missing or incomplete"
    assert why(LINES[2].replace(b"I1000123", b"I1000124")) == "the CRC does not fit its text"
    assert why(LINES[2][:12] + LINES[3]).startswith("cut")
    assert why(LINES[2][:12] + LINES[3][:9] + b"\n").startswith("spliced")


def test_the_nonce_is_learnt_from_the_boot_record_only_if_its_crc_is_true() -> None:
    assert learn_nonce(TRUE) == NONCE
    assert marks(TRUE, nonce=None) == [Mark.RECORD] * 4
    assert learn_nonce(TRUE.replace(b"Kabcdef", b"Kabcdee")) is None


def test_lines_of_another_boot_are_not_taken() -> None:
    other = wire.encode(1, "boot", {"nonce": 7}, nonce=7) + wire.encode(2, "pf", {"cr2": 1}, nonce=7)
    found = list(stretches(LINES[0] + other, nonce=NONCE))
    assert [s.mark for s in found] == [Mark.RECORD, Mark.ALIEN, Mark.DAMAGED]


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_loss(data: bytes) -> None:
    found = list(stretches(data, nonce=NONCE))
    covered = bytearray(data)
    for stretch in found:
        covered[slice(*stretch.span)] = b"\n" * (stretch.span[1] - stretch.span[0])
    assert not bytes(covered).strip(b"\r\n")
    assert all(a.span[1] <= b.span[0] for a, b in itertools.pairwise(found))


@given(st.lists(st.sampled_from([*LINES, b"noise\r\n", b"@12 pf", b"\r\n", b"@"]), max_size=12))
def test_a_record_read_again_from_its_span_is_the_same_record(parts: list[bytes]) -> None:
    data = b"".join(parts)
    for stretch in stretches(data, nonce=NONCE):
        if stretch.mark is Mark.RECORD:
            (again,) = stretches(data[slice(*stretch.span)], nonce=NONCE)
            assert again.line == stretch.line
