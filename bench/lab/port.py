"""A serial port and its only reader: one thread from opening to closing, whoever may be interested."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable

import serial

from bench.errors import LabError
from bench.lab import urls

READ_BYTES = 1 << 16
# A virtual UART hands over single bytes: let some gather, or reading costs more than the machine's own work.
# A line at 115200 baud brings 46 bytes in the longest of these times.
GATHER_S = (0.00025, 0.004)
GATHER_BYTES = (64, 128)
# How long a reader without a descriptor to wait on (loop://, rfc2217://) blocks before it looks for the order to stop.
BLIND_WAIT_S = 0.05
# After the order to stop, what has arrived is still read, for at most so long.
DRAIN_S = 1.0


class Port:
    """An open port. `received` gets every chunk, `failed` once the reason if the port closes or breaks.

    Both are called by the reader thread and must not raise. Any URL that `serial.serial_for_url`
    knows is accepted, and ``fifo:///path`` and ``listen+unix:///path``. Raises LabError (component ``port``) if it
    does not open.
    """

    def __init__(
        self, url: str, *, baud: int = 115200, received: Callable[[bytes], None], failed: Callable[[str], None]
    ) -> None:
        urls.register()
        self.url = url
        self._received = received
        self._failed = failed
        try:
            # `exclusive`: a second reader would take bytes away, and pyserial lets it unless told.
            self.device = serial.serial_for_url(url, baudrate=baud, timeout=0, write_timeout=5, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise LabError(f"{url}: does not open: {error}", component="port", witness=str(error)) from error
        self._gather_s = GATHER_S[0]
        self._stop = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._pump, name=f"reader of {url}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read what has arrived, end the reader, close the device. Harmless when repeated."""
        if self._stop.is_set():
            return
        self._stop.set()
        os.write(self._wake_write, b"x")
        self._thread.join()
        self.device.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _pump(self) -> None:
        wait = self._wait_descriptor if _descriptor(self.device) is not None else self._wait_blind
        deadline = None
        try:
            while True:
                stopping = self._stop.is_set()
                if stopping and deadline is None:
                    deadline = time.monotonic() + DRAIN_S
                if not stopping:
                    wait()
                data = self.device.read(READ_BYTES)
                if data:
                    self._received(data)
                    self._pace(len(data))
                if deadline is not None and (not data or time.monotonic() > deadline):
                    return
        except (serial.SerialException, OSError, TypeError, ValueError) as error:
            # TypeError and ValueError: what pyserial raises when a device vanishes between two of its own calls.
            if not self._stop.is_set():
                self._failed(f"{type(error).__name__}: {error}")

    def _wait_descriptor(self) -> None:
        ready = select.select([self.device.fileno(), self._wake_read], [], [])[0]
        if self._wake_read not in ready:
            time.sleep(self._gather_s)

    def _pace(self, size: int) -> None:
        """Gather longer if little came at once, less long if much did."""
        if size < GATHER_BYTES[0]:
            self._gather_s = min(2 * self._gather_s, GATHER_S[1])
        elif size > GATHER_BYTES[1]:
            self._gather_s = max(self._gather_s / 2, GATHER_S[0])

    def _wait_blind(self) -> None:
        self.device.timeout = BLIND_WAIT_S
        first = self.device.read(1)
        self.device.timeout = 0
        if first:
            self._received(first)


def _descriptor(device: serial.SerialBase) -> int | None:
    try:
        return int(device.fileno())
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        return None
