"""The lab on real QEMU: every way in which a boot can end, and that nothing is left behind."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import wire
from bench.errors import LabError
from bench.inventory import load_inventory
from bench.lab.boot import Limits, Load, Progress, boot
from bench.lab.capture import CaptureWriter
from bench.lab.power.qemu import QemuPower, registers
from bench.lab.virtual import qemu_command, rig
from bench.records import Machine, VirtualSpec
from tests.lab import tiny_kernel

pytestmark = [pytest.mark.lab, pytest.mark.slow]

REPO = Path(__file__).parents[2]
INVENTORY = load_inventory(REPO)
HASWELL = INVENTORY["haswell"]
DONE = wire.encode(0, "done", {"windows": 1}, nonce=0)
# Generous for a busy host; the ends under test come at once or have a limit of their own.
LIMITS = Limits(first_byte_s=60, silence_s=60, total_s=90)


class Booted:
    """What a boot's folder says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = (folder / "serial.bin").read_bytes()
        self.events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]

    @property
    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events]

    def witness(self, kind: str) -> dict[str, str]:
        (event,) = [event for event in self.events if event["kind"] == kind]
        witness: dict[str, str] = event["witness"]
        return witness


def boot_tiny(
    tmp_path: Path, text: bytes, end: str, limits: Limits = LIMITS, machine: Machine = HASWELL, **more: Any
) -> Booted:
    kernel = tiny_kernel.write(tmp_path / "kernel", text, end)
    load = Load(kernel, b"the script\n", "the command line")
    boot(machine, load, tmp_path / "boot-1", meta={"nonce": "1", "image": "tiny"}, limits=limits, **more)
    return Booted(tmp_path / "boot-1")


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def once_it_speaks(act: Callable[[], None]) -> Callable[[Progress], None]:
    """Progress callback that acts at the first byte."""
    acted = threading.Event()

    def progress(now: Progress) -> None:
        if now.size_bytes and not acted.is_set():
            acted.set()
            act()

    return progress


def qemu_pid(folder: Path) -> int:
    """The pid of the machine that is being booted in `folder`."""
    power_on = next(
        json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines() if "power_on" in line
    )
    return int(power_on["witness"]["pid"])


def test_the_marker_ends_a_boot_and_nothing_is_left(tmp_path: Path) -> None:
    done = boot_tiny(tmp_path, b"first byte\r\n" + DONE, "halt")
    assert done.kinds == ["port_opened", "power_on", "first_byte", "marker", "power_off"]
    assert done.data == b"first byte\r\n" + DONE
    assert done.witness("power_off") == {"state": "off", "how": "quit", "QEMU": "exit code 0"}
    assert not running(int(done.witness("power_on")["pid"]))
    socket_path = Path(done.witness("port_opened")["url"].removeprefix("fifo://"))
    assert not socket_path.parent.exists()


def test_twenty_kilobytes_at_full_speed_arrive_whole(tmp_path: Path) -> None:
    text = b"".join(b"@%x digest O%x*%08x\r\n" % (n, n, n) for n in range(1, 700)) + DONE
    assert boot_tiny(tmp_path, text, "halt").data == text


def test_nothing_is_lost_while_the_bench_is_kept_from_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU drops bytes while its chardev takes none; the port holds what a busy bench has not read yet."""
    text = b"".join(b"@%x digest O%x*%08x\r\n" % (n, n, n) for n in range(1, 700)) + DONE
    received = CaptureWriter._received
    stalled = iter([3.0])

    def late(writer: CaptureWriter, data: bytes) -> None:
        time.sleep(next(stalled, 0))
        received(writer, data)

    monkeypatch.setattr(CaptureWriter, "_received", late)
    assert boot_tiny(tmp_path, text, "halt").data == text


@pytest.mark.parametrize(("end", "processor"), [("halt", "halted, interrupts off"), ("spin", "running")])
def test_silence_says_whether_the_processor_halts_or_spins(tmp_path: Path, end: str, processor: str) -> None:
    silent = boot_tiny(tmp_path, b"x", end, Limits(first_byte_s=60, silence_s=0.3, total_s=90))
    assert silent.kinds == ["port_opened", "power_on", "first_byte", "silence", "power_off"]
    witness = silent.witness("silence")
    assert witness["processor"] == processor
    assert witness["cs"] == "0x1020", "the tiny kernel's own segment"
    assert 0 < int(witness["rip"], 16) < 0x1000
    assert set(witness) >= {"cr0", "cr2", "cr3", "cr4", "efer", "rflags", "last", "limit"}


def test_a_port_that_never_speaks(tmp_path: Path) -> None:
    mute = boot_tiny(tmp_path, b"", "halt", Limits(first_byte_s=1, silence_s=60, total_s=90))
    assert mute.kinds == ["port_opened", "power_on", "silence", "power_off"]
    assert mute.witness("silence")["limit"] == "1 s to the first byte"
    assert mute.data == b""


@pytest.mark.parametrize("end", ["reset", "triple fault"])
def test_a_machine_that_resets_itself_is_seen_with_its_registers(tmp_path: Path, end: str) -> None:
    reset = boot_tiny(tmp_path, b"last words\r\n", end)
    assert reset.kinds == ["port_opened", "power_on", "first_byte", "reset", "power_off"]
    assert reset.data == b"last words\r\n", "its text is there once: it did not start again"
    assert reset.witness("reset")["cs"] == "0x1020"


def test_endless_chatter_meets_the_deadline(tmp_path: Path) -> None:
    late = boot_tiny(tmp_path, b"x", "chatter", Limits(first_byte_s=60, silence_s=60, total_s=1))
    assert late.kinds[-2:] == ["deadline", "power_off"]
    assert late.witness("deadline")["processor"] == "running"
    chunks = [json.loads(line) for line in (late.folder / "chunks.jsonl").read_text().splitlines()]
    assert sum(chunk["bytes"] for chunk in chunks) == len(late.data)


def test_endless_chatter_meets_the_limit_of_bytes(tmp_path: Path) -> None:
    full = boot_tiny(tmp_path, b"x", "chatter", Limits(60, 60, 90, max_bytes=5000))
    assert full.witness("deadline")["limit"] == "5000 bytes of serial output"
    assert len(full.data) == 5000


def test_qemu_killed_in_mid_run_is_a_lost_machine(tmp_path: Path) -> None:
    folder = tmp_path / "boot-1"
    kill = once_it_speaks(lambda: os.kill(qemu_pid(folder), signal.SIGKILL))
    lost = boot_tiny(tmp_path, b"x", "halt", progress=kill)
    assert lost.kinds[-2:] == ["machine_lost", "power_off"]
    assert lost.witness("machine_lost")["QEMU"] == "killed by signal 9"
    assert lost.witness("power_off")["how"] == "already gone"
    assert lost.data == b"x"


def test_qemu_terminated_from_outside_is_a_lost_machine(tmp_path: Path) -> None:
    folder = tmp_path / "boot-1"
    end = once_it_speaks(lambda: os.kill(qemu_pid(folder), signal.SIGTERM))
    lost = boot_tiny(tmp_path, b"x", "spin", progress=end)
    assert lost.kinds[-2:] == ["machine_lost", "power_off"]


def test_a_stopped_qemu_is_still_switched_off(tmp_path: Path) -> None:
    """SIGSTOP: neither `quit` nor SIGTERM is heeded, SIGKILL is."""
    folder = tmp_path / "boot-1"
    cancel = threading.Event()

    def stop() -> None:
        os.kill(qemu_pid(folder), signal.SIGSTOP)
        cancel.set()

    gone = boot_tiny(tmp_path, b"x", "spin", progress=once_it_speaks(stop), cancel=cancel)
    assert gone.witness("power_off")["how"] == "SIGKILL"
    assert not running(int(gone.witness("power_on")["pid"]))


def test_cancelling_switches_off(tmp_path: Path) -> None:
    cancel = threading.Event()
    stopped = boot_tiny(tmp_path, b"x", "spin", progress=once_it_speaks(cancel.set), cancel=cancel)
    assert stopped.kinds[-2:] == ["interrupted", "power_off"]
    assert not running(int(stopped.witness("power_on")["pid"]))


def test_qemu_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    machine = Machine("odd", 0x306C3, 8 << 30, 39, True, False, virtual=VirtualSpec("NoSuchProcessor"))
    with pytest.raises(LabError, match="unable to find CPU model 'NoSuchProcessor'") as error:
        boot_tiny(tmp_path, b"x", "halt", machine=machine)
    assert error.value.component == "QEMU"
    assert "NoSuchProcessor" in (tmp_path / "boot-1" / "qemu.stderr").read_text()
    assert "-cpu NoSuchProcessor,stepping=3" in (tmp_path / "boot-1" / "qemu.command").read_text()


def test_a_kernel_that_is_not_there_is_quoted(tmp_path: Path) -> None:
    load = Load(tmp_path / "missing", b"", "")
    with pytest.raises(LabError, match="could not open kernel file"):
        boot(HASWELL, load, tmp_path / "boot-1", meta={}, limits=LIMITS)


def test_without_qemu_the_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no-such-qemu is not installed") as error:
        QemuPower(["no-such-qemu"], tmp_path).on()
    assert error.value.component == "QEMU"


def test_two_boots_in_one_folder_are_refused(tmp_path: Path) -> None:
    boot_tiny(tmp_path, DONE, "halt")
    before = (tmp_path / "boot-1" / "serial.bin").read_bytes()
    with pytest.raises(LabError, match=r"capture\.json"):
        boot_tiny(tmp_path, b"y" + DONE, "halt")
    assert (tmp_path / "boot-1" / "serial.bin").read_bytes() == before


def test_folders_with_odd_names(tmp_path: Path) -> None:
    odd = tmp_path / "a b,c%d=e"
    odd.mkdir()
    assert boot_tiny(odd, DONE, "halt", witness=True).kinds[-2] == "marker"
    assert (odd / "boot-1" / "exceptions.log").exists()


def test_a_power_cycle_keeps_the_port(tmp_path: Path) -> None:
    """Two power-ons under one open capture: the second machine's bytes follow the first's."""
    kernel = tiny_kernel.write(tmp_path / "kernel", b"hello;", "halt")
    load = Load(kernel, b"", "")
    folder = tmp_path / "boot-1"
    with (
        rig(HASWELL, load, folder, witness=False) as virtual,
        CaptureWriter(folder, url=virtual.serial_url, info={}) as capture,
    ):
        path = Path(virtual.serial_url.removeprefix("fifo://"))
        for cycle in (1, 2):
            power = QemuPower(qemu_command(HASWELL, load, serial_path=path, witness=False), folder)
            power.on()
            try:
                capture.wait_for(b"hello;" * cycle, timeout_s=60)
            finally:
                power.off()
    assert (folder / "serial.bin").read_bytes() == b"hello;hello;"


def test_sockets_that_a_killed_bench_left_are_removed_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders have names too long for a socket
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    left, fresh, held = (parent / f"bench-lab-{name}" for name in ("left", "fresh", "held"))
    for folder in (left, fresh, held):
        folder.mkdir()
        (folder / "serial").touch()
    for folder in (left, held):
        os.utime(folder, (0, 0))
    lock = os.open(held, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with rig(HASWELL, Load(parent, b"", ""), parent, witness=False) as virtual:
            ours = Path(virtual.serial_url.removeprefix("fifo://")).parent
            assert ours.stat().st_mode & 0o777 == 0o700
            assert {f.name for f in parent.iterdir()} == {fresh.name, held.name, ours.name}
        assert not ours.exists()
    finally:
        os.close(lock)
        shutil.rmtree(parent)


BENCH = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {repo!r})
from bench.inventory import load_inventory
from bench.lab.boot import Limits, Load, boot
folder = Path({folder!r})
def run():
    boot(load_inventory(Path({repo!r}))["haswell"], Load(folder / "kernel", b"", ""), folder / "boot-1", meta={{}},
         limits=Limits(60, 60, 90), progress=lambda p: print(p.size_bytes, flush=True))
if {in_thread}:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
else:
    run()
"""


@pytest.mark.parametrize(
    ("number", "in_thread"),
    [
        (signal.SIGKILL, False),
        (signal.SIGKILL, True),
        (signal.SIGTERM, False),
        (signal.SIGTERM, True),
        (signal.SIGINT, False),  # reaches the main thread only
    ],
)
def test_no_qemu_outlives_the_bench(tmp_path: Path, number: signal.Signals, in_thread: bool) -> None:
    tiny_kernel.write(tmp_path / "kernel", b"x", "spin")
    program = BENCH.format(repo=str(REPO), folder=str(tmp_path), in_thread=in_thread)
    bench = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert bench.stdout is not None
    with bench.stdout:
        while bench.stdout.readline().strip() != b"1":
            assert bench.poll() is None
        pid = qemu_pid(tmp_path / "boot-1")
        assert running(pid)
        bench.send_signal(number)
        bench.wait(60)
    wait_until_gone(pid)
    if number == signal.SIGINT:
        kinds = Booted(tmp_path / "boot-1").kinds
        assert kinds[-2:] == ["interrupted", "power_off"], "Ctrl-C ends a boot in order"


@pytest.mark.parametrize("machine", INVENTORY.values(), ids=INVENTORY)
def test_every_machine_of_the_inventory_starts_as_the_processor_it_claims_to_be(
    tmp_path: Path, machine: Machine
) -> None:
    """The tiny kernel says CPUID leaves 1 and 0x80000001, 0x80000008 and 7 as the machine gives them, whatever firmware
    and disk it has otherwise."""
    assert machine.virtual is not None
    bare = replace(machine, virtual=replace(machine.virtual, firmware="bios", host=None))
    said = boot_tiny(tmp_path, DONE, "cpuid", machine=bare)
    signature, features, sizes, structured = tiny_kernel.cpuid(said.data)
    assert f"{signature:#010x}" == f"{machine.signature:#010x}"
    assert bool(features >> 20 & 1) == machine.nx
    assert sizes & 0xFF == machine.maxphyaddr
    assert bool(structured >> 16 & 1) == machine.la57
    stderr = (said.folder / "qemu.stderr").read_text().splitlines()
    assert [line for line in stderr if "TCG doesn't support requested feature" not in line] == []


def test_registers_of_64_and_16_bit_mode() -> None:
    shown = """RAX=0000000000000000 RBX=0000000000000000
RIP=ffffffff81000123 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
CR0=80050033 CR2=ffff888013bd0000 CR3=0000000001a09000 CR4=000000a0
EFER=0000000000000d01
"""
    assert registers(shown) == {
        "processor": "halted, interrupts off",
        "rip": "0xffffffff81000123",
        "rflags": "0x0000000000000046",
        "cr0": "0x0000000080050033",
        "cr2": "0xffff888013bd0000",
        "cr3": "0x0000000001a09000",
        "cr4": "0x00000000000000a0",
        "efer": "0x0000000000000d01",
        "cs": "0x0010",
    }
    assert registers("EIP=0000fff0 EFL=00000202 HLT=1")["processor"] == "halted, interrupts on"
    assert registers("unknown") == {}
