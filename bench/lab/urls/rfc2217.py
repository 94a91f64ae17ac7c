"""``rfc2217://HOST:PORT``: pyserial's own client, with what pyserial 3.5 leaves out.

* What had arrived when the connection was lost is still read, and so is what arrives while it is opened.
* A console server that hangs up ends in an exception of ours, not in a traceback of a thread of its own.
* A failed open leaves no socket behind, and says what the server said.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from queue import Empty, Queue
from typing import Any

import serial.rfc2217
from serial.serialutil import PortNotOpenError, SerialException, Timeout

from bench.lab.text import escape


class Serial(serial.rfc2217.Serial):
    """One connection; see the module."""

    # Of pyserial's object, which the stubs do not show. The queue holds single bytes, and None for the end.
    _socket: socket.socket | None
    _read_buffer: Queue[bytes | None]
    _ended = False

    def open(self) -> None:
        """Connect and negotiate. Raises SerialException with what the server said instead."""
        self._ended = False
        try:
            super().open()
        except (SerialException, OSError) as error:
            said = self._left()
            self.close()
            words = f", saying {escape(said)!r}" if said else ""
            raise SerialException(f"no RFC 2217 there{words}: {error}") from error

    def close(self) -> None:
        """Hang up, also when the other side has hung up before."""
        line = self._socket
        super().close()
        if line is not None:
            line.close()

    def _left(self) -> bytes:
        left = b""
        with suppress(Empty, AttributeError):
            while (byte := self._read_buffer.get_nowait()) is not None:
                left += byte
        return left.strip()[-200:]

    def read(self, size: int = 1, /) -> bytes:
        """Up to `size` bytes within the timeout. Raises SerialException once all that came before the end is read."""
        if not self.is_open:
            raise PortNotOpenError()
        got = bytearray()
        deadline = Timeout(self.timeout)  # type: ignore[arg-type]  # None waits for ever; the stubs know only numbers
        while len(got) < size and not self._ended:
            left_s = deadline.time_left()
            try:
                byte = self._read_buffer.get(block=left_s is None or left_s > 0, timeout=left_s)
            except Empty:
                break
            if byte is None:
                self._ended = True
            else:
                got += byte
        if self._ended and not got:
            raise SerialException("the console server hung up")
        return bytes(got)

    def reset_input_buffer(self) -> None:
        """Nothing: a byte that has come is evidence, and pyserial asks for this when it opens."""

    def _telnet_read_loop(self) -> None:
        try:
            super()._telnet_read_loop()  # type: ignore[misc]  # the stubs leave it out
        except OSError:  # it answers the server's negotiation, and the server may be gone by then
            self._read_buffer.put(None)

    # pyserial refuses a time limit for writing here; there is none.
    write_timeout: Any = property(lambda _: None, lambda _self, _value: None)
