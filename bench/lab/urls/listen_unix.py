"""``listen+unix:///path``: a serial port whose far end connects to us over a unix socket.

The bench listens before the virtual machine exists, so that the machine's first byte finds a reader.
When the far end goes away (a power cycle ends its process) the port stays open and takes the next
connection; connections wait their turn, so that the bytes of two never mix.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from serial.serialutil import PortNotOpenError, SerialException, Timeout

from bench.lab.urls.lineless import LinelessSerial

SCHEME = "listen+unix"


class Serial(LinelessSerial):
    """pyserial's interface over one listening unix socket. Line settings and modem lines have no meaning here."""

    _listener: socket.socket | None = None
    _connection: socket.socket | None = None
    _path: Path | None = None

    def open(self) -> None:
        """Bind and listen. Raises SerialException if the path is taken, too long or not writable."""
        if self.is_open:
            raise SerialException(f"{self.port} is already open")
        url = urlsplit(self.port or "")
        if url.scheme != SCHEME or url.netloc or not url.path.startswith("/"):
            raise SerialException(f"{self.port!r} is not of the form {SCHEME}:///absolute/path")
        path = Path(unquote(url.path))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            listener.listen()
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise SerialException(f"cannot listen on {path}: {error}") from error
        self._listener, self._path, self.is_open = listener, path, True

    def close(self) -> None:
        """Close both sockets and remove the path."""
        for end in (self._connection, self._listener):
            if end is not None:
                end.close()
        if self._path is not None:
            with suppress(FileNotFoundError):
                self._path.unlink()
        self._listener = self._connection = self._path = None
        self.is_open = False

    def fileno(self) -> int:
        """The descriptor that becomes readable when `read` has something to do; it changes with each connection."""
        return self._endpoint().fileno()

    def _endpoint(self) -> socket.socket:
        if self._listener is None:
            raise PortNotOpenError()
        return self._connection or self._listener

    @property
    def in_waiting(self) -> int:
        """1 if a byte, an end of file or a connection is waiting, else 0."""
        return len(select.select([self._endpoint()], [], [], 0)[0])

    def read(self, size: int = 1, /) -> bytes:
        """Up to `size` bytes within the timeout, from one connection; takes the next connection if there is none."""
        got = bytearray()
        deadline = Timeout(self.timeout)  # type: ignore[arg-type]  # None waits for ever; the stubs know only numbers
        while len(got) < size:
            ready = select.select([self._endpoint()], [], [], deadline.time_left())[0]
            if not ready:
                break
            if self._connection is None:
                self._accept()
                continue
            data = self._receive(size - len(got))
            if not data:
                self._connection.close()
                self._connection = None
                if got:
                    break
            got += data
            if deadline.expired() and got:
                break
        return bytes(got)

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(BlockingIOError, ConnectionAbortedError):
            self._connection = self._listener.accept()[0]

    def _receive(self, size: int) -> bytes:
        assert self._connection is not None
        try:
            return self._connection.recv(size)
        except ConnectionResetError:  # the far end was killed: what it had sent has been read by now
            return b""

    def write(self, data: Any, /) -> int:
        """Send to the far end. Raises SerialException if there is none."""
        if self._connection is None:
            raise SerialException(f"nobody is connected to {self.port}")
        self._connection.sendall(data)
        return len(data)
