"""Every way in which a kernel can die without a trace, made to happen on QEMU, and told from all others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.lab.boot import Limits, Load, boot
from bench.outcome import BootOutcome, OutcomeClass, classify
from bench.parse.capture_file import read_captures
from tests.lab import stock_kernel, tiny_kernel

pytestmark = [pytest.mark.lab, pytest.mark.slow]

PANIC = b"PANIC: early exception 0x0e IP 10:ffffffff81d1e014 error 0 cr2 0xffffc80000000000\r\n"
QUICK = Limits(first_byte_s=60, silence_s=0.5, total_s=90)
CLOUD = "debian-cloud-6.1"


def tiny(tmp_path: Path, text: bytes, end: str, *, witness: bool = False) -> BootOutcome:
    kernel = tiny_kernel.write(tmp_path / "kernel", text, end)
    folder = tmp_path / "boot-1"
    meta = {"nonce": "1", "image": "tiny", "virtual": True}
    boot(stock_kernel.machine(), Load(kernel, b"", ""), folder, meta=meta, limits=QUICK, witness=witness)
    log = (folder / "exceptions.log").read_bytes() if witness else b""
    return classify(read_captures(folder)[0], log=log)


@pytest.mark.parametrize(
    ("text", "end", "outcome", "words"),
    [
        (PANIC, "halt", OutcomeClass.PANIC, "early exception 0xe at 0xffffffff81d1e014, CR2 0xffffc80000000000"),
        (PANIC[:40], "halt", OutcomeClass.CUT_PANIC, "breaks off"),
        (b"Booting the kernel.\r\n", "halt", OutcomeClass.HALTED, "before the kernel's console existed: HLT"),
        (b"Booting the kernel.\r\n", "spin", OutcomeClass.SPINNING, "it spins, before the kernel's console existed"),
        (b"Booting the kernel.\r\n", "triple fault", OutcomeClass.RESTART, "from outside they look alike"),
        (b"Booting the kernel.\r\n", "reset", OutcomeClass.RESTART, "from outside they look alike"),
        (b"", "halt", OutcomeClass.HALTED, "before the first byte"),
    ],
    ids=["panic", "cut panic", "halted", "spinning", "triple fault", "reset", "mute"],
)
def test_each_class_on_a_kernel_of_a_few_instructions(
    tmp_path: Path, text: bytes, end: str, outcome: OutcomeClass, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not text:
        monkeypatch.setattr(f"{__name__}.QUICK", replace(QUICK, first_byte_s=1.5))
    found = tiny(tmp_path, text, end)
    assert found.outcome is outcome
    assert words in found.sentence
    assert found.early_death


@pytest.mark.parametrize(("end", "words"), [("triple fault", "a triple fault"), ("reset", "not by a triple fault")])
def test_with_qemus_log_a_triple_fault_is_told_from_a_reset_that_was_asked_for(
    tmp_path: Path, end: str, words: str
) -> None:
    found = tiny(tmp_path, b"Booting the kernel.\r\n", end, witness=True)
    assert found.outcome is OutcomeClass.RESTART
    assert f": {words}" in found.sentence


def linux(tmp_path: Path, function: str, code: bytes, command_line: str = stock_kernel.CONSOLE) -> BootOutcome:
    """Debian's kernel with `code` at the begin of `function`."""
    kernel = stock_kernel.image(CLOUD)
    vmlinux = stock_kernel.patched(kernel, function, code, tmp_path / "vmlinux")
    limits = replace(QUICK, first_byte_s=4, silence_s=4)
    capture, log = stock_kernel.boot_kernel(
        tmp_path / "boot-1", vmlinux, stock_kernel.machine(), command_line, limits=limits
    )
    return classify(capture, log=log, where=stock_kernel.where(kernel))


def test_linux_that_halts_before_its_console(tmp_path: Path) -> None:
    found = linux(tmp_path, "x86_64_start_reservations", stock_kernel.HALT)
    assert found.outcome is OutcomeClass.HALTED
    assert "(x86_64_start_reservations), before the first byte" in found.sentence
    assert len(found.witness["looks"].split()) == 3


def test_linux_that_spins_before_its_console(tmp_path: Path) -> None:
    found = linux(tmp_path, "x86_64_start_reservations", stock_kernel.SPIN)
    assert found.outcome is OutcomeClass.SPINNING
    assert "(x86_64_start_reservations)" in found.sentence
    assert found.witness["processor"] == "running"


def test_linux_that_cannot_deliver_an_exception(tmp_path: Path) -> None:
    found = linux(tmp_path, "x86_64_start_reservations", stock_kernel.NO_STACK)
    assert found.outcome is OutcomeClass.RESTART
    assert "triple fault" in found.sentence
    assert "(x86_64_start_reservations), before the first byte" in found.sentence


def test_linux_that_panics_with_early_printk(tmp_path: Path) -> None:
    found = linux(tmp_path, "init_mem_mapping", stock_kernel.UD2)
    assert found.outcome is OutcomeClass.PANIC
    assert found.panic is not None
    assert (found.panic.vector, found.panic.intact, found.panic.truncated) == (6, True, False)
    assert found.sentence.endswith("the processor is halted, interrupts off")


def test_linux_that_panics_before_its_early_console_says_nothing_and_halts(tmp_path: Path) -> None:
    found = linux(tmp_path, "x86_64_start_reservations", stock_kernel.UD2)
    assert found.outcome is OutcomeClass.HALTED
    assert found.panic is None


def test_a_stock_kernel_driven_into_a_livelock_by_its_command_line(tmp_path: Path) -> None:
    """RAM above the processor's 40 address bits: the page for a final table cannot be reached, the leaf has a reserved
    bit, and the handler calls the fault handled for ever."""
    kernel = stock_kernel.image(CLOUD)
    on = replace(stock_kernel.machine(), maxphyaddr=40)
    command_line = f"{stock_kernel.CONSOLE} nokaslr memmap=1G@0x10000000000"
    limits = Limits(first_byte_s=60, silence_s=60, total_s=90, max_bytes=1 << 20)
    capture, log = stock_kernel.boot_kernel(tmp_path / "b", kernel.kernel, on, command_line, limits=limits)
    found = classify(capture, log=log, where=stock_kernel.where(kernel))
    assert found.outcome is OutcomeClass.SPINNING
    assert "livelock, after the kernel's banner" in found.sentence
    assert "(clear_page_orig) faults on 0xffff89803ffff000 (error 0xa) again and again" in found.sentence


def test_a_kernel_that_panics_of_its_own_accord_is_no_early_death(tmp_path: Path) -> None:
    kernel = stock_kernel.image(CLOUD)
    command_line = stock_kernel.CONSOLE.replace("panic=-1", "panic=0")
    capture, _ = stock_kernel.boot_kernel(
        tmp_path / "b", kernel.kernel, stock_kernel.machine(), command_line, limits=replace(QUICK, silence_s=5)
    )
    found = classify(capture)
    assert found.outcome is OutcomeClass.KERNEL_PANIC
    assert "Unable to mount root fs" in found.sentence
    assert not found.early_death
