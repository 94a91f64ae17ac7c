"""Kernels without a trace, judged by captures that were taken of Debian's: log, serial line and what was offered."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import FormatError
from bench.linux import Unpatched, in_memory, qemu_initrd, unpatched_from_json
from bench.outcome import OutcomeClass, classify
from bench.parse.capture_file import pack, read_captures, unpack
from bench.parse.early_window import read_early_window, telling_part
from bench.records import Capture, LabEvent, LabEventKind, Verdict
from bench.unpatched import fault_rows, judge_unpatched, scenario_result

CAPTURES = {path.stem: read_captures(path)[0] for path in (Path(__file__).parent / "unpatched").glob("*.capture")}
GENERIC, KASLR, LA57 = "debian-6.1-nokaslr", "debian-cloud-6.1-kaslr", "debian-6.1-five-levels"
GIB = 1 << 30


def offered(capture: Capture) -> Unpatched:
    assert capture.unpatched is not None
    return capture.unpatched


@pytest.mark.parametrize(("name", "predicted", "replayed"), [(GENERIC, 4, 1), (KASLR, 3, 1), (LA57, 4, 1)])
def test_the_faults_in_the_log_equal_the_prediction(name: str, predicted: int, replayed: int) -> None:
    found = judge_unpatched(CAPTURES[name])
    row = scenario_result(name, found)
    assert found.finding is None
    assert (row.verdict, row.predicted, row.replayed) == (Verdict.PASS, predicted, replayed)
    assert all(p and o and p.cr2 == o.cr2 for p, o in fault_rows(found))


def test_what_could_only_be_replayed_is_said_with_its_reason() -> None:
    notes = judge_unpatched(CAPTURES[KASLR]).notes
    assert len(notes) == 2
    assert "PAGE_OFFSET 0xffff8f2600000000 after kernel_randomize_memory(): read off a fault" in notes[0]
    assert "which page becomes a final table (from the brk) is not known from outside" in notes[1]


def records(log: bytes) -> list[tuple[int, int]]:
    """The byte ranges of the faults in the window, each from its check_exception line on."""
    window = read_early_window(log)
    assert window is not None
    return [(log.rfind(b"check_exception", 0, fault.span[0]), fault.span[1] + 1) for fault in window.faults]


@pytest.mark.parametrize("number", range(4))
def test_a_fault_that_is_missing_is_found(number: int) -> None:
    capture = CAPTURES[GENERIC]
    begin, end = records(capture.exceptions)[number]
    found = judge_unpatched(replace(capture, exceptions=capture.exceptions[:begin] + capture.exceptions[end:]))
    assert found.verdict is Verdict.FAIL
    assert found.finding is not None
    # The first record also says where the kernel lies: the next one does that as well.
    assert found.finding.event == number


@pytest.mark.parametrize("number", range(5))
def test_a_needless_fault_is_found(number: int) -> None:
    capture = CAPTURES[GENERIC]
    begin, end = records(capture.exceptions)[number]
    log = capture.exceptions
    found = judge_unpatched(replace(capture, exceptions=log[:end] + log[begin:end] + log[end:]))
    assert found.verdict is Verdict.FAIL


@pytest.mark.parametrize("number", range(4))
def test_a_predicted_fault_at_another_address_is_found(number: int) -> None:
    capture = CAPTURES[GENERIC]
    window = read_early_window(capture.exceptions)
    assert window is not None
    cr2 = b"%016x" % window.faults[number].cr2
    moved = b"%016x" % (window.faults[number].cr2 ^ 1 << 13)
    begin, end = records(capture.exceptions)[number]
    log = capture.exceptions
    found = judge_unpatched(replace(capture, exceptions=log[:begin] + log[begin:end].replace(cr2, moved) + log[end:]))
    assert found.verdict is Verdict.FAIL
    assert found.finding is not None
    assert (found.finding.event, found.finding.field_name) == (number, "cr2")


@pytest.mark.parametrize(
    "changes", [{"hypervisor_bit": True}, {"initrd_bytes": 0}, {"memory_bytes": 256 << 20}], ids=lambda c: next(iter(c))
)
def test_what_the_machine_offered_decides(changes: dict[str, int]) -> None:
    """Were the prediction made from the log, it would not notice."""
    capture = CAPTURES[GENERIC]
    boot = offered(capture)
    found = judge_unpatched(replace(capture, unpatched=replace(boot, offer=replace(boot.offer, **changes))))
    assert found.verdict is Verdict.FAIL
    assert found.finding is not None
    assert found.finding.event == 1, "the fault on the initrd"


def test_a_log_of_another_kernel_is_an_error_of_the_test() -> None:
    capture = CAPTURES[GENERIC]
    boot = offered(capture)
    symbols = {**boot.kernel.symbols, "idt_table": boot.kernel.symbols["idt_table"] + 0x1000}
    other = replace(boot, kernel=replace(boot.kernel, symbols=symbols))
    found = judge_unpatched(replace(capture, unpatched=other))
    assert found.verdict is Verdict.ERROR
    assert found.finding is not None
    assert "does not fit the image" in found.finding.summary


def test_a_log_that_ends_inside_the_window_is_missed() -> None:
    capture = CAPTURES[GENERIC]
    _, end = records(capture.exceptions)[1]
    found = judge_unpatched(replace(capture, exceptions=capture.exceptions[:end]))
    assert found.verdict is Verdict.MISS
    assert found.finding is not None
    assert "2 predicted faults before its end" in found.finding.summary


def test_a_log_without_a_kernel_is_missed() -> None:
    capture = CAPTURES[GENERIC]
    found = judge_unpatched(replace(capture, exceptions=b"Servicing hardware INT=0x08\n"))
    assert found.verdict is Verdict.MISS


def test_from_the_serial_line_alone_a_boot_is_done_and_a_death_fails() -> None:
    capture = replace(CAPTURES[GENERIC], exceptions=b"")
    assert judge_unpatched(capture).verdict is Verdict.DONE
    silent = LabEvent(LabEventKind.SILENCE, 1.0, 0, {"processor": "halted, interrupts off", "rip": "0x1"})
    died = judge_unpatched(replace(capture, data=b"Booting the kernel.\r\n", events=(silent,)))
    assert died.verdict is Verdict.FAIL
    unseen = LabEvent(LabEventKind.SILENCE, 1.0, 0)
    assert judge_unpatched(replace(capture, data=b"", events=(unseen,))).verdict is Verdict.MISS


def test_a_livelock_is_told_and_its_log_is_cut() -> None:
    capture = CAPTURES[GENERIC]
    begin, end = records(capture.exceptions)[4]
    log = capture.exceptions[:end] + capture.exceptions[begin:end] * 3000
    assert len(telling_part(log)) < len(log) / 5
    full = LabEvent(LabEventKind.DEADLINE, 1.0, 0, {"processor": "running", "limit": "9 bytes of exceptions.log"})
    stuck = replace(capture, data=b"Booting the kernel.\r\n", events=(full,), exceptions=telling_part(log))
    outcome = classify(stuck)
    assert outcome.outcome is OutcomeClass.SPINNING
    assert "faults on 0xffff888004401000 (error 0x2) again and again" in outcome.sentence
    found = judge_unpatched(stuck)
    assert found.verdict is Verdict.FAIL
    assert found.finding is not None
    assert found.finding.why == outcome.sentence


def test_packing_a_capture_keeps_its_verdict() -> None:
    for capture in CAPTURES.values():
        again = unpack(pack(capture), source="again")
        assert (again.unpatched, again.exceptions) == (capture.unpatched, capture.exceptions)
        assert judge_unpatched(again).comparison == judge_unpatched(capture).comparison


def test_an_offer_that_is_not_whole_is_refused() -> None:
    whole = offered(CAPTURES[GENERIC]).as_json()
    assert unpatched_from_json(whole, "x") == offered(CAPTURES[GENERIC])
    for key in ("kernel", "offer", "variant"):
        with pytest.raises(FormatError, match="x: does not say what an unpatched kernel was offered"):
            unpatched_from_json({k: v for k, v in whole.items() if k != key}, "x")


@pytest.mark.slow
def test_damaged_logs_never_crash_the_judge() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    capture = CAPTURES[GENERIC]
    for _ in range(60):
        log = bytearray(capture.exceptions)
        for _ in range(chance.randrange(1, 20)):
            log[chance.randrange(len(log))] = chance.randrange(256)
        cut = bytes(log[: chance.randrange(len(log))]) if chance.random() < 0.3 else bytes(log)
        judge_unpatched(replace(capture, exceptions=cut))


@pytest.mark.parametrize(
    ("memory_bytes", "initrd_bytes", "expected"),
    # As the kernel itself said ("RAMDISK: [mem …") on QEMU 7.2.
    [(GIB // 2, 34001, 0x1FFD7000), (4 * GIB, 34001, 0xBFFD7000), (3 * GIB, 34001, 0xBFFD7000)],
)
def test_where_qemu_loads_an_initrd(memory_bytes: int, initrd_bytes: int, expected: int) -> None:
    offer = replace(offered(CAPTURES[GENERIC]).offer, memory_bytes=memory_bytes, initrd_bytes=initrd_bytes)
    assert qemu_initrd(offer, 0xFFFFFFFF) == expected


def test_where_a_pc_has_memory() -> None:
    assert in_memory(3 * GIB - 1, 4 * GIB) and not in_memory(3 * GIB, 4 * GIB)
    assert in_memory(5 * GIB - 1, 4 * GIB) and not in_memory(5 * GIB, 4 * GIB)
    assert not in_memory(GIB, GIB)
