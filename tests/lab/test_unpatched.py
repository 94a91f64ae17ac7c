"""Debian's kernels as they are shipped, on QEMU: what they fault on in their early window equals the prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.initrd import early_cpio
from bench.parse.capture_file import pack, unpack
from bench.records import Capture, Verdict
from bench.unpatched import judge_unpatched
from tests.lab import stock_kernel

pytestmark = [pytest.mark.lab, pytest.mark.slow]

GENERIC, CLOUD = "debian-6.1", "debian-cloud-6.1"
MIB = stock_kernel.MIB
INITRD = early_cpio()
NOKASLR = f"{stock_kernel.CONSOLE} nokaslr"


def booted(
    tmp_path: Path, image: str, *, on: str = "skylake-server", memory_bytes: int = 512 * MIB, hypervisor: bool = False,
    command_line: str = NOKASLR, initrd: bytes = INITRD, entry: str = "",
) -> Capture:  # fmt: skip
    kernel = stock_kernel.image(image)
    machine = stock_kernel.machine(on, memory_bytes=memory_bytes, hypervisor=hypervisor)
    offered = stock_kernel.unpatched(kernel, machine, command_line, initrd, entry=entry)
    file = kernel.vmlinux if entry == "pvh" else kernel.kernel
    capture, _ = stock_kernel.boot_kernel(
        tmp_path / "boot-1", file, machine, command_line, initrd=initrd, more_meta={"unpatched": offered.as_json()}
    )
    return capture


@pytest.mark.parametrize(
    ("image", "options", "expected", "replayed"),
    [
        (CLOUD, {}, 3, {1}),
        (GENERIC, {}, 4, {1}),
        (GENERIC, {"hypervisor": True}, 3, {1}),
        (GENERIC, {"initrd": b""}, 3, {1}),
        (GENERIC, {"initrd": early_cpio(filler_bytes=6 * MIB)}, 7, {1}),
        (GENERIC, {"on": "no-nx", "memory_bytes": 3072 * MIB}, 4, {2}),
        (GENERIC, {"on": "la57"}, 4, {1}),
        (CLOUD, {"entry": "pvh"}, 2, {2}),
        # Where KASLR puts the kernel decides how many of the final tables lie together.
        (GENERIC, {"command_line": stock_kernel.CONSOLE}, 4, {1, 2, 3}),
        (GENERIC, {"memory_bytes": 5120 * MIB, "command_line": stock_kernel.CONSOLE}, 4, {1, 2, 3}),
    ],
    ids=[
        "cloud", "generic", "hypervisor bit", "no initrd", "6 MiB of zeros", "no NX, 3 GiB", "five levels",
        "PVH guest", "KASLR", "KASLR, 5 GiB",
    ],
)  # fmt: skip
def test_the_faults_of_a_stock_kernel_equal_the_prediction(
    tmp_path: Path, image: str, options: dict[str, object], expected: int, replayed: set[int]
) -> None:
    capture = booted(tmp_path, image, **options)  # type: ignore[arg-type]
    found = judge_unpatched(capture)
    assert found.finding is None, (found.finding, found.notes)
    assert found.verdict is Verdict.PASS
    assert found.comparison is not None
    assert found.comparison.faults_predicted == expected
    assert found.comparison.faults_replayed in replayed


def test_its_capture_is_judged_alike_when_it_is_packed(tmp_path: Path) -> None:
    capture = booted(tmp_path, CLOUD)
    again = judge_unpatched(unpack(pack(capture), source="packed"))
    live = judge_unpatched(capture)
    assert (again.verdict, again.comparison, again.notes) == (live.verdict, live.comparison, live.notes)
    assert len(capture.exceptions) < 1 << 16, "no more of the log than tells of the window"


def test_another_machine_than_was_said_is_found_at_the_first_fault_that_differs(tmp_path: Path) -> None:
    """The hypervisor bit decides whether the microcode loader reads the initrd."""
    capture = booted(tmp_path, GENERIC)
    assert capture.unpatched is not None
    wrong = replace(capture.unpatched, offer=replace(capture.unpatched.offer, hypervisor_bit=True))
    found = judge_unpatched(replace(capture, unpatched=wrong))
    assert found.verdict is Verdict.FAIL
    assert found.finding is not None
    assert (found.finding.event, found.finding.field_name) == (1, "cr2")


def test_without_the_log_a_boot_is_done_and_no_more(tmp_path: Path) -> None:
    capture = booted(tmp_path, CLOUD)
    found = judge_unpatched(replace(capture, exceptions=b""))
    assert found.verdict is Verdict.DONE


def test_a_kernel_that_dies_early_fails_although_its_faults_agree(tmp_path: Path) -> None:
    kernel = stock_kernel.image(CLOUD)
    vmlinux = stock_kernel.patched(kernel, "init_mem_mapping", stock_kernel.HALT, tmp_path / "vmlinux")
    machine = stock_kernel.machine()
    offered = stock_kernel.unpatched(kernel, machine, NOKASLR, b"", entry="pvh")
    capture, _ = stock_kernel.boot_kernel(
        tmp_path / "boot-1", vmlinux, machine, NOKASLR, limits=replace(stock_kernel.LIMITS, silence_s=3),
        more_meta={"unpatched": offered.as_json()},
    )  # fmt: skip
    found = judge_unpatched(capture)
    assert found.verdict is Verdict.FAIL
    assert found.finding is not None
    assert found.finding.component == "kernel"
    assert "it halted for good" in found.finding.summary
