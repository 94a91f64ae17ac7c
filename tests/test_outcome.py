"""How a boot without a trace ended: each class by its witness, and nothing that is a plain time-out."""

from __future__ import annotations

import pytest

from bench.outcome import EARLY_DEATHS, OutcomeClass, classify
from bench.records import Capture, LabEvent, LabEventKind

DECOMPRESSOR = b"Decompressing Linux... Parsing ELF... done.\r\nBooting the kernel.\r\n"
BANNER = b"[    0.000000] Linux version 6.1.0 (debian@example.org)\r\n"
PANIC = b"PANIC: early exception 0x0e IP 10:ffffffff81d1e014 error 0 cr2 0xffffc80000000000\r\n"
FIRMWARE = b"American Megatrends BIOS v1.02\r\nPress F2 for setup\r\n"
HALTED = {"processor": "halted, interrupts off", "rip": "0xffffffff81d1e014", "looks": "0x1 0x1 0x1"}
RUNNING = {"processor": "running", "rip": "0xffffffff81d1e014", "looks": "0x10 0x14 0x10"}


def capture(
    data: bytes, end: LabEventKind | None = None, witness: dict[str, str] | None = None, *, virtual: bool = True
) -> Capture:
    events = () if end is None else (LabEvent(end, 1.0, len(data), witness or {}),)
    return Capture("boot", data, events, virtual=virtual)


SILENCE, RESET, DEADLINE = LabEventKind.SILENCE, LabEventKind.RESET, LabEventKind.DEADLINE


@pytest.mark.parametrize(
    ("seen", "outcome", "words"),
    [
        (capture(BANNER + PANIC, SILENCE, HALTED), OutcomeClass.PANIC, "early exception 0xe at 0xffffffff81d1e014"),
        (capture(BANNER + PANIC), OutcomeClass.PANIC, "CR2 0xffffc80000000000"),
        (capture(BANNER + PANIC[:50], SILENCE, HALTED), OutcomeClass.CUT_PANIC, "took another exception"),
        (capture(DECOMPRESSOR, SILENCE, HALTED), OutcomeClass.HALTED, "before the kernel's console existed: HLT"),
        (capture(BANNER, SILENCE, HALTED), OutcomeClass.HALTED, "after the kernel's banner: HLT"),
        (capture(b"", SILENCE, HALTED), OutcomeClass.HALTED, "before the first byte: HLT"),
        (capture(DECOMPRESSOR, SILENCE, RUNNING), OutcomeClass.SPINNING, "runs at 2 places"),
        (capture(DECOMPRESSOR, RESET), OutcomeClass.RESTART, "from outside they look alike"),
        (capture(FIRMWARE + BANNER + FIRMWARE, SILENCE, virtual=False), OutcomeClass.RESTART, "restarted"),
        (capture(DECOMPRESSOR, SILENCE), OutcomeClass.UNTOLD, "nobody can look at the processor"),
        (capture(DECOMPRESSOR), OutcomeClass.UNTOLD, "no word of how the boot ended"),
        (capture(BANNER, SILENCE, HALTED | {"processor": "halted, interrupts on"}), OutcomeClass.WAITING, "lives"),
        (capture(BANNER, SILENCE, {"processor": "running and halted in turn"}), OutcomeClass.WAITING, "lives"),
        (capture(BANNER, DEADLINE, {"limit": "120 s in all"}), OutcomeClass.TALKING, "still talking"),
        (capture(BANNER, DEADLINE, RUNNING | {"limit": "9 bytes of exceptions.log"}), OutcomeClass.SPINNING, "spins"),
        (capture(BANNER, LabEventKind.MARKER), OutcomeClass.DONE, "came to its marker"),
        (capture(BANNER, LabEventKind.PORT_CLOSED), OutcomeClass.LAB, "the serial port closed"),
        (capture(BANNER, LabEventKind.MACHINE_LOST), OutcomeClass.LAB, "went away"),
        (
            capture(BANNER + b"[1.0] Kernel panic - not syncing: VFS\r\n", RESET),
            OutcomeClass.KERNEL_PANIC,
            "of its own accord: Kernel panic - not syncing: VFS",
        ),
        (capture(BANNER + b"[1.0] reboot: Restarting system\r\n", RESET), OutcomeClass.REBOOTED, "was told to"),
    ],
)
def test_each_end_of_a_boot_has_its_class(seen: Capture, outcome: OutcomeClass, words: str) -> None:
    found = classify(seen)
    assert found.outcome is outcome
    assert words in found.sentence
    assert "time-out" not in found.sentence and "timeout" not in found.sentence
    assert found.early_death == (outcome in EARLY_DEATHS)


def test_silence_without_a_witness_lists_what_it_can_be_and_is_no_death() -> None:
    found = classify(capture(DECOMPRESSOR, SILENCE, virtual=False))
    assert not found.early_death
    assert {OutcomeClass.HALTED, OutcomeClass.SPINNING, OutcomeClass.LAB} <= set(found.could_be)


def test_a_kexec_is_no_restart() -> None:
    """The second kernel says all that the first one said; the firmware says nothing in between."""
    again = BANNER + b"[    9.0] kexec_core: Starting new kernel\r\n" + BANNER
    assert classify(capture(again, SILENCE, virtual=False)).outcome is OutcomeClass.UNTOLD
    assert classify(capture(FIRMWARE + again, SILENCE, virtual=False)).outcome is OutcomeClass.UNTOLD


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (b"check_exception old: 0x8 new 0xd\n", "a triple fault"),
        (b"check_exception old: 0xffffffff new 0x8\n", "not by a triple fault"),
        (b"", "from outside they look alike"),
    ],
)
def test_qemus_log_tells_a_triple_fault_from_a_reset_that_was_asked_for(log: bytes, cause: str) -> None:
    assert f": {cause}" in classify(capture(DECOMPRESSOR, RESET), log=log).sentence


def test_an_address_is_given_the_name_of_its_function() -> None:
    found = classify(capture(DECOMPRESSOR, SILENCE, HALTED), where=lambda at: "early_fixup_exception" if at else None)
    assert "0xffffffff81d1e014 (early_fixup_exception)" in found.sentence
