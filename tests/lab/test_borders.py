"""Where the early handler's reach ends: Debian's kernel under Debian's Xen, on QEMU.

A PVH guest, where the native path holds, is among the boots of test_unpatched.
"""

from __future__ import annotations

import gzip
import subprocess
import time
from pathlib import Path

import pytest

from bench.images.deb import member_of
from bench.images.kernel_apt import open_apt
from bench.images.kernel_cache import default_cache
from bench.records import Verdict
from bench.unpatched import judge_pv_domain
from bench.unpatched.pv_domain import handed_on, probed_roms
from tests.lab import stock_kernel

pytestmark = [pytest.mark.lab, pytest.mark.slow]

XEN = "xen-hypervisor-4.17-amd64"
KERNEL = "debian-6.1"
# Behind setup_arch(), all that is to be seen has been logged.
FAR_ENOUGH = b"Memory: "
# Under QEMU 7.2's TCG Xen faults with SMAP on when it reads a guest's stack; silicon does not.
CPU = "Skylake-Server,hypervisor=off,smap=off,smep=off"


@pytest.fixture(scope="module")
def xen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's hypervisor, the newest that the mirror has: a multiboot ELF file, which QEMU's -kernel loads."""
    folder = tmp_path_factory.mktemp("xen")
    apt = open_apt(default_cache() / "sources" / "apt", (), mirror=None)
    deb = apt.download(XEN, apt.versions(XEN)[0], folder)
    with member_of(deb, "data") as files:
        packed = files.extractfile("./boot/xen-4.17-amd64.gz")
        assert packed is not None
        (folder / "xen").write_bytes(gzip.decompress(packed.read()))
    return folder / "xen"


@pytest.fixture(scope="module")
def dom0(xen: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """What the first domain printed, and QEMU's log."""
    folder = tmp_path_factory.mktemp("dom0")
    serial, log = folder / "serial", folder / "log"
    command = [
        "qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "pc,usb=off,vmport=off", "-cpu", CPU, "-m", "2048M", "-serial", f"file:{serial}",
        "-kernel", str(xen), "-append", "console=com1 com1=115200,8n1 noreboot=1", "-initrd",
        f"{stock_kernel.image(KERNEL).kernel} console=hvc0 earlyprintk=xen nokaslr", "-d", "int", "-D", str(log),
    ]  # fmt: skip
    deadline = time.monotonic() + 90
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as qemu:
        try:
            while not (serial.exists() and FAR_ENOUGH in serial.read_bytes()):
                assert qemu.poll() is None, serial.read_bytes()[-500:]
                assert time.monotonic() < deadline, serial.read_bytes()[-500:]
                time.sleep(0.2)
        finally:
            qemu.kill()
    return serial.read_bytes(), log.read_bytes()


def test_as_a_pv_domain_the_handler_is_called_and_serves_nothing(dom0: tuple[bytes, bytes]) -> None:
    serial, log = dom0
    kernel, machine = stock_kernel.image(KERNEL), stock_kernel.machine(memory_bytes=2048 * stock_kernel.MIB)
    boot = stock_kernel.unpatched(kernel, machine, "nokaslr", b"", entry="pv")
    assert b"Hypervisor detected: Xen PV" in serial
    found = judge_pv_domain(boot.kernel, boot.offer, boot.variant, log)
    assert found.finding is None, found.finding
    assert found.verdict is Verdict.PASS
    assert found.comparison is not None
    assert (found.comparison.faults_predicted, found.comparison.faults_replayed) == (97, 0)


def test_faults_that_are_missing_are_found(dom0: tuple[bytes, bytes]) -> None:
    """The prediction is held against every fault: with half of the log, the rest is missing."""
    _, log = dom0
    kernel, machine = stock_kernel.image(KERNEL), stock_kernel.machine()
    boot = stock_kernel.unpatched(kernel, machine, "nokaslr", b"", entry="pv")
    faults = list(handed_on(boot.kernel, log))
    half = log[: faults[48].span[0]]
    found = judge_pv_domain(boot.kernel, boot.offer, boot.variant, half)
    assert found.verdict is Verdict.FAIL
    assert found.finding is not None
    assert found.finding.field_name == "missing"


def test_a_handler_that_served_a_fault_would_be_found(dom0: tuple[bytes, bytes]) -> None:
    """On the native path one fault maps 2 MiB: the second of these reads would not have faulted."""
    _, log = dom0
    kernel = stock_kernel.image(KERNEL)
    boot = stock_kernel.unpatched(kernel, stock_kernel.machine(), "nokaslr", b"", entry="pv")
    faults = list(handed_on(boot.kernel, log))
    assert len({fault.cr2 >> 21 for fault in faults}) == 1
    assert [fault.cr2 & 0xFFFFFF for fault in faults] == list(probed_roms())
    assert probed_roms().count(0xE0000) == 2, "and even the same address faults again"
