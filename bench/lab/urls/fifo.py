"""``fifo:///path``: a serial port made of two named pipes, ``path.out`` from the machine and ``path.in`` to it.

The pipes exist before the virtual machine does, so that its first byte is kept; QEMU's chardev ``pipe`` takes the same
path. A pipe holds a mebibyte of single bytes, where a unix socket holds 278 of them: QEMU throws bytes away while its
chardev takes none, which happened with a socket whenever the reader was kept from the processor for a second.
"""

from __future__ import annotations

import fcntl
import os
import select
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from serial.serialutil import PortNotOpenError, SerialException, Timeout

from bench.lab.urls.lineless import LinelessSerial

SCHEME = "fifo"
# What Linux lets anybody have (/proc/sys/fs/pipe-max-size).
PIPE_BYTES = 1 << 20


class Serial(LinelessSerial):
    """pyserial's interface over the two pipes. Line settings and modem lines have no meaning here."""

    _from: int | None = None
    _to: int | None = None
    _made: tuple[Path, ...] = ()

    def open(self) -> None:
        """Make the pipes and open both. Raises SerialException if a path is taken or not writable."""
        if self.is_open:
            raise SerialException(f"{self.port} is already open")
        url = urlsplit(self.port or "")
        if url.scheme != SCHEME or url.netloc or not url.path.startswith("/"):
            raise SerialException(f"{self.port!r} is not of the form {SCHEME}:///absolute/path")
        ends = tuple(Path(unquote(url.path) + end) for end in (".out", ".in"))
        making = ends[0]
        try:
            for path in ends:
                making = path
                os.mkfifo(path, 0o600)
                self._made = (*self._made, path)
            # Open for both, so that neither waits for the far end nor sees an end of file when it goes.
            self._from, self._to = (os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) for path in ends)
        except OSError as error:
            self.close()
            raise SerialException(f"cannot make {making}: {error.strerror}") from error
        for end in (self._from, self._to):
            with suppress(OSError):  # less room, where the administrator says so
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.is_open = True

    def close(self) -> None:
        """Close both and remove the paths."""
        for end in (self._from, self._to):
            if end is not None:
                os.close(end)
        for path in self._made:
            path.unlink(missing_ok=True)
        self._from = self._to = None
        self._made = ()
        self.is_open = False

    def fileno(self) -> int:
        """The descriptor that becomes readable when the machine has said something."""
        if self._from is None:
            raise PortNotOpenError()
        return self._from

    @property
    def in_waiting(self) -> int:
        """1 if a byte is waiting, else 0."""
        return len(select.select([self.fileno()], [], [], 0)[0])

    def read(self, size: int = 1, /) -> bytes:
        """Up to `size` bytes within the timeout."""
        got = bytearray()
        deadline = Timeout(self.timeout)  # type: ignore[arg-type]  # None waits for ever; the stubs know only numbers
        while len(got) < size:
            if not select.select([self.fileno()], [], [], deadline.time_left())[0]:
                break
            got += os.read(self.fileno(), size - len(got))
            if deadline.expired():
                break
        return bytes(got)

    def write(self, data: Any, /) -> int:
        """Send to the machine. Raises SerialException if it takes nothing."""
        if self._to is None:
            raise PortNotOpenError()
        try:
            return os.write(self._to, data)
        except BlockingIOError as error:
            raise SerialException(f"{self.port}: the machine reads nothing") from error
