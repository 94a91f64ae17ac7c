"""CPUID signatures and platform flags (SDM Vol. 2A, CPUID; Vol. 3A, Microcode Update Facilities)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.x86 import signature as s

# Processors and their signatures as Intel's own microcode files are named and headed.
KNOWN = [
    ("06-0f-0b", 0x006FB),
    ("06-17-0a", 0x1067A),
    ("06-1a-05", 0x106A5),
    ("06-3c-03", 0x306C3),
    ("06-55-04", 0x50654),
    ("06-5f-01", 0x506F1),
    ("06-9e-0a", 0x906EA),
    ("06-ad-01", 0xA06D1),
    ("0f-04-03", 0x00F43),
    ("13-01-00", 0x400F10),
]


@pytest.mark.parametrize(("name", "value"), KNOWN)
def test_name_and_signature_say_the_same(name: str, value: int) -> None:
    assert s.parse_model(name) == value
    assert str(s.processor(value)) == name


def test_processor_type_is_not_part_of_the_name() -> None:
    assert s.signature(6, 3, 2, kind=1) == 0x1632
    assert str(s.processor(0x1632)) == "06-03-02"


@pytest.mark.parametrize(
    ("value", "because"),
    [
        (0, "nonzero"),
        (1 << 32 | 0x906EA, "32 bits"),
        (0x100906EA, "bits 0x10000000 .* reserved"),
        (0x9C6EA, "bits 0x0000c000 .* reserved"),
        (0x936EA, "processor type 3"),
        (0x00010, "family 0"),
        (0x1906EA, "no extended family"),
        (0x10543, "no extended model"),
    ],
)
def test_impossible_signatures_are_refused_with_the_reason(value: int, because: str) -> None:
    with pytest.raises(UsageError, match=because):
        s.processor(value)


@pytest.mark.parametrize(
    ("numbers", "because"),
    [
        ((0, 0, 0), "family"),
        ((0x10F, 0, 0), "family"),
        ((6, 0x100, 0), "model"),
        ((5, 0x10, 0), "model"),
        ((6, 0x9E, 16), "stepping"),
    ],
)
def test_numbers_without_a_signature_are_refused(numbers: tuple[int, int, int], because: str) -> None:
    with pytest.raises(UsageError, match=because):
        s.signature(*numbers)


@pytest.mark.parametrize("text", ["", "6-9e-a", "06-9E-0A", "06-9e-0a.txt", "06/9e/0a", "06-9e-10"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        s.parse_model(text)


@settings(deadline=None)
@given(st.integers(0, (1 << 32) - 1))
def test_whatever_is_possible_reads_back(value: int) -> None:
    if s.impossible(value):
        return
    p = s.processor(value)
    assert s.signature(*p, kind=value >> 12 & 3) == value
    if p.family <= 0xFF:
        assert s.parse_model(str(p)) == value & ~0x3000


def test_platform_id_is_bits_52_to_50_of_its_msr() -> None:
    assert s.platform_id(5 << 50 | 1 << 53 | 0x3FF) == 5
    assert [s.platform_flag(n) for n in range(8)] == [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80]


def test_platform_flags_name_ids() -> None:
    assert s.platform_ids(0x22) == (1, 5)
    assert s.platform_ids(0) == ()
    with pytest.raises(UsageError):
        s.platform_ids(0x100)
    with pytest.raises(UsageError):
        s.platform_flag(8)
