"""Serial lines through the rack's real servers: a cable, ser2net, a BMC's serial over LAN; and how they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.errors import LabError, UsageError
from bench.hardware import IpmiSwitch, PowerSpec, Secret, Wiring
from bench.lab.capture import CaptureWriter
from bench.lab.power.choose import power_of
from bench.records import Machine as Entry
from tests.lab import tiny_kernel
from tests.rack import servers
from tests.rack.servers import Bmc, Machine

pytestmark = [pytest.mark.rack, pytest.mark.slow]

REPO = Path(__file__).parents[2]
HELLO = b"hello from the machine\r\n"


@contextmanager
def wired(tmp_path: Path, kernel: Path) -> Iterator[tuple[Machine, Path]]:
    """A machine on a serial cable, and the cable's other end."""
    with servers.cable(tmp_path / "cable") as (machine_end, console_end):
        serial = ("-chardev", f"serial,id=s0,path={machine_end}", "-serial", "chardev:s0")
        with servers.machine(tmp_path / "m", kernel, serial=serial) as machine:
            yield machine, console_end


def start(machine: Machine) -> None:
    subprocess.run([machine.switch(), "on"], check=True)


def events(capture: CaptureWriter) -> list[dict[str, object]]:
    return [json.loads(line) for line in (capture.folder / "events.jsonl").read_text().splitlines()]


def kinds(capture: CaptureWriter) -> list[object]:
    return [event["kind"] for event in events(capture)]


@pytest.mark.parametrize("way", ["device", "rfc2217", "socket"])
def test_a_machine_is_heard_over_each_power_cycle(tmp_path: Path, kernel: Path, way: str) -> None:
    """The port stays open while the machine goes and comes: a cable and a console server do not lose their power."""
    with (
        wired(tmp_path, kernel) as (machine, console_end),
        servers.console_server(tmp_path / "ser2net", console_end) as (rfc2217, raw),
    ):
        url = {"device": str(console_end), "rfc2217": rfc2217, "socket": raw}[way]
        with CaptureWriter(tmp_path / "boot", url=url, info={}, reconnect_s=5) as capture:
            end = 0
            for _ in range(2):
                start(machine)
                end = capture.wait_for(HELLO, timeout_s=30, start=end)
                machine.kill()
        assert (tmp_path / "boot" / "serial.bin").read_bytes().count(HELLO) == 2
        assert "port_lost" not in kinds(capture)


def test_twenty_kilobytes_arrive_whole_through_a_console_server(tmp_path: Path) -> None:
    text = b"".join(b"%05d abcdefghijklmnopqrstuvwxyz 0123456789\r\n" % n for n in range(450))
    kernel = tiny_kernel.write(tmp_path / "kernel", text, "halt")
    with (
        wired(tmp_path, kernel) as (machine, console_end),
        servers.console_server(tmp_path / "ser2net", console_end) as (rfc2217, _),
        CaptureWriter(tmp_path / "boot", url=rfc2217, info={}) as capture,
    ):
        start(machine)
        capture.wait_for(text[-40:], timeout_s=60)
    assert text in (tmp_path / "boot" / "serial.bin").read_bytes()


def test_a_console_server_that_is_restarted_leaves_a_gap_that_the_events_tell(tmp_path: Path, kernel: Path) -> None:
    with wired(tmp_path, kernel) as (machine, console_end):
        log = tmp_path / "ser2net"
        with servers.console_server(log, console_end) as (_, raw):
            port = int(raw.rpartition(":")[2])
            capture = CaptureWriter(tmp_path / "boot", url=raw, info={}, reconnect_s=20)
            capture.__enter__()
        try:
            servers.wait_for(lambda: "port_lost" in kinds(capture), "the loss is noted")
            assert not capture.port_closed, "it may come back"
            with servers.console_server(log, console_end, raw_port=port):
                servers.wait_for(lambda: kinds(capture)[-1] == "port_opened", "the port is there again")
                start(machine)
                capture.wait_for(HELLO, timeout_s=30)
                capture.__exit__(None, None, None)
        finally:
            capture.__exit__(None, None, None)
        assert kinds(capture) == ["port_opened", "port_lost", "port_opened"]
        again = events(capture)[-1]["witness"]
        assert isinstance(again, dict) and again["away"].endswith(" s")


def test_a_console_server_that_never_comes_back_closes_the_port(tmp_path: Path, kernel: Path) -> None:
    with wired(tmp_path, kernel) as (_, console_end):
        with servers.console_server(tmp_path / "ser2net", console_end) as (_, raw):
            capture = CaptureWriter(tmp_path / "boot", url=raw, info={}, reconnect_s=0.5)
            capture.__enter__()
        try:
            servers.wait_for(lambda: capture.port_closed, "it is given up")
            assert "not there again within 0.5 s" in capture.port_closed
            with pytest.raises(LabError, match="the port closed") as error:
                capture.wait_for(HELLO, timeout_s=10)
            assert error.value.component == "port"
        finally:
            capture.__exit__(None, None, None)


@pytest.mark.parametrize("protocol", ["rfc2217", "socket"])
def test_a_second_reader_is_refused_and_takes_no_byte(tmp_path: Path, kernel: Path, protocol: str) -> None:
    with (
        wired(tmp_path, kernel) as (machine, console_end),
        servers.console_server(tmp_path / "ser2net", console_end) as urls,
    ):
        url = urls[0] if protocol == "rfc2217" else urls[1]
        with CaptureWriter(tmp_path / "one", url=url, info={}) as capture:
            with pytest.raises(LabError, match="does not open") as error:
                CaptureWriter(tmp_path / "two", url=url, info={}).__enter__()
            assert error.value.component == "port"
            start(machine)
            capture.wait_for(HELLO, timeout_s=30)
        assert (tmp_path / "two" / "serial.bin").read_bytes() == b""


def test_a_device_is_ours_alone(tmp_path: Path, kernel: Path) -> None:
    with wired(tmp_path, kernel) as (_, console_end), CaptureWriter(tmp_path / "one", url=str(console_end), info={}):
        with pytest.raises(LabError, match="does not open"):
            CaptureWriter(tmp_path / "two", url=str(console_end), info={}).__enter__()
        if os.geteuid() != 0:  # root is let in by the kernel
            with pytest.raises(OSError):
                os.open(console_end, os.O_RDWR | os.O_NOCTTY)


class TestSerialOverLan:
    @pytest.fixture
    def rack(self, tmp_path: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Machine, Bmc]]:
        monkeypatch.setenv("RACK_PASSWORD", Bmc(0).password)
        vm_port, sol_port = servers.free_port(), servers.free_port()
        serial = ("-chardev", f"socket,id=s0,host=127.0.0.1,port={sol_port},server=on,wait=on",
                  "-serial", "chardev:s0")  # fmt: skip
        with (
            servers.machine(tmp_path / "m", kernel, serial=serial, more=servers.bmc_link(vm_port)) as machine,
            servers.ipmi_bmc(tmp_path / "bmc", machine, vm_port, sol_port=sol_port) as bmc,
        ):
            yield machine, bmc

    def url(self, bmc: Bmc, name: str = "RACK_PASSWORD") -> str:
        return f"ipmi-sol://{bmc.user}@127.0.0.1:{bmc.port}?password_env={name}"

    def test_the_machine_is_heard_and_the_same_bmc_switches_it(self, tmp_path: Path, rack: tuple[Machine, Bmc]) -> None:
        machine, bmc = rack
        spec = PowerSpec(IpmiSwitch("127.0.0.1", bmc.user, Secret(env="RACK_PASSWORD"), bmc.port), minimum_off_s=0.2)
        power = power_of(Entry("box", 0x306C3, 8 << 30, 39, True, False, wiring=Wiring(power=spec)))
        with CaptureWriter(tmp_path / "boot", url=self.url(bmc), info={}, reconnect_s=20) as capture:
            power.on()
            try:
                capture.wait_for(HELLO, timeout_s=30)
            finally:
                power.off()
        assert machine.pid is None

    def test_a_wrong_password_does_not_open(
        self, tmp_path: Path, rack: tuple[Machine, Bmc], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WRONG", "Wrong-0000")
        with pytest.raises(LabError, match="no SOL session: Incorrect password") as error:
            CaptureWriter(tmp_path / "boot", url=self.url(rack[1], "WRONG"), info={}).__enter__()
        assert "Wrong-0000" not in str(error.value)

    def test_a_secret_that_is_not_there_is_our_fault(self, tmp_path: Path, rack: tuple[Machine, Bmc]) -> None:
        with pytest.raises(UsageError, match="set the environment variable NOT_SET"):
            CaptureWriter(tmp_path / "boot", url=self.url(rack[1], "NOT_SET"), info={}).__enter__()

    def test_a_session_that_ends_is_a_loss_with_the_reason(self, tmp_path: Path, rack: tuple[Machine, Bmc]) -> None:
        _, bmc = rack
        with CaptureWriter(tmp_path / "boot", url=self.url(bmc), info={}, reconnect_s=20) as capture:
            (child,) = children("sol_child.py")
            os.kill(child, signal.SIGKILL)
            servers.wait_for(lambda: kinds(capture)[-2:] == ["port_lost", "port_opened"], "it is opened again", 30)
            assert children("sol_child.py") != [child]
        assert children("sol_child.py") == [], "nothing is left"


def children(name: str) -> list[int]:
    """Our own children that run a program of that name."""
    pids = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [
        int(pid)
        for task in pids
        for pid in task.read_text().split()
        if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


class TestConsole:
    """`bench console` as a program of its own, on a machine whose entry is a file."""

    @contextmanager
    def lab(self, tmp_path: Path, kernel: Path) -> Iterator[tuple[Path, Machine, Path]]:
        (tmp_path / "lab" / "firmware-images").mkdir(parents=True)
        (tmp_path / "lab" / "inventory" / "machines").mkdir(parents=True)
        with (
            wired(tmp_path, kernel) as (machine, console_end),
            servers.console_server(tmp_path / "ser2net", console_end) as (_, raw),
        ):
            (tmp_path / "lab" / "inventory" / "machines" / "box.toml").write_text(
                f'name = "box"\nsignature = "06-3c-03"\nmemory = "8 GiB"\nmaxphyaddr = 39\n[serial]\nurl = "{raw}"\n'
            )
            yield tmp_path / "lab", machine, console_end

    def bench(self, lab: Path, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "bench", *arguments],
            env={**os.environ, "BENCH_ROOT": str(lab), "PYTHONPATH": str(REPO)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A shell that runs the tests in the background has Ctrl-C ignored, which is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def test_it_shows_the_line_logs_it_and_leaves_on_ctrl_c(self, tmp_path: Path) -> None:
        loud = tiny_kernel.write(tmp_path / "loud", b"\x1b[31mred\x1b[0m\r\n" + HELLO, "halt")
        with self.lab(tmp_path, loud) as (lab, machine, _):
            console = self.bench(lab, "console", "box")
            assert console.stdout and console.stderr
            assert b"read-only; Ctrl-C leaves; logged in" in console.stderr.readline()
            start(machine)
            assert console.stdout.readline() == b"\\x1b[31mred\\x1b[0m\r\n", "a machine cannot paint our terminal"
            assert console.stdout.readline() == HELLO
            refused = self.bench(lab, "power", "box", "status")
            assert refused.communicate(timeout=30)[1] == b"bench: box: its inventory entry has no [power]\n"
            second = self.bench(lab, "console", "box")
            assert b"in use by" in second.communicate(timeout=30)[1] and second.returncode == 3
            console.send_signal(signal.SIGINT)
            console.communicate(timeout=30)
            assert console.returncode == 0
            (folder,) = (lab / "results" / "consoles").glob("*/*")
            assert (folder / "serial.bin").read_bytes() == b"\x1b[31mred\x1b[0m\r\n" + HELLO

    @pytest.mark.parametrize("write", [False, True])
    def test_it_sends_only_when_asked(self, tmp_path: Path, kernel: Path, write: bool) -> None:
        with self.lab(tmp_path, kernel) as (lab, _, _):
            far = os.open(tmp_path / "cable" / "machine-end", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            console = self.bench(lab, "console", "box", *(["--write"] if write else []), "--for", "2")
            assert console.stdin and console.stderr
            console.stderr.readline()
            heard = bytearray()
            over = threading.Event()

            def listen() -> None:
                while not over.wait(0.01):
                    try:
                        heard.extend(os.read(far, 100))
                    except BlockingIOError:
                        continue

            listener = threading.Thread(target=listen)
            listener.start()
            console.stdin.write(b"help\r")
            console.stdin.flush()
            console.communicate(timeout=60)
            time.sleep(0.1)
            over.set()
            listener.join()
            os.close(far)
            assert bytes(heard) == (b"help\r" if write else b"")
