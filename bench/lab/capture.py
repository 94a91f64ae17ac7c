"""The capture of one boot: everything that the machine says, on disk before anybody can read it.

A boot's folder holds

* ``capture.json``  what is captured (machine, model, image, nonce …); written first, whole or not at all
* ``serial.bin``    the bytes, as they came
* ``chunks.jsonl``  one object a chunk: ``at_s`` (when it was read, seconds since opening), ``offset``, ``bytes``
* ``events.jsonl``  what the lab did or saw: ``kind``, ``at_s``, ``offset``, ``witness``
* ``script.txt``    the script that the machine was given

and is written once: an existing capture is never opened for writing again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from bench.errors import BootError, LabError
from bench.lab.port import Port
from bench.lab.text import escape
from bench.records import LabEvent, LabEventKind

SCHEMA = 1
LIMIT_BYTES = 64 << 20


class CaptureWriter:
    """The open capture of one boot: a context manager, entered before power is applied, left after it is removed.

    `info` is what ``capture.json`` says beside schema, times and version. A port that goes away is opened again for
    `reconnect_s`, which the events tell. Raises LabError if the port does not open or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        url: str,
        info: Mapping[str, object],
        baud: int = 115200,
        script: bytes = b"",
        limit_bytes: int = LIMIT_BYTES,
        reconnect_s: float = 0.0,
    ) -> None:
        self.folder = folder
        self.url = url
        self._info = info
        self._baud = baud
        self._script = script
        self._limit_bytes = limit_bytes
        self._reconnect_s = reconnect_s
        self._changed = threading.Condition()
        self._size = 0
        self._last_at_s = 0.0
        self._failure: LabError | None = None
        self._first: LabEvent | None = None
        self._closed_why = ""
        self._full = False
        self._files: dict[str, BinaryIO] = {}
        self._port: Port | None = None

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_info()
            self._file("script.txt").write(self._script)
            for name in ("serial.bin", "chunks.jsonl", "events.jsonl"):
                self._file(name)
        except OSError as error:
            self._close_files()
            raise _disk_error(Path(error.filename or self.folder), error) from error
        try:
            self._port = Port(
                self.url,
                baud=self._baud,
                received=self._received,
                failed=self._port_failed,
                reconnect_s=self._reconnect_s,
                lost=self._port_lost,
                found=self._port_found,
            )
        except BaseException:
            self._close_files()
            raise
        self.event(LabEventKind.PORT_OPENED, {"url": self.url})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._port is not None:
            errors = self._port.line_errors()
            self._port.close()
            if errors is not None and self._failure is None:
                self._note(LabEventKind.UART, {name: str(count) for name, count in errors.items()})
        self._close_files()

    def _write_info(self) -> None:
        info = {
            "schema": SCHEMA,
            **self._info,
            "port": self.url,
            "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "bench": bench_version(),
        }
        target = self.folder / "capture.json"
        beside = self.folder / "capture.json.new"
        beside.write_text(json.dumps(info, indent=1) + "\n", encoding="ascii")
        try:
            os.link(beside, target)  # unlike a rename this refuses to replace an existing capture
        finally:
            beside.unlink()

    def _file(self, name: str) -> BinaryIO:
        # "x": an existing file belongs to another boot. Unbuffered: what is written can be read.
        return self._files.setdefault(name, (self.folder / name).open("xb+", buffering=0))

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()

    @property
    def port(self) -> Port:
        """The open port."""
        assert self._port is not None, "the capture is not open"
        return self._port

    @property
    def size(self) -> int:
        """Bytes captured so far."""
        return self._size

    @property
    def elapsed_s(self) -> float:
        """Seconds since opening."""
        return time.monotonic() - self._started

    @property
    def quiet_s(self) -> float:
        """Seconds since the last byte, or since opening."""
        return self.elapsed_s - self._last_at_s

    @property
    def first(self) -> LabEvent | None:
        """The first byte since opening or since `await_first`: when it was read, and its offset."""
        return self._first

    def await_first(self) -> None:
        """Forget the first byte: the next one is the first that counts (power is about to be applied)."""
        with self._changed:
            self._first = None

    @property
    def port_closed(self) -> str:
        """Why the port closed; empty while it is open."""
        return self._closed_why

    @property
    def full(self) -> bool:
        """True once the limit of bytes is reached; what comes after is not kept."""
        return self._full

    def read(self, start: int, stop: int | None = None) -> bytes:
        """The stored bytes [start, stop)."""
        stop = self._size if stop is None else min(stop, self._size)
        return os.pread(self._files["serial.bin"].fileno(), max(0, stop - start), start)

    def tail(self, count: int = 200) -> bytes:
        """The last `count` stored bytes."""
        return self.read(max(0, self._size - count))

    def check(self) -> None:
        """Raise what went wrong while storing, if anything did."""
        if self._failure is not None:
            raise self._failure

    def event(
        self, kind: LabEventKind, witness: Mapping[str, str] | None = None, *, at: LabEvent | None = None
    ) -> LabEvent:
        """Note an event, now or with the time and offset of `at`."""
        with self._changed:
            mark = at or self.mark(kind)
            event = LabEvent(kind, mark.at_s, mark.offset, dict(witness or {}))
            self._append(
                "events.jsonl", {"kind": kind, "at_s": event.at_s, "offset": event.offset, "witness": event.witness}
            )
            self._changed.notify_all()
        self.check()
        return event

    def mark(self, kind: LabEventKind) -> LabEvent:
        """An event as of now that is not noted yet: its outcome is still to come."""
        return LabEvent(kind, round(self.elapsed_s, 6), self._size)

    def wake(self) -> None:
        """Wake whoever waits in `wait_change`: something else than a byte has happened."""
        with self._changed:
            self._changed.notify_all()

    def wait_change(self, seen: int, *, timeout_s: float) -> None:
        """Return when there are more bytes than `seen`, the port has closed, `wake` was called, or time is up."""
        with self._changed:
            if self._size <= seen and not self._closed_why and self._failure is None:
                self._changed.wait(timeout_s)
        self.check()

    def wait_for(self, marker: bytes, *, timeout_s: float, start: int = 0) -> int:
        """Byte offset just past the first `marker` at or after offset `start`.

        Raises BootError if it does not come in time, LabError if the port closes or storing fails.
        """
        deadline = time.monotonic() + timeout_s
        at = start
        while True:
            closed, size = self._closed_why, self._size
            found = self.read(at, size).find(marker)
            if found >= 0:
                return at + found + len(marker)
            # The marker may lie across the border of what has been searched.
            at = max(at, size - len(marker) + 1)
            left = deadline - time.monotonic()
            if closed:
                raise LabError(f"{self.url}: the port closed: {closed}", component="port", witness=closed)
            if left <= 0:
                last = escape(self.tail(80))
                raise BootError(
                    f"{self.url}: no {escape(marker)!r} within {timeout_s:g} s; {size} bytes came, the last: {last}",
                    component="machine",
                    witness=last,
                )
            self.wait_change(size, timeout_s=left)

    def wait_quiet(self, quiet_s: float, *, timeout_s: float) -> bool:
        """Wait until no byte has come for `quiet_s`; False if `timeout_s` passes first."""
        deadline = time.monotonic() + timeout_s
        begun = self.elapsed_s
        while True:
            size = self._size
            left = quiet_s - (self.elapsed_s - max(begun, self._last_at_s))
            if left <= 0:
                return True
            if time.monotonic() >= deadline:
                return False
            self.wait_change(size, timeout_s=min(left, max(0.001, deadline - time.monotonic())))

    def _received(self, data: bytes) -> None:
        with self._changed:
            if self._failure is not None or self._full:
                return
            data, over = data[: self._limit_bytes - self._size], len(data) > self._limit_bytes - self._size
            if self._append("serial.bin", data):
                now_s = round(self.elapsed_s, 6)
                self._first = self._first or LabEvent(LabEventKind.FIRST_BYTE, now_s, self._size)
                self._append("chunks.jsonl", {"at_s": now_s, "offset": self._size, "bytes": len(data)})
                self._size += len(data)
                self._last_at_s = now_s
            self._full = over
            self._changed.notify_all()

    def _port_failed(self, why: str) -> None:
        self._closed_why = why
        self._note(LabEventKind.PORT_CLOSED, {"url": self.url, "why": why})

    def _port_lost(self, why: str) -> None:
        self._note(LabEventKind.PORT_LOST, {"url": self.url, "why": why})

    def _port_found(self, away_s: float) -> None:
        self._note(LabEventKind.PORT_OPENED, {"url": self.url, "away": f"{away_s:.2f} s"})

    def _note(self, kind: LabEventKind, witness: Mapping[str, str]) -> None:
        """Note an event from the reader's thread, where nothing may be raised."""
        with self._changed:
            now = self.mark(kind)
            self._append(
                "events.jsonl", {"kind": kind, "at_s": now.at_s, "offset": now.offset, "witness": dict(witness)}
            )
            self._changed.notify_all()

    def _append(self, name: str, content: bytes | Mapping[str, object]) -> bool:
        """Append to a file of the folder; on failure keep the error for `check` and return False."""
        left = content if isinstance(content, bytes) else json.dumps(content).encode("ascii") + b"\n"
        try:
            while left:
                left = left[self._files[name].write(left) :]
        except (OSError, ValueError) as error:
            self._failure = self._failure or _disk_error(self.folder / name, error)
        return self._failure is None


def _disk_error(path: Path, error: Exception) -> LabError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return LabError(f"{path}: cannot be written: {why}", component="bench", witness=str(why))


def bench_version() -> str:
    """Version of the installed bench."""
    try:
        return version("bench")
    except PackageNotFoundError:
        return "not installed"
