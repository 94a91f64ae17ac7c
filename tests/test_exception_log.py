"""QEMU's log of exceptions, read from a log that QEMU 7.2.22 wrote.

The program that ran took, in 64-bit mode: a read and a write fault in the direct map, UD2, a
non-canonical read, INT 2, INT3, a fetch from the direct map, an NMI from its own APIC, and a #GP.
"""

from __future__ import annotations

from pathlib import Path

from bench.parse.exception_log import LoggedException, read_exceptions

LOG = (Path(__file__).parent / "lab" / "qemu-7.2-exceptions.log").read_bytes()
CR3 = 0x202000


def test_every_exception_is_read_with_error_code_address_and_tables() -> None:
    assert read_exceptions(LOG) == [
        LoggedException(14, 0, 0x10, 0x2000FD, 0xFFFF888000000000, CR3),
        LoggedException(14, 2, 0x10, 0x200106, 0xFFFF888000000005, CR3),
        LoggedException(6, 0, 0x10, 0x200111, 0xFFFF888000000005, CR3),
        LoggedException(13, 0, 0x10, 0x200124, 0xFFFF888000000005, CR3),
        LoggedException(3, 0, 0x10, 0x20012F, 0xFFFF888000000005, CR3),
        LoggedException(14, 0, 0x10, 0xFFFF888000000000, 0xFFFF888000000000, CR3),
        LoggedException(13, 0x6D64, 0x10, 0x200190, 0xFFFF888000000000, CR3),
    ]


def test_interrupts_are_not_exceptions() -> None:
    assert b"v=02 e=0000 i=1" in LOG, "INT 2 is in the log"
    assert b"v=02 e=0000 i=0" in LOG, "so is an NMI"
    assert all(e.vector != 2 for e in read_exceptions(LOG))


def test_firmware_and_32_bit_code_are_left_out() -> None:
    other_segment = LOG.replace(b"IP=0010:", b"IP=0008:")
    legacy_mode = LOG.replace(b"RAX=", b"EAX=")
    assert read_exceptions(other_segment) == read_exceptions(legacy_mode) == []


def test_a_log_that_was_cut_off_gives_the_records_that_are_whole() -> None:
    whole = read_exceptions(LOG)
    for cut in range(0, len(LOG), 499):
        some = read_exceptions(LOG[:cut])
        assert some == whole[: len(some)]
        ended = LOG[:cut].count(b"EFER=0000000000000500\n")
        assert len(some) >= ended - 2, "all that ended but the two interrupts"


def test_an_empty_log_has_no_exceptions() -> None:
    assert read_exceptions(b"") == []
