"""Vectors and the page-fault error code (SDM Vol. 3A, Exception and Interrupt Reference)."""

import pytest

from bench.x86 import fault
from bench.x86.fault import PageFault


def test_the_kernels_mask_of_vectors_with_an_error_code() -> None:
    # EXCEPTION_ERRCODE_MASK of arch/x86/include/asm/segment.h: 8, 10 to 14 and 17; later also AMD's 29.
    pushing = sum(1 << n for n in range(32) if fault.pushes_error(n) and n not in (21, 30))
    assert pushing == 0x20027D00


def test_a_vector_that_does_not_exist_pushes_nothing() -> None:
    assert not fault.pushes_error(15)


def test_legal_codes_at_cpl_0() -> None:
    assert sorted(fault.LEGAL_AT_CPL0) == [0, 2, 3, 9, 0xB, 0x10, 0x11, 0x19]


def test_every_legal_code_obeys_the_manual() -> None:
    for error in fault.LEGAL_AT_CPL0:
        assert not error & PageFault.U
        assert not error & PageFault.RSVD or error & PageFault.P
        assert not (error & PageFault.W and error & PageFault.ID)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (0, "read, not present"),
        (2, "write, not present"),
        (3, "write, protection"),
        (0x10, "fetch, not present"),
        (0x11, "fetch, protection"),
        (9, "read, reserved bit set"),
        (8, "read, reserved bit set"),
        (0x24, "read, not present, U, PK"),
    ],
)
def test_codes_in_words(error: int, words: str) -> None:
    assert fault.describe(error) == words
