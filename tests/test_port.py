"""One reader a port: on any URL that pyserial knows, and on sockets on which the bench listens."""

from __future__ import annotations

import os
import socket
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import serial

from bench.errors import LabError
from bench.lab import urls
from bench.lab.port import Port

PATIENCE_S = 10.0


class Sink:
    """Collects what a port delivers, and lets a test wait for it."""

    def __init__(self) -> None:
        self.data = b""
        self.failure: str | None = None
        self._changed = threading.Condition()

    def received(self, data: bytes) -> None:
        with self._changed:
            self.data += data
            self._changed.notify_all()

    def failed(self, why: str) -> None:
        with self._changed:
            self.failure = why
            self._changed.notify_all()

    def wait(self, done: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(done, PATIENCE_S), f"got {self.data[-100:]!r}, failure {self.failure!r}"

    def wait_for(self, data: bytes) -> None:
        self.wait(lambda: self.data == data)


@contextmanager
def opened(url: str) -> Iterator[tuple[Port, Sink]]:
    sink = Sink()
    port = Port(url, received=sink.received, failed=sink.failed)
    try:
        yield port, sink
    finally:
        port.close()


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as far:
        far.connect(str(path))
        yield far


def test_loop() -> None:
    with opened("loop://") as (port, sink):
        port.device.write(b"hello")
        sink.wait_for(b"hello")


@pytest.mark.slow  # pyserial waits 0.3 s when it closes a TCP connection
def test_a_tcp_server_that_hangs_up_is_a_failure_with_its_reason() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, opened(f"socket://127.0.0.1:{server.getsockname()[1]}") as (_, sink):
        far, _ = server.accept()
        with far:
            far.sendall(b"first ")
            sink.wait_for(b"first ")
            far.sendall(b"last")
        sink.wait(lambda: sink.failure is not None)
        assert sink.data == b"first last"
        assert "disconnected" in str(sink.failure)


def test_a_terminal_whose_other_end_vanishes_is_a_failure() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    try:
        with opened(os.ttyname(slave)) as (_, sink):
            os.close(slave)
            os.write(master, b"\x00\xff\r\n bytes as they are")
            sink.wait_for(b"\x00\xff\r\n bytes as they are")
            os.close(master)
            sink.wait(lambda: sink.failure is not None)
    finally:
        assert sink.failure


def test_a_second_reader_of_a_device_is_refused() -> None:
    master, slave = os.openpty()
    try:
        with opened(os.ttyname(slave)), pytest.raises(LabError, match="does not open") as error:
            Port(os.ttyname(slave), received=print, failed=print)
        assert error.value.component == "port"
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("url", ["/dev/there-is-no-such-port", "nosuch://x", "socket://127.0.0.1:1"])
def test_a_port_that_does_not_open_is_the_labs_fault(url: str) -> None:
    with pytest.raises(LabError, match=f"{url}: does not open") as error:
        Port(url, received=print, failed=print)
    assert error.value.component == "port"
    assert error.value.witness


@pytest.mark.slow  # pyserial waits 0.3 s when it closes a TCP connection
def test_what_has_arrived_is_read_before_the_port_closes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        data = os.urandom(100_000)
        with opened(f"socket://127.0.0.1:{server.getsockname()[1]}") as (port, sink):
            far, _ = server.accept()
            with far:
                far.sendall(data)
                port.close()
        assert sink.data == data
        assert sink.failure is None


@pytest.mark.slow  # pyserial waits 0.3 s when it closes a TCP connection
def test_a_line_that_comes_back_is_opened_again_and_nothing_of_what_it_says_is_lost() -> None:
    """The far end speaks the moment it takes the connection, as a machine does that booted meanwhile."""
    told: list[str] = []
    sink = Sink()

    def tell(text: str) -> None:
        told.append(text)
        sink.received(b"")  # wakes whoever waits

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = Port(
            f"socket://127.0.0.1:{server.getsockname()[1]}",
            received=sink.received,
            failed=sink.failed,
            reconnect_s=PATIENCE_S,
            lost=tell,
            found=lambda away_s: tell(f"back after {away_s:.0f} s"),
        )
        for text in (b"one ", b"two ", b"three "):
            far, _ = server.accept()
            with far:
                far.sendall(text)
                sink.wait(lambda text=text: sink.data.endswith(text))
        sink.wait(lambda: len(told) >= 5)
        port.close()
    assert sink.data == b"one two three " and sink.failure is None
    assert "disconnected" in told[0] and told[1].startswith("back after ")


@pytest.mark.slow  # the time in which a console server may hang up
def test_a_console_server_that_refuses_is_quoted_and_not_heard_as_a_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            far, _ = server.accept()
            with far:
                far.sendall(b"Port's device already in use\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(LabError, match='hangs up at once, saying "Port\'s device already in use"'):
            Port(f"socket://127.0.0.1:{server.getsockname()[1]}", received=print, failed=print)
        thread.join()


def test_a_pseudo_terminal_counts_no_errors() -> None:
    master, slave = os.openpty()
    try:
        with opened(os.ttyname(slave)) as (port, _):
            assert port.line_errors() is None
    finally:
        os.close(master)
        os.close(slave)


class TestListening:
    """``listen+unix://``: the far end connects to us."""

    def test_bytes_sent_at_once_after_connecting_are_not_lost(self, tmp_path: Path) -> None:
        path = tmp_path / "serial"
        with opened(f"listen+unix://{path}") as (_, sink), connected(path) as far:
            far.sendall(b"first byte")
            sink.wait_for(b"first byte")

    def test_the_far_end_may_go_and_come_again(self, tmp_path: Path) -> None:
        path = tmp_path / "serial"
        with opened(f"listen+unix://{path}") as (_, sink):
            for cycle in range(3):
                with connected(path) as far:
                    far.sendall(b"cycle %d\n" % cycle)
            sink.wait_for(b"cycle 0\ncycle 1\ncycle 2\n")
            assert sink.failure is None, "a power cycle is no failure of the port"

    def test_two_far_ends_at_once_do_not_mix(self, tmp_path: Path) -> None:
        path = tmp_path / "serial"
        with opened(f"listen+unix://{path}") as (_, sink), connected(path) as first:
            first.sendall(b"a")
            sink.wait_for(b"a")
            with connected(path) as second:
                second.sendall(b"z" * 10)
                first.sendall(b"bc")
                sink.wait_for(b"abc")
                first.close()
                sink.wait_for(b"abc" + b"z" * 10)

    def test_the_bench_can_answer(self, tmp_path: Path) -> None:
        path = tmp_path / "serial"
        with opened(f"listen+unix://{path}") as (port, sink):
            with pytest.raises(serial.SerialException, match="nobody"):
                port.device.write(b"x")
            with connected(path) as far:
                far.sendall(b"?")
                sink.wait_for(b"?")
                port.device.write(b"!")
                assert far.recv(1) == b"!"

    def test_closing_removes_the_socket(self, tmp_path: Path) -> None:
        path = tmp_path / "serial"
        with opened(f"listen+unix://{path}"):
            assert path.is_socket()
        assert not path.exists()

    @pytest.mark.parametrize("name", ["with space", "comma,comma", "per%20cent", "ä"])
    def test_odd_paths(self, tmp_path: Path, name: str) -> None:
        from urllib.parse import quote

        path = tmp_path / name
        with opened(f"listen+unix://{quote(str(path))}") as (_, sink), connected(path) as far:
            far.sendall(b"x")
            sink.wait_for(b"x")

    def test_a_path_that_is_taken_or_too_long_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "serial"
        with opened(f"listen+unix://{path}"), pytest.raises(LabError, match="in use"):
            Port(f"listen+unix://{path}", received=print, failed=print)
        with pytest.raises(LabError, match="too long"):
            Port(f"listen+unix://{tmp_path}/{'x' * 120}", received=print, failed=print)

    def test_a_host_in_the_url_is_refused(self) -> None:
        with pytest.raises(LabError, match="is not of the form"):
            Port("listen+unix://host/path", received=print, failed=print)

    def test_read_keeps_to_pyserials_rules(self, tmp_path: Path) -> None:
        """As many bytes as asked for, or what came within the timeout; nothing waits without a timeout."""
        urls.register()
        path = tmp_path / "serial"
        with serial.serial_for_url(f"listen+unix://{path}", timeout=0) as device:
            assert device.read(10) == b""
            assert device.in_waiting == 0
            with connected(path) as far:
                far.sendall(b"0123456789")
                device.timeout = PATIENCE_S
                assert device.read(4) == b"0123"
                assert device.in_waiting
                device.timeout = 0
                assert device.read(100) == b"456789"
            assert device.read(1) == b"", "the far end has gone"


class TestPipes:
    """``fifo://``: two named pipes, as QEMU's chardev ``pipe`` takes them."""

    def test_bytes_sent_before_anybody_reads_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "serial"
        with serial_over(path) as device, far_end(path) as (out, _):
            for _ in range(100_000):
                os.write(out, b"x")
            device.timeout = PATIENCE_S
            assert device.read(100_000) == b"x" * 100_000

    def test_the_far_end_may_go_and_come_again(self, tmp_path: Path) -> None:
        path = tmp_path / "serial"
        with opened(f"fifo://{path}") as (_, sink):
            for cycle in range(3):
                with far_end(path) as (out, _):
                    os.write(out, b"cycle %d\n" % cycle)
            sink.wait_for(b"cycle 0\ncycle 1\ncycle 2\n")
            assert sink.failure is None, "a power cycle is no failure of the port"

    def test_the_bench_can_answer(self, tmp_path: Path) -> None:
        path = tmp_path / "serial"
        with opened(f"fifo://{path}") as (port, _), far_end(path) as (_, back):
            port.device.write(b"!")
            assert os.read(back, 1) == b"!"

    def test_a_machine_that_reads_nothing_does_not_block_the_bench(self, tmp_path: Path) -> None:
        with serial_over(tmp_path / "serial") as device, pytest.raises(serial.SerialException, match="reads nothing"):
            for _ in range(1000):
                device.write(b"x" * 65536)

    def test_closing_removes_the_pipes(self, tmp_path: Path) -> None:
        with opened(f"fifo://{tmp_path}/serial"):
            assert sorted(p.name for p in tmp_path.iterdir()) == ["serial.in", "serial.out"]
            assert all(p.is_fifo() and p.stat().st_mode & 0o777 == 0o600 for p in tmp_path.iterdir())
        assert not list(tmp_path.iterdir())

    def test_a_path_that_is_taken_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "serial.in").write_text("mine")
        with pytest.raises(LabError, match=r"serial\.in: File exists"):
            Port(f"fifo://{tmp_path}/serial", received=print, failed=print)
        assert [p.name for p in tmp_path.iterdir()] == ["serial.in"]

    def test_a_host_in_the_url_is_refused(self) -> None:
        with pytest.raises(LabError, match="is not of the form"):
            Port("fifo://host/path", received=print, failed=print)

    def test_nothing_waits_without_a_timeout(self, tmp_path: Path) -> None:
        with serial_over(tmp_path / "serial") as device:
            assert device.read(10) == b""
            assert device.in_waiting == 0


@contextmanager
def serial_over(path: Path) -> Iterator[serial.SerialBase]:
    """The device alone, without a reader."""
    urls.register()
    with serial.serial_for_url(f"fifo://{path}", timeout=0) as device:
        yield device


@contextmanager
def far_end(path: Path) -> Iterator[tuple[int, int]]:
    """The two descriptors as QEMU opens them: it writes to the first and reads the second."""
    ends = [os.open(f"{path}{end}", os.O_RDWR) for end in (".out", ".in")]
    try:
        yield ends[0], ends[1]
    finally:
        for end in ends:
            os.close(end)


def test_a_device_that_somebody_else_has_open_is_not_claimed_for_ever() -> None:
    """Root is let in whatever is claimed, so the claim itself is looked at: TIOCGEXCL, include/uapi/asm-generic."""
    import fcntl
    import struct

    ours, theirs = os.openpty()
    try:
        port = Port(os.ttyname(theirs), received=lambda _: None, failed=lambda _: None)
        claimed = [struct.unpack("i", fcntl.ioctl(theirs, 0x80045440, bytes(4)))[0]]
        port.close()
        claimed.append(struct.unpack("i", fcntl.ioctl(theirs, 0x80045440, bytes(4)))[0])
    finally:
        os.close(ours)
        os.close(theirs)
    assert claimed == [1, 0]
