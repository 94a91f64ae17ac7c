"""The capture: on disk before anybody reads it, whatever the chunks, whatever goes wrong."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BootError, LabError
from bench.judge import judge
from bench.lab import uart
from bench.lab.capture import CaptureWriter
from bench.parse.capture_file import read_captures
from bench.records import LabEventKind

PATIENCE_S = 10.0


def capture_of(folder: Path, **more: Any) -> CaptureWriter:
    info = more.pop("info", {"machine": "m", "model": "06-3c-03", "image": "i", "virtual": True, "nonce": "abc"})
    return CaptureWriter(folder, url=more.pop("url", "loop://"), info=info, **more)


def say(capture: CaptureWriter, data: bytes) -> None:
    """The machine says `data`; returns when it is stored."""
    size = capture.size
    capture.port.device.write(data)
    capture.wait_for(data[-1:], timeout_s=PATIENCE_S, start=size + len(data) - 1)


@contextmanager
def tcp_capture(folder: Path, **more: Any) -> Iterator[tuple[CaptureWriter, socket.socket]]:
    server = socket.create_server(("127.0.0.1", 0))
    with server, capture_of(folder, url=f"socket://127.0.0.1:{server.getsockname()[1]}", **more) as capture:
        far, _ = server.accept()
        with far:
            yield capture, far


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_the_folder_tells_the_whole_boot(tmp_path: Path) -> None:
    folder = tmp_path / "boot-1"
    info = {"machine": "m", "model": "06-3c-03", "image": "x/y", "virtual": True, "nonce": "abc", "quirks": ["q"],
            "scenarios": {"0": "sweep"}, "extra": 1}  # fmt: skip
    with capture_of(folder, info=info, script=b"the script\n") as capture:
        capture.event(LabEventKind.POWER_ON, {"state": "on"})
        say(capture, b"hello")
        say(capture, b" world")
        capture.event(LabEventKind.MARKER)
    assert (folder / "serial.bin").read_bytes() == b"hello world"
    assert (folder / "script.txt").read_bytes() == b"the script\n"
    meta = json.loads((folder / "capture.json").read_text())
    assert meta["schema"] == 1
    assert meta["extra"] == 1
    assert meta["started"].endswith("+00:00")
    assert meta["bench"]
    chunks = rows(folder, "chunks.jsonl")
    assert [c["offset"] for c in chunks] == [sum(c["bytes"] for c in chunks[:n]) for n in range(len(chunks))]
    assert sum(c["bytes"] for c in chunks) == 11
    assert [c["at_s"] for c in chunks] == sorted(c["at_s"] for c in chunks)
    (read,) = read_captures(folder)
    assert (read.machine, read.model, read.image, read.virtual) == ("m", "06-3c-03", "x/y", True)
    assert (read.nonce, read.quirks, read.scenarios) == (0xABC, ("q",), {0: "sweep"})
    assert (read.data, read.script) == (b"hello world", b"the script\n")
    kinds = [(e.kind, e.offset) for e in read.events]
    assert kinds == [(LabEventKind.PORT_OPENED, 0), (LabEventKind.POWER_ON, 0), (LabEventKind.MARKER, 11)]
    assert read.events[1].witness == {"state": "on"}


def test_a_byte_is_on_disk_before_it_can_be_seen(tmp_path: Path) -> None:
    with capture_of(tmp_path) as capture:
        for _ in range(20):
            say(capture, b"x")
            assert (tmp_path / "serial.bin").stat().st_size >= capture.size


def test_a_capture_is_written_once(tmp_path: Path) -> None:
    with capture_of(tmp_path) as capture:
        say(capture, b"evidence")
    with pytest.raises(LabError, match=r"capture\.json"), capture_of(tmp_path):
        pass
    assert (tmp_path / "serial.bin").read_bytes() == b"evidence"
    assert not list(tmp_path.glob("*.new"))


def test_a_port_that_does_not_open_leaves_no_open_files(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(LabError, match="does not open"), capture_of(tmp_path, url="/dev/no-such-port"):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestWaitFor:
    def test_it_returns_the_offset_past_the_marker(self, tmp_path: Path) -> None:
        with capture_of(tmp_path) as capture:
            say(capture, b"a marker and a marker.")
            assert capture.wait_for(b"marker", timeout_s=0) == 8
            assert capture.wait_for(b"marker", timeout_s=0, start=8) == 21

    @pytest.mark.slow
    @settings(deadline=None, max_examples=25)
    @given(st.data())
    def test_chunk_borders_do_not_matter(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        noise = data.draw(st.binary(max_size=30))
        marker = data.draw(st.binary(min_size=1, max_size=6))
        whole = noise + marker
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        with capture_of(tmp_path_factory.mktemp("capture")) as capture:
            found: list[int] = []
            waiter = threading.Thread(target=lambda: found.append(capture.wait_for(marker, timeout_s=PATIENCE_S)))
            waiter.start()
            for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                if start < stop:
                    say(capture, whole[start:stop])
            waiter.join()
        assert found == [whole.find(marker) + len(marker)]

    def test_without_the_marker_the_error_has_what_came(self, tmp_path: Path) -> None:
        with capture_of(tmp_path) as capture:
            say(capture, b"\x1b[2Jsomething else")
            with pytest.raises(BootError, match=r"no 'done' within 0.01 s; 18 bytes came, the last: \\x1b\[2Jsome"):
                capture.wait_for(b"done", timeout_s=0.01)

    @pytest.mark.slow  # pyserial waits 0.3 s when it closes a TCP connection
    def test_a_closed_port_ends_the_wait_at_once(self, tmp_path: Path) -> None:
        with tcp_capture(tmp_path) as (capture, far):
            far.sendall(b"bye")
            far.close()
            with pytest.raises(LabError, match="the port closed") as error:
                capture.wait_for(b"done", timeout_s=1000)
            assert error.value.component == "port"
            assert capture.wait_for(b"bye", timeout_s=0) == 3, "what came before can still be found"
        (closed,) = [r for r in rows(tmp_path, "events.jsonl") if r["kind"] == "port_closed"]
        assert closed["offset"] == 3
        assert "disconnected" in closed["witness"]["why"]


def test_wait_quiet_tells_silence_from_chatter(tmp_path: Path) -> None:
    with capture_of(tmp_path) as capture:
        say(capture, b"x")
        assert capture.wait_quiet(0.02, timeout_s=PATIENCE_S)
        stop = threading.Event()

        def chatter() -> None:
            while not stop.wait(0.005):
                capture.port.device.write(b".")

        talker = threading.Thread(target=chatter)
        talker.start()
        assert not capture.wait_quiet(5.0, timeout_s=0.1)
        stop.set()
        talker.join()


def test_tail_and_read_give_stored_bytes(tmp_path: Path) -> None:
    with capture_of(tmp_path) as capture:
        say(capture, b"0123456789")
        assert capture.tail(3) == b"789"
        assert capture.tail(100) == b"0123456789"
        assert capture.read(2, 5) == b"234"
        assert capture.read(8, 100) == b"89"


def test_the_first_byte_counts_from_power_on(tmp_path: Path) -> None:
    with capture_of(tmp_path) as capture:
        say(capture, b"stray")
        capture.await_first()
        assert capture.first is None
        say(capture, b"hello")
        assert capture.first is not None
        assert capture.first.offset == 5


@pytest.mark.slow  # pyserial waits 0.3 s when it closes a TCP connection
def test_growth_is_bounded_and_the_reader_goes_on(tmp_path: Path) -> None:
    with tcp_capture(tmp_path, limit_bytes=1000) as (capture, far):
        far.sendall(b"x" * 3_000_000)  # more than the sockets hold: it passes only if somebody reads
        while not capture.full:
            capture.wait_change(capture.size, timeout_s=0.01)
        assert capture.size == 1000
    assert (tmp_path / "serial.bin").stat().st_size == 1000


@pytest.mark.slow  # pyserial waits 0.3 s when it closes a TCP connection
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """A file size limit of the process stands in for the disk: the kernel refuses the write in the same way."""
    with tcp_capture(tmp_path) as (capture, far):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            far.sendall(b"x" * 10_000)
            with pytest.raises(LabError, match=r"serial\.bin: cannot be written: File too large"):
                capture.wait_for(b"never", timeout_s=PATIENCE_S)
            with pytest.raises(LabError, match=r"serial\.bin"):
                capture.event(LabEventKind.MARKER)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_terminal_can_be_captured(tmp_path: Path) -> None:
    master, slave = os.openpty()
    try:
        with capture_of(tmp_path, url=os.ttyname(slave)) as capture:
            os.write(master, b"from a tty\n")
            assert capture.wait_for(b"tty", timeout_s=PATIENCE_S) == 10
    finally:
        os.close(master)
        os.close(slave)


def test_what_the_uart_counts_is_kept_over_a_loss_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts are made up, since a pseudo-terminal has none; the two devices and the loss are real."""
    frame = 100

    def ioctl(descriptor: int, request: int, *more: Any) -> Any:
        if request != uart.TIOCGICOUNT:
            return fcntl.ioctl(descriptor, request, *more)
        counts = {"frame": frame, "overrun": 7}
        more[0][:] = struct.pack("=20i", *(counts.get(name, 0) for name in uart.NAMES), *[0] * 9)
        return 0

    monkeypatch.setattr(uart, "fcntl", SimpleNamespace(ioctl=ioctl))
    link, masters = tmp_path / "serial", []

    def plug() -> None:
        master, slave = os.openpty()
        masters.append(master)
        beside = tmp_path / "beside"
        beside.symlink_to(os.ttyname(slave))
        beside.rename(link)
        os.close(slave)

    plug()
    folder = tmp_path / "boot"
    with capture_of(folder, url=str(link), reconnect_s=PATIENCE_S) as capture:
        frame = 103
        os.write(masters[0], b"x")
        capture.wait_for(b"x", timeout_s=PATIENCE_S)
        plug()
        os.close(masters[0])
        end = time.monotonic() + PATIENCE_S
        while rows(folder, "events.jsonl")[-1]["kind"] != "port_opened" or len(rows(folder, "events.jsonl")) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        frame = 105
    os.close(masters[1])
    told = rows(folder, "events.jsonl")[-1]
    assert told["kind"] == "uart" and (told["witness"]["frame"], told["witness"]["overrun"]) == ("5", "0")
    assert "boot 1: errors that the UART counted: 5 frame" in judge(read_captures(folder)).notes


def test_boots_are_read_in_the_order_of_their_numbers_and_a_second_boot_of_a_case_behind_the_first(
    tmp_path: Path,
) -> None:
    for name in ("boot-10", "boot-9-again", "boot-9", "boot-1", "boot-"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "serial.bin").write_bytes(b"x")
    read = [Path(capture.source).name for capture in read_captures(tmp_path)]
    assert read == ["boot-", "boot-1", "boot-9", "boot-9-again", "boot-10"]
